// How long to wait before the next try.

/** The pauses between two tries, in milliseconds. Each is random, anywhere up to its bound. */
export interface Backoff {
  /** The first pause after a failure is at most this long. The bound doubles with each further failure in a row. */
  firstMs: number;
  /** No pause is longer. */
  maxMs: number;
  /** The first pause after a healthy connection was cut off, as a deploy of the server cuts off every client at the same moment. */
  spreadMs: number;
  /** A connection is healthy once it has lasted this long and has brought something. */
  healthyMs: number;
}

/** How a connection went, which decides what follows it. */
export interface Course {
  /** How long it was open. */
  lastedMs: number;
  /** Whether it brought something new, or said that there is nothing new. */
  broughtNews: boolean;
  /** Its close code; undefined where this side ended it, or where it never opened. */
  code: number | undefined;
}

/** A try that did not lead to an open connection. */
export const neverOpened: Course = { lastedMs: 0, broughtNews: false, code: undefined };

/** Going away, lost without a close frame, restarted: what clients see of a deploy. They all see it at the same moment. */
const cutOffCodes = new Set<number | undefined>([1001, 1006, 1012]);

/** The server has sent all that it sends without an acknowledgement. There is more, and it may be fetched at once. */
const unacknowledgedCode = 4002;

/** Counts the failures in a row and spaces the tries accordingly. */
export class Pacer {
  readonly #backoff: Backoff;
  #failures = 0;

  constructor(backoff: Backoff) {
    this.#backoff = backoff;
  }

  /** The pause after a connection that went like this, in milliseconds. */
  pauseAfter({ lastedMs, broughtNews, code }: Course): number {
    const { firstMs, maxMs, spreadMs, healthyMs } = this.#backoff;
    // A server that accepts a connection and drops it again is not healthy, whatever it says in between: only time
    // tells. The exception is a close for missing acknowledgements, which a fast connection reaches sooner than that.
    const isHealthy = broughtNews && (lastedMs >= healthyMs || code === unacknowledgedCode);
    if (isHealthy) this.reset();
    const bound = Math.min(maxMs, firstMs * 2 ** Math.min(this.#failures, 30));
    this.#failures += 1;
    if (isHealthy && code === unacknowledgedCode) return 0;
    if (isHealthy && cutOffCodes.has(code)) return Math.random() * Math.min(maxMs, Math.max(spreadMs, firstMs));
    return Math.random() * bound;
  }

  /** Forgets the failures: the server has proven itself. */
  reset(): void {
    this.#failures = 0;
  }
}

/** Waits; shorter when the signal is aborted. */
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
