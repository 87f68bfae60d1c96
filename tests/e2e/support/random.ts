// Random numbers that can be reproduced from their seed.

/** A random generator (mulberry32). */
export class Random {
  readonly seed: number;
  #state: number;

  constructor(seed: number) {
    this.seed = seed;
    this.#state = seed;
  }

  /** Uses the seed in the variable SEED, otherwise a new one each time. Prints it, so that it can be used again. */
  static seeded(t: { diagnostic(message: string): void }): Random {
    const random = new Random(Number(process.env["SEED"] ?? Math.floor(Math.random() * 2 ** 31)));
    t.diagnostic(`SEED=${random.seed}`);
    return random;
  }

  /** An integer from 0 up to and without `end`. */
  below(end: number): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let mixed = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return Math.floor((((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32) * end);
  }
}
