// The answers of the HTTP endpoints, compared with the facts.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Scenario } from "./support/scenario.ts";
import { waitFor } from "./support/wait-for.ts";

interface Status {
  state: string;
  config: { slot: string; publication: string; pollInterval: number } | null;
  epoch: number | null;
  position: { id: number; lsn: string } | null;
  slot: { confirmedFlushLsn: string; walStatus: string } | null;
  initialPoll: { complete: boolean };
  clients: { webSockets: number };
}

interface Clients {
  clients: { id: string; kind: string; cursor: string | null; subscriptions: string[] }[];
}

interface Refusal {
  error: { code: string; message: string; retryable: boolean; remedy?: string };
}

test("before /init the status says so, and the database is untouched", async (t) => {
  const scenario = await Scenario.start(t);
  const { database, worker } = scenario;
  const status = await worker.request<Status>("GET", "/status");
  assert.equal(status.status, 200);
  assert.equal(status.body.state, "uninitialized");
  assert.equal(status.body.position, null);
  assert.equal(status.body.initialPoll.complete, false);
  const tables = await database.query("SELECT relname FROM pg_class WHERE relname IN ('change_history', 'replication_checkpoint')");
  assert.deepEqual(tables, []);
});

test("a method that an endpoint lacks is answered with the methods that it has", async (t) => {
  const { worker } = await Scenario.start(t);
  const authorization = `Bearer ${worker.token}`;
  for (const [method, path, status, allow] of [
    ["GET", "/init", 405, "POST"],
    ["DELETE", "/clients", 405, "GET, POST"],
    ["PATCH", "/clients/web-7", 405, "DELETE"],
    // The Rust bindings treat this method as GET.
    ["PROPFIND", "/status", 405, "GET"],
    ["GET", "/nothing", 404, null],
  ] as const) {
    const answer = await worker.fetch(path, { method, headers: { authorization } });
    assert.equal(answer.status, status, `${method} ${path}`);
    assert.equal(answer.headers.get("allow"), allow, `${method} ${path}`);
  }
});

test("before /init nobody waits in vain for the initial poll", async (t) => {
  const scenario = await Scenario.start(t);
  const answer = await scenario.worker.request<Refusal>("GET", "/wait-for-initial-poll");
  assert.equal(answer.status, 409);
  assert.equal(answer.body.error.code, "not_initialized");
  assert.match(answer.body.error.remedy ?? "", /POST \/init/);
});

test("the status agrees with the database", async (t) => {
  const scenario = await Scenario.start(t);
  const { database, worker } = scenario;
  await scenario.initialise();
  const feed = await worker.connect();
  await feed.message("welcome");
  await scenario.insert(1, 2, 3);
  await feed.receivedChanges(3);

  const { body } = await worker.request<Status>("GET", "/status");
  assert.equal(body.state, "polling");
  assert.equal(body.config?.slot, database.slot);
  assert.equal(body.config?.publication, database.slot);
  assert.equal(body.clients.webSockets, 1);
  assert.equal(body.initialPoll.complete, true);
  const [checkpoint] = await database.query<{ epoch: number; id: number; lsn: string }>(
    "SELECT epoch, last_id::int AS id, lsn::text FROM replication_checkpoint WHERE slot = $1",
    [database.slot],
  );
  assert.deepEqual({ epoch: body.epoch, ...body.position }, checkpoint);
  assert.equal(body.position?.id, 3);
  assert.equal(body.slot?.walStatus, "reserved");
});

test("/clients lists connected clients and their positions, and none that has gone", async (t) => {
  const scenario = await Scenario.start(t);
  const { worker } = scenario;
  await scenario.initialise();
  const staying = await worker.connect({ client: "staying" });
  const leaving = await worker.connect({ client: "leaving", tables: "items" });
  await Promise.all([staying.message("caught_up"), leaving.message("caught_up")]);
  await scenario.insert(1);
  await Promise.all([staying.receivedChanges(1), leaving.receivedChanges(1)]);

  const list = async () => (await worker.request<Clients>("GET", "/clients")).body.clients;
  const both = (await list()).sort((a, b) => a.id.localeCompare(b.id));
  assert.deepEqual(
    both.map(({ id, kind, cursor }) => ({ id, kind, cursor })),
    [
      { id: "leaving", kind: "websocket", cursor: "1-1" },
      { id: "staying", kind: "websocket", cursor: "1-1" },
    ],
  );
  leaving.close();
  await waitFor("the one that left is gone", async () => (await list()).every((client) => client.id !== "leaving"));
  assert.deepEqual(
    (await list()).map((client) => client.id),
    ["staying"],
  );
});

test("once the initial poll has completed, the changes from the slot are in change_history", async (t) => {
  const scenario = await Scenario.start(t);
  const { database, worker } = scenario;
  await database.query("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", [database.slot]);
  await scenario.insert(1, 2, 3, 4, 5);
  assert.equal((await worker.request("POST", "/init")).status, 200);
  const answer = await worker.request<{ complete: boolean; position: string }>("GET", "/wait-for-initial-poll");
  assert.equal(answer.status, 200);
  assert.deepEqual(await scenario.storedItems(), [1, 2, 3, 4, 5]);
  assert.deepEqual(answer.body, { complete: true, position: "1-5" });
});

test("calling /init twice is the same as calling it once", async (t) => {
  const scenario = await Scenario.start(t);
  const { database, worker } = scenario;
  await scenario.initialise();
  await scenario.insert(1);
  await worker.request("POST", "/poll");
  await scenario.initialise();
  await scenario.insert(2);
  await worker.request("POST", "/poll");
  assert.deepEqual(await scenario.storedItems(), [1, 2]);
  const slots = await database.query("SELECT slot_name FROM pg_replication_slots WHERE database = $1", [database.name]);
  assert.deepEqual(slots, [{ slot_name: database.slot }]);
});

test("/init applies a changed configuration, which survives an eviction", async (t) => {
  const scenario = await Scenario.start(t);
  const { worker } = scenario;
  await scenario.initialise();
  await scenario.initialise({ pollInterval: 250 });
  await worker.evict();
  const { body } = await worker.request<Status>("GET", "/status");
  assert.equal(body.config?.pollInterval, 250);
});

test("/init with an invalid configuration names the field", async (t) => {
  const scenario = await Scenario.start(t);
  const answer = await scenario.worker.request<Refusal>("POST", "/init", { pollInterval: -1 });
  assert.equal(answer.status, 400);
  assert.equal(answer.body.error.retryable, false);
  assert.match(answer.body.error.message, /pollInterval/);
});

test("/init without its publication answers with the SQL that creates it, and that SQL works", async (t) => {
  const scenario = await Scenario.start(t, { publish: false });
  const { database, worker } = scenario;
  const answer = await worker.request<Refusal>("POST", "/init");
  assert.equal(answer.status, 424);
  const sql = answer.body.error.remedy?.match(/CREATE PUBLICATION \S+ FOR/)?.[0];
  assert.ok(sql, JSON.stringify(answer.body));
  await database.query(`${sql} TABLE items`);
  await scenario.initialise();
  await scenario.insert(1);
  await worker.request("POST", "/poll");
  assert.deepEqual(await scenario.storedItems(), [1]);
});

test("when /poll answers a writer, its change is in change_history", async (t) => {
  const scenario = await Scenario.start(t);
  const { worker } = scenario;
  // Nobody listens and the next poll is an hour away, so only the nudge can have stored it.
  await scenario.initialise({ hibernationDelay: 3_600_000 });
  for (const id of [1, 2, 3]) {
    await scenario.insert(id);
    const answer = await worker.request<{ position: string }>("POST", "/poll");
    assert.equal(answer.status, 200);
    assert.equal(answer.body.position, `1-${id}`);
    assert.equal((await scenario.storedItems()).at(-1), id);
  }
});

test("no endpoint can be used without the token", async (t) => {
  const scenario = await Scenario.start(t);
  const { worker } = scenario;
  for (const path of ["/status", "/clients", "/wait-for-initial-poll", "/ws", "/anything"]) {
    assert.equal((await worker.fetch(path)).status, 401, path);
    assert.equal((await worker.fetch(`${path}?token=${worker.token}`)).status, 401, `${path} with the token in the URL`);
    const wrong = { headers: { authorization: `Bearer ${worker.token}x` } };
    assert.equal((await worker.fetch(path, wrong)).status, 401, `${path} with a wrong token`);
  }
  for (const path of ["/init", "/poll"]) assert.equal((await worker.fetch(path, { method: "POST" })).status, 401, path);
  await assert.rejects(worker.connect({ token: "wrong" }), /401/);
});

test("an upgrade is answered with the requested protocol, never with the token", async (t) => {
  const scenario = await Scenario.start(t);
  await scenario.initialise();
  const feed = await scenario.worker.connect();
  assert.equal(feed.protocol, "replication.v1");
});

test("unknown paths and unknown methods have different answers", async (t) => {
  const scenario = await Scenario.start(t);
  assert.equal((await scenario.worker.request<Refusal>("GET", "/nowhere")).status, 404);
  assert.equal((await scenario.worker.request<Refusal>("GET", "/init")).status, 405);
});
