// One repetition of one measurement, and how repetitions follow each other.
import { loadavg } from "node:os";
import { say } from "../scripts/steps.ts";
import type { Lifetime } from "../tests/e2e/support/afterwards.ts";
import type { Figure } from "./report.ts";

/** Owns what one repetition starts. */
class Trial implements Lifetime {
  readonly #works: (() => Promise<void>)[] = [];
  /** What failed prints what it knows at its end, as a test does. */
  passed = false;

  after(work: () => Promise<void>): void {
    this.#works.push(work);
  }

  async end(): Promise<void> {
    for (const work of this.#works) await work();
  }
}

/** Runs something that owns what it starts; everything has ended when it returns. */
export async function runTrial<T>(work: (t: Lifetime) => Promise<T>): Promise<T> {
  const t = new Trial();
  try {
    const result = await work(t);
    t.passed = true;
    return result;
  } finally {
    await t.end();
  }
}

/** What one repetition gave, by the name of the figure. */
export type Sample = Record<string, number>;

/** One of those that are compared: it sets up, measures, and checks what it did. */
export interface Contestant {
  name: string;
  run(t: Lifetime): Promise<Sample>;
}

/**
 * Lets all take turns, so that a busy minute of the machine hits all of them, and each round in
 * another order, so that nobody always runs behind the same one. Gives each one's samples, round by
 * round.
 */
export async function takeTurns(contestants: Contestant[], rounds: number): Promise<Map<string, Sample[]>> {
  const samples = new Map<string, Sample[]>(contestants.map(({ name }) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < contestants.length; turn++) {
      const contestant = contestants[(turn + round) % contestants.length] as Contestant;
      const load = loadavg()[0] ?? 0;
      const sample = await runTrial((t) => contestant.run(t));
      samples.get(contestant.name)?.push(sample);
      const told = Object.entries(sample).map(([figure, value]) => `${figure} ${value.toFixed(1)}`);
      say(`   ${round + 1}/${rounds} ${contestant.name}: ${told.join(", ")} (load ${load.toFixed(1)})`);
    }
  }
  return samples;
}

/** One contestant's part of the samples. */
export function figureOf(samples: Map<string, Sample[]>, contestant: string, part: string, unit: string): Figure {
  const values = (samples.get(contestant) ?? []).map((sample) => sample[part] ?? Number.NaN);
  return { group: contestant, name: part, unit, samples: values };
}
