// Tests wait for conditions, never for time.
import { setTimeout as delay } from "node:timers/promises";

/** How long a condition may take by default: far longer than it ever takes. */
export const deadlineMs = 20_000;

/**
 * Evaluates the condition repeatedly until the result is neither undefined nor false. Returns that result.
 *
 * @param what The condition in words, for the error at the deadline.
 * @param every Milliseconds between two evaluations: more for conditions that take minutes.
 */
export async function waitFor<T>(
  what: string,
  condition: () => T | Promise<T>,
  within = deadlineMs,
  every = 20,
): Promise<Exclude<Awaited<T>, undefined | false>> {
  const end = performance.now() + within;
  let last: unknown;
  for (;;) {
    try {
      const answer = await condition();
      if (answer !== undefined && answer !== false) return answer as Exclude<Awaited<T>, undefined | false>;
      last = answer;
    } catch (error) {
      last = error;
    }
    if (performance.now() > end) throw new Error(`${what}: not within ${within} ms; last seen: ${String(last)}`, { cause: last });
    await delay(every);
  }
}
