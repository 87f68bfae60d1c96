// Clients that return after a long time: each of them resumes 100,000 changes behind the head, all at the same time.
// Compared with psql, which reads the same rows once for each of them.
import type { Lifetime } from "../tests/e2e/support/afterwards.ts";
import { createSource, write } from "./backlog.ts";
import { CrowdProcess } from "./crowd-process.ts";
import { atRest, poll, startFeed, status } from "./feed.ts";
import { figureOf, takeTurns, type Contestant, type Sample } from "./trial.ts";
import { peakMemoryMib } from "./processes.ts";
import { PsqlSession } from "./psql-session.ts";
import type { Report } from "./report.ts";
import type { Environment } from "./environment.ts";

const clients = 100;
/** How many changes they have missed. */
const missed = 100_000;
/** How many they had seen before. */
const seen = 1_000;

/** The whole benchmark. */
export async function catchUp(environment: Environment): Promise<Report> {
  const contestants: Contestant[] = [
    { name: "floor", run: (t) => runFloor(t, environment) },
    { name: "feed", run: (t) => runFeed(t, environment) },
  ];
  // Ten million changes take a while.
  const samples = await takeTurns(contestants, Math.min(environment.rounds, 3));
  const floor = { ...figureOf(samples, "floor", "seconds", "s"), group: "time", name: "floor" };
  return {
    name: "catch-up",
    about: `${clients} clients, each resuming ${missed.toLocaleString("en")} changes behind the head, over Hyperdrive: seconds until the last has caught up.`,
    figures: [
      floor,
      { ...figureOf(samples, "feed", "seconds", "s"), group: "time", name: "feed", against: [floor] },
      ...["changes sent", "MiB sent"].map((part) => figureOf(samples, "feed", part, "a second")),
      ...["peak of WebAssembly", "peak of workerd"].map((part) => figureOf(samples, "feed", part, "MiB")),
    ],
  };
}

/** Prepares a feed with its history. */
async function prepare(t: Lifetime, environment: Environment) {
  const database = await createSource(t, environment.postgres);
  const worker = await startFeed(t, database, "hyperdrive", atRest);
  await write(database, { changes: seen + missed, transactions: 1_010 });
  await poll(worker);
  return { database, worker };
}

async function runFeed(t: Lifetime, environment: Environment): Promise<Sample> {
  const { worker } = await prepare(t, environment);
  const started = performance.timeOrigin + performance.now();
  const crowd = CrowdProcess.start(t, worker, `/ws?v=1&ack=1&after=1-${seen}`, { count: clients, counted: '{"type":"caught_up"' });
  const { last, changes, leastBytes, mostBytes } = await crowd.arrival();
  if (changes !== missed) throw new Error(`the first client received ${changes} changes`);
  // The length of the name that each is given, and of positions, varies.
  if (mostBytes - leastBytes > 1_000) throw new Error(`the clients received between ${leastBytes} and ${mostBytes} bytes`);
  const seconds = (last - started) / 1000;
  const { memoryBytes } = await status(worker);
  return {
    seconds,
    "changes sent": (clients * missed) / seconds,
    "MiB sent": (clients * leastBytes) / 2 ** 20 / seconds,
    "peak of WebAssembly": memoryBytes / 2 ** 20,
    "peak of workerd": peakMemoryMib(worker.pid),
  };
}

async function runFloor(t: Lifetime, environment: Environment): Promise<Sample> {
  const { database } = await prepare(t, environment);
  const psql = await PsqlSession.open(t, environment.psql, database.url);
  const read = `\\copy (SELECT * FROM change_history WHERE id > ${seen} ORDER BY id) TO '/dev/null'`;
  const ms = await psql.time(Array.from({ length: clients }, () => read).join("\n"));
  return { seconds: ms / 1000 };
}
