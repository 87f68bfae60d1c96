// Under load, at random points and just where a cycle ends: the object is thrown away, workerd is
// killed, Postgres crashes, two objects read one slot. Afterwards the history, applied from nothing,
// gives exactly the tables.
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { createDatabase, type TestDatabase } from "./support/database.ts";
import type { FeedSocket } from "./support/feed-socket.ts";
import { hold, putGates, type Held, type Step } from "./support/gate.ts";
import { Random } from "./support/random.ts";
import { startServer } from "./support/server.ts";
import { waitFor } from "./support/wait-for.ts";
import { Workerd } from "./support/workerd.ts";
import { assertHistoryGivesTables, createTables, Workload } from "./support/workload.ts";

/** How often each thing is broken. */
const rounds = 12;

/** Where a round breaks things: anywhere, or where the feed stands at a gate. */
const places: (Step | undefined)[] = [undefined, "checkpoint", "commit"];

/** Breaks things while writers write. At a gate, where `gated` is made to stand, `break_` is given what stands there. */
async function underLoad(t: TestContext, database: TestDatabase, break_: (random: Random, held?: Held) => Promise<void>, gated?: Workerd): Promise<void> {
  const random = Random.seeded(t);
  const workload = new Workload(t, database, random.seed);
  let stored = 0;
  for (let round = 0; round < rounds; round += 1) {
    // Only a feed that stores again is worth breaking again.
    stored = await waitFor("changes are stored", async () => {
      const [checkpoint] = await database.query<{ id: number }>("SELECT last_id::int AS id FROM replication_checkpoint");
      return checkpoint !== undefined && checkpoint.id > stored && checkpoint.id;
    });
    const place = places[round % places.length];
    if (gated === undefined || place === undefined) {
      // Not waited for anything: the point at which it breaks is what is random.
      await delay(random.below(200));
      await break_(random);
    } else {
      const held = await hold(t, database, place, () => gated.request("POST", "/poll"));
      await break_(random, held);
    }
  }
  await workload.stop();
  t.diagnostic(`${workload.transactions} transactions, broken ${rounds} times`);
}

/**
 * What becomes of the transaction whose reader has gone: the server ends it with its session, or goes
 * on until it notices, which in COMMIT is when it has committed.
 */
async function leaveToItsFate(random: Random, held?: Held): Promise<void> {
  if (random.below(2) === 0) await held?.endSession();
  else await held?.open();
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
  test(`workerd killed under load loses and doubles nothing on PostgreSQL ${version}`, async (t) => {
    const database = await createDatabase(t, version);
    await createTables(database);
    const worker = await Workerd.start(t, { hyperdrive: database.url, slot: database.slot });
    await worker.initialise({ pollInterval: 20 });
    await putGates(database);
    await worker.connect();
    await underLoad(t, database, async (random, held) => {
      await worker.kill();
      await leaveToItsFate(random, held);
      await worker.run();
      // With a client and without one.
      if (random.below(2) === 0) await worker.connect();
      else worker.request("POST", "/poll").catch(() => undefined);
    }, worker);
    await proven(t, database, worker);
  });

  test(`the object thrown away under load loses and doubles nothing on PostgreSQL ${version}`, async (t) => {
    const database = await createDatabase(t, version);
    await createTables(database);
    const worker = await Workerd.start(t, { hyperdrive: database.url, slot: database.slot });
    await worker.initialise({ pollInterval: 20 });
    await putGates(database);
    await worker.connect();
    await underLoad(t, database, async (random, held) => {
      await worker.abort();
      await leaveToItsFate(random, held);
      if (random.below(2) === 0) await worker.connect();
      else worker.request("POST", "/poll").catch(() => undefined);
    }, worker);
    await proven(t, database, worker);
  });

  test(`PostgreSQL ${version} crashing under load makes nothing be lost or doubled`, async (t) => {
    const server = await startServer(t, version);
    const database = await createDatabase(t, server.url);
    await createTables(database);
    const worker = await Workerd.start(t, { hyperdrive: database.url, slot: database.slot });
    await worker.initialise({ pollInterval: 20 });
    await putGates(database);
    await worker.connect();
    await underLoad(t, database, async (_, held) => {
      // A checkpoint saves the slot where it stands, which else a crash may set back.
      if (held !== undefined) await database.query("CHECKPOINT");
      await server.restart("immediate");
      await held?.open();
      worker.request("POST", "/poll").catch(() => undefined);
    }, worker);
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
