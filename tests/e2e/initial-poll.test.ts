// GET /wait-for-initial-poll: it completes when everything that was committed before the wait is stored.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createDatabase } from "./support/database.ts";
import { FaultProxy } from "./support/fault-proxy.ts";
import { Scenario } from "./support/scenario.ts";
import { statusOf } from "./support/status.ts";

interface Complete {
  complete: boolean;
  position: string;
}

interface Refusal {
  error: { code: string; message: string; retryable: boolean };
}

const path = "/wait-for-initial-poll";

test("many concurrent waits are all answered, each for everything that was committed when it began", async (t) => {
  const scenario = await Scenario.start(t);
  const { worker } = scenario;
  // Small peeks, so that each wait spans several cycles and overlaps with other waits.
  await scenario.initialise({ hibernationDelay: 3_600_000, maxChangesPerPoll: 10 });
  let last = 3_000;
  const waits: Promise<void>[] = [];
  await scenario.insert(...Array.from({ length: 3_000 }, (_, n) => n + 1));
  for (let n = 0; n < 40; n += 1) {
    const ids = Array.from({ length: 20 }, (_, k) => last + 1 + k);
    await scenario.insert(...ids);
    last += 20;
    const committed = last;
    waits.push(
      worker.request<Complete>("GET", path).then(({ status, body }) => {
        assert.equal(status, 200);
        assert.equal(body.complete, true);
        const stored = Number(body.position.split("-")[1]);
        assert.ok(stored >= committed, `${stored} stored of ${committed} committed`);
      }),
    );
  }
  // An initialisation interrupts a drain, which is then incomplete.
  for (let n = 0; n < 3; n += 1) assert.equal((await worker.request("POST", "/init", { pollInterval: 1_000 + n })).status, 200);
  await Promise.all(waits);
  const items = await scenario.storedItems();
  assert.deepEqual(
    items,
    Array.from({ length: last }, (_, n) => n + 1),
  );
});

test("while the database fails the answer is 503 with the reason and Retry-After, and the wait succeeds when it is back", async (t) => {
  const database = await createDatabase(t);
  const { proxy, url } = await FaultProxy.to(t, database.url);
  const scenario = await Scenario.start(t, { on: database, through: url });
  const { worker } = scenario;
  assert.equal((await worker.request("POST", "/init", { hibernationDelay: 3_600_000 })).status, 200);
  await scenario.insert(1);
  proxy.refuse(true);
  proxy.cutNow();
  const refused = await worker.request<Refusal>("GET", `${path}?timeoutMs=300`);
  assert.equal(refused.status, 503);
  assert.equal(refused.body.error.code, "initial_poll_pending");
  assert.equal(refused.body.error.retryable, true);
  assert.match(refused.body.error.message, /database|connection/);
  const retryAfter = Number(refused.headers.get("retry-after"));
  assert.ok(retryAfter >= 1 && retryAfter <= 60, String(retryAfter));

  // A patient caller is answered as soon as the database is back.
  const patient = worker.request<Complete>("GET", path);
  const failures = (await statusOf(worker)).polling.consecutiveFailures;
  assert.ok(failures > 0);
  proxy.refuse(false);
  const { status, body } = await patient;
  assert.equal(status, 200);
  assert.deepEqual(body, { complete: true, position: "1-1" });
});

test("a wait that a restart of the runtime cuts off can be repeated, and the same rule applies", async (t) => {
  const scenario = await Scenario.start(t);
  const { worker } = scenario;
  assert.equal((await worker.request("POST", "/init", { hibernationDelay: 3_600_000 })).status, 200);
  await scenario.insert(...Array.from({ length: 2_000 }, (_, n) => n + 1));
  const cut = worker.request("GET", path).then(
    ({ status }) => status,
    () => "cut off",
  );
  await worker.restart();
  assert.ok([200, 500, 503, "cut off"].includes(await cut));
  const again = await worker.request<Complete>("GET", path);
  assert.equal(again.status, 200);
  assert.equal((await scenario.storedItems()).length, 2_000);
});
