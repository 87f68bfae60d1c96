// Clients that do not read: how much the platform holds for them.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { connect } from "../../client/src/index.ts";
import { afterwards } from "./support/afterwards.ts";
import { createDatabase } from "./support/database.ts";
import { FeedSocket } from "./support/feed-socket.ts";
import { waitFor } from "./support/wait-for.ts";
import { Workerd } from "./support/workerd.ts";

const rows = 600;
const rowBytes = 100_000;
const history = rows * rowBytes;
/** The limits for clients that do not acknowledge, and for those that do. */
const stuck = 12;
const waiting = 6;
/** What all of them may hold together, plus an allowance and a frame for each. */
const held = (64 << 20) + (stuck + waiting) * ((64 << 10) + (1 << 20));
/** What the process needs for everything else. */
const slack = 64 << 20;

/** Reports whether the platform knows how much waits to be read. */
const platform = `console.log("bufferedAmount: " + ("bufferedAmount" in WebSocket.prototype));`;

test("a client that does not read is sent at most its limit, and others receive everything", async (t) => {
  const database = await createDatabase(t);
  await database.query("CREATE TABLE items (id int PRIMARY KEY, name text)");
  await database.query(`CREATE PUBLICATION ${database.slot} FOR TABLE items`);
  const worker = await Workerd.start(t, { hyperdrive: database.url, slot: database.slot, before: platform });
  await worker.initialise();
  for (let from = 1; from <= rows; from += 100) {
    await database.query("INSERT INTO items SELECT id, repeat('x', $2) FROM generate_series($1::int, $1 + 99) AS id", [from, rowBytes]);
    await worker.request("POST", "/poll");
  }
  const resident = () => Number(readFileSync(`/proc/${worker.pid}/status`, "utf8").match(/VmRSS:\s+(\d+) kB/)?.[1]) * 1024;
  const mebibytes = (bytes: number) => `${Math.round(bytes / (1 << 20))} MiB`;
  const before = resident();
  const asleep: FeedSocket[] = [];
  for (let index = 0; index < stuck + waiting; index++) {
    const socket = await worker.connect({ after: "earliest", ...(index < waiting ? { ack: "1" } : {}) });
    socket.pause();
    asleep.push(socket);
  }

  // A client that neither acknowledges nor uses the library. It reconnects each time and misses nothing.
  const plain: number[] = [];
  let position = "earliest";
  let closes = 0;
  for (let socket = await worker.connect({ after: position }); plain.length < rows;) {
    await waitFor(
      "the end of the history, or a close",
      () => socket.closed !== undefined || plain.length + socket.changes.length >= rows,
      120_000,
    );
    plain.push(...socket.changes.map((change) => change.id));
    position = socket.messages.filter((message) => message.type === "changes").at(-1)?.to ?? position;
    if (plain.length >= rows) break;
    assert.equal(socket.closed?.code, 4002);
    closes += 1;
    socket = await worker.connect({ after: position });
  }
  assert.deepEqual(
    plain,
    Array.from({ length: rows }, (_, index) => index + 1),
  );
  assert.ok(closes >= Math.floor(history / (18 << 20)), `${closes} closes`);

  // The library acknowledges by itself, over one connection.
  const ids: number[] = [];
  let connections = 0;
  const feed = connect({
    url: worker.url,
    token: worker.token,
    after: "earliest",
    onChanges: (batch) => void ids.push(...batch.changes.map((change) => change.id)),
    onState: ({ status }) => void (connections += status === "connecting" ? 1 : 0),
  });
  afterwards(t, () => feed.close());
  await waitFor("the library has everything", () => ids.length === rows, 120_000);
  assert.equal(connections, 1);

  // Live changes reach clients that read, and are not held for those that do not.
  await database.query("INSERT INTO items SELECT id, repeat('y', $2) FROM generate_series($1::int, $1 + 99) AS id", [rows + 1, rowBytes]);
  await worker.request("POST", "/poll");
  await waitFor("the library has what came then", () => ids.length === rows + 100, 120_000);
  const grown = resident() - before;
  t.diagnostic(
    `${mebibytes(history)} of history, ${stuck} that do not read and do not acknowledge, ${waiting} that do not read: workerd has grown from ${mebibytes(before)} by ${mebibytes(grown)}; ${mebibytes(history * (stuck + waiting))} without a limit`,
  );
  t.diagnostic(worker.log.match(/bufferedAmount: \w+/)?.[0] ?? "nothing is known of bufferedAmount");
  assert.ok(grown < held + slack, mebibytes(grown));

  // A client that reads again is told to reconnect. What it was sent has no gap.
  for (const socket of asleep) socket.resume();
  await waitFor("they are closed", () => asleep.slice(waiting).every((socket) => socket.closed?.code === 4002), 60_000);
  for (const socket of asleep) {
    const seen = socket.changes.map((change) => change.id);
    assert.deepEqual(
      seen,
      Array.from({ length: seen.length }, (_, index) => index + 1),
    );
    assert.ok(seen.length * rowBytes < 20 << 20, `${seen.length} changes`);
  }
});
