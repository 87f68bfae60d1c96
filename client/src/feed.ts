// A feed as the application sees it: batches to loop over, and a position that is only stored once
// the application has dealt with what came before it.
//
//     Receiver -> Inbox -> Feed -> for await (batch of feed) / onChanges(batch)
//                                       | commit
//                                       +-> storage, then ack
import type { Acknowledge, AckPolicy } from "./acknowledgements.ts";
import { FeedError, ResetError } from "./errors.ts";
import { Inbox } from "./inbox.ts";
import type { Batch, FeedOptions, FeedState } from "./options.ts";
import type { ChangeOf, Position, Subscription, Tables, WelcomeMessage } from "./protocol.ts";
import { Receiver, type Arrival } from "./receiver.ts";
import { isPosition } from "./position.ts";
import type { WebSocketConstructor } from "./connection.ts";

const defaults = {
  // Twice what the server leaves unacknowledged, so that with `ack` it is the server that waits.
  maxBuffered: 16 << 20,
  ack: { everyChars: 64 << 10, everyMs: 2_000 },
  retry: { firstMs: 1_000, maxMs: 30_000, spreadMs: 5_000, healthyMs: 5_000 },
  watch: { credentialMs: 15_000, openMs: 15_000, heartbeatMs: 15_000 },
};

/**
 * Follows a feed. It connects at once, and again whenever the connection is lost, until `close()`,
 * its signal, or an error after which going on would be vain.
 *
 * ```ts
 * const feed = connect<{ orders: Order }>({ url, token, tables: ["orders"], storage });
 * for await (const batch of feed) {
 *   for (const change of batch.changes) apply(change);
 * }
 * ```
 *
 * Delivery is in order and at least once: a program that ends before it has dealt with a batch gets
 * that batch again. `change.id` tells what came before.
 */
export function connect<T extends object = Tables>(options: FeedOptions<T>): Feed<T> {
  return new Feed(options);
}

/** A feed; made by {@link connect}. */
export class Feed<T extends object = Tables> implements AsyncIterable<Batch<ChangeOf<T>>> {
  /**
   * The first welcome. What is stored after its `head` comes as changes: load what was there before
   * once this has resolved, then loop. Rejects when the feed ends without.
   */
  readonly ready: Promise<WelcomeMessage>;
  /** Resolves when the feed was closed, rejects with what ended it else. */
  readonly done: Promise<void>;
  readonly #ready = deferred<WelcomeMessage>();
  readonly #done = deferred<void>();
  readonly #options: FeedOptions<T>;
  readonly #stop = new AbortController();
  readonly #inbox = new Inbox<Arrival>();
  readonly #receiver: Receiver;
  #isRead = false;
  /** Counts what was given out or passed over, in order. */
  #count = 0;
  /** What was given out last and not committed. */
  #outstanding: Outstanding | undefined;
  #committed: { count: number; position: Position | undefined } = { count: 0, position: undefined };
  #storing: Promise<void> = Promise.resolve();

  constructor(options: FeedOptions<T>) {
    this.#options = options;
    this.ready = this.#ready.promise;
    this.done = this.#done.promise;
    // Who loops over the feed hears of its end there.
    this.ready.catch(() => undefined);
    this.done.catch(() => undefined);
    this.#receiver = this.#makeReceiver();
    const { signal, onChanges } = options;
    if (signal?.aborted) this.close();
    else signal?.addEventListener("abort", () => this.close(), { once: true, signal: this.#stop.signal });
    void this.#receive();
    if (onChanges !== undefined) void this.#call(onChanges);
  }

  /** Where the feed goes on the next time: everything up to here has been dealt with. */
  get position(): Position | undefined {
    return this.#committed.position;
  }

  /**
   * Wants these tables or rows from here on: all that was not yet received comes by them. Resolves
   * when the server has agreed; rejects, and the feed goes on as before, when it refuses.
   *
   * @param after Begins there instead of where the feed stands.
   */
  subscribe(
    subscriptions: readonly (Subscription<keyof T & string> | (keyof T & string))[],
    { after }: { after?: Position | "earliest" } = {},
  ): Promise<void> {
    return this.#receiver.subscribe(subscriptions.map(asSubscription), checkedStart(after));
  }

  /** Ends the feed. What waits is dropped; it comes again the next time, from the stored position. */
  close(): void {
    this.#end();
  }

  /** The batches, for one reader. Leaving the loop closes the feed; the batch at hand is not committed by that. */
  [Symbol.asyncIterator](): AsyncIterator<Batch<ChangeOf<T>>, undefined> {
    if (this.#isRead) throw new TypeError("a feed has one reader: connect another for a second one");
    this.#isRead = true;
    return this.#batches();
  }

  async *#batches(): AsyncGenerator<Batch<ChangeOf<T>>, undefined> {
    try {
      for (;;) {
        const arrival = await this.#inbox.next();
        if (arrival === undefined) return;
        switch (arrival.kind) {
          case "batch": {
            const batch = this.#batch(arrival);
            yield batch;
            if (this.#options.commit !== "manual") await batch.commit();
            break;
          }
          case "moved":
            await this.#pass(arrival.to, arrival.acknowledge);
            break;
          case "live":
            await this.#pass(arrival.to);
            this.#tell({ status: "live", position: arrival.to });
            break;
          case "reset":
            await this.#reset(arrival);
            break;
          default:
            throw new TypeError(`unknown arrival: ${JSON.stringify(arrival satisfies never)}`);
        }
      }
    } catch (error) {
      this.#end({ error });
      throw error;
    } finally {
      this.close();
    }
  }

  #batch({ changes, from, to, catchUp, acknowledge }: Extract<Arrival, { kind: "batch" }>): Batch<ChangeOf<T>> {
    const outstanding: Outstanding = { count: (this.#count += 1), position: to, acknowledge };
    this.#outstanding = outstanding;
    return {
      // What a table's rows look like is the caller's word; the rest of a change has been checked.
      changes: changes as unknown as ChangeOf<T>[],
      from,
      position: to,
      catchUp,
      commit: () => this.#commit(outstanding),
    };
  }

  /** Nothing to give out up to `position`: it counts once everything before has been dealt with. */
  async #pass(position: Position, acknowledge?: Acknowledge): Promise<void> {
    const outstanding = this.#outstanding;
    if (outstanding === undefined) return this.#commit({ count: (this.#count += 1), position, acknowledge });
    outstanding.position = position;
    outstanding.acknowledge = acknowledge ?? outstanding.acknowledge;
  }

  async #reset({ reason, to }: Extract<Arrival, { kind: "reset" }>): Promise<void> {
    const { onReset } = this.#options;
    if (onReset === undefined) throw new ResetError(reason, to);
    await consumer("onReset", () => onReset({ reason, position: to }));
    // What was given out before is of no account any more.
    this.#outstanding = undefined;
    await this.#commit({ count: (this.#count += 1), position: to, acknowledge: undefined });
  }

  /**
   * Stores a position, then tells the server; does nothing if a later one was committed before.
   *
   * A position that could not be stored does not end the feed. Nothing is lost by going on: a restart resumes from
   * the position that was stored last, which is older, so that changes come twice. Only what was committed is ever
   * stored, so that the next commit can store its own position without looking back. The server is told all the same:
   * an acknowledgement makes room for more and nothing else. What the server keeps does not depend on it, and without it a
   * full storage would stall the feed after one window.
   */
  #commit(what: Outstanding): Promise<void> {
    const { storage } = this.#options;
    if (what === this.#outstanding) this.#outstanding = undefined;
    if (what.count < this.#committed.count) return Promise.resolve();
    const { count, position, acknowledge } = what;
    this.#committed = { count, position };
    // One at a time, so that an asynchronous storage never ends up with an earlier position.
    this.#storing = this.#storing.then(async () => {
      try {
        await storage?.set(position);
      } catch (cause) {
        this.#report(new FeedError("storage", `the position could not be stored: ${String(cause)}`, { retryable: true, cause }));
      }
      acknowledge?.(position);
    });
    return this.#storing;
  }

  async #receive(): Promise<void> {
    try {
      const after = await this.#storedPosition();
      if (!this.#stop.signal.aborted) await this.#receiver.run(after);
      this.#end();
    } catch (error) {
      this.#end({ error });
    }
  }

  async #storedPosition(): Promise<Position | "earliest" | undefined> {
    const { storage, after } = this.#options;
    let stored: Position | null | undefined;
    try {
      stored = await storage?.get();
    } catch (cause) {
      throw new FeedError("storage", `the stored position could not be read: ${String(cause)}`, { retryable: false, cause });
    }
    if (stored === undefined || stored === null) return checkedStart(after);
    if (!isPosition(stored))
      throw new FeedError("storage", `what is stored is not a position: ${JSON.stringify(stored)}`, { retryable: false });
    this.#committed.position = stored;
    return stored;
  }

  async #call(onChanges: (batch: Batch<ChangeOf<T>>) => void | Promise<void>): Promise<void> {
    try {
      for await (const batch of this) {
        await consumer("onChanges", () => onChanges(batch)).catch((error: unknown) => {
          // Before the loop is left, which would close the feed without a word.
          this.#end({ error });
          throw error;
        });
      }
    } catch {
      // The end has told it.
    }
  }

  #makeReceiver(): Receiver {
    const {
      url,
      token,
      ticket,
      tables,
      subscriptions,
      clientId,
      ack,
      commit,
      afterReset = "now",
      maxBuffered = defaults.maxBuffered,
      retry,
      watch,
      onFrame,
    } = this.#options;
    if (token !== undefined && ticket !== undefined) throw new TypeError("a feed takes a token or a ticket, not both");
    if (tables !== undefined && subscriptions !== undefined) throw new TypeError("a feed takes tables or subscriptions, not both");
    const WebSocket = this.#options.WebSocket ?? (globalThis.WebSocket as WebSocketConstructor | undefined);
    if (WebSocket === undefined)
      throw new TypeError("this runtime has no WebSocket (Node has one from version 22 on): give one in the options");
    return new Receiver({
      url,
      credential: token ?? ticket,
      subscriptions: (subscriptions ?? tables)?.map(asSubscription),
      clientId,
      ack: acknowledging(ack, commit),
      afterReset,
      maxBuffered,
      retry: { ...defaults.retry, ...retry },
      watch: { ...defaults.watch, ...watch },
      WebSocket,
      stop: this.#stop.signal,
      inbox: this.#inbox,
      onState: (state) => this.#tell(state),
      onWarnings: (warnings) => this.#guard("onWarnings", () => this.#options.onWarnings?.(warnings)),
      onError: (error) => this.#report(error),
      onFrame: (frame) => this.#guard("onFrame", () => onFrame?.(frame)),
    });
  }

  #tell(state: FeedState): void {
    if (state.status === "catching_up") this.#ready.resolve(state.welcome);
    this.#guard("onState", () => this.#options.onState?.(state));
  }

  #report(error: FeedError): void {
    this.#guard("onError", () => this.#options.onError?.(error));
  }

  /** A callback that fails must not be taken for the network's failure. */
  #guard(name: string, callback: () => void): void {
    try {
      callback();
    } catch (cause) {
      this.#end({ error: new FeedError("consumer", `${name} failed: ${String(cause)}`, { retryable: false, cause }) });
    }
  }

  #end(failure?: { error: unknown }): void {
    if (this.#stop.signal.aborted) return;
    this.#stop.abort();
    this.#inbox.close(failure);
    this.#ready.reject(failure?.error ?? new FeedError("connection", "the feed was closed", { retryable: false }));
    if (failure === undefined) {
      this.#done.resolve();
      this.#tell({ status: "closed" });
    } else {
      this.#done.reject(failure.error);
      this.#tell({ status: "closed", error: failure.error });
      if (failure.error instanceof FeedError) this.#report(failure.error);
    }
  }
}

/** Something that was given out, or passed over, and is to be committed. */
interface Outstanding {
  readonly count: number;
  position: Position;
  acknowledge: Acknowledge | undefined;
}

/** `Promise.withResolvers`, which not every browser has. */
function deferred<Value>(): { promise: Promise<Value>; resolve(value: Value): void; reject(error: unknown): void } {
  let settle: { resolve(value: Value): void; reject(error: unknown): void } | undefined;
  const promise = new Promise<Value>((resolve, reject) => (settle = { resolve, reject }));
  return { promise, resolve: (value) => settle?.resolve(value), reject: (error) => settle?.reject(error) };
}

async function consumer(name: string, callback: () => void | Promise<void>): Promise<void> {
  try {
    await callback();
  } catch (cause) {
    throw new FeedError("consumer", `${name} failed: ${String(cause)}`, { retryable: false, cause });
  }
}

function asSubscription(subscription: Subscription | string): Subscription {
  return typeof subscription === "string" ? { table: subscription } : subscription;
}

function acknowledging(ack: boolean | undefined, commit: "auto" | "manual" | undefined): AckPolicy | undefined {
  if (ack === true) return { ...defaults.ack, everyChars: 0 };
  return ack === false || commit === "manual" ? undefined : defaults.ack;
}

function checkedStart(after: Position | "earliest" | undefined): Position | "earliest" | undefined {
  if (after !== undefined && after !== "earliest" && !isPosition(after))
    throw new RangeError(`not a position of a feed: ${JSON.stringify(after)}`);
  return after;
}
