// Throughput by batch size: the changes of a cycle, and the rows of a transaction.
import { runFeed } from "./drain.ts";
import { takeTurns, type Contestant, type Sample } from "./trial.ts";
import type { Figure, Report } from "./report.ts";
import { spread } from "./statistics.ts";
import type { Environment } from "./environment.ts";

const batches = [1_000, 10_000, 100_000, 1_000_000];
const rows = [1, 10, 1_000];
const changes = 20_000;

/** The whole benchmark. */
export async function batch(environment: Environment): Promise<Report> {
  const name = (maxChangesPerPoll: number, size: number) => `${size} rows a transaction, ${maxChangesPerPoll} changes a cycle`;
  const contestants = rows.flatMap((size) =>
    batches.map((maxChangesPerPoll): Contestant => ({
      name: name(maxChangesPerPoll, size),
      run: async (t) => {
        const { ms = Number.NaN } = await runFeed(t, environment, { changes, transactions: changes / size }, "hyperdrive", {
          maxChangesPerPoll,
        });
        return { throughput: (changes / ms) * 1000 };
      },
    })),
  );
  const samples: Map<string, Sample[]> = await takeTurns(contestants, Math.min(environment.rounds, 3));
  const figure = (maxChangesPerPoll: number, size: number): Figure => ({
    group: `${size} rows a transaction`,
    name: `${maxChangesPerPoll} changes a cycle`,
    unit: "changes a second",
    samples: (samples.get(name(maxChangesPerPoll, size)) ?? []).map(({ throughput = Number.NaN }) => throughput),
  });
  return {
    name: "batch",
    about: `Changes a second while ${changes.toLocaleString("en")} are drained, by the changes of a cycle (maxChangesPerPoll) and the rows of a transaction, over Hyperdrive.`,
    figures: rows.flatMap((size) => batches.map((maxChangesPerPoll) => figure(maxChangesPerPoll, size))),
    plot: [
      {
        title: "Draining, by the rows of a transaction",
        x: "changes a cycle",
        y: "changes a second",
        series: rows.map((size) => ({
          name: size === 1 ? "1 row" : `${size.toLocaleString("en")} rows`,
          points: batches.map((maxChangesPerPoll) => ({ x: maxChangesPerPoll, y: spread(figure(maxChangesPerPoll, size).samples) })),
        })),
      },
    ],
  };
}
