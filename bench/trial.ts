// One repetition of one measurement, and the order of the repetitions.
import { loadavg } from "node:os";
import { say } from "../scripts/steps.ts";
import type { Lifetime } from "../tests/e2e/support/afterwards.ts";
import type { Figure } from "./report.ts";

/** Owns everything that one repetition starts. */
class Trial implements Lifetime {
  readonly #work: (() => Promise<void>)[] = [];
  /** At the end of a failed trial its parts print what they know, as they do for a test. */
  passed = false;

  after(work: () => Promise<void>): void {
    this.#work.push(work);
  }

  async end(): Promise<void> {
    for (const work of this.#work) await work();
  }
}

/** Runs one trial. Everything that it started has ended when this returns. */
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

/** The result of one repetition, by the name of the figure. */
export type Sample = Record<string, number>;

/** One of the compared candidates. It sets up, measures, and checks the result. */
export interface Contestant {
  name: string;
  run(t: Lifetime): Promise<Sample>;
}

/**
 * Lets the contestants take turns, so that a busy minute of the machine affects all of them. Each round has another order,
 * so that none of them always follows the same one. Returns the samples of each, round by round.
 */
export async function takeTurns(contestants: Contestant[], rounds: number): Promise<Map<string, Sample[]>> {
  const samples = new Map<string, Sample[]>(contestants.map(({ name }) => [name, []]));
  for (let round = 0; round < rounds; round++) {
    for (let turn = 0; turn < contestants.length; turn++) {
      const contestant = contestants[(turn + round) % contestants.length] as Contestant;
      const load = loadavg()[0] ?? 0;
      const sample = await runTrial((t) => contestant.run(t));
      samples.get(contestant.name)?.push(sample);
      const values = Object.entries(sample).map(([figure, value]) => `${figure} ${value.toFixed(1)}`);
      say(`   ${round + 1}/${rounds} ${contestant.name}: ${values.join(", ")} (load ${load.toFixed(1)})`);
    }
  }
  return samples;
}

/** One part of a contestant's samples, as a figure. */
export function figureOf(samples: Map<string, Sample[]>, contestant: string, part: string, unit: string): Figure {
  const values = (samples.get(contestant) ?? []).map((sample) => sample[part] ?? Number.NaN);
  return { group: contestant, name: part, unit, samples: values };
}
