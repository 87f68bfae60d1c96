// Writes to the demo tables of `npm run dev`, and prints each change as it arrives over the WebSocket, with the time since
// its commit was sent: `npm run demo -- --count 20`.
import { setTimeout as delay } from "node:timers/promises";
import { parseArgs } from "node:util";
import pg from "pg";
import { connect, type TableChange } from "../client/src/index.ts";
import { demoWrites, type DemoWrite } from "./demo-tables.ts";
import { changeLine, feedFailure, soon } from "./feed.ts";
import { runningInstance } from "./instance.ts";
import { Failure, main, say } from "./steps.ts";

const usage = `npm run demo -- [options]
  --count <n>      end after n writes; default: run until Ctrl-C
  --every <ms>     pause between two writes; default: 700`;

function options(): { count: number; every: number } {
  try {
    const { values } = parseArgs({ options: { count: { type: "string" }, every: { type: "string" } } });
    const count = values.count === undefined ? Infinity : Number(values.count);
    const every = Number(values.every ?? 700);
    if (!(count > 0) || !(every >= 0)) throw new Error("--count and --every must be numbers");
    return { count, every };
  } catch (error) {
    throw new Failure((error as Error).message, usage);
  }
}

/** For each write whose change has not arrived: when its commit was sent, by table, operation and row. */
const awaited = new Map<string, number>();
const latencies: number[] = [];

const key = (table: string, operation: string, id: unknown) => `${table} ${operation} ${String(id)}`;

await main(async () => {
  const { count, every } = options();
  const instance = runningInstance();
  if (!instance.demo) {
    throw new Failure(
      "The instance uses your own database (DATABASE_URL), and the demo writes only to the one that `npm run dev` starts.",
      "Use `npm run tail` and change rows yourself; or start `npm run dev` without DATABASE_URL.",
    );
  }
  const [stop, end] = [new AbortController(), new AbortController()];
  let isWriting = false;
  // After the first Ctrl-C the demo still waits for the changes that it has written. A second one ends it.
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => (isWriting && !stop.signal.aborted ? stop : end).abort());
  const feed = connect({
    url: instance.url,
    tables: ["orders", "todos"],
    signal: end.signal,
    onChanges: ({ changes }) => changes.forEach(show),
    onReset: ({ reason }) => say(`Reset (${reason}): changes may be missing.`),
    onState: (state) => {
      if (state.status === "waiting") say(`Disconnected (${state.reason}); next try in ${soon(state.retryMs)}.`);
    },
  });
  const ended = feed.done.catch((error: unknown) => {
    throw feedFailure(error);
  });
  const client = new pg.Client(instance.database);
  try {
    await Promise.race([feed.ready, ended]);
    say("    id  change   table    row  (time from the commit to here)");
    await client.connect();
    isWriting = true;
    await Promise.race([write(client, count, every, stop.signal), ended]);
  } finally {
    stop.abort();
    end.abort();
    await client.end();
    await ended;
  }
  summarise();
});

function show(change: TableChange): void {
  const sent = key(change.table, change.operation, change.data["id"]);
  const sentAt = awaited.get(sent);
  awaited.delete(sent);
  const latency = sentAt === undefined ? undefined : performance.now() - sentAt;
  if (latency !== undefined) latencies.push(latency);
  process.stdout.write(`${changeLine(change, latency)}\n`);
}

async function write(client: pg.Client, count: number, every: number, stop: AbortSignal): Promise<void> {
  const committing = (write: DemoWrite) => awaited.set(key(write.table, write.operation, write.id), performance.now());
  let written = 0;
  for await (const _ of demoWrites(client, committing)) {
    written += 1;
    if (written >= count) break;
    await delay(every, undefined, { signal: stop }).catch(() => undefined);
    if (stop.aborted) break;
  }
  const deadline = Date.now() + (stop.aborted ? 5_000 : 30_000);
  while (awaited.size > 0 && Date.now() < deadline) await delay(10);
}

function summarise(): void {
  const sorted = latencies.toSorted((a, b) => a - b);
  const middle = sorted[Math.floor(sorted.length / 2)];
  const worst = sorted.at(-1);
  if (middle !== undefined && worst !== undefined) {
    say(`\n${sorted.length} changes arrived: half of them within ${Math.round(middle)} ms, the slowest in ${Math.round(worst)} ms.`);
  }
  if (awaited.size > 0) throw new Failure(`${awaited.size} changes have not arrived.`, "See `/status` of the instance for its errors.");
}
