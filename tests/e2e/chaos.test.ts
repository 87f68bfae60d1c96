// Under load, at random points and exactly where a cycle ends, the object is destroyed, workerd is killed, Postgres crashes,
// or two objects read one slot. Afterwards the history, applied to empty tables, reproduces the tables exactly.
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

/** How often each of them is broken. */
const rounds = 12;

/** How long a feed may take to store again: it waits up to 65 seconds for an answer on a dead connection. */
const recoveryMs = 90_000;

/** Where a round breaks things: anywhere, or while the feed stands at a gate. */
const places: (Step | undefined)[] = [undefined, "checkpoint", "commit"];

/** What makes the feed poll. */
type Audience = "a client listens" | "nobody listens";

/** Breaks something. Receives the gate if the feed stands at one. */
type Break = (random: Random, held?: Held) => Promise<Audience>;

/** Breaks things while writers write. Now and then `gated` stands at a gate. */
async function underLoad(t: TestContext, database: TestDatabase, break_: Break, gated?: Workerd): Promise<void> {
  const random = Random.seeded(t);
  const workload = new Workload(t, database, random.seed);
  let stored = 0;
  let audience: Audience = "a client listens";
  for (let round = 0; round < rounds; round += 1) {
    const broken = performance.now();
    // The next round begins when the feed stores again.
    stored = await waitFor(
      "changes are stored",
      async () => {
        // As a writing application does. A poll may fail while the previous session still exists.
        const said = audience === "nobody listens" && gated !== undefined ? await nudge(gated) : "nothing";
        const [checkpoint] = await database.query<{ id: number }>("SELECT last_id::int AS id FROM replication_checkpoint");
        if (checkpoint !== undefined && checkpoint.id > stored) return checkpoint.id;
        throw new Error(`${checkpoint?.id} in round ${round}, the feed says ${said}`);
      },
      recoveryMs,
    );
    const recovered = performance.now() - broken;
    if (recovered > 5_000) t.diagnostic(`stored nothing for ${Math.round(recovered)} ms before round ${round}`);
    const place = places[round % places.length];
    if (gated === undefined || place === undefined) {
      // Waits for nothing in particular, so that the breaking point is random.
      await delay(random.below(200));
      audience = await break_(random);
    } else {
      const held = await hold(t, database, place, () => gated.request("POST", "/poll"));
      audience = await break_(random, held);
    }
  }
  await workload.stop();
  t.diagnostic(`${workload.transactions} transactions, broken ${rounds} times`);
}

/**
 * What happens to a transaction whose reader has gone: the server ends it with its session, or continues until it notices,
 * which in COMMIT is after the commit.
 */
async function leaveToItsFate(random: Random, held?: Held): Promise<void> {
  if (random.below(2) === 0) await held?.endSession();
  else await held?.open();
}

/** Requests a poll. Returns the answer in words. */
async function nudge(worker: Workerd): Promise<string> {
  const { status, body } = await worker.request("POST", "/poll", undefined, AbortSignal.timeout(5_000));
  return `${status} ${JSON.stringify(body)}`;
}

/** Polls until everything that was committed before is stored. */
async function drain(worker: Workerd): Promise<void> {
  await waitFor("a poll that reaches the end", async () => (await worker.request("POST", "/poll")).status === 200);
}

/** A client that acknowledges. Without that it would be sent 16 MiB at most. */
async function listen(worker: Workerd, after?: "earliest"): Promise<FeedSocket> {
  const feed = await worker.connect({ ack: "1", ...(after === undefined ? {} : { after }) });
  feed.keepUp();
  return feed;
}

/** Connects a client, if one can be connected. */
async function gather(random: Random, worker: Workerd): Promise<Audience> {
  if (random.below(2) === 0) return "nobody listens";
  await listen(worker);
  return "a client listens";
}

/** Waits until a client has received the whole history. */
async function assertHasAll(feed: FeedSocket, count: number): Promise<void> {
  const changes = await feed.receivedChanges(count);
  assert.deepEqual(
    changes.map((change) => change.id),
    Array.from({ length: count }, (_, index) => index + 1),
  );
}

async function proven(t: TestContext, database: TestDatabase, worker: Workerd): Promise<void> {
  await drain(worker);
  const count = await assertHistoryGivesTables(database);
  await assertHasAll(await listen(worker, "earliest"), count);
  t.diagnostic(`${count} changes`);
}

for (const version of [15, 18] as const) {
  test(`killing workerd under load loses and duplicates nothing on PostgreSQL ${version}`, async (t) => {
    const database = await createDatabase(t, version);
    await createTables(database);
    const worker = await Workerd.start(t, { hyperdrive: database.url, slot: database.slot });
    await worker.initialise({ pollInterval: 20 });
    await putGates(database);
    await listen(worker);
    await underLoad(
      t,
      database,
      async (random, held) => {
        await worker.kill();
        await leaveToItsFate(random, held);
        await worker.run();
        return gather(random, worker);
      },
      worker,
    );
    await proven(t, database, worker);
  });

  test(`destroying the object under load loses and duplicates nothing on PostgreSQL ${version}`, async (t) => {
    const database = await createDatabase(t, version);
    await createTables(database);
    const worker = await Workerd.start(t, { hyperdrive: database.url, slot: database.slot });
    await worker.initialise({ pollInterval: 20 });
    await putGates(database);
    await listen(worker);
    await underLoad(
      t,
      database,
      async (random, held) => {
        await worker.abort();
        await leaveToItsFate(random, held);
        return gather(random, worker);
      },
      worker,
    );
    await proven(t, database, worker);
  });

  test(`a crash of PostgreSQL ${version} under load loses and duplicates nothing`, async (t) => {
    const server = await startServer(t, version);
    const database = await createDatabase(t, server.url);
    await createTables(database);
    const worker = await Workerd.start(t, { hyperdrive: database.url, slot: database.slot });
    await worker.initialise({ pollInterval: 20 });
    await putGates(database);
    await listen(worker);
    await underLoad(
      t,
      database,
      async (_, held) => {
        // A checkpoint saves the position of the slot. Without it a crash may move the slot back.
        if (held !== undefined) await database.query("CHECKPOINT");
        await server.restart("immediate");
        await held?.open();
        // A poll need not wait for the pause after a failure.
        worker.request("POST", "/poll").catch(() => undefined);
        return "a client listens";
      },
      worker,
    );
    await proven(t, database, worker);
  });

  test(`two objects on one slot together store everything once on PostgreSQL ${version}`, async (t) => {
    const database = await createDatabase(t, version);
    await createTables(database);
    const workers: { worker: Workerd; feed: FeedSocket }[] = [];
    for (let nth = 0; nth < 2; nth += 1) {
      const worker = await Workerd.start(t, { hyperdrive: database.url, slot: database.slot });
      await worker.initialise({ pollInterval: 20 });
      workers.push({ worker, feed: await listen(worker, "earliest") });
    }
    await underLoad(t, database, async () => {
      await Promise.all(workers.map(({ worker }) => worker.request("POST", "/poll")));
      return "a client listens";
    });
    for (const { worker } of workers) await drain(worker);
    const count = await assertHistoryGivesTables(database);
    const stored: number[] = [];
    for (const { worker, feed } of workers) {
      // Each sends its own clients what the other has stored, too.
      await assertHasAll(feed, count);
      const { body } = await worker.request<{ polling: { changes: number }; errors: Record<string, { count: number }> }>("GET", "/status");
      stored.push(body.polling.changes);
      const { slot_in_use: inTheWay, ...others } = body.errors;
      // A deadlock would be among them.
      assert.deepEqual(others, {});
      t.diagnostic(`stored ${body.polling.changes} of ${count} changes, found the other in the way ${inTheWay?.count ?? 0} times`);
    }
    assert.equal(
      stored.reduce((sum, changes) => sum + changes, 0),
      count,
    );
    assert.ok(
      stored.every((changes) => changes > 0),
      "only one of them read",
    );
  });
}
