// The receiving half of a feed: one connection after the other, and what they bring put into the
// inbox, each change once and in order.
//
//     pause -> credential -> Session (one connection) -> ended -> pause ...
//                               |
//                               +-> inbox: batch, moved, live, reset
//
// Reconnecting is written here and not left to a package. The one that fits best, partysocket, makes
// its first new try at once and without jitter, so that a deploy of the server brings all clients
// back at the same moment; its `reconnect()` forgets how often it failed, so that a server that sends
// nonsense would be asked in a tight loop; and neither a full inbox nor the reason of a refusal can
// hold up its next try.
import type { Acknowledge, AckPolicy } from "./acknowledgements.ts";
import { askWhyRefused, feedUrl, subprotocols } from "./address.ts";
import { neverOpened, Pacer, pause, type Backoff } from "./backoff.ts";
import type { Watch, WebSocketConstructor } from "./connection.ts";
import { fetchCredential } from "./credential.ts";
import { FeedError } from "./errors.ts";
import type { Inbox } from "./inbox.ts";
import type { Credential, FeedState } from "./options.ts";
import type { FilterWarning, Position, ResetReason, Subscription, TableChange } from "./protocol.ts";
import { Sequence } from "./sequence.ts";
import { Session, type Ending } from "./session.ts";

/** What the feed's reader finds, in this order. */
export type Arrival =
  | { kind: "batch"; changes: TableChange[]; from: Position; to: Position; catchUp: boolean; acknowledge: Acknowledge }
  /** Nothing to give out up to here. Only what was sent in `changes` is to be acknowledged. */
  | { kind: "moved"; to: Position; acknowledge?: Acknowledge }
  | { kind: "live"; to: Position }
  /** What came before `to` may be incomplete. */
  | { kind: "reset"; reason: ResetReason; to: Position };

/** What a receiver is told. */
export interface Reception {
  url: string | URL;
  credential: Credential | undefined;
  /** None: everything that the credential allows. */
  subscriptions: readonly Subscription[] | undefined;
  clientId: string | undefined;
  /** When the server is told what has been dealt with; undefined: never. */
  ack: AckPolicy | undefined;
  afterReset: "now" | "earliest";
  maxBuffered: number;
  retry: Backoff;
  watch: Watch;
  WebSocket: WebSocketConstructor;
  stop: AbortSignal;
  inbox: Inbox<Arrival>;
  onState(state: FeedState): void;
  onWarnings(warnings: readonly FilterWarning[]): void;
  onError(error: FeedError): void;
  onFrame(frame: string): void;
}

/** A change of what is subscribed to, until the server has answered it. */
interface Resubscription {
  /** What holds when it is refused. */
  before: Pick<Receiver, "subscriptions" | "sequence" | "start">;
  settle: { resolve(): void; reject(error: FeedError): void };
}

/** Keeps a feed connected, from `run` to its end. */
export class Receiver {
  readonly reception: Reception;
  /** Where the feed stands; undefined before the first welcome, and after a reset. */
  sequence: Sequence | undefined;
  /** Where it begins while `sequence` is undefined. */
  start: "now" | "earliest" = "now";
  /** Why it must begin anew, until it has. */
  reset: ResetReason | undefined;
  subscriptions: readonly Subscription[] | undefined;
  #resubscription: Resubscription | undefined;
  #turn: Promise<unknown> = Promise.resolve();
  #session: Session | undefined;
  readonly #pacer: Pacer;

  constructor(reception: Reception) {
    this.reception = reception;
    this.subscriptions = reception.subscriptions;
    this.#pacer = new Pacer(reception.retry);
  }

  /** Receives until it is stopped. Throws the {@link FeedError} that makes going on vain. */
  async run(after: Position | "earliest" | undefined): Promise<void> {
    const { stop, inbox } = this.reception;
    if (after === "earliest") this.start = after;
    else if (after !== undefined) this.sequence = new Sequence(after);
    const end = () => this.#session?.end("closed by this side");
    stop.addEventListener("abort", end);
    try {
      while (!stop.aborted) {
        this.reception.onState({ status: "connecting" });
        const { outcome, course = neverOpened } = await this.#connection();
        if (stop.aborted) return;
        if (outcome.kind === "failed") throw outcome.error;
        if (outcome.kind === "full") {
          this.#pacer.reset();
          this.reception.onState({ status: "paused" });
          await inbox.drained();
          continue;
        }
        const retryMs = this.#pacer.pauseAfter(course);
        // A reset is told in its place among the changes.
        if (outcome.error.kind !== "reset") this.reception.onError(outcome.error);
        this.reception.onState({ status: "waiting", reason: outcome.error.message, retryMs });
        await pause(retryMs, stop);
      }
    } finally {
      stop.removeEventListener("abort", end);
      this.#resubscription?.settle.reject(new FeedError("connection", "the feed has ended", { retryable: false }));
    }
  }

  /** Wants other tables or rows from here on, or from `after`. Resolves when the server has agreed. */
  subscribe(subscriptions: readonly Subscription[], after: Position | "earliest" | undefined): Promise<void> {
    const ask = () =>
      new Promise<void>((resolve, reject) => {
        if (this.reception.stop.aborted) return reject(new FeedError("connection", "the feed has ended", { retryable: false }));
        const { subscriptions: before, sequence, start } = this;
        this.#resubscription = { before: { subscriptions: before, sequence, start }, settle: { resolve, reject } };
        this.subscriptions = subscriptions;
        if (after === "earliest") {
          this.sequence = undefined;
          this.start = after;
        } else if (after !== undefined) {
          this.sequence = new Sequence(after);
        }
        this.#session?.resubscribe();
      });
    // One at a time: the answers do not say what they answer.
    const done = this.#turn.then(ask);
    this.#turn = done.catch(() => undefined);
    return done;
  }

  /** The server has agreed to what is subscribed to. */
  agreed(): void {
    this.#resubscription?.settle.resolve();
    this.#resubscription = undefined;
  }

  /** The server has refused it; false when nothing else was agreed to before. */
  refused(error: FeedError): boolean {
    const refused = this.#resubscription;
    if (refused === undefined) return false;
    this.#resubscription = undefined;
    Object.assign(this, refused.before);
    refused.settle.reject(error);
    return true;
  }

  /** One connection to its end. */
  async #connection(): Promise<Ending> {
    const { reception } = this;
    let credential: string | undefined;
    try {
      credential = await fetchCredential(reception.credential, reception.watch.credentialMs, reception.stop);
    } catch (error) {
      if (!(error instanceof FeedError)) throw error;
      return lost(error);
    }
    if (reception.stop.aborted) return lost(new FeedError("connection", "closed", { retryable: false }));
    const url = feedUrl(reception.url, {
      // With filters, which the query cannot carry, the feed begins with a `subscribe`.
      after: this.isFiltered ? undefined : (this.sequence?.position ?? (this.start === "earliest" ? this.start : undefined)),
      tables: this.subscriptions === undefined ? undefined : [...new Set(this.subscriptions.map(({ table }) => table))],
      client: reception.clientId,
      ack: reception.ack !== undefined,
    });
    const ending = await new Promise<Ending>((resolve, reject) => {
      try {
        this.#session = new Session(this, url, subprotocols(credential), resolve);
      } catch (cause) {
        reject(new FeedError("connection", `cannot connect to ${url.origin}: ${String(cause)}`, { retryable: false, cause }));
      }
    });
    this.#session = undefined;
    if (ending.course !== undefined || ending.outcome.kind === "failed" || reception.stop.aborted) return ending;
    const refusal = await askWhyRefused(url, credential, typeof reception.credential === "function");
    if (refusal === undefined) return ending;
    if (!refusal.retryable) throw refusal;
    return lost(refusal);
  }

  /** Whether what is subscribed to needs a `subscribe`. */
  get isFiltered(): boolean {
    return this.subscriptions?.some(({ filter }) => filter !== undefined && filter.length > 0) ?? false;
  }
}

function lost(error: FeedError): Ending {
  return { outcome: { kind: "lost", error }, course: undefined };
}
