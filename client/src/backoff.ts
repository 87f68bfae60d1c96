// How long to wait before the next try.

/** The pauses between two tries, in milliseconds. Each is random, anywhere up to its bound. */
export interface Backoff {
  /** The first pause after a failure is at most this long. The bound doubles with each further failure in a row. */
  firstMs: number;
  /** No pause is longer. */
  maxMs: number;
  /** The first pause after a healthy connection was cut off, as a deploy of the server cuts off every client at the same moment. */
  spreadMs: number;
  /** A connection is healthy if it has lasted this long and made progress. */
  healthyMs: number;
}

/** How a connection went, which decides the pause after it. */
export interface ConnectionStats {
  /** How long it was open. */
  lastedMs: number;
  /** Whether it moved the feed forward, or said that the feed is up to date. */
  madeProgress: boolean;
  /** Characters of `changes` frames that it brought. */
  receivedChars: number;
  /** Its close code; undefined if this side ended it, or if it never opened. */
  code: number | undefined;
}

/** A try that did not lead to an open connection. */
export const neverOpened: ConnectionStats = { lastedMs: 0, madeProgress: false, receivedChars: 0, code: undefined };

/** Going away, lost without a close frame, restarted. This is how a deploy looks to a client, and to all clients at the same moment. */
const cutOffCodes = new Set<number | undefined>([1001, 1006, 1012]);

/** The server has sent as much as it sends without an acknowledgement. The client may connect again at once. */
const unacknowledgedCode = 4002;

/** A connection that was closed for missing acknowledgements after this much has done its work, however short it was. */
const worthwhileChars = 1 << 20;

/** Counts the failures in a row and spaces the tries accordingly. */
export class Pacer {
  readonly #backoff: Backoff;
  #failures = 0;

  constructor(backoff: Backoff) {
    this.#backoff = backoff;
  }

  /** The pause after a connection that went like this, in milliseconds. */
  pauseAfter({ lastedMs, madeProgress, receivedChars, code }: ConnectionStats): number {
    const { firstMs, maxMs, spreadMs, healthyMs } = this.#backoff;
    // A server that accepts connections and soon drops them is not healthy, whatever it sends in between. The exception is a
    // close for missing acknowledgements, which may come sooner on a fast connection. But if many clients share what the
    // server can hold, it comes after next to nothing, again and again: then only the first retry is immediate.
    const isUnacknowledged = madeProgress && code === unacknowledgedCode;
    const isHealthy = madeProgress && (lastedMs >= healthyMs || (isUnacknowledged && receivedChars >= worthwhileChars));
    if (isHealthy) this.reset();
    const isFirst = this.#failures === 0;
    const bound = Math.min(maxMs, firstMs * 2 ** Math.min(this.#failures, 30));
    this.#failures += 1;
    if (isUnacknowledged && isFirst) return 0;
    if (isHealthy && cutOffCodes.has(code)) return Math.random() * Math.min(maxMs, Math.max(spreadMs, firstMs));
    return Math.random() * bound;
  }

  /** Forgets the failures: the server has proven itself. */
  reset(): void {
    this.#failures = 0;
  }
}

/** Waits, until the signal is aborted at the latest. */
export function pause(ms: number, stop: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (stop.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      stop.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    stop.addEventListener("abort", done);
  });
}
