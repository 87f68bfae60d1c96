// Whether a change costs more if more of them wait: the time to drain one change by the size of the backlog, in
// transactions of ten rows.
import { runFeed } from "./drain.ts";
import { figureOf, takeTurns, type Contestant } from "./trial.ts";
import type { Report } from "./report.ts";
import { spread } from "./statistics.ts";
import type { Environment } from "./environment.ts";

const sizes = [1_000, 10_000, 100_000, 1_000_000];

/** The whole benchmark. */
export async function growth(environment: Environment): Promise<Report> {
  const name = (changes: number) => `${changes.toLocaleString("en")} changes`;
  const contestants = sizes.map((changes): Contestant => ({
    name: name(changes),
    run: async (t) => {
      const { ms = Number.NaN } = await runFeed(t, environment, { changes, transactions: changes / 10 }, "hyperdrive", {});
      return { "a change": (ms * 1000) / changes };
    },
  }));
  const samples = await takeTurns(contestants, Math.min(environment.rounds, 3));
  const figures = sizes.map((changes) => ({
    ...figureOf(samples, name(changes), "a change", "µs"),
    group: "microseconds for each change",
    name: name(changes),
  }));
  const tenThousand = figures.slice(1, 2);
  return {
    name: "growth",
    about: "Microseconds to drain one change, by the size of the backlog, with the defaults (100,000 changes a cycle), over Hyperdrive.",
    figures: figures.map((figure) => ({ ...figure, against: tenThousand })),
    plot: [
      {
        title: "Draining: cost of a change by backlog",
        x: "changes that wait",
        y: "microseconds for each",
        series: [{ name: "median, least and most", points: sizes.map((x, nth) => ({ x, y: spread(figures[nth]?.samples ?? []) })) }],
      },
    ],
  };
}
