// The network between the Worker and Postgres breaks, and every change is still stored exactly once.
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { createDatabase } from "./support/database.ts";
import { FaultProxy } from "./support/fault-proxy.ts";
import { Random } from "./support/random.ts";
import { Scenario } from "./support/scenario.ts";
import { statusOf } from "./support/status.ts";
import { waitFor } from "./support/wait-for.ts";

/** A scenario whose Worker reaches Postgres through a proxy. */
async function throughProxy(t: TestContext): Promise<{ scenario: Scenario; proxy: FaultProxy }> {
  const database = await createDatabase(t);
  const { proxy, url } = await FaultProxy.to(t, database.url);
  return { scenario: await Scenario.start(t, { on: database, through: url }), proxy };
}

test("a connection that is cut at any point of a cycle loses and duplicates nothing", async (t) => {
  const { scenario, proxy } = await throughProxy(t);
  const { worker } = scenario;
  await scenario.initialise({ pollInterval: 50 });
  const feed = await worker.connect();
  await feed.message("welcome");
  const random = Random.seeded(t);
  const wanted: number[] = [];
  // Such a cycle sends and receives between a few hundred and a few thousand bytes.
  for (const direction of ["received", "sent"] as const) {
    const anywhere = Array.from({ length: 20 }, () => 1 + random.below(4_000));
    for (const bytes of [1, 40, 90, 200, 400, ...anywhere]) {
      const id = wanted.length + 1;
      wanted.push(id);
      const cut = proxy.cutAfter(direction, bytes);
      await scenario.insert(id);
      await cut;
      // Earlier than the feed would retry by itself.
      await waitFor("a poll that gets through", async () => (await worker.request("POST", "/poll")).status === 200);
      await feed.receivedChanges(wanted.length);
    }
  }
  assert.deepEqual(await scenario.storedItems(), wanted);
  assert.deepEqual(
    feed.changes.map((change) => change.id),
    wanted,
  );
});

test("while the database is down the status counts failures, and everything arrives when it is back", async (t) => {
  const { scenario, proxy } = await throughProxy(t);
  const { worker } = scenario;
  await scenario.initialise({ pollInterval: 50 });
  const feed = await worker.connect();
  await feed.message("welcome");
  proxy.refuse(true);
  proxy.cutNow();
  await scenario.insert(1, 2);
  const down = await waitFor("failures are counted", async () => {
    const body = await statusOf(worker);
    return body.polling.consecutiveFailures >= 2 && body;
  });
  assert.ok((down.errors["connection"]?.count ?? 0) >= 1, JSON.stringify(down.errors));
  proxy.refuse(false);
  assert.deepEqual(
    (await feed.receivedChanges(2)).map((change) => change.id),
    [1, 2],
  );
  const up = await statusOf(worker);
  assert.equal(up.polling.consecutiveFailures, 0);
});
