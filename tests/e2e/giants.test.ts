// Data that is far larger than an isolate passes through it, and its memory stays small.
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { createDatabase, type TestDatabase } from "./support/database.ts";
import { Workerd } from "./support/workerd.ts";

/** The WebAssembly memory limit: half of an isolate's 128 MB is left to JavaScript. */
const mostBytes = 64 << 20;

interface Status {
  memoryBytes: number;
  position: { id: number } | null;
}

/** Stores what the slot has. Reports how long that took, and the peak of the WebAssembly memory. */
async function drain(t: TestContext, worker: Workerd, what: string): Promise<void> {
  const before = (await worker.request<Status>("GET", "/status")).body;
  const started = performance.now();
  const polled = await worker.request("POST", "/poll");
  assert.equal(polled.status, 200, JSON.stringify(polled.body));
  const seconds = ((performance.now() - started) / 1000).toFixed(1);
  const after = (await worker.request<Status>("GET", "/status")).body;
  const stored = (after.position?.id ?? 0) - (before.position?.id ?? 0);
  const mib = (bytes: number) => (bytes / (1 << 20)).toFixed(1);
  t.diagnostic(
    `${what}: ${stored} changes in ${seconds} s, WASM memory ${mib(before.memoryBytes)} MiB before and ${mib(after.memoryBytes)} MiB at its peak`,
  );
  // That memory never shrinks, so its size is its peak.
  assert.ok(after.memoryBytes > 0 && after.memoryBytes < mostBytes, `${after.memoryBytes} bytes`);
}

async function start(t: TestContext): Promise<{ database: TestDatabase; worker: Workerd }> {
  const database = await createDatabase(t);
  await database.query("CREATE TABLE items (id int PRIMARY KEY, name text, body text, other text)");
  await database.query(`CREATE PUBLICATION ${database.slot} FOR TABLE items`);
  const worker = await Workerd.start(t, { hyperdrive: database.url, slot: database.slot });
  await worker.initialise({ pollInterval: 60_000 });
  return { database, worker };
}

test("a transaction of 1,000,000 rows passes through workerd in less than 64 MiB", async (t) => {
  const rows = 1_000_000;
  const { database, worker } = await start(t);
  await database.query("INSERT INTO items SELECT n, 'item ' || n, repeat('body', 10) FROM generate_series(1, $1) n", [rows]);
  await drain(t, worker, "1,000,000 rows in one transaction");
  const [sound] = await database.query<{ count: number; wrong: number; lsns: number }>(
    "SELECT count(*)::int AS count, count(*) FILTER (WHERE id <> (data ->> 'id')::int)::int AS wrong, count(DISTINCT lsn)::int AS lsns FROM change_history",
  );
  assert.deepEqual(sound, { count: rows, wrong: 0, lsns: 1 });
});

test("a row of 200 MB passes through workerd in less than 64 MiB, and its large column is named in omitted", async (t) => {
  const { database, worker } = await start(t);
  await database.query("INSERT INTO items VALUES (1, 'before', 'small', 'small')");
  await database.query("INSERT INTO items VALUES (2, 'large', repeat('x', 200000000), 'behind it')");
  await database.query("INSERT INTO items VALUES (3, 'after', 'small', 'small')");
  await drain(t, worker, "a row of 200 MB among small ones");
  const stored = await database.query<{ name: string; keys: string[]; omitted: string[] | null }>(
    "SELECT data ->> 'name' AS name, ARRAY(SELECT jsonb_object_keys(data) ORDER BY 1) AS keys, omitted FROM change_history ORDER BY id",
  );
  const whole = ["body", "id", "name", "other"];
  assert.deepEqual(stored, [
    { name: "before", keys: whole, omitted: null },
    { name: "large", keys: ["id", "name"], omitted: ["body", "other"] },
    { name: "after", keys: whole, omitted: null },
  ]);
  // A client that reads the history is told too.
  const feed = await worker.connect({ after: "earliest" });
  const changes = await feed.receivedChanges(3);
  assert.deepEqual(
    changes.map((change) => change.omitted),
    [[], ["body", "other"], []],
  );
});
