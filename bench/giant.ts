// One transaction of a million rows, which must pass through 64 MiB of memory.
import { readyMadeRows, runFeed, runFloor } from "./drain.ts";
import { figureOf, takeTurns, type Contestant } from "./trial.ts";
import type { Report } from "./report.ts";
import type { Environment } from "./environment.ts";

const backlog = { changes: 1_000_000, transactions: 1 };

/** The whole benchmark. */
export async function giant(environment: Environment): Promise<Report> {
  const rows = await readyMadeRows(environment, backlog);
  const contestants: Contestant[] = [
    { name: "floor", run: (t) => runFloor(t, environment, backlog, rows) },
    { name: "feed, direct socket", run: (t) => runFeed(t, environment, backlog, "direct", {}) },
    { name: "feed, Hyperdrive", run: (t) => runFeed(t, environment, backlog, "hyperdrive", {}) },
  ];
  // Writing a million rows takes a while too.
  const samples = await takeTurns(contestants, Math.min(environment.rounds, 3));
  const time = (name: string) => ({ ...figureOf(samples, name, "ms", "ms"), group: "time", name });
  const floor = time("floor");
  const feeds = ["feed, direct socket", "feed, Hyperdrive"];
  return {
    name: "giant",
    about: "One transaction of 1,000,000 inserted rows: time until it is stored and the slot is past it, and the most memory it took.",
    figures: [
      floor,
      ...feeds.map((name) => ({ ...time(name), against: [floor] })),
      ...feeds.flatMap((name) => ["peak of WebAssembly", "peak of workerd"].map((part) => figureOf(samples, name, part, "MiB"))),
    ],
  };
}
