// While nobody listens the object sleeps, maintains its slot and its history, and wakes up at once.
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { Example } from "./support/applications.ts";
import { startCluster, type Cluster } from "./support/cluster.ts";
import { Scenario, type ScenarioOptions } from "./support/scenario.ts";
import { statusOf, type Status } from "./support/status.ts";
import { waitFor } from "./support/wait-for.ts";

const hour = 3_600_000;

/** A scenario that hibernates. */
async function asleep(t: TestContext, config: object, options: ScenarioOptions = {}): Promise<Scenario> {
  const scenario = await Scenario.start(t, options);
  await scenario.initialise(config);
  await hibernating(scenario);
  return scenario;
}

async function hibernating({ worker }: Scenario): Promise<Status> {
  return waitFor("the feed hibernates", async () => {
    const status = await statusOf(worker);
    return status.state === "hibernating" && status;
  });
}

/** Waits until the hibernation alarm has checked the slot once more. Returns the result. */
async function nextLook({ worker }: Scenario): Promise<Status> {
  const before = (await statusOf(worker)).slot?.checkedAt;
  return waitFor("the next check of the slot", async () => {
    const status = await statusOf(worker);
    return status.slot?.checkedAt !== before && status;
  });
}

/** The feed's statements in the server's log, grouped by session, in the order of their start. */
function sessions(cluster: Cluster): string[][] {
  const found = new Map<string, string[]>();
  for (const [, pid = "", text = ""] of cluster.log().matchAll(/^pg-change-feed\|(\d+)\|LOG: {2}(.*)$/gm)) {
    const statements = found.get(pid) ?? [];
    found.set(pid, statements);
    const sql = text.match(/^execute [^:]*: (.*)$/)?.[1];
    if (sql !== undefined) statements.push(sql);
  }
  return [...found.values()];
}

test("an alarm with nothing to do is one session with two statements, and there is no session between alarms", async (t) => {
  const cluster = await startCluster(t, { log_statement: "all", log_line_prefix: "%a|%p|" });
  const scenario = await asleep(t, { hibernationDelay: 1_000 }, { on: await cluster.createDatabase() });
  await nextLook(scenario);
  const before = sessions(cluster).length;
  const started = performance.now();
  for (let look = 0; look < 3; look += 1) await nextLook(scenario);
  const looks = sessions(cluster).slice(before);
  const seconds = (performance.now() - started) / 1000;
  assert.ok(looks.length >= 3 && looks.length <= seconds + 1, `${looks.length} sessions in ${seconds} s`);
  for (const statements of looks) {
    assert.equal(statements.length, 2, statements.join("\n"));
    assert.match(statements[0] ?? "", /FROM pg_catalog\.pg_replication_slots/);
    assert.match(statements[1] ?? "", /FROM change_history/);
  }

  // A hundred status requests and an eviction cause no query.
  await scenario.initialise({ hibernationDelay: hour });
  await hibernating(scenario);
  await scenario.worker.evict();
  const asleepSince = sessions(cluster).flat().length;
  for (let n = 0; n < 100; n += 1) {
    for (const path of ["/status", "/clients", "/metrics"]) {
      assert.equal((await scenario.worker.fetch(path, authorised(scenario))).status, 200);
    }
  }
  const status = await statusOf(scenario.worker);
  assert.equal(status.state, "hibernating");
  assert.ok((status.polling.nextPollAt ?? 0) > Date.now() + hour / 2);
  assert.equal(sessions(cluster).flat().length, asleepSince);
});

function authorised({ worker }: Scenario): RequestInit {
  return { headers: { authorization: `Bearer ${worker.token}` } };
}

test("a sleeping feed leaves changes in the slot until that retains more WAL than maxSlotLag, and then drains it", async (t) => {
  const cluster = await startCluster(t, { autovacuum: "off" });
  const scenario = await asleep(t, { hibernationDelay: 1_000, maxSlotLag: 4 << 20 }, { on: await cluster.createDatabase() });
  await scenario.insert(1);
  await nextLook(scenario);
  const seen = await nextLook(scenario);
  assert.ok((seen.slot?.retainedBytes ?? 0) > 0);
  assert.deepEqual(await scenario.storedItems(), []);

  await scenario.database.query("INSERT INTO items SELECT id, repeat('x', 1000) FROM generate_series(2, 6000) AS id");
  await waitFor("the slot is drained", async () => (await scenario.storedItems()).length === 6_000);
  assert.equal((await statusOf(scenario.worker)).state, "hibernating");
});

test("history is pruned to historyRetention while nobody listens, and a client that needs pruned changes is told", async (t) => {
  const scenario = await Scenario.start(t);
  const { worker } = scenario;
  await scenario.initialise({ hibernationDelay: 1_000, historyRetention: { maxRows: 10 } });
  await scenario.insert(...Array.from({ length: 25 }, (_, n) => n + 1));
  assert.equal((await worker.request("POST", "/poll")).status, 200);
  const status = await waitFor("the history is pruned", async () => {
    const now = await statusOf(worker);
    return now.polling.pruned === 15 && now;
  });
  assert.deepEqual(status.history, { oldestId: 16, newestId: 25 });
  assert.equal((await scenario.storedItems()).join(), "16,17,18,19,20,21,22,23,24,25");

  const late = await worker.connect({ after: "1-14" });
  assert.equal((await late.message("reset")).reason, "too_old");
  const intime = await worker.connect({ after: "1-15" });
  assert.deepEqual(
    (await intime.receivedChanges(10)).map((change) => change.id),
    [16, 17, 18, 19, 20, 21, 22, 23, 24, 25],
  );
});

test("history is pruned by age, and younger changes stay", async (t) => {
  const scenario = await Scenario.start(t);
  const { database, worker } = scenario;
  await scenario.initialise({ hibernationDelay: 1_000, historyRetention: { maxAge: 60_000 } });
  await scenario.insert(1, 2, 3);
  assert.equal((await worker.request("POST", "/poll")).status, 200);
  await database.query("UPDATE change_history SET created_at = now() - interval '61 seconds' WHERE id <= 2");
  await waitFor("the old ones are gone", async () => (await scenario.storedItems()).join() === "3");
  await nextLook(scenario);
  assert.deepEqual(await scenario.storedItems(), [3]);
});

test("history is pruned while polling too, except for what a registered Sync Durable Object has not read yet", async (t) => {
  const example = await Example.start(t);
  const { database, worker } = example.scenario;
  await example.scenario.initialise({ pollInterval: 50 });
  const hasRead = (position: string) =>
    waitFor(`the Sync Durable Object has read up to ${position}`, async () => {
      const { body } = await worker.request<{ clients: { kind: string; cursor: string }[] }>("GET", "/clients");
      // A request for its rows makes it register.
      await example.rows();
      return body.clients.some(({ kind, cursor }) => kind === "sync_do" && cursor === position);
    });
  await example.scenario.insert(1, 2, 3, 4, 5);
  await hasRead("1-5");
  const object = await example.object();
  await object.fail("refuses");
  await example.scenario.insert(...Array.from({ length: 25 }, (_, n) => n + 6));
  await example.scenario.initialise({ historyRetention: { maxRows: 10 } });
  const held = await waitFor("what it has is pruned", async () => {
    const status = await statusOf(worker);
    return status.polling.pruned > 0 && status;
  });
  assert.equal(held.state, "polling");
  assert.deepEqual(
    await example.scenario.storedItems(),
    Array.from({ length: 25 }, (_, n) => n + 6),
  );

  await object.fail(undefined);
  await hasRead("1-30");
  await example.scenario.initialise();
  await waitFor("the rest is pruned", async () => (await example.scenario.storedItems()).length === 10);
  assert.equal((await database.query("SELECT count(*)::int AS rows FROM items"))[0]?.["rows"], 30);
});

test("a client that connects wakes the feed at once, and the feed sleeps again when the last one has gone", async (t) => {
  const scenario = await asleep(t, { hibernationDelay: hour, pollInterval: 50 });
  await scenario.insert(1);
  const feed = await scenario.worker.connect({ after: "earliest" });
  await feed.receivedChanges(1);
  await scenario.insert(2);
  await feed.receivedChanges(2);
  assert.equal((await statusOf(scenario.worker)).state, "polling");
  feed.close();
  await hibernating(scenario);
  await scenario.insert(3);
  assert.deepEqual(await scenario.storedItems(), [1, 2]);
});

test("an object that is evicted while it sleeps still maintains its slot when its alarm comes", async (t) => {
  const scenario = await asleep(t, { hibernationDelay: 2_000, maxSlotLag: 1 << 20 });
  await scenario.worker.evict();
  await scenario.database.query("INSERT INTO items SELECT id, repeat('x', 1000) FROM generate_series(1, 3000) AS id");
  // Nothing but the alarm touches the object.
  await waitFor("the alarm has drained the slot", async () => (await scenario.storedItems()).length === 3_000);
});
