// Ends what a test has started, in the reverse order. The hooks of node:test run in the order of their registration.

/** The lifetime of something that is started: a test, or a trial of a benchmark. */
export interface Lifetime {
  /** Runs `work` at the end. */
  after(work: () => Promise<void>): void;
}

const stacks = new WeakMap<Lifetime, (() => Promise<void> | void)[]>();

/** Runs `work` when the test has ended, before everything that was registered earlier. */
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

/** Whether the test has passed, once it has ended. */
export function hasPassed(t: Lifetime): boolean {
  // Documented since Node 20.12, and missing from the published types.
  return (t as Lifetime & { readonly passed: boolean }).passed;
}
