// The whole way of one change: Postgres, slot, object, change_history, WebSocket.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createDatabase } from "./support/database.ts";
import { waitFor } from "./support/wait-for.ts";
import { startWorker } from "./support/worker.ts";

interface Status {
  state: string;
  position: { id: number; lsn: string } | null;
  halted: unknown;
  errors: unknown;
  polling: { cycles: number; changes: number };
}

test("an insert, an update and a delete arrive at a WebSocket and stand in change_history", async () => {
  await using database = await createDatabase();
  await database.query("CREATE TABLE orders (id bigint PRIMARY KEY, note text)");
  await using worker = await startWorker({ database: database.url, slot: database.slot });

  const before = await worker.request<Status>("GET", "/status");
  assert.equal(before.body.state, "uninitialized");
  const init = await worker.request("POST", "/init", { tables: ["orders"] });
  assert.equal(init.status, 200, JSON.stringify(init.body));
  const waited = await worker.request("GET", "/wait-for-initial-poll");
  assert.equal(waited.status, 200, JSON.stringify(waited.body));

  const socket = await worker.connect();
  await socket.message("welcome");
  await database.query("INSERT INTO orders VALUES (9007199254740993, 'first')");
  await database.query("UPDATE orders SET note = 'second'");
  await database.query("DELETE FROM orders");
  const changes = await socket.receivedChanges(3);
  assert.deepEqual(
    changes.map(({ id, operation, data }) => ({ id, operation, data })),
    [
      { id: 1, operation: "insert", data: { id: "9007199254740993", note: "first" } },
      { id: 2, operation: "update", data: { id: "9007199254740993", note: "second" } },
      { id: 3, operation: "delete", data: { id: "9007199254740993" } },
    ],
  );
  const history = await database.query<{ id: string; operation: string }>("SELECT id, operation FROM change_history ORDER BY id");
  assert.deepEqual(history.map((row) => row.operation), ["insert", "update", "delete"]);
  await waitFor("the slot is advanced past the last change", async () => {
    const [row] = await database.query<{ done: boolean }>(
      "SELECT confirmed_flush_lsn >= (SELECT max(lsn::pg_lsn) FROM change_history) AS done FROM pg_replication_slots WHERE slot_name = $1",
      [database.slot],
    );
    return row?.done;
  });

  const clients = await worker.request<{ clients: { kind: string; lag: number }[] }>("GET", "/clients");
  assert.deepEqual(clients.body.clients.map(({ kind, lag }) => ({ kind, lag })), [{ kind: "websocket", lag: 0 }]);
  const after = await worker.request<Status>("GET", "/status");
  assert.equal(after.body.state, "polling");
  assert.equal(after.body.position?.id, 3);
});

test("an object that is evicted in the middle goes on where it was, and its socket with it", async () => {
  await using database = await createDatabase();
  await database.query("CREATE TABLE orders (id int PRIMARY KEY)");
  await using worker = await startWorker({ database: database.url, slot: database.slot });
  assert.equal((await worker.request("POST", "/init", { tables: ["orders"] })).status, 200);
  const socket = await worker.connect();
  await socket.message("caught_up");
  await database.query("INSERT INTO orders SELECT generate_series(1, 10)");
  await socket.receivedChanges(10);
  await worker.evict();
  await database.query("INSERT INTO orders SELECT generate_series(11, 20)");
  const changes = await socket.receivedChanges(20);
  assert.deepEqual(changes.map((change) => change.id), Array.from({ length: 20 }, (_, index) => index + 1));
  assert.equal((await worker.request<Status>("GET", "/status")).body.position?.id, 20);
});

test("without its token every endpoint refuses", async () => {
  await using database = await createDatabase();
  await using worker = await startWorker({ database: database.url, slot: database.slot });
  for (const [method, path] of [["POST", "/init"], ["GET", "/status"], ["GET", "/clients"], ["POST", "/poll"], ["GET", "/ws"]] as const) {
    assert.equal((await worker.fetch(path, { method })).status, 401, path);
    const wrong = await worker.fetch(path, { method, headers: { authorization: "Bearer wrong" } });
    assert.equal(wrong.status, 401, path);
  }
});
