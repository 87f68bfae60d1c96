// Authentication, and what a ticket shows, on the public route and in real workerd.
import assert from "node:assert/strict";
import { randomBytes } from "node:crypto";
import { request as httpRequest } from "node:http";
import { test, type TestContext } from "node:test";
import { FeedSocket } from "./support/feed-socket.ts";
import { Scenario } from "./support/scenario.ts";
import { mintTicket, type TicketTable } from "./support/ticket.ts";
import { waitFor } from "./support/wait-for.ts";

const secret = randomBytes(24).toString("hex");
const item = (op: string, value: unknown): TicketTable[] => [{ table: "items", filter: [{ column: "id", op, value }] }];

async function start(t: TestContext, vars: Record<string, string> = {}): Promise<Scenario> {
  const scenario = await Scenario.start(t, { secrets: { REPLICATION_TICKET_SECRET: secret }, vars });
  await scenario.initialise();
  return scenario;
}

const bearer = (token: string): { headers: Record<string, string> } => ({ headers: { authorization: `Bearer ${token}` } });

test("hostile requests get their status code and no information", async (t) => {
  const { worker, database } = await start(t);
  await database.query("CREATE TABLE secrets (id int PRIMARY KEY, name text)");
  await database.query("INSERT INTO items VALUES (1, 'top-secret-value')");
  await worker.request("POST", "/poll");
  const ticket = mintTicket({ secret, tables: item("eq", 7) });
  const none = mintTicket({ secret, tables: item("eq", 1), header: { alg: "none" } }).replace(/[^.]*$/, "");
  const big = "x".repeat(10 << 20);
  const attacks: [what: string, path: string, init: RequestInit, status: number][] = [
    ["no token", "/changes", {}, 401],
    ["a wrong token", "/changes", bearer("wrong"), 401],
    ["the token in the URL", `/changes?token=${worker.token}`, {}, 401],
    ["another scheme", "/changes", { headers: { authorization: `Basic ${btoa(`x:${worker.token}`)}` } }, 401],
    ["an empty token", "/changes", { headers: { authorization: "Bearer " } }, 401],
    ["a token of 1 MB", "/changes", { headers: { authorization: `Bearer ${"x".repeat(14_000)}` } }, 401],
    ["an expired ticket", "/changes", bearer(mintTicket({ secret, tables: item("eq", 1), expiresIn: -60 })), 401],
    ["a ticket that has just expired", "/changes", bearer(mintTicket({ secret, tables: item("eq", 1), expiresIn: 0 })), 401],
    ["a ticket that lasts for ever", "/changes", bearer(mintTicket({ secret, tables: item("eq", 1), expiresIn: 1e9 })), 401],
    ["algorithm none", "/changes", bearer(none), 401],
    ["no algorithm", "/changes", bearer(mintTicket({ secret, tables: item("eq", 1), header: {} })), 401],
    ["another algorithm", "/changes", bearer(mintTicket({ secret, tables: item("eq", 1), header: { alg: "HS512" } })), 401],
    ["another secret", "/changes", bearer(mintTicket({ secret: `${secret}x`, tables: item("eq", 1) })), 401],
    ["a ticket without tables", "/changes", bearer(mintTicket({ secret, tables: [] })), 401],
    ["a foreign table", "/changes?tables=secrets", bearer(ticket), 403],
    ["a ticket for the status", "/status", bearer(ticket), 403],
    ["a ticket for the metrics", "/metrics", bearer(ticket), 403],
    ["a ticket for the clients", "/clients", bearer(ticket), 403],
    ["a ticket to initialise", "/init", { method: "POST", ...bearer(ticket) }, 403],
    ["a ticket to nudge", "/poll", { method: "POST", ...bearer(ticket) }, 403],
    ["a ticket to register", "/clients", { method: "POST", ...bearer(ticket) }, 403],
    ["a ticket to deregister", "/clients/x", { method: "DELETE", ...bearer(ticket) }, 403],
    ["a path with dots", "/changes/../status", bearer(ticket), 403],
    ["an encoded path", "/%73tatus", bearer(ticket), 403],
    ["two slashes", "/x/..//status", bearer(ticket), 403],
    ["another case", "/STATUS", bearer(worker.token), 404],
    ["SQL in after", "/changes?after=1-1;DROP%20TABLE%20items", bearer(worker.token), 400],
    ["SQL in limit", "/changes?limit=1%3BDROP%20TABLE%20items", bearer(worker.token), 400],
    ["SQL in tables", "/changes?tables=items';DROP%20TABLE%20items;--", bearer(worker.token), 200],
    ["an unknown parameter", "/changes?where=1", bearer(worker.token), 400],
    ["SQL in a client's id", "/clients/x';DELETE%20FROM%20feed;--", { method: "DELETE", ...bearer(worker.token) }, 404],
    ["a body of 10 MB", "/init", { method: "POST", body: big, ...bearer(worker.token) }, 413],
    ["a registration of 10 MB", "/clients", { method: "POST", body: big, ...bearer(worker.token) }, 413],
    ["a body that is no text", "/init", { method: "POST", body: new Uint8Array([0xff, 0xfe]), ...bearer(worker.token) }, 400],
    [
      "a slot with quotes",
      "/init",
      { method: "POST", body: JSON.stringify({ slot: "x'; DROP TABLE items" }), ...bearer(worker.token) },
      400,
    ],
    ["an upgrade without its header", "/ws?v=1", bearer(worker.token), 426],
  ];
  for (const [what, path, init, status] of attacks) {
    const answer = await worker.fetch(path, init).catch((cause: unknown) => assert.fail(`${what}: ${String(cause)}`));
    const text = await answer.text();
    assert.equal(answer.status, status, `${what}: ${text}`);
    assert.ok(!text.includes("top-secret-value") && !text.includes(worker.token) && !text.includes(secret), `${what}: ${text}`);
    if (status >= 400) assert.ok((JSON.parse(text) as { error: { code: string } }).error.code, what);
  }
  const version = await upgrade(worker.url, "/ws?v=2", worker.token);
  assert.equal(version.status, 400, version.body);
  // None of it had an effect.
  const [rows] = await database.query<{ items: number }>("SELECT count(*)::int AS items FROM items");
  assert.equal(rows?.items, 1);
  assert.equal((await worker.request("GET", "/status")).status, 200);
});

/** An upgrade request, which fetch cannot send. */
function upgrade(base: URL, path: string, token: string): Promise<{ status: number; body: string }> {
  return new Promise((resolve, reject) => {
    const headers = {
      authorization: `Bearer ${token}`,
      connection: "upgrade",
      upgrade: "websocket",
      "sec-websocket-version": "13",
      "sec-websocket-key": btoa("0123456789abcdef"),
    };
    const request = httpRequest(new URL(path, base), { headers }, (response) => {
      let body = "";
      response.setEncoding("utf8").on("data", (text: string) => (body += text));
      response.on("end", () => resolve({ status: response.statusCode ?? 0, body }));
    });
    request.on("upgrade", () => reject(new Error("upgraded")));
    request.on("error", reject).end();
  });
}

test("a flood of refused upgrades leaves no client behind and harms nobody", async (t) => {
  const { worker } = await start(t);
  const good = await worker.connect();
  await good.message("caught_up");
  const flood = Array.from({ length: 300 }, () => assert.rejects(FeedSocket.open(worker.url, { token: "wrong" }), /401/));
  await Promise.all(flood);
  const { body } = await worker.request<{ clients: unknown[] }>("GET", "/clients");
  assert.equal(body.clients.length, 1);
  good.send("ping");
  await waitFor("the pong", () => good.frames.includes("pong"));
});

test("a ticket shows only its rows, live, on replay and in pages, even when a row leaves its filter", async (t) => {
  const scenario = await start(t);
  const { worker, database } = scenario;
  await database.query("ALTER TABLE items REPLICA IDENTITY FULL");
  await database.query("ALTER TABLE items ADD owner int");
  await database.query("INSERT INTO items VALUES (1, 'mine', 42), (2, 'other', 7)");
  const token = mintTicket({ secret, tables: [{ table: "items", filter: [{ column: "owner", op: "eq", value: 42 }] }] });
  await worker.request("POST", "/poll");
  const live = await worker.connect({ token, after: "earliest" });
  await live.receivedChanges(1);
  await database.query("UPDATE items SET owner = 7, name = 'gone' WHERE id = 1");
  await database.query("UPDATE items SET owner = 42, name = 'come' WHERE id = 2");
  await database.query("INSERT INTO items VALUES (3, 'hidden', 7)");
  await live.receivedChanges(3);
  const replay = await worker.connect({ token, after: "earliest" });
  await replay.receivedChanges(3);
  const pages = (await (await worker.fetch("/changes", bearer(token))).json()) as { changes: typeof live.changes };
  const expected = [
    ["insert", { id: 1, name: "mine", owner: 42 }, null],
    // The row left the filter, so the client must not see its new values.
    ["delete", { id: 1, name: "mine", owner: 42 }, null],
    // The row entered the filter, so the client must not see its old values.
    ["update", { id: 2, name: "come", owner: 42 }, null],
  ];
  for (const changes of [live.changes, replay.changes, pages.changes]) {
    assert.deepEqual(
      changes.map((change) => [change.operation, change.data, change.old]),
      expected,
    );
  }
  // No request gets more than that.
  live.send({ type: "subscribe", after: "earliest", subscriptions: [{ table: "secrets" }] });
  const error = await live.message("error");
  assert.equal(error.code, "not_allowed");
  live.send({ type: "subscribe", after: "earliest", subscriptions: [{ table: "items" }] });
  await live.receivedChanges(6);
  assert.ok(live.frames.every((frame) => !frame.includes("hidden") && !frame.includes("gone") && !frame.includes("other")));
});

test("an expired ticket closes its socket with a reason", async (t) => {
  const scenario = await start(t);
  const { worker } = scenario;
  const token = mintTicket({ secret, tables: [{ table: "items" }], expiresIn: 2 });
  const feed = await worker.connect({ token });
  await feed.message("caught_up");
  const error = await feed.message("error");
  assert.equal(error.code, "ticket_expired");
  await waitFor("the close", () => feed.closed?.code === 4001);
  await scenario.insert(1);
  await worker.request("POST", "/poll");
  assert.deepEqual(feed.changes, []);
  // An expired ticket opens no other socket.
  await assert.rejects(worker.connect({ token }), /upgrade refused: 401 .*ticket_expired/);
});

test("a ticket hides the same rows when its table is altered and the object is evicted", async (t) => {
  const scenario = await start(t);
  const { worker, database } = scenario;
  await database.query("ALTER TABLE items ADD owner int, ADD code text");
  const filters: TicketTable[] = [
    {
      table: "items",
      filter: [
        { column: "owner", op: "eq", value: 42 },
        { column: "code", op: "lt", value: "95" },
      ],
    },
  ];
  const token = mintTicket({ secret, tables: filters });
  const feed = await worker.connect({ token });
  assert.deepEqual((await feed.message("welcome")).warnings?.[0]?.columns, ["code", "owner"]);
  // The first code is less than "95" as text, but not as a number.
  await database.query("INSERT INTO items VALUES (1, 'seen', 42, '9007199254740993'), (2, 'hidden', 7, '1')");
  await feed.receivedChanges(1);
  await database.query("ALTER TABLE items REPLICA IDENTITY FULL, ALTER code TYPE numeric USING code::numeric");
  await database.query("INSERT INTO items VALUES (3, 'hidden', 42, 9007199254740993), (4, 'seen', 42, 5)");
  await database.query("UPDATE items SET owner = 7, name = 'hidden' WHERE id = 4");
  assert.deepEqual((await feed.message("warnings")).warnings, []);
  await feed.receivedChanges(3);
  await worker.request("POST", "/poll");
  await database.query("ALTER TABLE items REPLICA IDENTITY DEFAULT, ALTER code TYPE text");
  await database.query("INSERT INTO items VALUES (5, 'seen', 42, '9007199254740993')");
  await database.query("UPDATE items SET owner = 42, name = 'seen' WHERE id = 2");
  await feed.receivedChanges(4);
  await worker.restart();
  // After the eviction the object still knows the previous definition of the table.
  const replay = await worker.connect({ token, after: "earliest" });
  await database.query("INSERT INTO items VALUES (6, 'seen', 42, '94'), (7, 'hidden', 42, '96')");
  const mine = (await replay.message("caught_up")) && replay;
  await waitFor("the newest", () => mine.changes.some((change) => change.data["id"] === 6));
  for (const frame of [...feed.frames, ...replay.frames]) assert.ok(!frame.includes("hidden"), frame);
  assert.deepEqual(
    feed.changes.slice(0, 3).map((change) => [change.operation, change.data["id"]]),
    [
      ["insert", 1],
      ["insert", 4],
      ["delete", 4],
    ],
  );
  // Of the changes before the last alteration, only those that match under either type.
  assert.ok(replay.changes.some((change) => change.data["id"] === 4));
  assert.ok(
    replay.changes.some((change) => change.data["id"] === 5),
    "described so since",
  );
});

test("pages of other sites are allowed only if CORS_ORIGINS names them", async (t) => {
  const origin = "https://app.example";
  const { worker } = await start(t, { CORS_ORIGINS: `https://other.example, ${origin}` });
  const preflight = {
    method: "OPTIONS",
    headers: { origin, "access-control-request-method": "GET", "access-control-request-headers": "authorization" },
  };
  const allowed = await worker.fetch("/changes", preflight);
  assert.equal(allowed.status, 204);
  assert.equal(allowed.headers.get("access-control-allow-origin"), origin);
  assert.match(allowed.headers.get("access-control-allow-headers") ?? "", /Authorization/);
  const foreign = await worker.fetch("/changes", { method: "OPTIONS", headers: { ...preflight.headers, origin: "https://evil.example" } });
  assert.equal(foreign.status, 401);
  assert.equal(foreign.headers.get("access-control-allow-origin"), null);
  const answer = await worker.fetch("/changes", { headers: { origin, authorization: `Bearer ${worker.token}` } });
  assert.equal(answer.status, 200);
  assert.equal(answer.headers.get("access-control-allow-origin"), origin);
  // Refusals too, so that the page can read the reason.
  const refused = await worker.fetch("/changes", { headers: { origin } });
  assert.equal(refused.status, 401);
  assert.equal(refused.headers.get("access-control-allow-origin"), origin);
});

test("without CORS_ORIGINS no page of another site is allowed", async (t) => {
  const { worker } = await start(t);
  const answer = await worker.fetch("/changes", { headers: { origin: "https://app.example", authorization: `Bearer ${worker.token}` } });
  assert.equal(answer.headers.get("access-control-allow-origin"), null);
});

test("a development server without a token is closed to pages of other sites", async (t) => {
  const { worker } = await Scenario.start(t, { vars: { REPLICATION_DEV_NO_AUTH: "true" }, secrets: { REPLICATION_TOKEN: "" } });
  assert.equal((await worker.fetch("/status")).status, 200);
  assert.equal((await worker.fetch("/status", { headers: { origin: "http://localhost:5173" } })).status, 200);
  assert.equal((await worker.fetch("/status", { headers: { origin: "https://evil.example" } })).status, 403);
});
