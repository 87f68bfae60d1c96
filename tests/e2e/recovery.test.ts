// The server goes down, loses data, or refuses: the feed recovers without loss, or begins a new epoch and tells every
// client, or halts and says what to do. Nothing is lost silently.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test, type TestContext } from "node:test";
import pg from "pg";
import { afterwards } from "./support/afterwards.ts";
import { startCluster, type Cluster } from "./support/cluster.ts";
import { dropSlot } from "./support/database.ts";
import type { FeedSocket } from "./support/feed-socket.ts";
import { Scenario } from "./support/scenario.ts";
import { statusOf, type Status } from "./support/status.ts";
import { waitFor } from "./support/wait-for.ts";

interface Ruin {
  cluster: Cluster;
  scenario: Scenario;
  /** Connected from the start. It has received item 1. */
  feed: FeedSocket;
}

/** A feed on its own server, with a client that has received item 1. */
async function beforeRuin(t: TestContext, config: object = {}, settings: Record<string, string | number> = {}): Promise<Ruin> {
  const cluster = await startCluster(t, settings);
  const scenario = await Scenario.start(t, { on: await cluster.createDatabase() });
  await scenario.initialise({ pollInterval: 50, ...config });
  const feed = await scenario.worker.connect();
  await feed.message("caught_up");
  await scenario.insert(1);
  await feed.receivedChanges(1);
  return { cluster, scenario, feed };
}

async function statusWhere(what: string, scenario: Scenario, condition: (status: Status) => boolean): Promise<Status> {
  return waitFor(what, async () => {
    const status = await statusOf(scenario.worker);
    return condition(status) && status;
  });
}

/** A nudge, so that a test need not wait for the backoff. */
async function nudge(scenario: Scenario): Promise<number> {
  return (await scenario.worker.request("POST", "/poll")).status;
}

/** The client that was connected from the start has every item once, in order, in the first epoch. */
async function healedWithoutLoss({ scenario, feed }: Ruin, items: number[]): Promise<void> {
  await waitFor("the feed polls again", async () => (await nudge(scenario)) === 200);
  const changes = await feed.receivedChanges(items.length);
  assert.deepEqual(
    changes.map((change) => change.data["id"]),
    items,
  );
  assert.deepEqual(
    changes.map((change) => change.id),
    items.map((_, n) => n + 1),
  );
  assert.deepEqual(await scenario.storedItems(), items);
  const status = await statusOf(scenario.worker);
  assert.deepEqual([status.state, status.epoch, status.halted, status.polling.consecutiveFailures], ["polling", 1, null, 0]);
}

/** The client receives a reset, and a client that reloads receives everything written from then on. */
async function toldOfTheGap({ scenario, feed }: Ruin, item: number): Promise<void> {
  await waitFor("the feed polls again", async () => (await nudge(scenario)) === 200);
  assert.equal((await feed.message("reset")).reason, "epoch_changed");
  const again = await scenario.worker.connect();
  assert.equal((await again.message("welcome")).epoch, 2);
  await again.message("caught_up");
  await scenario.insert(item);
  assert.deepEqual(
    (await again.receivedChanges(1)).map((change) => change.data["id"]),
    [item],
  );
  const resumed = await scenario.worker.connect({ after: "1-1" });
  assert.equal((await resumed.message("reset")).reason, "epoch_changed");
}

test("a server that is down for a while, or crashes, loses nothing", async (t) => {
  const ruin = await beforeRuin(t);
  const { cluster, scenario } = ruin;
  await cluster.server.stop();
  const down = await statusWhere("failures are counted", scenario, (status) => status.polling.consecutiveFailures >= 3);
  assert.ok((down.errors["connection"]?.count ?? 0) >= 3, JSON.stringify(down.errors));
  assert.equal(down.halted, null);
  assert.equal(await nudge(scenario), 503);
  await cluster.server.restart();
  await scenario.insert(2);
  await healedWithoutLoss(ruin, [1, 2]);

  await scenario.insert(3);
  await cluster.server.kill();
  await cluster.server.restart("immediate");
  await scenario.insert(4);
  await healedWithoutLoss(ruin, [1, 2, 3, 4]);
});

test("a failing feed that is evicted keeps its backoff and its counts", async (t) => {
  const cluster = await startCluster(t);
  const scenario = await Scenario.start(t, { on: await cluster.createDatabase() });
  // No client and no connection, so that the object can be evicted.
  await scenario.initialise({ pollInterval: 10_000 });
  await cluster.server.stop();
  for (let n = 0; n < 7; n += 1) assert.equal(await nudge(scenario), 503);
  const before = await statusOf(scenario.worker);
  await scenario.worker.evict();
  const after = await statusOf(scenario.worker);
  assert.equal(after.polling.consecutiveFailures, before.polling.consecutiveFailures);
  assert.deepEqual(after.errors, before.errors);
  assert.equal(after.polling.nextPollAt, before.polling.nextPollAt);
  await nudge(scenario);
  const failing = await statusOf(scenario.worker);
  assert.equal(failing.polling.consecutiveFailures, before.polling.consecutiveFailures + 1);
  // The pause after the eighth failure is half a minute or more, after the first half a second at most.
  assert.ok((failing.polling.nextPollAt ?? 0) > Date.now() + 10_000, String(failing.polling.nextPollAt));
  await cluster.server.restart();
  assert.equal(await nudge(scenario), 200);
});

test("a changed password halts the feed with a reason, and nothing is lost when it is changed back", async (t) => {
  const cluster = await startCluster(t);
  const database = await cluster.createDatabase();
  await cluster.run("CREATE ROLE feeder LOGIN SUPERUSER PASSWORD 'the-first-secret'");
  const through = new URL(database.url);
  [through.username, through.password] = ["feeder", "the-first-secret"];
  const scenario = await Scenario.start(t, { on: database, through: through.href });
  await scenario.initialise({ pollInterval: 50 });
  const feed = await scenario.worker.connect();
  await feed.message("caught_up");
  await scenario.insert(1);
  await feed.receivedChanges(1);

  await cluster.run(
    "ALTER ROLE feeder PASSWORD 'another'",
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'feeder'",
  );
  await scenario.insert(2);
  const halted = await statusWhere("the feed halts", scenario, (status) => status.state === "halted");
  assert.equal(halted.halted?.category, "authentication");
  assert.ok(halted.halted.remedy, JSON.stringify(halted.halted));
  assert.ok(halted.halted.since <= Date.now());
  assert.ok((halted.errors["authentication"]?.count ?? 0) >= 1);

  await cluster.run("ALTER ROLE feeder PASSWORD 'the-first-secret'");
  await healedWithoutLoss({ cluster, scenario, feed }, [1, 2]);
  assert.doesNotMatch(scenario.worker.logs().join("\n"), /the-first-secret|another/);
});

test("the feed waits for a slot that somebody else reads, and nothing is lost", async (t) => {
  const ruin = await beforeRuin(t);
  const { scenario } = ruin;
  const { database } = scenario;
  const reader = new pg.Client({ connectionString: database.url, replication: "database" } as pg.ClientConfig);
  reader.on("error", () => undefined);
  await reader.connect();
  const ended = reader
    .query(`START_REPLICATION SLOT ${database.slot} LOGICAL 0/0 (proto_version '1', publication_names '${database.slot}')`)
    .catch(() => undefined);
  await waitFor("the slot is read", async () => {
    const [slot] = await database.query<{ active: boolean }>("SELECT active FROM pg_replication_slots WHERE slot_name = $1", [
      database.slot,
    ]);
    return slot?.active;
  });
  await scenario.insert(2);
  const waiting = await statusWhere("the reader is seen", scenario, (status) => (status.errors["slot_in_use"]?.count ?? 0) >= 2);
  assert.equal(waiting.halted, null);
  assert.deepEqual(await scenario.storedItems(), [1]);
  await database.query("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = $1", [database.slot]);
  await ended;
  await healedWithoutLoss(ruin, [1, 2]);
});

test("a slot that was invalidated by max_slot_wal_keep_size ends the epoch, and the client is told", async (t) => {
  const ruin = await beforeRuin(t, { pollInterval: 3_600_000 }, { max_slot_wal_keep_size: "1MB", max_wal_size: "32MB", autovacuum: "off" });
  const { cluster, scenario } = ruin;
  await waitFor("the slot is invalidated", async () => {
    await cluster.run("SELECT pg_logical_emit_message(false, 'x', 'x')", "SELECT pg_switch_wal()", "CHECKPOINT");
    const [slot] = await scenario.database.query<{ status: string }>("SELECT wal_status AS status FROM pg_replication_slots");
    return slot?.status === "lost";
  });
  await scenario.insert(2);
  await toldOfTheGap(ruin, 3);
  assert.deepEqual(await scenario.storedItems(), [1, 3]);
});

test("a slot that is dropped and recreated unnoticed ends the epoch, although everything looks the same", async (t) => {
  const scenario = await Scenario.start(t);
  const { database, worker } = scenario;
  await scenario.initialise({ hibernationDelay: 3_600_000 });
  await scenario.insert(1);
  assert.equal(await nudge(scenario), 200);
  await statusWhere("the feed hibernates", scenario, (status) => status.state === "hibernating" && status.position?.id === 1);
  await dropSlot(database);
  await scenario.insert(2);
  await database.query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", [database.slot]);
  const feed = await worker.connect({ after: "1-1" });
  assert.equal((await feed.message("reset")).reason, "epoch_changed");
  await scenario.insert(3);
  assert.equal(await nudge(scenario), 200);
  assert.deepEqual(await scenario.storedItems(), [1, 3]);
});

test("a slot that was invalidated by idle_replication_slot_timeout halts a feed with onSlotLost halt, with a remedy", async (t) => {
  const ruin = await beforeRuin(t, { pollInterval: 3_600_000, onSlotLost: "halt" }, { idle_replication_slot_timeout: "1s" });
  const { cluster, scenario } = ruin;
  await scenario.insert(2);
  await waitFor("the slot is invalidated", async () => {
    await cluster.run("SELECT pg_logical_emit_message(false, 'x', 'x')", "CHECKPOINT");
    const [slot] = await scenario.database.query<{ reason: string }>("SELECT invalidation_reason AS reason FROM pg_replication_slots");
    return slot?.reason === "idle_timeout";
  });
  assert.equal(await nudge(scenario), 503);
  const halted = await statusOf(scenario.worker);
  assert.deepEqual([halted.state, halted.halted?.code, halted.epoch], ["halted", "slot_lost", 1]);
  assert.match(halted.halted?.remedy ?? "", /"onSlotLost":"recover"/);
  await cluster.run("ALTER SYSTEM SET idle_replication_slot_timeout = 0", "SELECT pg_reload_conf()");
  await scenario.initialise({ onSlotLost: "recover", pollInterval: 50 });
  await toldOfTheGap(ruin, 3);
});

test("a dropped change_history halts the feed, and POST /init resumes it without losing a change", async (t) => {
  const ruin = await beforeRuin(t);
  const { scenario, feed } = ruin;
  await scenario.database.query("DROP TABLE change_history");
  await scenario.insert(2);
  const halted = await statusWhere("the feed halts", scenario, (status) => status.state === "halted");
  assert.equal(halted.halted?.code, "tables_missing");
  assert.match(halted.halted.remedy ?? "", /POST \/init/);
  await scenario.initialise();
  assert.deepEqual(
    (await feed.receivedChanges(2)).map((change) => [change.id, change.data["id"]]),
    [
      [1, 1],
      [2, 2],
    ],
  );
  assert.equal((await statusOf(scenario.worker)).state, "polling");
  // The history is gone. A client that has not read it is told.
  const late = await scenario.worker.connect({ after: "1-0" });
  assert.equal((await late.message("reset")).reason, "too_old");
});

for (const [as, what] of [
  ["snapshot", "an older snapshot of its disk, slot and all,"],
  ["backup", "an older base backup"],
  ["recovery", "an older base backup, on a new timeline,"],
] as const) {
  test(`a database that is restored from ${what} ends the epoch`, async (t) => {
    const ruin = await beforeRuin(t, { pollInterval: 50 });
    const { cluster, scenario, feed } = ruin;
    await cluster.server.stop();
    const copy = cluster.backUp();
    await cluster.server.restart();
    await scenario.insert(2, 3);
    await waitFor("the feed polls again", async () => (await nudge(scenario)) === 200);
    await feed.receivedChanges(3);
    await cluster.server.stop();
    cluster.restore(copy, as);
    await cluster.server.restart();
    assert.deepEqual((await scenario.database.query("SELECT id FROM items")).length, 1);
    await toldOfTheGap(ruin, 4);
  });
}

test("a full disk stops the feed, and nothing is lost or duplicated when there is room again", async (t) => {
  if (process.getuid?.() !== 0 || process.platform !== "linux") return t.skip("only root on Linux can mount a small disk");
  const ruin = await beforeRuin(t);
  const { cluster, scenario } = ruin;
  const disk = mkdtempSync(join(tmpdir(), "small-disk-"));
  try {
    execFileSync("mount", ["-t", "tmpfs", "-o", "size=2m,mode=0777", "tmpfs", disk]);
  } catch {
    return t.skip("this machine lets nobody mount a small disk, as most containers");
  }
  afterwards(t, async () => {
    await cluster.server.stop("immediate");
    execFileSync("umount", [disk]);
    rmSync(disk, { recursive: true });
  });
  const folder = join(disk, "tablespace");
  const owner = execFileSync("stat", ["-c", "%U", cluster.server.dataDir], { encoding: "utf8" }).trim();
  execFileSync("install", ["-d", "-o", owner, "-m", "700", folder]);
  await cluster.run(`CREATE TABLESPACE small LOCATION '${folder}'`);
  await scenario.database.query("ALTER TABLE change_history SET TABLESPACE small");
  // A large transaction, so that the disk fills up in the middle of it.
  await scenario.database.query("INSERT INTO items SELECT id, repeat(md5(id::text), 30) FROM generate_series(2, 5000) AS id");
  const full = await statusWhere("the disk is full", scenario, (status) => status.polling.consecutiveFailures >= 2);
  assert.equal(full.errors["storage"]?.lastCode, "no_room");
  assert.equal(full.position?.id, 1);
  execFileSync("mount", ["-o", "remount,size=64m", disk]);
  await scenario.insert(5_001);
  await healedWithoutLoss(
    ruin,
    Array.from({ length: 5_001 }, (_, n) => n + 1),
  );
});
