// Checks that each frame continues from the one before.
//
// The server sends a chain: each `changes` frame says where its reader stood before it (`from`) and stands after it
// (`to`). Delivery is at least once, so a link may come twice, and only its new part counts. A link that begins ahead of
// where the reader stands means that something is missing.
import { readPosition, type Place } from "./position.ts";
import type { ChangesMessage, Position, TableChange } from "./protocol.ts";

/** What a frame adds. */
export type Step =
  /** These changes, which are all new. The position is past them. */
  | { kind: "changes"; changes: TableChange[] }
  /** No new change. The position has moved. */
  | { kind: "moved" }
  /** Nothing: all of it had come before. */
  | { kind: "known" }
  /** Something is missing, or out of order. The position has not moved. */
  | { kind: "gap"; message: string };

/** The place up to which a feed has arrived. */
export class Sequence {
  #position: Position;
  #place: Place;

  /** Begins after a position. Throws a `RangeError` for text that is not one. */
  constructor(position: Position) {
    this.#position = position;
    this.#place = place(position);
  }

  /** Everything up to here has arrived. */
  get position(): Position {
    return this.#position;
  }

  /** Takes a `changes` frame. */
  take({ changes, from, to }: Pick<ChangesMessage, "changes" | "from" | "to">): Step {
    const [start, end] = [place(from), place(to)];
    const here = this.#place;
    if (start.epoch !== here.epoch || end.epoch !== here.epoch) return this.#gap(`changes ${from} to ${to} belong to another epoch`);
    if (start.id > here.id) return this.#gap(`the next changes begin after ${from}`);
    let last = start.id;
    for (const { id, epoch } of changes) {
      // Changes from earlier epochs keep their number, and ids continue from one epoch to the next.
      if (epoch > start.epoch || id <= last || id > end.id) {
        return this.#gap(`change ${epoch}-${id} is out of order between ${from} and ${to}`);
      }
      last = BigInt(id);
    }
    if (end.id <= here.id) return { kind: "known" };
    this.#moveTo(to, end);
    const fresh = start.id === here.id ? changes : changes.filter(({ id }) => id > here.id);
    return fresh.length > 0 ? { kind: "changes", changes: fresh } : { kind: "moved" };
  }

  /** Takes the position of a `caught_up` or `progress` frame. */
  moveTo(position: Position): Step {
    const to = place(position);
    if (to.epoch !== this.#place.epoch) return this.#gap(`${position} belongs to another epoch`);
    if (to.id <= this.#place.id) return { kind: "known" };
    this.#moveTo(position, to);
    return { kind: "moved" };
  }

  #moveTo(position: Position, to: Place): void {
    this.#position = position;
    this.#place = to;
  }

  #gap(what: string): Step {
    return { kind: "gap", message: `${what}, and everything up to ${this.#position} has arrived` };
  }
}

function place(position: Position): Place {
  const read = readPosition(position);
  if (read === undefined) throw new RangeError(`not a position: ${JSON.stringify(position)}`);
  return read;
}
