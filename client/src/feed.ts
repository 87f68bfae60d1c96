// A feed as the application sees it: batches to loop over, and a position that is stored only once the application has
// dealt with everything before it.
//
//     Receiver -> Inbox -> Feed -> for await (batch of feed) / onChanges(batch)
//                                       | commit
//                                       +-> storage, then ack
import type { Acknowledge } from "./acknowledgements.ts";
import { FeedError, ResetError } from "./errors.ts";
import { Inbox, type InboxItem } from "./inbox.ts";
import type { Batch, FeedOptions, FeedState } from "./options.ts";
import type { ChangeOf, Position, Subscription, Tables, WelcomeMessage } from "./protocol.ts";
import { isPosition } from "./position.ts";
import { Receiver } from "./receiver.ts";
import { asSubscription, settingsOf, type Callbacks } from "./settings.ts";

/**
 * Follows a feed. It connects at once, and again whenever the connection is lost, until `close()`, an abort of its
 * signal, or an error that makes it pointless to continue.
 *
 * ```ts
 * const feed = connect<{ orders: Order }>({ url, token, tables: ["orders"], storage });
 * for await (const batch of feed) {
 *   for (const change of batch.changes) apply(change);
 * }
 * ```
 *
 * Delivery is in order and at least once: a program that ends before it has dealt with a batch gets that batch again.
 * `change.id` tells which changes it has seen before.
 */
export function connect<T extends object = Tables>(options: FeedOptions<T>): Feed<T> {
  return new Feed(options);
}

/** A feed, created by {@link connect}. */
export class Feed<T extends object = Tables> implements AsyncIterable<Batch<ChangeOf<T>>> {
  /**
   * The first welcome. Whatever is stored after its `head` comes as changes: once this has resolved, load what was there
   * before, then loop. Rejects if the feed ends before it is welcomed.
   */
  readonly ready: Promise<WelcomeMessage>;
  /** Resolves when the feed is closed; rejects if an error ended it. */
  readonly done: Promise<void>;
  readonly #ready = deferred<WelcomeMessage>();
  readonly #done = deferred<void>();
  readonly #options: FeedOptions<T>;
  readonly #stop = new AbortController();
  readonly #inbox = new Inbox<InboxItem>();
  readonly #receiver: Receiver;
  #isRead = false;
  /** Numbers the batches and skipped positions, in order. */
  #count = 0;
  /** The last batch, until it is committed. */
  #outstanding: Outstanding | undefined;
  #committed: { count: number; position: Position | undefined } = { count: 0, position: undefined };
  #storing: Promise<void> = Promise.resolve();

  constructor(options: FeedOptions<T>) {
    this.#options = options;
    this.ready = this.#ready.promise;
    this.done = this.#done.promise;
    // An application that loops over the feed learns of its end from the loop. Nobody may be listening here.
    this.ready.catch(() => undefined);
    this.done.catch(() => undefined);
    this.#receiver = new Receiver(settingsOf(options), this.#callbacks(), this.#inbox, this.#stop.signal);
    const { signal, onChanges } = options;
    if (signal?.aborted) this.close();
    else signal?.addEventListener("abort", () => this.close(), { once: true, signal: this.#stop.signal });
    void this.#receive();
    if (onChanges !== undefined) void this.#call(onChanges);
  }

  /** Where the feed resumes: everything up to here has been dealt with. */
  get position(): Position | undefined {
    return this.#committed.position;
  }

  /**
   * Subscribes to these tables or rows instead, for everything that was not received yet. Resolves when the server has
   * accepted that. If it refuses, this rejects and the feed continues as before; a `retryable` error (`rate_limited`, say) means that
   * the same may be accepted later.
   *
   * @param after Begin there instead of where the feed stands.
   */
  subscribe(
    subscriptions: readonly (Subscription<keyof T & string> | (keyof T & string))[],
    { after }: { after?: Position | "earliest" } = {},
  ): Promise<void> {
    return this.#receiver.subscribe(subscriptions.map(asSubscription), checkedStart(after));
  }

  /** Ends the feed. Waiting batches are dropped; they come again the next time, from the stored position. */
  close(): void {
    this.#end();
  }

  /** The batches, for one reader. Leaving the loop closes the feed without committing the current batch. */
  [Symbol.asyncIterator](): AsyncIterator<Batch<ChangeOf<T>>, undefined> {
    if (this.#isRead) throw new TypeError("a feed has one reader: connect another feed for a second one");
    this.#isRead = true;
    return this.#batches();
  }

  async *#batches(): AsyncGenerator<Batch<ChangeOf<T>>, undefined> {
    try {
      for (;;) {
        const item = await this.#inbox.next();
        if (item === undefined) return;
        switch (item.kind) {
          case "batch": {
            const batch = this.#batch(item);
            yield batch;
            if (this.#options.commit !== "manual") await batch.commit();
            break;
          }
          case "moved":
            await this.#pass(item.to, item.acknowledge);
            break;
          case "live":
            await this.#pass(item.to);
            this.#tell({ status: "live", position: item.to });
            break;
          case "reset":
            await this.#reset(item);
            break;
          default:
            throw new TypeError(`unknown inbox item: ${JSON.stringify(item satisfies never)}`);
        }
      }
    } catch (error) {
      this.#end({ error });
      throw error;
    } finally {
      this.close();
    }
  }

  #batch({ changes, from, to, catchUp, acknowledge }: Extract<InboxItem, { kind: "batch" }>): Batch<ChangeOf<T>> {
    const outstanding: Outstanding = { count: (this.#count += 1), position: to, acknowledge };
    this.#outstanding = outstanding;
    return {
      // The caller vouches for the type of the rows; the rest of a change has been checked.
      changes: changes as unknown as ChangeOf<T>[],
      from,
      position: to,
      catchUp,
      commit: () => this.#commit(outstanding),
    };
  }

  /** Nothing to give out up to `position`. It is committed once everything before it has been dealt with. */
  async #pass(position: Position, acknowledge?: Acknowledge): Promise<void> {
    const outstanding = this.#outstanding;
    if (outstanding === undefined) return this.#commit({ count: (this.#count += 1), position, acknowledge });
    outstanding.position = position;
    outstanding.acknowledge = acknowledge ?? outstanding.acknowledge;
  }

  async #reset({ reason, to }: Extract<InboxItem, { kind: "reset" }>): Promise<void> {
    const { onReset } = this.#options;
    if (onReset === undefined) throw new ResetError(reason, to);
    await consumer("onReset", () => onReset({ reason, position: to }));
    // Batches from before the reset no longer count.
    this.#outstanding = undefined;
    await this.#commit({ count: (this.#count += 1), position: to, acknowledge: undefined });
  }

  /**
   * Stores a position, then tells the server; does nothing if a later one was committed before.
   *
   * A position that cannot be stored does not end the feed, and nothing is lost by continuing. A restart resumes from the last stored
   * position, which is older, so that changes come again. Only committed positions are stored, and in order, so that a later one
   * covers all earlier ones that could not be stored. The position is acknowledged even so: an acknowledgement only makes room in
   * the server's window, and how long the server keeps changes does not depend on it. Without it a full storage would stall the feed
   * after one window.
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
    if (!isPosition(stored)) {
      throw new FeedError("storage", `the stored value is not a position: ${JSON.stringify(stored)}`, { retryable: false });
    }
    this.#committed.position = stored;
    return stored;
  }

  async #call(onChanges: (batch: Batch<ChangeOf<T>>) => void | Promise<void>): Promise<void> {
    try {
      for await (const batch of this) {
        await consumer("onChanges", () => onChanges(batch)).catch((error: unknown) => {
          // Before the loop is left, which would close the feed without an error.
          this.#end({ error });
          throw error;
        });
      }
    } catch {
      // #end has reported it.
    }
  }

  /** The application's callbacks. One that fails ends the feed, and must not be mistaken for a failure of the network. */
  #callbacks(): Callbacks {
    const { onWarnings, onFrame } = this.#options;
    return {
      onState: (state) => this.#tell(state),
      onWarnings: (warnings) => this.#guard("onWarnings", () => onWarnings?.(warnings)),
      onError: (error) => this.#report(error),
      onFrame: (frame) => this.#guard("onFrame", () => onFrame?.(frame)),
    };
  }

  #tell(state: FeedState): void {
    if (state.status === "catching_up") this.#ready.resolve(state.welcome);
    this.#guard("onState", () => this.#options.onState?.(state));
  }

  #report(error: FeedError): void {
    this.#guard("onError", () => this.#options.onError?.(error));
  }

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

/** A batch or a skipped position that waits for its commit. */
interface Outstanding {
  readonly count: number;
  position: Position;
  acknowledge: Acknowledge | undefined;
}

/** `Promise.withResolvers`, which some browsers lack. */
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

function checkedStart(after: Position | "earliest" | undefined): Position | "earliest" | undefined {
  if (after !== undefined && after !== "earliest" && !isPosition(after)) throw new RangeError(`not a position: ${JSON.stringify(after)}`);
  return after;
}
