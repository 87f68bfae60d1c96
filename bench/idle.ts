// The resources of a feed while nothing happens: with a client it polls, without one it hibernates.
import { readFileSync } from "node:fs";
import { setTimeout as delay } from "node:timers/promises";
import type { Lifetime } from "../tests/e2e/support/afterwards.ts";
import type { TestDatabase } from "../tests/e2e/support/database.ts";
import type { Workerd } from "../tests/e2e/support/workerd.ts";
import { createSource } from "./backlog.ts";
import { startFeed } from "./feed.ts";
import { runTrial, type Sample } from "./trial.ts";
import type { Figure, Report } from "./report.ts";
import type { Environment } from "./environment.ts";

const minutes = 3;

/** The pause between polls doubles from 20 ms until it reaches the interval of one second. */
const settlingMs = 5_000;

/** Prints whatever is billed. */
const watch = `
const wrap = (object, name, report) => {
  const original = object[name];
  object[name] = function (...args) {
    const result = original.apply(this, args);
    report(result);
    return result;
  };
};
let watched = false;
globalThis.onConstruction = ({ storage }) => {
  if (watched) return;
  watched = true;
  wrap(Object.getPrototypeOf(storage.sql), "exec", (cursor) => {
    if (cursor.rowsWritten > 0) console.log("ROWS " + cursor.rowsWritten);
  });
  // According to the price list each setAlarm() is billed as a row written.
  wrap(Object.getPrototypeOf(storage), "setAlarm", () => console.log("ROWS 1"));
};
globalThis.onAlarm = (ms) => console.log("ALARM " + ms);
`;

/** The whole benchmark. */
export async function idle(environment: Environment): Promise<Report> {
  const [polling, hibernating] = await runTrial((t) => Promise.all([run(t, environment, true), run(t, environment, false)]));
  const figures = (group: string, sample: Sample): Figure[] =>
    Object.entries(sample).map(([name, value]) => ({ group, name, unit: "", samples: [value] }));
  return {
    name: "idle",
    about: `A feed with its defaults while nothing changes: counted for ${minutes} minutes, over Hyperdrive.`,
    figures: [...figures("polling, one client", polling), ...figures("hibernating, no client", hibernating)],
  };
}

async function run(t: Lifetime, environment: Environment, hasClient: boolean): Promise<Sample> {
  const database = await createSource(t, environment.postgres);
  // Before the feed connects, since it keeps its connection, and a session keeps the log settings that it began with.
  await database.query(`ALTER DATABASE ${database.name} SET log_statement = 'all'`);
  await database.query("ALTER SYSTEM SET log_line_prefix = '%d %a '");
  await database.query("ALTER SYSTEM SET log_connections = 'authorization'");
  await database.query("SELECT pg_reload_conf()");
  const worker = await startFeed(t, database, "hyperdrive", {}, { before: watch });
  if (hasClient) await (await worker.connect()).message("caught_up");
  await delay(settlingMs);
  const counted = () => count(environment, database, worker);
  const before = counted();
  await delay(minutes * 60_000);
  const after = counted();
  const grown = (part: keyof typeof before) => after[part] - before[part];
  return {
    "queries a minute": grown("queries") / minutes,
    "connections a minute": grown("connections") / minutes,
    "alarms an hour": (grown("alarms") * 60) / minutes,
    "storage rows written an hour": (grown("rows") * 60) / minutes,
    "milliseconds of an alarm": grown("alarms") === 0 ? 0 : grown("alarmMs") / grown("alarms"),
  };
}

function count({ log }: Environment, database: TestDatabase, worker: Workerd) {
  const lines = readFileSync(log, "utf8").split("\n");
  const printed = (word: string) => [...worker.log.matchAll(new RegExp(`${word} (\\d+)`, "g"))].map((match) => Number(match[1]));
  const sum = (values: number[]) => values.reduce((total, value) => total + value, 0);
  return {
    queries: lines.filter((line) => line.startsWith(`${database.name} pg-change-feed LOG:  execute`)).length,
    connections: lines.filter(
      (line) => line.includes("connection authorized") && line.includes(`database=${database.name} application_name=pg-change-feed`),
    ).length,
    alarms: printed("ALARM").length,
    alarmMs: sum(printed("ALARM")),
    rows: sum(printed("ROWS")),
  };
}
