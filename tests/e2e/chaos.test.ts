// Under load, at random points: the object is thrown away, workerd is killed, Postgres crashes, two
// objects read one slot. Afterwards the history, applied from nothing, gives exactly the tables.
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { createDatabase, type TestDatabase } from "./support/database.ts";
import type { FeedSocket } from "./support/feed-socket.ts";
import { Random } from "./support/random.ts";
import { startServer } from "./support/server.ts";
import { waitFor } from "./support/wait-for.ts";
import { Workerd } from "./support/workerd.ts";
import { assertHistoryGivesTables, createTables, Workload } from "./support/workload.ts";

/** How often each thing is broken. */
const rounds = 12;

/** Breaks things at random points while writers write. */
async function underLoad(t: TestContext, database: TestDatabase, break_: (random: Random) => Promise<void>): Promise<void> {
  const random = Random.seeded(t);
  const workload = new Workload(t, database, random.seed);
  let stored = 0;
  for (let round = 0; round < rounds; round += 1) {
    // Only a feed that stores again is worth breaking again.
    stored = await waitFor("changes are stored", async () => {
      const [checkpoint] = await database.query<{ id: number }>("SELECT last_id::int AS id FROM replication_checkpoint");
      return checkpoint !== undefined && checkpoint.id > stored && checkpoint.id;
    });
    // Not waited for anything: the point at which it breaks is what is random.
    await delay(random.below(200));
    await break_(random);
  }
  await workload.stop();
  t.diagnostic(`${workload.transactions} transactions, broken ${rounds} times`);
}

/** Polls until everything that was committed before is stored. */
async function drain(worker: Workerd): Promise<void> {
  await waitFor("a poll that reaches the end", async () => (await worker.request("POST", "/poll")).status === 200);
}

/** All the history, as a client is sent it. */
async function follow(worker: Workerd, count: number): Promise<FeedSocket> {
  const feed = await worker.connect({ after: "earliest" });
  const changes = await feed.receivedChanges(count);
  assert.deepEqual(changes.map((change) => change.id), Array.from({ length: count }, (_, index) => index + 1));
  return feed;
}

async function proven(t: TestContext, database: TestDatabase, worker: Workerd): Promise<void> {
  await drain(worker);
  const count = await assertHistoryGivesTables(database);
  await follow(worker, count);
  t.diagnostic(`${count} changes`);
}

for (const version of [15, 18] as const) {
  test(`workerd killed at random points under load loses and doubles nothing on PostgreSQL ${version}`, async (t) => {
    const database = await createDatabase(t, version);
    await createTables(database);
    const worker = await Workerd.start(t, { hyperdrive: database.url, slot: database.slot });
    await worker.initialise({ pollInterval: 20 });
    await worker.connect();
    await underLoad(t, database, async (random) => {
      await worker.kill();
      await worker.run();
      // With a client and without one.
      if (random.below(2) === 0) await worker.connect();
      else worker.request("POST", "/poll").catch(() => undefined);
    });
    await proven(t, database, worker);
  });

  test(`the object thrown away at random points under load loses and doubles nothing on PostgreSQL ${version}`, async (t) => {
    const database = await createDatabase(t, version);
    await createTables(database);
    const worker = await Workerd.start(t, { hyperdrive: database.url, slot: database.slot });
    await worker.initialise({ pollInterval: 20 });
    await worker.connect();
    await underLoad(t, database, async (random) => {
      await worker.abort();
      if (random.below(2) === 0) await worker.connect();
      else worker.request("POST", "/poll").catch(() => undefined);
    });
    await proven(t, database, worker);
  });

  test(`PostgreSQL ${version} crashing at random points under load makes nothing be lost or doubled`, async (t) => {
    const server = await startServer(t, version);
    const database = await createDatabase(t, server.url);
    await createTables(database);
    const worker = await Workerd.start(t, { hyperdrive: database.url, slot: database.slot });
    await worker.initialise({ pollInterval: 20 });
    await worker.connect();
    await underLoad(t, database, async () => {
      await server.restart("immediate");
      worker.request("POST", "/poll").catch(() => undefined);
    });
    await proven(t, database, worker);
  });

  test(`two objects on one slot store everything once between them on PostgreSQL ${version}`, async (t) => {
    const database = await createDatabase(t, version);
    await createTables(database);
    const workers: { worker: Workerd; feed: FeedSocket }[] = [];
    for (let nth = 0; nth < 2; nth += 1) {
      const worker = await Workerd.start(t, { hyperdrive: database.url, slot: database.slot });
      await worker.initialise({ pollInterval: 20 });
      workers.push({ worker, feed: await worker.connect({ after: "earliest" }) });
    }
    await underLoad(t, database, async () => {
      await Promise.all(workers.map(({ worker }) => worker.request("POST", "/poll")));
    });
    for (const { worker } of workers) await drain(worker);
    const count = await assertHistoryGivesTables(database);
    const stored: number[] = [];
    for (const { worker, feed } of workers) {
      // Each tells its own clients of what the other has stored too.
      const changes = await feed.receivedChanges(count);
      assert.deepEqual(changes.map((change) => change.id), Array.from({ length: count }, (_, index) => index + 1));
      const { body } = await worker.request<{ polling: { changes: number }; errors: Record<string, { count: number }> }>("GET", "/status");
      stored.push(body.polling.changes);
      const { slot_in_use: inTheWay, ...others } = body.errors;
      // A deadlock would be one of them.
      assert.deepEqual(others, {});
      t.diagnostic(`stored ${body.polling.changes} of ${count} changes, found the other in the way ${inTheWay?.count ?? 0} times`);
    }
    assert.equal(stored.reduce((sum, changes) => sum + changes, 0), count);
    assert.ok(stored.every((changes) => changes > 0), "only one of them read");
  });
}
