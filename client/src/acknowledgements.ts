// When the server is told what has been dealt with.
//
//     changes frame -> received() -> (the application commits) -> due -> ack, by size or by time
//
// The server stops sending once a window is unacknowledged, and shares one budget between all of its clients. So an
// acknowledgement must come soon, but not after every small change: each one wakes the server's object.
import type { Position } from "./protocol.ts";

/** When to acknowledge: whichever comes first. */
export interface AckPolicy {
  /** After this many characters of frames. */
  everyChars: number;
  /** After this time at the latest, in milliseconds. */
  everyMs: number;
}

/** Says that everything up to a position has been dealt with. */
export type Acknowledge = (position: Position) => void;

/** What one connection has brought, and what the server knows to have been dealt with. */
export class Acknowledgements {
  readonly #policy: AckPolicy | undefined;
  readonly #send: (position: Position) => void;
  /** Characters of `changes` frames that have come, and how many of them are acknowledged. */
  #received = 0;
  #acknowledged = 0;
  /** Dealt with and not yet acknowledged. */
  #due: { position: Position; through: number } | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Counts the subscriptions: the server takes no acknowledgement of an earlier one. */
  #generation = 0;

  /** Without a policy it never sends anything. */
  constructor(policy: AckPolicy | undefined, send: (position: Position) => void) {
    this.#policy = policy;
    this.#send = send;
  }

  /** Characters of all `changes` frames that have come. */
  get receivedChars(): number {
    return this.#received;
  }

  /** A `changes` frame of `size` characters has come. The function that is returned is called once it has been dealt with. */
  received(size: number): Acknowledge {
    const through = (this.#received += size);
    const generation = this.#generation;
    return (position) => {
      if (generation === this.#generation && through > this.#acknowledged) this.#dealtWith(position, through);
    };
  }

  /** Another subscription is asked for, or the connection has ended: what came so far is not acknowledged any more. */
  abandon(): void {
    this.#generation += 1;
    this.#due = undefined;
    this.#stopTimer();
  }

  /**
   * The subscription that was asked for stands at `position` (older servers do not say where). Acknowledging that tells the server that
   * everything before has arrived: what belonged to the subscription before is dropped, and must not fill the window.
   */
  subscribed(position: Position | undefined): void {
    this.#acknowledged = this.#received;
    if (this.#policy !== undefined && position !== undefined) this.#send(position);
  }

  #dealtWith(position: Position, through: number): void {
    if (this.#policy === undefined) return;
    const { everyChars, everyMs } = this.#policy;
    this.#due = { position, through };
    if (through - this.#acknowledged >= everyChars) return this.#flush();
    // Clients that were sent the same change at the same moment must not all answer at the same moment.
    this.#timer ??= setTimeout(() => this.#flush(), everyMs * (0.5 + Math.random() / 2));
  }

  #flush(): void {
    this.#stopTimer();
    if (this.#due === undefined) return;
    const { position, through } = this.#due;
    this.#due = undefined;
    this.#acknowledged = through;
    this.#send(position);
  }

  #stopTimer(): void {
    if (this.#timer !== undefined) clearTimeout(this.#timer);
    this.#timer = undefined;
  }
}
