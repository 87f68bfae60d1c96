// The feed and the example application as two Workers: changes go one way, registrations the other, and nothing is lost
// whichever of them restarts or fails.
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import type { TableChange } from "../../client/src/index.ts";
import { Example, type Failure } from "./support/applications.ts";
import { dropSlot } from "./support/database.ts";
import { waitFor } from "./support/wait-for.ts";

interface Clients {
  clients: { id: string; kind: string; cursor: string | null; consecutiveFailures: number; expiresAt: number }[];
}

async function start(t: TestContext, ttlSeconds?: number): Promise<Example> {
  const example = await Example.start(t, ttlSeconds);
  await example.scenario.initialise({ pollInterval: 50 });
  return example;
}

/** Waits until the Sync Durable Object has what the table has. */
async function agrees(example: Example): Promise<void> {
  const { database } = example.scenario;
  await waitFor("the Sync Durable Object has the table's rows", async () => {
    const [{ rows }, table] = [await example.rows(), await database.query("SELECT id, name FROM items ORDER BY id")];
    const byId = rows.toSorted((a, b) => a.id - b.id);
    assert.deepEqual(byId, table);
    return true;
  });
}

const registered = async (example: Example) =>
  (await example.scenario.worker.request<Clients>("GET", "/clients")).body.clients.filter(({ kind }) => kind === "sync_do");

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index + 1);

test("a Sync Durable Object has earlier rows, and follows inserts, updates, deletes and truncates", async (t) => {
  const example = await start(t);
  const { scenario } = example;
  await scenario.insert(1, 2, 3);
  await agrees(example);
  await scenario.database.query("UPDATE items SET name = 'changed' WHERE id = 2");
  await scenario.database.query("UPDATE items SET id = 30 WHERE id = 3");
  await scenario.database.query("DELETE FROM items WHERE id = 1");
  await agrees(example);
  await scenario.database.query("TRUNCATE items");
  await scenario.insert(4);
  await agrees(example);
  assert.deepEqual((await example.rows()).rows, [{ id: 4, name: "item 4" }]);
});

test("it waits for the feed to be initialised, and for its initial poll", async (t) => {
  const example = await Example.start(t);
  const { scenario } = example;
  await scenario.database.query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", [scenario.database.slot]);
  await scenario.insert(1, 2);
  assert.deepEqual(await example.rows(), { position: null, rows: [] });
  assert.equal((await scenario.worker.request("POST", "/init", { pollInterval: 50 })).status, 200);
  await agrees(example);
});

test("the clients of a Sync Durable Object receive every change in order, across evictions of either object", async (t) => {
  const example = await start(t);
  const { scenario } = example;
  const seen: TableChange[] = [];
  const late: TableChange[] = [];
  const feed = example.connect(t, { after: "earliest", onChanges: ({ changes }) => void seen.push(...changes) });
  await feed.ready;
  const arrived = (count: number) => waitFor(`${count} changes`, () => seen.length >= count);
  await scenario.insert(1, 2);
  await arrived(2);
  await example.evictObject("hibernate");
  await scenario.insert(3);
  await arrived(3);
  await example.evictObject("close");
  await scenario.insert(4, 5);
  await arrived(5);
  example.connect(t, { after: "earliest", onChanges: ({ changes }) => void late.push(...changes) });
  await waitFor("a late client has them all", () => late.length >= 5);
  assert.deepEqual(
    seen.map(({ data }) => data["id"]),
    upTo(5),
  );
  assert.deepEqual(late, seen);
});

for (const failure of ["refuses", "throws", "forgets to answer", "stores, then fails"] satisfies Failure[]) {
  test(`while a Sync Durable Object ${failure}, others are served, and afterwards nothing is missing or duplicated`, async (t) => {
    const example = await start(t);
    const { scenario } = example;
    const seen: unknown[] = [];
    const feed = example.connect(t, { onChanges: ({ changes }) => void seen.push(...changes.map(({ data }) => data["id"])) });
    await feed.ready;
    const other = await scenario.worker.connect();
    await other.message("caught_up");
    const object = await example.object();
    await object.fail(failure);
    for (const id of upTo(5)) await scenario.insert(id);
    await other.receivedChanges(5);
    // A call without an answer counts as failed after 15 seconds.
    await waitFor(
      "failures are counted",
      async () => (await registered(example)).some(({ consecutiveFailures }) => consecutiveFailures >= 1),
      40_000,
    );
    await object.fail(undefined);
    await agrees(example);
    await waitFor("its client has them", () => seen.length >= 5);
    assert.deepEqual(seen, upTo(5));
  });
}

test("a runtime that restarts in the middle of everything loses nothing", async (t) => {
  // An alarm can be lost together with its handler. A registration that is renewed soon wakes the feed again.
  const example = await start(t, 10);
  const { scenario } = example;
  await agrees(example);
  for (let round = 0; round < 4; round += 1) {
    for (const n of upTo(3)) await scenario.insert(round * 3 + n);
    // A request that the restart interrupts may never be answered.
    const { worker } = scenario;
    worker.request("POST", "/poll", undefined, AbortSignal.timeout(5_000)).catch(() => undefined);
    await scenario.worker.restart();
  }
  await agrees(example);
  assert.deepEqual((await example.rows()).rows.length, 12);
});

test("a registration belongs to one object, is renewed under the same name, and can be withdrawn", async (t) => {
  const example = await start(t);
  const { scenario } = example;
  await agrees(example);
  await waitFor("it is registered", async () => (await registered(example)).length === 1);
  const [first] = await registered(example);
  await example.scenario.worker.other("sync-do-example").evictDurableObject("SyncDO", { name: "items" });
  await agrees(example);
  assert.deepEqual(
    (await registered(example)).map(({ id }) => id),
    [first?.id],
  );
  assert.ok((first?.expiresAt ?? 0) > Date.now() + 300_000);
  assert.equal((await scenario.worker.request("DELETE", `/clients/${first?.id}`)).status, 204);
  assert.deepEqual(await registered(example), []);
});

test("it renews its registration before that expires", async (t) => {
  const example = await start(t, 10);
  await agrees(example);
  const expiresAt = await waitFor("it is registered", async () => (await registered(example))[0]?.expiresAt);
  await waitFor("it is registered for longer", async () => ((await registered(example))[0]?.expiresAt ?? 0) > expiresAt);
});

test("a registration that is not renewed expires, and others do not", async (t) => {
  const example = await start(t);
  const { worker } = example.scenario;
  await agrees(example);
  const orphan = { id: "orphan", binding: "SYNC", name: "nobody renews this", ttlSeconds: 10 };
  assert.equal((await worker.request("POST", "/clients", orphan)).status, 200);
  const ids = async () => (await registered(example)).map(({ id }) => id);
  assert.ok((await ids()).includes("orphan"));
  await waitFor("it has ended", async () => !(await ids()).includes("orphan"), 30_000);
  assert.equal((await ids()).length, 1);
});

test("when changes may have been missed it starts over, and its clients are told", async (t) => {
  const example = await start(t);
  const { scenario } = example;
  const reasons: string[] = [];
  const seen: unknown[] = [];
  const feed = example.connect(t, {
    afterReset: "earliest",
    onChanges: ({ changes }) => void seen.push(...changes.map(({ data }) => data["id"])),
    onReset: ({ reason }) => void reasons.push(reason),
  });
  await feed.ready;
  await scenario.insert(1);
  await waitFor("the first change", () => seen.length === 1);
  await dropSlot(scenario.database);
  await scenario.insert(2);
  await waitFor("the reset", () => reasons.length > 0);
  await scenario.insert(3);
  await waitFor("what came after", () => seen.includes(3));
  assert.deepEqual(reasons, ["epoch_changed"]);
  assert.match((await example.rows()).position ?? "", /^2-/);
});

test("without its token nobody reaches the callback or the rows through the application", async (t) => {
  const example = await start(t);
  const { worker } = example.scenario;
  for (const path of ["/items/rows", "/items/ws", "/items/replication/changes"]) {
    assert.equal((await worker.fetch(path)).status, 401, path);
    assert.equal((await worker.fetch(path, { headers: { authorization: "Bearer wrong" } })).status, 401, path);
  }
  const allowed = { headers: { authorization: "Bearer application-token" } };
  assert.equal((await worker.fetch("/items/replication/changes", { ...allowed, method: "POST", body: "{}" })).status, 404);
});

test("twelve objects under steady load all advance, and no renewal starts a second call beside the first", async (t) => {
  const example = await start(t);
  const { scenario } = example;
  const { worker } = scenario;
  await agrees(example);
  const names = upTo(12).map((number) => `counter-${number}`);
  const objects = await Promise.all(names.map((name) => example.object(name)));
  await Promise.all(objects.map((object) => object.fail("only counts")));
  const register = () =>
    Promise.all(names.map((name) => worker.request("POST", "/clients", { id: name, binding: "SYNC", name, tables: ["items"] })));
  for (const { status } of await register()) assert.equal(status, 200);
  for (const id of upTo(40)) {
    await scenario.insert(id);
    await Promise.all([worker.request("POST", "/poll"), register()]);
  }
  const { body } = await worker.request<{ position: string }>("POST", "/poll");
  await waitFor("all have caught up", async () => {
    const cursors = (await registered(example)).filter(({ id }) => names.includes(id)).map(({ cursor }) => cursor);
    return cursors.length === 12 && cursors.every((cursor) => cursor === body.position);
  });
  const atOnce = await Promise.all(objects.map((object) => object.atOnce()));
  assert.deepEqual(new Set(atOnce), new Set([1]));
});

test("an object that answers 410 is called no more, also after an eviction of the feed", async (t) => {
  const example = await start(t);
  const { scenario } = example;
  const { worker } = scenario;
  await agrees(example);
  const object = await example.object("leaver");
  await object.fail("is gone");
  await worker.request("POST", "/clients", { id: "leaver", binding: "SYNC", name: "leaver" });
  await scenario.insert(1);
  await worker.request("POST", "/poll");
  const ids = async () => (await registered(example)).map(({ id }) => id);
  await waitFor("its registration has ended", async () => !(await ids()).includes("leaver"));
  await worker.restart();
  await scenario.insert(2);
  await worker.request("POST", "/poll");
  await agrees(example);
  assert.ok(!(await ids()).includes("leaver"));
});
