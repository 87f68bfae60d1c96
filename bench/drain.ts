// How long it takes until a backlog is stored and the slot has moved past it.
//
//     feed   POST /poll, until its answer
//     floor  psql with ready-made rows: peek to the client, COPY, advance
//     peer   pg-logical-replication, until everything is stored and acknowledged
//
// Each of them first drains a smaller backlog, so that code is compiled and connections are open.
import { fork, type ChildProcess } from "node:child_process";
import { join } from "node:path";
import { afterwards, type Lifetime } from "../tests/e2e/support/afterwards.ts";
import type { TestDatabase } from "../tests/e2e/support/database.ts";
import { waitFor } from "../tests/e2e/support/wait-for.ts";
import { assertDrained, createHistory, createSlot, createSource, write, type Backlog } from "./backlog.ts";
import { atRest, poll, startFeed, status, type Way } from "./feed.ts";
import { figureOf, runTrial, takeTurns, type Contestant, type Sample } from "./trial.ts";
import type { PeerOrder } from "./peer.ts";
import { peakMemoryMib, processorMs, processorMsOfFamily } from "./processes.ts";
import { PsqlSession } from "./psql-session.ts";
import type { Figure, Report } from "./report.ts";
import type { Environment } from "./environment.ts";

const warmUp: Backlog = { changes: 20_000, transactions: 2_000 };

/** One cycle drains everything. */
const whole = 1_000_000;

const columns = "id, lsn, table_name, operation, data, old_data, unchanged, omitted, as_text, xid, committed_at, epoch";

/** The whole benchmark. */
export async function drain(environment: Environment): Promise<Report> {
  const figures: Figure[] = [];
  for (const transactions of [10_000, 100]) {
    const backlog = { changes: 100_000, transactions };
    figures.push(...(await compare(environment, backlog)));
  }
  return {
    name: "drain",
    about:
      "100,000 inserts of one row each, in 10,000 and in 100 transactions: milliseconds until they are stored and the slot is past them.",
    figures,
  };
}

async function compare(environment: Environment, backlog: Backlog): Promise<Figure[]> {
  const rows = await readyMadeRows(environment, backlog);
  const contestants: Contestant[] = [
    { name: "floor", run: (t) => runFloor(t, environment, backlog, rows) },
    { name: "feed, direct socket", run: (t) => runFeed(t, environment, backlog, "direct", { maxChangesPerPoll: whole }) },
    { name: "feed, Hyperdrive", run: (t) => runFeed(t, environment, backlog, "hyperdrive", { maxChangesPerPoll: whole }) },
    { name: "feed, defaults", run: (t) => runFeed(t, environment, backlog, "hyperdrive", {}) },
    { name: "peer", run: (t) => runPeer(t, environment, backlog) },
  ];
  const samples = await takeTurns(contestants, environment.rounds);
  const group = `${backlog.changes.toLocaleString("en")} changes in ${backlog.transactions.toLocaleString("en")} transactions`;
  const figure = (contestant: string, part?: string): Figure => ({
    ...figureOf(samples, contestant, part ?? "ms", "ms"),
    group: part === undefined ? group : `${group}: ${contestant}`,
    name: part ?? contestant,
  });
  const [floor, peer] = [figure("floor"), figure("peer")];
  const feeds = contestants.map(({ name }) => name).filter((name) => name.startsWith("feed"));
  const processors = ["processor time of Postgres", "processor time of the client"];
  return [
    floor,
    peer,
    ...feeds.map((name) => ({ ...figure(name), against: [floor, peer] })),
    ...["peek", "COPY", "advance", ...processors].map((part) => figure("floor", part)),
    ...processors.map((part) => figure("peer", part)),
    ...["probe", "peek", "store", "commit", "advance"].map((part) => figure("feed, direct socket", part)),
    ...feeds.flatMap((name) => processors.map((part) => figure(name, part))),
  ];
}

/** Lets the feed store the backlog once, and writes its rows to the file that the floor copies from. */
export async function readyMadeRows(environment: Environment, backlog: Backlog): Promise<string> {
  const file = join(environment.scratch, `rows-${backlog.changes}-${backlog.transactions}.copy`);
  await runTrial(async (t) => {
    const database = await createSource(t, environment.postgres);
    const worker = await startFeed(t, database, "direct", atRest);
    await write(database, backlog);
    await poll(worker);
    const psql = await PsqlSession.open(t, environment.psql, database.url);
    await psql.run(`\\copy (SELECT ${columns} FROM change_history ORDER BY id) TO '${file}' (FORMAT binary)`);
  });
  return file;
}

/** The minimum that storing the contents of a slot takes. The binary format of COPY is the fastest. */
export async function runFloor(t: Lifetime, environment: Environment, backlog: Backlog, rows: string): Promise<Sample> {
  const database = await createSource(t, environment.postgres);
  await createHistory(database);
  await createSlot(database);
  const psql = await PsqlSession.open(t, environment.psql, database.url);
  const peek = `\\copy (SELECT lsn, xid, data FROM pg_logical_slot_peek_binary_changes('${database.slot}', NULL, NULL, 'proto_version', '1', 'publication_names', '${database.slot}')) TO '/dev/null' (FORMAT binary)`;
  const advance = `SELECT pg_replication_slot_advance('${database.slot}', pg_current_wal_flush_lsn());`;
  await write(database, warmUp);
  await psql.run(`${peek}\n${advance}`);
  await write(database, backlog);
  const sample = await withProcessorTime(environment, psql.pid, async () => {
    const parts = {
      peek: await psql.time(peek),
      COPY: await psql.time(`\\copy change_history (${columns}) FROM '${rows}' (FORMAT binary)`),
      advance: await psql.time(advance),
    };
    return { ms: parts.peek + parts.COPY + parts.advance, ...parts };
  });
  await assertDrained(database, backlog.changes);
  return sample;
}

/** The feed, from the nudge to its answer. */
export async function runFeed(t: Lifetime, environment: Environment, backlog: Backlog, way: Way, config: object): Promise<Sample> {
  const database = await createSource(t, environment.postgres);
  const worker = await startFeed(t, database, way, { ...atRest, ...config });
  await write(database, warmUp);
  await poll(worker);
  await write(database, backlog);
  const sample = await withProcessorTime(environment, worker.pid, async () => ({ ms: await poll(worker) }));
  await assertDrained(database, warmUp.changes + backlog.changes);
  const { memoryBytes, polling } = await status(worker);
  return { ...sample, ...polling.lastCycleMs, "peak of WebAssembly": memoryBytes / 2 ** 20, "peak of workerd": peakMemoryMib(worker.pid) };
}

async function runPeer(t: Lifetime, environment: Environment, backlog: Backlog): Promise<Sample> {
  const database = await createSource(t, environment.postgres);
  await createHistory(database);
  await createSlot(database);
  const peer = fork(join(import.meta.dirname, "peer.ts"), { stdio: "inherit" });
  afterwards(t, () => void peer.kill());
  await write(database, warmUp);
  await follow(peer, database, warmUp);
  await write(database, backlog);
  const sample = await withProcessorTime(environment, peer.pid, async () => ({ ms: await follow(peer, database, backlog) }));
  await assertDrained(database, warmUp.changes + backlog.changes);
  return sample;
}

/** Adds the processor time of Postgres and its client, which on a busy machine says more than the clock. */
async function withProcessorTime(environment: Environment, client: number | undefined, measure: () => Promise<Sample>): Promise<Sample> {
  const now = () => ({ postgres: processorMsOfFamily(environment.postmaster), client: processorMs(client) });
  const before = now();
  const sample = await measure();
  const after = now();
  return {
    ...sample,
    "processor time of Postgres": after.postgres - before.postgres,
    "processor time of the client": after.client - before.client,
  };
}

/** Lets the peer drain. Returns the milliseconds until it has acknowledged the last change. */
async function follow(peer: ChildProcess, database: TestDatabase, backlog: Backlog): Promise<number> {
  const order: PeerOrder = { url: database.url, slot: database.slot, changes: backlog.changes, batch: 5_000 };
  const messages = new Set<unknown>();
  let acknowledgedAt = Number.NaN;
  const note = (message: unknown) => {
    if (message === "acknowledged") acknowledgedAt = performance.now();
    messages.add(message);
  };
  peer.on("message", note);
  const started = performance.now();
  peer.send(order);
  await waitFor(
    "the peer has drained",
    () => {
      if (peer.exitCode !== null) throw new Error("the peer has ended");
      return messages.has("ended");
    },
    120_000,
  );
  peer.off("message", note);
  return acknowledgedAt - started;
}
