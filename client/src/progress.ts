// Where a feed stands, and what it is subscribed to. It outlives the connections: each session continues from it.
//
// The fields are private: whoever changes them says why, by the name of a method.
import type { InboxItem } from "./inbox.ts";
import type { ChangesMessage, Position, ResetReason, Subscription, WelcomeMessage } from "./protocol.ts";
import { Sequence, type Step } from "./sequence.ts";

/** The progress of one feed. */
export class Progress {
  #subscriptions: readonly Subscription[] | undefined;
  /** Undefined before the first welcome, and after a reset. */
  #sequence: Sequence | undefined;
  /** The start of a first connection. Later ones resume from the sequence. */
  #start: "now" | "earliest" = "now";
  /** Why the feed must start over, until a welcome says where. */
  #reset: ResetReason | undefined;

  /** No subscriptions: everything that the credential allows. */
  constructor(subscriptions: readonly Subscription[] | undefined) {
    this.#subscriptions = subscriptions;
  }

  /** What is subscribed to. The same object until it is replaced. */
  get subscriptions(): readonly Subscription[] | undefined {
    return this.#subscriptions;
  }

  /** Whether there are filters, which only a `subscribe` can carry. */
  get isFiltered(): boolean {
    return this.#subscriptions?.some(({ filter }) => filter !== undefined && filter.length > 0) ?? false;
  }

  /** Everything up to here has arrived; undefined if the feed has not begun. */
  get position(): Position | undefined {
    return this.#sequence?.position;
  }

  /** Where the next connection begins; undefined: from now on. */
  get next(): Position | "earliest" | undefined {
    return this.position ?? (this.#start === "earliest" ? "earliest" : undefined);
  }

  /** Begins after a position, with the earliest change, or (undefined) from now on. */
  begin(after: Position | "earliest" | undefined): void {
    if (after === undefined) return;
    this.#start = after === "earliest" ? "earliest" : "now";
    this.#sequence = after === "earliest" ? undefined : new Sequence(after);
  }

  /** Replaces the subscriptions, and the position if `after` is given. Returns what takes that back. */
  resubscribe(subscriptions: readonly Subscription[], after: Position | "earliest" | undefined): () => void {
    const [oldSubscriptions, oldSequence, oldStart] = [this.#subscriptions, this.#sequence, this.#start];
    this.#subscriptions = subscriptions;
    this.begin(after);
    return () => {
      this.#subscriptions = oldSubscriptions;
      this.#sequence = oldSequence;
      this.#start = oldStart;
    };
  }

  /**
   * The server has welcomed the subscription. Returns what the reader of the feed must know, if anything.
   *
   * @param asked The position that the `subscribe` before it named.
   */
  welcome({ oldest, head }: WelcomeMessage, asked: Position | undefined): InboxItem | undefined {
    const [reset, isNew] = [this.#reset, this.#sequence === undefined];
    const to = this.position ?? asked ?? (this.#start === "earliest" ? oldest : head);
    this.#sequence ??= new Sequence(to);
    this.#reset = undefined;
    if (reset !== undefined) return { kind: "reset", reason: reset, to };
    return isNew ? { kind: "moved", to } : undefined;
  }

  /** Takes a `changes` frame; undefined if the feed has not begun. */
  take(frame: Pick<ChangesMessage, "changes" | "from" | "to">): Step | undefined {
    return this.#sequence?.take(frame);
  }

  /** Takes the position of a `caught_up` or `progress` frame; undefined if the feed has not begun. */
  moveTo(position: Position): Step | undefined {
    return this.#sequence?.moveTo(position);
  }

  /** The server cannot resume from where the feed stands: it starts over at `start`. */
  startOver(reason: ResetReason, start: "now" | "earliest"): void {
    this.#sequence = undefined;
    this.#reset = reason;
    this.#start = start;
  }
}
