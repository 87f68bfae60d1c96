// If changes may have been missed, that is never hidden: a new epoch begins and every client is told, or the feed halts and
// says what to do.
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { dropSlot } from "./support/database.ts";
import { Scenario } from "./support/scenario.ts";
import { statusOf } from "./support/status.ts";
import { waitFor } from "./support/wait-for.ts";

/** A client that has received a first change. Nothing polls before the test does. */
async function polledOnRequest(t: TestContext, version: 15 | 18) {
  const scenario = await Scenario.start(t, { version });
  const { worker } = scenario;
  await scenario.initialise({ pollInterval: 3_600_000 });
  const feed = await worker.connect();
  await feed.message("welcome");
  await scenario.insert(1);
  await worker.request("POST", "/poll");
  await feed.receivedChanges(1);
  return { scenario, feed };
}

for (const version of [18, 15] as const) {
  test(`a slot that is dropped under a client on PostgreSQL ${version} ends the epoch, and the client is told to reset`, async (t) => {
    const scenario = await Scenario.start(t, { version });
    const { database, worker } = scenario;
    await scenario.initialise({ pollInterval: 50 });
    const feed = await worker.connect();
    await feed.message("welcome");
    await dropSlot(database);
    await scenario.insert(1);
    assert.equal((await feed.message("reset")).reason, "epoch_changed");
    const next = await worker.connect();
    assert.equal((await next.message("welcome")).epoch, 2);
    await scenario.insert(2);
    assert.deepEqual(
      (await next.receivedChanges(1)).map((change) => change.data["id"]),
      [2],
    );
  });

  test(`changes written while the publication is missing on PostgreSQL ${version} are never skipped silently`, async (t) => {
    const scenario = await Scenario.start(t, { version });
    const { database, worker } = scenario;
    await scenario.initialise({ pollInterval: 50 });
    const feed = await worker.connect();
    await feed.message("welcome");
    await database.query(`DROP PUBLICATION ${database.slot}`);
    await scenario.insert(1);
    const halted = await waitFor("the feed halts for its publication", async () => {
      const now = await statusOf(worker);
      return now.halted?.code === "publication_missing" && now;
    });
    assert.equal(halted.state, "halted");
    assert.match(halted.halted?.remedy ?? "", /CREATE PUBLICATION/);
    await database.query(`CREATE PUBLICATION ${database.slot} FOR TABLE items`);
    assert.equal((await feed.message("reset")).reason, "epoch_changed");
    assert.equal((await statusOf(worker)).epoch, 2);
  });

  test(`a slot that is dropped and created again under a client on PostgreSQL ${version} ends the epoch`, async (t) => {
    const { scenario, feed } = await polledOnRequest(t, version);
    const { database, worker } = scenario;
    await dropSlot(database);
    await scenario.insert(2);
    await database.query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", [database.slot]);
    await scenario.insert(3);
    await worker.request("POST", "/poll");
    assert.equal((await feed.message("reset")).reason, "epoch_changed");
    assert.equal((await statusOf(worker)).epoch, 2);
  });

  test(`a table that leaves the publication and comes back under a client on PostgreSQL ${version} ends the epoch`, async (t) => {
    const { scenario, feed } = await polledOnRequest(t, version);
    const { database, worker } = scenario;
    await database.query(`ALTER PUBLICATION ${database.slot} DROP TABLE items`);
    await scenario.insert(2);
    await database.query(`ALTER PUBLICATION ${database.slot} ADD TABLE items`);
    await worker.request("POST", "/poll");
    assert.equal((await feed.message("reset")).reason, "epoch_changed");
    assert.equal((await statusOf(worker)).epoch, 2);
    // A table that is added is no gap.
    await database.query("CREATE TABLE more (id int PRIMARY KEY)");
    await database.query(`ALTER PUBLICATION ${database.slot} ADD TABLE more`);
    await scenario.insert(4);
    assert.equal((await worker.request("POST", "/poll")).status, 200);
    assert.equal((await statusOf(worker)).epoch, 2);
  });
}

test("with onSlotLost halt a dropped slot stops the feed with a remedy, and the remedy works", async (t) => {
  const scenario = await Scenario.start(t);
  const { database, worker } = scenario;
  await scenario.initialise({ pollInterval: 50, onSlotLost: "halt" });
  await dropSlot(database);
  await scenario.insert(1);
  const refused = await worker.request("POST", "/poll");
  assert.equal(refused.status, 503);
  const halted = await waitFor("the feed halts for its slot", async () => {
    const now = await statusOf(worker);
    return now.halted?.code === "slot_missing" && now.halted.remedy?.includes("onSlotLost") && now;
  });
  assert.deepEqual([halted.state, halted.epoch], ["halted", 1]);
  await scenario.initialise({ onSlotLost: "recover" });
  assert.equal((await statusOf(worker)).epoch, 2);
});
