// What one client, or one credential, can take of the server.
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import { FeedSocket } from "./support/feed-socket.ts";
import { Scenario } from "./support/scenario.ts";
import { mintTicket } from "./support/ticket.ts";
import { waitFor } from "./support/wait-for.ts";

const secret = "a secret of thirty-two bytes or more";
const tables = [{ table: "items" }];

async function start(t: TestContext): Promise<Scenario> {
  const scenario = await Scenario.start(t, { secrets: { REPLICATION_TICKET_SECRET: secret } });
  await scenario.initialise({ pollInterval: 60_000 });
  return scenario;
}

const bytesOf = (socket: FeedSocket) => socket.frames.reduce((sum, frame) => sum + frame.length, 0);

test("a client that never acknowledges gets at most one window, whatever it subscribes to", async (t) => {
  const scenario = await start(t);
  const { database, worker } = scenario;
  await database.query("INSERT INTO items SELECT n, repeat('x', 100000) FROM generate_series(1, 300) AS n");
  await worker.request("POST", "/poll");
  const socket = await worker.connect({ after: "earliest", ack: "1" });
  await waitFor("a full window", () => bytesOf(socket) > 8 << 20, 60_000);
  for (let round = 0; round < 12; round += 1) {
    socket.send({ type: "subscribe", subscriptions: tables, after: "1-0" });
    await waitFor("a welcome", () => socket.messages.filter(({ type }) => type === "welcome").length === round + 2);
  }
  await worker.request("POST", "/poll");
  assert.ok(bytesOf(socket) < 10 << 20, `${bytesOf(socket)} bytes`);
  // Acknowledging where the subscription stands says that all before has arrived.
  socket.send({ type: "ack", position: "1-0" });
  await waitFor("the next window", () => bytesOf(socket) > 16 << 20, 60_000);
});

test("connections with tickets of one subject are limited, and those of another are not touched", async (t) => {
  const { worker } = await start(t);
  const ticketOf = (sub: string, nonce: number) => mintTicket({ secret, tables, claims: { sub, nonce } });
  const open = await Promise.all(Array.from({ length: 32 }, (_, nonce) => worker.connect({ token: ticketOf("one", nonce) })));
  await assert.rejects(FeedSocket.open(worker.url, { token: ticketOf("one", 99) }), /429 .*too_many_connections/);
  const other = await worker.connect({ token: ticketOf("other", 0) });
  await other.message("caught_up");
  open[0]?.close();
  await waitFor("there is room again", async () => {
    const socket = await worker.connect({ token: ticketOf("one", 100) });
    return socket.message("welcome");
  });
});

test("pages that wait with one ticket are limited", async (t) => {
  const { worker } = await start(t);
  const headers = { authorization: `Bearer ${mintTicket({ secret, tables })}` };
  const statuses = await Promise.all(Array.from({ length: 40 }, async () => (await worker.fetch("/changes", { headers })).status));
  assert.ok(statuses.includes(200) && statuses.includes(429), statuses.join(" "));
  assert.deepEqual(
    statuses.filter((status) => status !== 200 && status !== 429),
    [],
  );
  const after = await worker.fetch("/changes", { headers });
  assert.equal(after.status, 200);
  assert.equal(after.headers.get("content-type"), "application/json");
});

test("a client that subscribes again and again is told to slow down, and keeps what it had", async (t) => {
  const scenario = await start(t);
  const socket = await scenario.worker.connect();
  await socket.message("caught_up");
  for (let count = 0; count < 80; count += 1) socket.send({ type: "subscribe", subscriptions: tables });
  const error = await socket.message("error");
  assert.deepEqual([error.code, error.retryable], ["rate_limited", true]);
  await scenario.insert(1);
  await scenario.worker.request("POST", "/poll");
  await socket.receivedChanges(1);
});

test("filters of one ticket's connections are limited together", async (t) => {
  const { worker } = await start(t);
  const token = mintTicket({ secret, tables });
  const filter = Array.from({ length: 16 }, () => ({ column: "id", op: "eq", value: 1 }));
  const subscriptions = Array.from({ length: 6 }, () => ({ table: "items", filter }));
  const codes: string[] = [];
  for (let index = 0; index < 24 && codes.length === 0; index += 1) {
    const socket = await worker.connect({ token });
    await socket.message("caught_up");
    socket.send({ type: "subscribe", subscriptions });
    await waitFor(
      "an answer",
      () => socket.messages.some(({ type }) => type === "error") || socket.messages.filter(({ type }) => type === "welcome").length === 2,
    );
    codes.push(...socket.messages.flatMap((message) => (message.type === "error" ? [message.code] : [])));
  }
  assert.deepEqual(codes, ["too_large"]);
});

test("a message of 31 MiB is refused by its length and takes no memory", async (t) => {
  const { worker } = await start(t);
  const socket = await worker.connect();
  await socket.message("caught_up");
  const memory = async () => (await worker.request<{ memoryBytes: number }>("GET", "/status")).body.memoryBytes;
  const before = await memory();
  for (let round = 1; round <= 3; round += 1) {
    socket.send("x".repeat(31 << 20));
    await waitFor("the refusal", () => socket.messages.filter(({ type }) => type === "error").length === round, 30_000);
  }
  const error = await socket.message("error");
  assert.equal(error.code, "too_large");
  const grown = (await memory()) - before;
  t.diagnostic(`WebAssembly's memory grew by ${grown} bytes`);
  assert.ok(grown < 1 << 20, `${grown} bytes`);
});

test("a subscription without a position misses nothing that the one before did not match", async (t) => {
  const scenario = await start(t);
  const { database, worker } = scenario;
  await database.query("CREATE TABLE b (id int PRIMARY KEY)");
  await database.query(`ALTER PUBLICATION ${database.slot} ADD TABLE b`);
  const socket = await worker.connect({ tables: "items" });
  await socket.message("caught_up");
  await scenario.insert(1);
  await worker.request("POST", "/poll");
  await socket.receivedChanges(1);
  await database.query("INSERT INTO b VALUES (7)");
  await worker.request("POST", "/poll");
  socket.send({ type: "subscribe", subscriptions: [{ table: "items" }, { table: "b" }] });
  const changes = await socket.receivedChanges(2);
  assert.deepEqual(
    changes.map(({ table, data }) => [table, data["id"]]),
    [
      ["items", 1],
      ["b", 7],
    ],
  );
  const welcome = socket.messages.filter((message) => message.type === "welcome").at(-1);
  assert.equal(welcome?.position, "1-1");
});
