// The platform may evict the object at any time: nothing is lost, and nothing comes twice.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createDatabase } from "./support/database.ts";
import { Scenario } from "./support/scenario.ts";
import { waitFor } from "./support/wait-for.ts";
import { Workerd } from "./support/workerd.ts";

/** A pause so long that the object closes its connection. As long as it has one it is never idle. */
const resting = { pollInterval: 10_000 };

test("an evicted object continues over the same WebSocket from where it stood", async (t) => {
  const scenario = await Scenario.start(t);
  const { worker } = scenario;
  await scenario.initialise(resting);
  const feed = await worker.connect();
  await feed.message("caught_up");
  await scenario.insert(1, 2);
  await worker.request("POST", "/poll");
  await feed.receivedChanges(2);

  await worker.evict("hibernate");
  await scenario.insert(3, 4);
  await worker.request("POST", "/poll");
  const changes = await feed.receivedChanges(4);

  assert.deepEqual(
    changes.map((change) => change.data["id"]),
    [1, 2, 3, 4],
  );
  assert.deepEqual(
    changes.map((change) => change.id),
    [1, 2, 3, 4],
  );
  assert.equal(feed.closed, undefined);
  assert.deepEqual(await scenario.storedItems(), [1, 2, 3, 4]);
});

test("changes made while every client is away arrive when one reconnects with its position", async (t) => {
  const scenario = await Scenario.start(t);
  const { worker } = scenario;
  await scenario.initialise(resting);
  const before = await worker.connect();
  await before.message("caught_up");
  await scenario.insert(1, 2);
  await worker.request("POST", "/poll");
  const last = (await before.receivedChanges(2)).at(-1);

  await worker.evict("close");
  await waitFor("the WebSocket has closed", () => before.closed !== undefined);
  await scenario.insert(3);
  const after = await worker.connect({ after: `${last?.epoch}-${last?.id}` });
  await after.receivedChanges(1);
  await scenario.insert(4);
  await worker.request("POST", "/poll");

  assert.deepEqual(
    (await after.receivedChanges(2)).map((change) => change.data["id"]),
    [3, 4],
  );
});

test("a runtime that is restarted during its polls stores every change exactly once", async (t) => {
  const scenario = await Scenario.start(t);
  const { worker } = scenario;
  await scenario.initialise({ pollInterval: 20 });
  const wanted: number[] = [];
  for (let round = 0; round < 5; round += 1) {
    const ids = [1, 2, 3].map((n) => round * 3 + n);
    wanted.push(...ids);
    await scenario.insert(...ids);
    // Not awaited, so that the restart interrupts the cycle that stores these rows at a different point each time.
    worker.request("POST", "/poll").catch(() => undefined);
    await worker.restart();
  }
  const feed = await worker.connect({ after: "earliest" });
  const changes = await feed.receivedChanges(wanted.length);
  assert.deepEqual(
    changes.map((change) => change.data["id"]),
    wanted,
  );
  assert.deepEqual(
    changes.map((change) => change.id),
    wanted,
  );
  assert.deepEqual(await scenario.storedItems(), wanted);
});

/** A storage that refuses the second description of each table. */
const forgetful = `
globalThis.onConstruction = (ctx) => {
  const sql = Object.getPrototypeOf(ctx.storage.sql);
  const { exec } = sql;
  globalThis.onConstruction = undefined;
  sql.exec = function (statement, key, value) {
    if (typeof value === "string" && key.startsWith("relation:") && JSON.parse(value).shapes.length > 1) throw new Error("the disk is full");
    return exec.apply(this, arguments);
  };
};
`;

test("a table definition that could not be stored is not replaced by an older stored one", async (t) => {
  const database = await createDatabase(t);
  await database.query("CREATE TABLE items (id int PRIMARY KEY, code numeric)");
  await database.query(`CREATE PUBLICATION ${database.slot} FOR TABLE items`);
  const worker = await Workerd.start(t, { hyperdrive: database.url, slot: database.slot, before: forgetful });
  await worker.initialise(resting);
  const insertion = async (id: number, code: string) => {
    await database.query("INSERT INTO items VALUES ($1, $2)", [id, code]);
    assert.equal((await worker.request("POST", "/poll")).status, 200);
  };
  await insertion(1, "9007199254740993");
  await database.query("ALTER TABLE items ALTER code TYPE text");
  // The code is less than "95" as text, but not as the number that it was.
  await insertion(2, "9007199254740993");
  assert.match(worker.log, /storage_failed.*the disk is full/);
  const subscribe = {
    type: "subscribe",
    after: "earliest",
    subscriptions: [{ table: "items", filter: [{ column: "code", op: "lt", value: "95" }] }],
  };
  for (const life of ["that life", "the next life"]) {
    const feed = await worker.connect();
    feed.send(subscribe);
    assert.ok(
      (await feed.receivedChanges(1)).some((change) => change.data["id"] === 2),
      life,
    );
    await worker.kill();
    await worker.run();
  }
});
