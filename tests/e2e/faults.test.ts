// The network between the Worker and Postgres breaks: every change is stored exactly once all the same.
import assert from "node:assert/strict";
import { test } from "node:test";
import { FaultProxy } from "./support/fault-proxy.ts";
import { Scenario } from "./support/scenario.ts";
import { waitFor } from "./support/wait-for.ts";

interface Status {
  polling: { consecutiveFailures: number };
  errors: Record<string, { count: number; lastMessage: string }>;
}

/** A scenario whose Worker reaches Postgres through a proxy. */
async function throughProxy(): Promise<{ scenario: Scenario; proxy: FaultProxy }> {
  let proxy: FaultProxy | undefined;
  const scenario = await Scenario.start({
    through: async (url) => {
      const made = await FaultProxy.to(url);
      proxy = made.proxy;
      return made.url;
    },
  });
  if (proxy === undefined) throw new Error("the proxy was not asked for");
  return { scenario, proxy };
}

test("a connection cut at any point of a cycle loses nothing and doubles nothing", async () => {
  const { scenario, proxy } = await throughProxy();
  await using _proxy = proxy;
  await using _scenario = scenario;
  const { worker } = scenario;
  await scenario.initialise({ pollInterval: 50 });
  const feed = await worker.connect();
  await feed.message("welcome");
  const wanted: number[] = [];
  // What one such cycle sends and receives lies between a few hundred bytes and a few thousand.
  for (const direction of ["received", "sent"] as const) {
    for (const bytes of [1, 40, 90, 200, 400, 700, 1_100, 1_600]) {
      const id = wanted.length + 1;
      wanted.push(id);
      const cut = proxy.cutAfter(direction, bytes);
      await scenario.insert(id);
      await cut;
      await feed.receivedChanges(wanted.length);
    }
  }
  assert.deepEqual(await scenario.storedItems(), wanted);
  assert.deepEqual(feed.changes.map((change) => change.id), wanted);
});

test("while the database is down the status counts it, and everything arrives when it is back", async () => {
  const { scenario, proxy } = await throughProxy();
  await using _proxy = proxy;
  await using _scenario = scenario;
  const { worker } = scenario;
  await scenario.initialise({ pollInterval: 50 });
  const feed = await worker.connect();
  await feed.message("welcome");
  proxy.refuse(true);
  proxy.cutNow();
  await scenario.insert(1, 2);
  const down = await waitFor("failures are counted", async () => {
    const { body } = await worker.request<Status>("GET", "/status");
    return body.polling.consecutiveFailures >= 2 && body;
  });
  assert.ok((down.errors["connection"]?.count ?? 0) >= 1, JSON.stringify(down.errors));
  proxy.refuse(false);
  assert.deepEqual((await feed.receivedChanges(2)).map((change) => change.id), [1, 2]);
  const { body: up } = await worker.request<Status>("GET", "/status");
  assert.equal(up.polling.consecutiveFailures, 0);
});
