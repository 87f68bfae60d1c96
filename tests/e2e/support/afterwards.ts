// What a test started ends in the reverse order; node:test's own hooks run in the order they were made.

/** What something lives as long as: a test, or a repetition of a benchmark. */
export interface Lifetime {
  /** Does `work` at the end. */
  after(work: () => Promise<void>): void;
}

const stacks = new WeakMap<Lifetime, (() => Promise<void> | void)[]>();

/** Does `work` when the test has ended, before everything that was asked for earlier. */
export function afterwards(t: Lifetime, work: () => Promise<void> | void): void {
  const known = stacks.get(t);
  if (known !== undefined) {
    known.push(work);
    return;
  }
  const stack = [work];
  stacks.set(t, stack);
  t.after(async () => {
    for (let next = stack.pop(); next !== undefined; next = stack.pop()) await next();
  });
}

/** Whether the test has passed, asked for afterwards. */
export function hasPassed(t: Lifetime): boolean {
  // Documented since Node 20.12, and missing from the published types.
  return (t as Lifetime & { readonly passed: boolean }).passed;
}
