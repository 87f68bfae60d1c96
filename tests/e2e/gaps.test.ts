// If changes may have been missed, that is never hidden: a new epoch begins and every client is told, or the feed halts and
// says what to do.
import assert from "node:assert/strict";
import { test } from "node:test";
import { dropSlot } from "./support/database.ts";
import { Scenario } from "./support/scenario.ts";
import { waitFor } from "./support/wait-for.ts";

interface Status {
  state: string;
  epoch: number;
  halted: { code: string; remedy?: string } | null;
}

async function status(scenario: Scenario): Promise<Status> {
  return (await scenario.worker.request<Status>("GET", "/status")).body;
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
      const now = await status(scenario);
      return now.halted?.code === "publication_missing" && now;
    });
    assert.equal(halted.state, "halted");
    assert.match(halted.halted?.remedy ?? "", /CREATE PUBLICATION/);
    await database.query(`CREATE PUBLICATION ${database.slot} FOR TABLE items`);
    assert.equal((await feed.message("reset")).reason, "epoch_changed");
    assert.equal((await status(scenario)).epoch, 2);
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
    const now = await status(scenario);
    return now.halted?.code === "slot_missing" && now.halted.remedy?.includes("onSlotLost") && now;
  });
  assert.deepEqual([halted.state, halted.epoch], ["halted", 1]);
  await scenario.initialise({ onSlotLost: "recover" });
  assert.equal((await status(scenario)).epoch, 2);
});
