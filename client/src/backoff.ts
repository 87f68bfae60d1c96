// How long to wait before the next try.

/** Bounds of the pause between two tries, in milliseconds. */
export interface Backoff {
  /** The first pause is at most this long. */
  firstMs: number;
  /** No pause is longer. */
  maxMs: number;
}

/**
 * A pause after so many failures in a row. Anywhere up to its bound: a deploy of the server cuts
 * every client off at the same moment, and they must not all come back at the same moment.
 */
export function pauseMs({ firstMs, maxMs }: Backoff, failures: number): number {
  return Math.random() * Math.min(maxMs, firstMs * 2 ** Math.min(failures, 30));
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
