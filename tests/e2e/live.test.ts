// The path of one change: Postgres -> Durable Object -> change_history -> WebSocket.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createDatabase } from "./support/database.ts";
import { Scenario } from "./support/scenario.ts";
import { waitFor } from "./support/wait-for.ts";
import { Workerd } from "./support/workerd.ts";

for (const version of [18, 15] as const) {
  test(`an insert, an update and a delete arrive in order over the WebSocket from PostgreSQL ${version}`, async (t) => {
    const scenario = await Scenario.start(t, { version });
    const { database, worker } = scenario;
    await scenario.initialise();
    const feed = await worker.connect();
    const { head, epoch } = await feed.message("welcome");
    assert.equal(head, `${epoch}-0`);

    await database.query("INSERT INTO items VALUES (1, 'lamp')");
    await database.query("UPDATE items SET name = 'desk lamp' WHERE id = 1");
    await database.query("DELETE FROM items WHERE id = 1");

    const changes = await feed.receivedChanges(3);
    assert.deepEqual(
      changes.map(({ id, schema, table, operation, data }) => ({ id, schema, table, operation, data })),
      [
        { id: 1, schema: "public", table: "items", operation: "insert", data: { id: 1, name: "lamp" } },
        { id: 2, schema: "public", table: "items", operation: "update", data: { id: 1, name: "desk lamp" } },
        { id: 3, schema: "public", table: "items", operation: "delete", data: { id: 1 } },
      ],
    );
    for (const change of changes) {
      assert.equal(change.epoch, epoch);
      assert.match(change.lsn, /^[0-9A-F]+\/[0-9A-F]+$/);
      assert.ok(Math.abs(Date.now() - Date.parse(change.committedAt ?? "")) < 60_000, `${change.committedAt}`);
    }
  });
}

test("the WebSocket receives what change_history has, and the slot has moved past it", async (t) => {
  const scenario = await Scenario.start(t);
  const { database, worker } = scenario;
  await scenario.initialise();
  const feed = await worker.connect();
  await feed.message("welcome");
  await scenario.insert(1, 2, 3);
  const sent = await feed.receivedChanges(3);

  const stored = await database.query(
    `SELECT id::int, lsn, epoch, xid::int, table_name AS table, operation, data, old_data AS old FROM change_history ORDER BY id`,
  );
  assert.deepEqual(
    sent.map(({ id, lsn, epoch, xid, table, operation, data, old }) => ({ id, lsn, epoch, xid, table, operation, data, old })),
    stored,
  );
  await waitFor("the slot stands at the last change's commit or later", async () => {
    const [slot] = await database.query<{ past: boolean }>(
      "SELECT confirmed_flush_lsn >= $2::pg_lsn AS past FROM pg_replication_slots WHERE slot_name = $1",
      [database.slot, sent.at(-1)?.lsn],
    );
    return slot?.past;
  });
});

test("/init with tables creates the publication, and an integer that a double cannot hold arrives unrounded", async (t) => {
  const scenario = await Scenario.start(t, { publish: false });
  const { database, worker } = scenario;
  await database.query("CREATE TABLE orders (id bigint PRIMARY KEY, note text)");
  await scenario.initialise({ tables: ["orders"] });
  const feed = await worker.connect();
  await feed.message("welcome");
  await database.query("INSERT INTO orders VALUES (9007199254740993, 'first')");
  await database.query("UPDATE orders SET note = 'second'");
  await scenario.insert(1);
  await database.query("DELETE FROM orders");
  assert.deepEqual(
    (await feed.receivedChanges(3)).map(({ id, table, operation, data }) => ({ id, table, operation, data })),
    [
      { id: 1, table: "orders", operation: "insert", data: { id: "9007199254740993", note: "first" } },
      { id: 2, table: "orders", operation: "update", data: { id: "9007199254740993", note: "second" } },
      { id: 3, table: "orders", operation: "delete", data: { id: "9007199254740993" } },
    ],
  );
});

test("a filtered client receives only its tables", async (t) => {
  const scenario = await Scenario.start(t, { publish: false });
  const { database, worker } = scenario;
  await database.query("CREATE TABLE notes (id int PRIMARY KEY)");
  await database.query(`CREATE PUBLICATION ${database.slot} FOR TABLE items, notes`);
  await scenario.initialise();
  const feed = await worker.connect({ tables: "notes" });
  await feed.message("welcome");
  await scenario.insert(1);
  await database.query("INSERT INTO notes VALUES (7)");
  assert.deepEqual(
    (await feed.receivedChanges(1)).map(({ table, data }) => ({ table, data })),
    [{ table: "notes", data: { id: 7 } }],
  );
});

test("the system's own tables are not captured, even by a publication of all tables", async (t) => {
  const scenario = await Scenario.start(t, { publish: false });
  const { database, worker } = scenario;
  await database.query(`CREATE PUBLICATION ${database.slot} FOR ALL TABLES`);
  await scenario.initialise();
  const feed = await worker.connect();
  await feed.message("welcome");
  for (const id of [1, 2, 3]) await scenario.insert(id);
  await feed.receivedChanges(3);
  await worker.request("POST", "/poll");
  const tables = await database.query("SELECT DISTINCT table_name FROM change_history");
  assert.deepEqual(tables, [{ table_name: "items" }]);
});

/** Reports after each alarm how many sockets the platform has answered by itself. */
const watch = `
globalThis.onConstruction = (ctx) => {
  globalThis.onAlarm = () => console.log("answered by the platform: " + ctx.getWebSockets().filter((socket) => ctx.getWebSocketAutoResponseTimestamp(socket) !== null).length);
};
`;

test("a ping is answered with a pong by the platform, not by the object", async (t) => {
  const database = await createDatabase(t);
  await database.query("CREATE TABLE items (id int PRIMARY KEY)");
  await database.query(`CREATE PUBLICATION ${database.slot} FOR TABLE items`);
  const worker = await Workerd.start(t, { hyperdrive: database.url, slot: database.slot, before: watch });
  await worker.initialise({ pollInterval: 100 });
  const [feed, silent] = await Promise.all([worker.connect(), worker.connect()]);
  await Promise.all([feed.message("caught_up"), silent.message("caught_up")]);
  await waitFor("an alarm", () => worker.log.includes("answered by the platform: 0"));
  feed.send("ping");
  await waitFor("a pong", () => feed.frames.includes("pong"));
  await waitFor("the platform says so", () => worker.log.includes("answered by the platform: 1"));
});
