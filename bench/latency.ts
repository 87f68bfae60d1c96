// How long a change takes to reach a WebSocket client: from the moment the writer knows of its commit to the arrival of
// the change.
//
//     nudged    the writer calls POST /poll after each commit, with at most one call in flight and one pending
//     polling   the feed polls by itself, with its defaults
//     floor     psql with the SQL of a cycle, on a session that stays open, and the echo of a WebSocket
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { WebSocket, WebSocketServer } from "ws";
import type { TableChange } from "../client/src/index.ts";
import { afterwards, type Lifetime } from "../tests/e2e/support/afterwards.ts";
import type { TestDatabase } from "../tests/e2e/support/database.ts";
import { waitFor } from "../tests/e2e/support/wait-for.ts";
import type { Workerd } from "../tests/e2e/support/workerd.ts";
import { createHistory, createSlot, createSource } from "./backlog.ts";
import { poll, startFeed, status } from "./feed.ts";
import { figureOf, takeTurns, type Contestant, type Sample } from "./trial.ts";
import type { Panel } from "./plot.ts";
import { PsqlSession } from "./psql-session.ts";
import type { Figure, Report } from "./report.ts";
import { percentile, spread } from "./statistics.ts";
import type { Environment } from "./environment.ts";

/** Transactions per second, and the number of seconds. */
const loads = [
  { rate: 1, seconds: 20 },
  { rate: 100, seconds: 10 },
  { rate: 1000, seconds: 10 },
];

/** The number of concurrent writers that the highest load needs. */
const writers = 8;

const parts = ["p50", "p99", "max"];

/** The whole benchmark. */
export async function latency(environment: Environment): Promise<Report> {
  const name = (way: "nudged" | "polling", rate: number) => `${way}, ${rate} a second`;
  const contestants: Contestant[] = [
    { name: "floor", run: (t) => runFloor(t, environment) },
    ...loads.flatMap((load) =>
      (["nudged", "polling"] as const).map((way) => ({
        name: name(way, load.rate),
        run: (t: Lifetime) => runFeed(t, environment, load, way),
      })),
    ),
  ];
  const samples = await takeTurns(contestants, environment.rounds);
  const floors = parts.map((part) => ({ ...figureOf(samples, "floor", part, "ms"), group: "floor", name: `floor ${part}` }));
  const figures = contestants
    .slice(1)
    .flatMap(({ name }): Figure[] => [
      ...parts.map((part, nth): Figure => ({ ...figureOf(samples, name, part, "ms"), against: floors.slice(nth, nth + 1) })),
      figureOf(samples, name, "last cycle", "ms"),
      figureOf(samples, name, "reached", "a second"),
    ]);
  const panel = (title: string, way: "nudged" | "polling"): Panel => ({
    title,
    x: "transactions a second",
    y: "milliseconds",
    series: parts.map((part) => ({
      name: part,
      points: loads.map(({ rate }) => ({ x: rate, y: spread(figureOf(samples, name(way, rate), part, "ms").samples) })),
    })),
  });
  return {
    name: "latency",
    about: "Milliseconds from a commit to its arrival at a WebSocket client, over Hyperdrive, at a steady load of single-row transactions.",
    figures: [...floors, ...figures],
    plot: [panel("Commit to client, nudged", "nudged"), panel("Commit to client, polling only", "polling")],
  };
}

async function runFeed(t: Lifetime, environment: Environment, load: (typeof loads)[number], way: "nudged" | "polling"): Promise<Sample> {
  const database = await createSource(t, environment.postgres);
  const worker = await startFeed(t, database, "hyperdrive", {});
  const arrivals = await listen(t, worker);
  const nudger = new Nudger(worker);
  const nudge = way === "nudged" ? () => nudger.nudge() : () => undefined;
  // The measurement begins when the code is compiled and the first poll is over.
  await writeSteadily(t, database, { rate: 50, seconds: 2 }, 0, nudge);
  await waitFor("the first changes have arrived", () => arrivals.size === 100);
  const started = performance.now();
  const commits = await writeSteadily(t, database, load, 100, nudge);
  const seconds = (performance.now() - started) / 1000;
  await waitFor("all changes have arrived", () => arrivals.size === 100 + commits.size, 60_000);
  await nudger.idle();
  const took = [...commits].map(([id, at]) => (arrivals.get(id) ?? Number.NaN) - at);
  const { polling } = await status(worker);
  const cycle = Object.values(polling.lastCycleMs).reduce((sum, part) => sum + part);
  return { ...summed(took), "last cycle": cycle, reached: commits.size / seconds };
}

/** Follows the feed. Returns the time at which each row arrived. */
async function listen(t: Lifetime, worker: Workerd): Promise<Map<number, number>> {
  const arrivals = new Map<number, number>();
  const url = Object.assign(new URL("/ws?v=1", worker.url), { protocol: "ws:" });
  const socket = new WebSocket(url, ["replication.v1", `bearer.${Buffer.from(worker.token).toString("base64url")}`]);
  afterwards(t, () => socket.terminate());
  let live = false;
  socket.on("message", (data) => {
    const at = performance.now();
    const message = JSON.parse(String(data)) as { type: string; changes?: TableChange[] };
    live ||= message.type === "caught_up";
    for (const change of message.changes ?? []) arrivals.set(Number(change.data["id"]), at);
  });
  await waitFor("the socket is live", () => live);
  return arrivals;
}

/** Calls POST /poll. All nudges while a call is in flight become one call after it. */
class Nudger {
  readonly #worker: Workerd;
  #pending = false;
  #calling: Promise<void> | undefined;

  constructor(worker: Workerd) {
    this.#worker = worker;
  }

  nudge(): void {
    this.#pending = true;
    this.#calling ??= this.#call().finally(() => (this.#calling = undefined));
  }

  /** Resolves when no call is in flight; rejects if the last one failed. */
  async idle(): Promise<void> {
    await this.#calling;
  }

  async #call(): Promise<void> {
    while (this.#pending) {
      this.#pending = false;
      await poll(this.#worker);
    }
  }
}

/** Commits single rows at this rate, however long each takes. Returns the time at which each writer knew of its commit. */
async function writeSteadily(
  t: Lifetime,
  database: TestDatabase,
  { rate, seconds }: { rate: number; seconds: number },
  after: number,
  committed: () => void,
): Promise<Map<number, number>> {
  const pool = new pg.Pool({ connectionString: database.url, max: writers });
  let ended: Promise<void> | undefined;
  const end = () => (ended ??= pool.end());
  afterwards(t, end);
  await Promise.all(Array.from({ length: writers }, () => pool.query("SELECT 1")));
  const commits = new Map<number, number>();
  const insert = async (id: number): Promise<void> => {
    await pool.query(
      "INSERT INTO orders VALUES ($1::bigint, ($1::bigint % 9973)::int, 10, 'new', 'Please leave it at the back door', now())",
      [id],
    );
    commits.set(id, performance.now());
    committed();
  };
  const started = performance.now();
  const all: Promise<void>[] = [];
  while (all.length < rate * seconds) {
    const due = Math.min(rate * seconds, Math.floor(((performance.now() - started) / 1000) * rate) + 1);
    while (all.length < due) all.push(insert(after + all.length + 1));
    await delay(Math.max(1, started + (all.length / rate) * 1000 - performance.now()));
  }
  await Promise.all(all);
  await end();
  return commits;
}

/** The queries of a cycle of one row, on a session that stays open, and the echo of a WebSocket. */
async function runFloor(t: Lifetime, environment: Environment): Promise<Sample> {
  const database = await createSource(t, environment.postgres);
  const { slot } = database;
  await createHistory(database);
  await createSlot(database);
  await database.query("INSERT INTO replication_checkpoint VALUES ($1, 1, '0/0', 0, now(), '', 1)", [slot]);
  const psql = await PsqlSession.open(t, environment.psql, database.url);
  const echo = await openEcho(t);
  const took: number[] = [];
  for (let id = 1; id <= 300; id++) {
    await database.query(
      "INSERT INTO orders VALUES ($1::bigint, ($1::bigint % 9973)::int, 10, 'new', 'Please leave it at the back door', now())",
      [id],
    );
    const cycle = await psql.time(`
      SELECT pg_current_wal_flush_lsn() AS flush \\gset
      BEGIN;
      SELECT lsn, xid, data FROM pg_logical_slot_peek_binary_changes('${slot}', NULL, 10000, 'proto_version', '1', 'publication_names', '${slot}') \\g /dev/null
      SELECT epoch, lsn, last_id FROM replication_checkpoint WHERE slot = '${slot}' FOR UPDATE \\g /dev/null
      INSERT INTO change_history (id, lsn, table_name, operation, data, xid, committed_at, epoch)
        VALUES (${id}, '0/16B3748', 'orders', 'insert', '{"id":${id},"customer_id":1,"amount":10.00,"status":"new","note":"Please leave it at the back door","created_at":"2026-01-01T00:00:00+00:00"}', 771, now(), 1);
      UPDATE replication_checkpoint SET lsn = :'flush', last_id = ${id}, updated_at = now() WHERE slot = '${slot}';
      COMMIT;
      SELECT pg_replication_slot_advance('${slot}', :'flush') \\g /dev/null`);
    // The first ones fill caches of plans and catalogues.
    if (id > 100) took.push(cycle + (await echo()));
  }
  return summed(took);
}

/** A WebSocket on this machine that echoes. The returned function measures one echo in milliseconds. */
async function openEcho(t: Lifetime): Promise<() => Promise<number>> {
  const server = new WebSocketServer({ port: 0, host: "127.0.0.1" });
  server.on("connection", (socket) => socket.on("message", (data) => socket.send(String(data))));
  await new Promise((resolve) => server.once("listening", resolve));
  const { port } = server.address() as { port: number };
  const socket = new WebSocket(`ws://127.0.0.1:${port}`);
  await new Promise((resolve) => socket.once("open", resolve));
  afterwards(t, () => {
    socket.terminate();
    server.close();
  });
  return async () => {
    const started = performance.now();
    const answered = new Promise((resolve) => socket.once("message", resolve));
    socket.send("x".repeat(400));
    await answered;
    return performance.now() - started;
  };
}

function summed(took: number[]): Sample {
  return { p50: percentile(took, 0.5), p99: percentile(took, 0.99), max: Math.max(...took) };
}
