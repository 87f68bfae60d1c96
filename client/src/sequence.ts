// Whether what arrives follows what has arrived.
//
// The server sends a chain: each `changes` frame says where its reader stood before (`from`) and
// stands afterwards (`to`). Delivery is at least once, so a link may come twice, and only its new part
// counts; a link that begins ahead of where we stand means that something is missing.
import { readPosition, type Place } from "./position.ts";
import type { ChangesMessage, Position, TableChange } from "./protocol.ts";

/** What a frame adds. */
export type Step =
  /** These changes, none of which came before; the position is past them. */
  | { kind: "changes"; changes: TableChange[] }
  /** No change; the position has moved. */
  | { kind: "moved" }
  /** Nothing: all of it came before. */
  | { kind: "known" }
  /** Something is missing, or out of order; the position has not moved. */
  | { kind: "gap"; message: string };

/** The place up to which a feed has arrived. */
export class Sequence {
  #position: Position;
  #place: Place;

  /** Begins after a position that the server gave out; throws for text that is none. */
  constructor(position: Position) {
    this.#position = position;
    this.#place = place(position);
  }

  /** Everything up to here has arrived. */
  get position(): Position {
    return this.#position;
  }

  /** Takes in a `changes` frame. */
  take({ changes, from, to }: Pick<ChangesMessage, "changes" | "from" | "to">): Step {
    const [start, end] = [place(from), place(to)];
    const here = this.#place;
    if (start.epoch !== here.epoch || end.epoch !== here.epoch) return this.#gap(`changes ${from} to ${to} are of another epoch`);
    if (start.id > here.id) return this.#gap(`the next changes begin after ${from}`);
    let last = start.id;
    for (const { id, epoch } of changes) {
      // What is kept from earlier epochs has their number still; ids go on from one to the next.
      if (epoch > start.epoch || id <= last || id > end.id)
        return this.#gap(`change ${epoch}-${id} is out of order between ${from} and ${to}`);
      last = BigInt(id);
    }
    if (end.id <= here.id) return { kind: "known" };
    this.#moveTo(to, end);
    const fresh = start.id === here.id ? changes : changes.filter(({ id }) => id > here.id);
    return fresh.length > 0 ? { kind: "changes", changes: fresh } : { kind: "moved" };
  }

  /** Takes in the position of a `caught_up` or `progress` frame. */
  moveTo(position: Position): Step {
    const to = place(position);
    if (to.epoch !== this.#place.epoch) return this.#gap(`${position} is of another epoch`);
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
  if (read === undefined) throw new RangeError(`not a position of a feed: ${JSON.stringify(position)}`);
  return read;
}
