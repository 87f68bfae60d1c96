// The receiving half of a feed: opens one connection after the other, and puts what they bring into the inbox, each
// change once and in order.
//
//     pause -> credential -> Session (one connection) -> ended -> pause ...
//                               |
//                               +-> inbox: batch, moved, live, reset
//
// Reconnecting is written here because no package does what is needed. The closest, partysocket, retries at once and without jitter,
// so that a deploy of the server brings all clients back at the same moment. Its `reconnect()` forgets how often it
// failed, so that a server that sends nonsense would be hammered. And it cannot hold the next try back because of a full
// inbox or the reason of a refusal.
import { askWhyRefused, feedUrl, subprotocols } from "./address.ts";
import { neverOpened, Pacer, pause } from "./backoff.ts";
import { fetchCredential } from "./credential.ts";
import { FeedError } from "./errors.ts";
import type { Inbox, InboxItem } from "./inbox.ts";
import { Progress } from "./progress.ts";
import type { Position, Subscription } from "./protocol.ts";
import { Session, type Ending } from "./session.ts";
import type { Callbacks, Settings } from "./settings.ts";

/** A change of what is subscribed to, until the server has answered it. */
interface Resubscription {
  undo(): void;
  resolve(): void;
  reject(error: FeedError): void;
}

/** Keeps a feed connected, from `run` to its end. */
export class Receiver {
  readonly #settings: Settings;
  readonly #callbacks: Callbacks;
  readonly #inbox: Inbox<InboxItem>;
  readonly #stop: AbortSignal;
  readonly #progress: Progress;
  readonly #pacer: Pacer;
  #session: Session | undefined;
  #resubscription: Resubscription | undefined;
  /** The last `subscribe` that was requested. */
  #lastSubscribe: Promise<unknown> = Promise.resolve();

  constructor(settings: Settings, callbacks: Callbacks, inbox: Inbox<InboxItem>, stop: AbortSignal) {
    this.#settings = settings;
    this.#callbacks = callbacks;
    this.#inbox = inbox;
    this.#stop = stop;
    this.#progress = new Progress(settings.subscriptions);
    this.#pacer = new Pacer(settings.retry);
  }

  /** Receives until it is stopped. Throws the {@link FeedError} that makes it pointless to continue. */
  async run(after: Position | "earliest" | undefined): Promise<void> {
    const stop = this.#stop;
    this.#progress.begin(after);
    const end = () => this.#session?.end("closed by this side");
    stop.addEventListener("abort", end);
    try {
      while (!stop.aborted) {
        this.#callbacks.onState({ status: "connecting" });
        const ending = await this.#connection();
        if (!stop.aborted) await this.#waitForNextTry(ending);
      }
    } finally {
      stop.removeEventListener("abort", end);
      this.#resubscription?.reject(hasEnded());
    }
  }

  /** Subscribes to other tables or rows from here on, or from `after`. Resolves when the server has accepted that. */
  subscribe(subscriptions: readonly Subscription[], after: Position | "earliest" | undefined): Promise<void> {
    const request = () =>
      new Promise<void>((resolve, reject) => {
        if (this.#stop.aborted) return reject(hasEnded());
        const undo = this.#progress.resubscribe(subscriptions, after);
        this.#resubscription = { undo, resolve, reject };
        this.#session?.resubscribe();
      });
    // One at a time: an answer does not say which request it answers.
    const done = this.#lastSubscribe.then(request);
    this.#lastSubscribe = done.catch(() => undefined);
    return done;
  }

  /** What follows the end of a connection: waiting until the next try is due. Throws if there must not be another try. */
  async #waitForNextTry({ outcome, stats = neverOpened }: Ending): Promise<void> {
    if (outcome.kind === "failed") throw outcome.error;
    if (outcome.kind === "full") {
      this.#pacer.reset();
      this.#callbacks.onState({ status: "paused" });
      return this.#inbox.drained();
    }
    const retryMs = this.#pacer.pauseAfter(stats);
    // The application hears of a reset in its place among the changes.
    if (outcome.error.kind !== "reset") this.#callbacks.onError(outcome.error);
    this.#callbacks.onState({ status: "waiting", reason: outcome.error.message, retryMs });
    await pause(retryMs, this.#stop);
  }

  /** One connection, from its credential to its end. Throws if another one would be refused too. */
  async #connection(): Promise<Ending> {
    const { credential: source, watch } = this.#settings;
    let credential: string | undefined;
    try {
      credential = await fetchCredential(source, watch.credentialMs, this.#stop);
    } catch (error) {
      if (!(error instanceof FeedError)) throw error;
      return lost(error);
    }
    if (this.#stop.aborted) return lost(hasEnded());
    const url = this.#url();
    const ending = await this.#converse(url, credential);
    if (ending.stats !== undefined || ending.outcome.kind === "failed" || this.#stop.aborted) return ending;
    const refusal = await askWhyRefused(url, credential, typeof source === "function");
    if (refusal === undefined) return ending;
    if (!refusal.retryable) throw refusal;
    return lost(refusal);
  }

  async #converse(url: URL, credential: string | undefined): Promise<Ending> {
    try {
      return await new Promise<Ending>((resolve, reject) => {
        const owner = {
          subscribed: () => this.#subscribed(),
          refused: (error: FeedError) => this.#refused(error),
          deliver: (item: InboxItem, size: number) => this.#deliver(item, size),
          ended: resolve,
        };
        const context = { owner, progress: this.#progress, settings: this.#settings, callbacks: this.#callbacks };
        try {
          this.#session = new Session(context, url, subprotocols(credential));
        } catch (cause) {
          reject(new FeedError("connection", `cannot connect to ${url.origin}: ${String(cause)}`, { retryable: false, cause }));
        }
      });
    } finally {
      this.#session = undefined;
    }
  }

  #url(): URL {
    const { isFiltered, next, subscriptions } = this.#progress;
    return feedUrl(this.#settings.url, {
      // The query cannot carry filters. With filters the feed begins with a `subscribe`, which says where.
      after: isFiltered ? undefined : next,
      tables: subscriptions === undefined ? undefined : [...new Set(subscriptions.map(({ table }) => table))],
      client: this.#settings.clientId,
      ack: this.#settings.ack !== undefined,
    });
  }

  #deliver(item: InboxItem, size: number): boolean {
    this.#inbox.push(item, size);
    return this.#inbox.size <= this.#settings.maxBuffered;
  }

  #subscribed(): void {
    this.#resubscription?.resolve();
    this.#resubscription = undefined;
  }

  #refused(error: FeedError): boolean {
    const refused = this.#resubscription;
    if (refused === undefined) return false;
    this.#resubscription = undefined;
    refused.undo();
    refused.reject(error);
    return true;
  }
}

function hasEnded(): FeedError {
  return new FeedError("connection", "the feed has ended", { retryable: false });
}

function lost(error: FeedError): Ending {
  return { outcome: { kind: "lost", error }, stats: undefined };
}
