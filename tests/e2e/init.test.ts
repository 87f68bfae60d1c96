// POST /init: concurrent calls share one run, and a changed configuration applies at once.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createDatabase } from "./support/database.ts";
import { FaultProxy } from "./support/fault-proxy.ts";
import { Scenario } from "./support/scenario.ts";
import { statusOf } from "./support/status.ts";
import { waitFor } from "./support/wait-for.ts";

interface Refusal {
  error: { code: string; message: string; remedy?: string };
}

test("calls with the same configuration share one run, and calls with different ones take turns", async (t) => {
  const scenario = await Scenario.start(t);
  const { database, worker } = scenario;
  // An open transaction delays the slot, so that all calls come while the first is still running.
  const holding = await database.session();
  await holding.query("BEGIN");
  await holding.query("SELECT pg_current_xact_id()");
  const calls = Array.from({ length: 10 }, () => worker.request("POST", "/init", { hibernationDelay: 60_000 }));
  await waitFor("the first call runs", async () => {
    const waiting = await database.query(
      "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_create_logical_replication_slot%' AND application_name = 'pg-change-feed'",
    );
    return waiting.length === 1;
  });
  assert.equal((await statusOf(worker)).state, "initializing");
  const other = worker.request("POST", "/init", { hibernationDelay: 120_000 });
  await holding.query("COMMIT");
  await holding.end();
  for (const answer of await Promise.all([...calls, other])) assert.equal(answer.status, 200);
  const runs = worker.logs().filter((line) => line.includes('"initialized"')).length;
  assert.equal(runs, 2);
  assert.equal((await statusOf(worker)).config?.hibernationDelay, 120_000);
});

test("a changed configuration applies at once, and an invalid one changes nothing", async (t) => {
  const scenario = await Scenario.start(t);
  const { worker } = scenario;
  await scenario.initialise({ hibernationDelay: 3_600_000 });
  const asleep = async () =>
    waitFor("the feed hibernates", async () => {
      const status = await statusOf(worker);
      return status.state === "hibernating" && status;
    });
  assert.ok(((await asleep()).polling.nextPollAt ?? 0) > Date.now() + 3_000_000);

  await scenario.initialise({ hibernationDelay: 1_000 });
  const soon = await asleep();
  assert.ok((soon.polling.nextPollAt ?? 0) <= Date.now() + 1_000);
  await waitFor("the alarm has come and gone", async () => (await statusOf(worker)).slot?.checkedAt !== soon.slot?.checkedAt);

  const wrong = await worker.request<Refusal>("POST", "/init", { hibernationDelay: 1 });
  assert.equal(wrong.status, 400);
  assert.match(wrong.body.error.message, /^hibernationDelay /);
  const unusable = await worker.request<Refusal>("POST", "/init", { publication: "missing" });
  assert.equal(unusable.status, 424);
  const { config, state } = await statusOf(worker);
  assert.deepEqual([config?.hibernationDelay, state], [1_000, "hibernating"]);
  await scenario.insert(1);
  assert.equal((await worker.request("POST", "/poll")).status, 200);
  assert.deepEqual(await scenario.storedItems(), [1]);
});

test("if the database does not answer, /init says so, and works when it is back", async (t) => {
  const database = await createDatabase(t);
  const { proxy, url } = await FaultProxy.to(t, database.url);
  const scenario = await Scenario.start(t, { on: database, through: url });
  proxy.refuse(true);
  const refused = await scenario.worker.request<Refusal>("POST", "/init");
  assert.equal(refused.status, 503);
  assert.equal((await statusOf(scenario.worker)).state, "uninitialized");
  proxy.refuse(false);
  await scenario.initialise();
});

test("a second deployment with another slot is refused before it assigns the same ids", async (t) => {
  const scenario = await Scenario.start(t);
  const { database, worker } = scenario;
  await scenario.initialise();
  const refused = await worker.request<Refusal>("POST", "/init", { slot: `${database.slot}_b` });
  assert.equal(refused.status, 409);
  assert.equal(refused.body.error.code, "history_in_use");
  // The remedy lets the feed move to the other slot, and its clients begin a new epoch.
  for (const statement of refused.body.error.remedy?.match(/(?:DELETE|SELECT pg_drop)[^;]+;/g) ?? []) await database.query(statement);
  await scenario.insert(1);
  await scenario.initialise({ slot: `${database.slot}_b`, hibernationDelay: 3_600_000 });
  await scenario.insert(2);
  await worker.request("POST", "/poll");
  assert.deepEqual(await scenario.storedItems(), [2]);
  assert.ok(((await statusOf(worker)).epoch ?? 0) >= 2);
});
