// How the library reacts to what the real server never does on purpose: invalid frames, gaps, refusals. The server here is a
// WebSocket that sends exactly what a test tells it to.
import assert from "node:assert/strict";
import { test } from "node:test";
import { FeedError, memoryStorage } from "../../client/src/index.ts";
import { waitFor } from "../e2e/support/wait-for.ts";
import { caughtUp, change, changes, follow, say, server, welcome, type Visit } from "./support/fake-server.ts";

test("after a gap the feed connects again, and asks for the missing changes", async (t) => {
  const { url, visits } = await server(
    t,
    say(welcome("1-0"), changes(0, 1, [1]), changes(2, 3, [3])),
    say(welcome("1-3"), changes(1, 3, [2, 3])),
  );
  const { ids, errors } = follow(t, { url });
  await waitFor("all changes", () => ids().length === 3);
  assert.deepEqual(ids(), [1, 2, 3]);
  assert.deepEqual(
    errors.map(({ kind }) => kind),
    ["gap"],
  );
  assert.equal(visits[1]?.query.get("after"), "1-1");
});

test("changes that come twice are given out once", async (t) => {
  const { url } = await server(t, say(welcome("1-0"), changes(0, 2, [1, 2]), changes(0, 2, [1, 2]), changes(1, 3, [2, 3])));
  const { ids } = follow(t, { url });
  await waitFor("all changes", () => ids().includes(3));
  assert.deepEqual(ids(), [1, 2, 3]);
});

for (const [what, frame] of [
  ["text that is not JSON", "{"],
  ["a change without its table", { ...changes(1, 2, [2]), changes: [{ ...change(2), table: undefined }] }],
  ["a change with an id that a double would round", { ...changes(1, 2, [2]), changes: [{ ...change(2), id: 2 ** 53 }] }],
  ["an unknown operation", { ...changes(1, 2, [2]), changes: [{ ...change(2), operation: "upsert" }] }],
  ["an invalid position", { ...changes(1, 2, [2]), to: "1-02" }],
  ["a list instead of an object", []],
  ["null", "null"],
] as const) {
  test(`${what} never reaches the application, and the feed continues from before it`, async (t) => {
    const { url, visits } = await server(t, say(welcome("1-0"), changes(0, 1, [1]), frame), say(welcome("1-2"), changes(1, 2, [2])));
    const { ids, errors } = follow(t, { url });
    await waitFor("all changes", () => ids().length === 2);
    assert.deepEqual(ids(), [1, 2]);
    assert.deepEqual(
      errors.map(({ kind }) => kind),
      ["protocol"],
    );
    assert.equal(visits[1]?.query.get("after"), "1-1");
  });
}

test("a binary frame is not part of the protocol", async (t) => {
  const { url } = await server(t, ({ socket }) => socket.send(Buffer.from([1, 2, 3])), say(welcome("1-0"), changes(0, 1, [1])));
  const { ids, errors } = follow(t, { url });
  await waitFor("a change", () => ids().length === 1);
  assert.deepEqual(
    errors.map(({ kind }) => kind),
    ["protocol"],
  );
});

test("a frame of an unknown type is reported and skipped", async (t) => {
  const { url, visits } = await server(t, say(welcome("1-0"), { type: "weather", is: "fine" }, changes(0, 1, [1])));
  const { ids, errors } = follow(t, { url });
  await waitFor("a change", () => ids().length === 1);
  assert.match(errors[0]?.message ?? "", /"weather"/);
  assert.equal(visits.length, 1);
});

test("a server that sends only nonsense is tried less and less often, at unpredictable times", async (t) => {
  const { url, visits } = await server(t, say("nonsense"));
  const pauses: number[] = [];
  follow(t, { url, retry: { firstMs: 4, maxMs: 100 }, onState: (state) => state.status === "waiting" && pauses.push(state.retryMs) });
  await waitFor("ten tries", () => visits.length >= 10);
  for (const [index, pause] of pauses.entries()) assert.ok(pause <= Math.min(100, 4 * 2 ** index), `pause ${index}: ${pause} ms`);
  // Each is anywhere up to its bound. All nine are below 4 ms once in ten thousand million runs.
  assert.ok(
    pauses.some((pause) => pause > 4),
    pauses.join(", "),
  );
  assert.equal(new Set(pauses).size, pauses.length);
});

test("a silent server is pinged: the connection is kept if it answers, and dropped if not", async (t) => {
  const answering = (visit: Visit) => {
    say(welcome("1-0"), caughtUp(0))(visit);
    visit.socket.on("message", () => visit.heard.length <= 3 && visit.socket.send("pong"));
  };
  const { url, visits } = await server(t, answering);
  const { errors } = follow(t, { url, watch: { openMs: 1_000, heartbeatMs: 100 } });
  await waitFor("another connection", () => visits.length === 2);
  // On a busy machine timers are late, and a late timer sends one more ping.
  assert.ok((visits[0]?.heard.length ?? 0) >= 4);
  assert.deepEqual(new Set(visits[0]?.heard), new Set(["ping"]));
  assert.equal(errors[0]?.message, "nothing heard for 100 ms");
});

test("the token goes into a subprotocol, never into the URL", async (t) => {
  const { url, visits } = await server(t, say(welcome("1-0"), caughtUp(0)));
  const { feed } = follow(t, { url: `${url}/feeds/`, token: "töken/+?", tables: ["a", "b.c"], clientId: "me", ack: true });
  await feed.ready;
  const [visit] = visits;
  assert.equal(visit?.path, "/feeds/ws");
  assert.equal(visit?.protocols, `replication.v1, bearer.${Buffer.from("töken/+?").toString("base64url")}`);
  assert.deepEqual(Object.fromEntries(visit?.query ?? []), { v: "1", tables: "a,b.c", client: "me", ack: "1" });
});

test("with filters the feed subscribes from where it stands, and drops frames that come before the answer", async (t) => {
  const subscriptions = [{ table: "items", filter: [{ column: "id", op: "gt", value: 5 }] }] as const;
  const script = (visit: Visit) => {
    say(welcome("1-9"), changes(9, 10, [10]))(visit);
    visit.socket.on("message", () => say(changes(10, 11, [11]), welcome("1-11"), changes(7, 11, [8, 11]), caughtUp(11))(visit));
  };
  const { url, visits } = await server(t, script);
  const { ids } = follow(t, { url, subscriptions, after: "1-7" });
  await waitFor("changes", () => ids().length > 0);
  assert.deepEqual(ids(), [8, 11]);
  assert.equal(visits[0]?.query.get("after"), null);
  assert.deepEqual(
    visits[0]?.heard.map((text) => JSON.parse(text) as unknown),
    [{ type: "subscribe", subscriptions, after: "1-7" }],
  );
});

test("with filters and without a position the feed begins at the head when it connected", async (t) => {
  const script = (visit: Visit) => {
    say(welcome("1-9"))(visit);
    visit.socket.on("message", () => say(welcome("1-12"), changes(9, 12, [10, 12]))(visit));
  };
  const { url, visits } = await server(t, script);
  const { ids } = follow(t, { url, subscriptions: [{ table: "items", filter: [{ column: "id", op: "eq", value: 1 }] }] });
  await waitFor("changes", () => ids().length > 0);
  assert.deepEqual(ids(), [10, 12]);
  assert.equal((JSON.parse(visits[0]?.heard[0] ?? "") as { after: string }).after, "1-9");
});

test("a filter that the server refuses ends the feed with the server's error", async (t) => {
  const script = (visit: Visit) => {
    say(welcome("1-0"))(visit);
    visit.socket.on("message", () =>
      say({ type: "error", code: "bad_field", message: "subscriptions[0].filter[0].column: the table has no column", retryable: false })(
        visit,
      ),
    );
  };
  const { url } = await server(t, script);
  const { feed } = follow(t, { url, subscriptions: [{ table: "items", filter: [{ column: "x", op: "eq", value: 1 }] }] });
  await assert.rejects(
    feed.done,
    (error) => error instanceof FeedError && error.kind === "server" && error.code === "bad_field" && !error.retryable,
  );
});

test("a refused change of the subscription rejects, and the feed continues with the previous one", async (t) => {
  const refusing = (visit: Visit) => {
    say(welcome("1-0"), caughtUp(0), changes(0, 1, [1]))(visit);
    visit.socket.on("message", () =>
      say({ type: "error", code: "not_allowed", message: "subscriptions[0].table: not allowed by the ticket", retryable: false })(visit),
    );
  };
  const { url, visits } = await server(t, refusing, say(welcome("1-1"), changes(1, 2, [2])));
  const { feed, ids } = follow(t, { url, tables: ["items"] });
  await waitFor("the first change", () => ids().length === 1);
  await assert.rejects(feed.subscribe(["secrets"]), /not_allowed/);
  await waitFor("the second change", () => ids().length === 2);
  assert.deepEqual(Object.fromEntries(visits[1]?.query ?? []), { v: "1", after: "1-1", tables: "items", ack: "1" });
});

test("a subscription that is changed before the first welcome is requested after it", async (t) => {
  const script = (visit: Visit) => {
    visit.socket.on("message", () => say(welcome("1-4"), changes(4, 5, [5]))(visit));
    // The answer to the upgrade comes only after the change was requested.
    changed.then(
      () => say(welcome("1-4"), changes(4, 5, [5]))(visit),
      () => undefined,
    );
  };
  const { url, visits } = await server(t, script);
  const { promise: changed, resolve: change } = Promise.withResolvers<void>();
  const { feed, ids } = follow(t, { url, tables: ["items"] });
  await waitFor("the connection", () => visits.length === 1);
  const subscribed = feed.subscribe(["notes"]);
  change();
  await subscribed;
  await waitFor("the change", () => ids().length === 1);
  assert.deepEqual(visits[0]?.heard, ['{"type":"subscribe","subscriptions":[{"table":"notes"}],"after":"1-4"}']);
});

test("subscriptions that are changed one after the other are answered one after the other", async (t) => {
  const script = (visit: Visit) => {
    say(welcome("1-0"), caughtUp(0))(visit);
    visit.socket.on("message", (text) => {
      const { subscriptions } = JSON.parse(String(text)) as { subscriptions: { table: string }[] };
      if (subscriptions[0]?.table === "bad") say({ type: "error", code: "not_allowed", message: "no", retryable: false })(visit);
      else say(welcome("1-0"))(visit);
    });
  };
  const { url, visits } = await server(t, script);
  const { feed } = follow(t, { url, tables: ["items"] });
  await feed.ready;
  const answers = await Promise.allSettled([feed.subscribe(["a"]), feed.subscribe(["bad"]), feed.subscribe(["b"])]);
  assert.deepEqual(
    answers.map(({ status }) => status),
    ["fulfilled", "rejected", "fulfilled"],
  );
  assert.equal(visits.length, 2);
});

test("a changed subscription survives a lost connection", async (t) => {
  const losing = (visit: Visit) => {
    say(welcome("1-0"), caughtUp(0))(visit);
    visit.socket.on("message", () => visit.socket.terminate());
  };
  const { url, visits } = await server(t, losing, say(welcome("1-1"), changes(0, 1, [1])));
  const { feed, ids } = follow(t, { url, tables: ["items"] });
  await feed.ready;
  await feed.subscribe(["notes"]);
  await waitFor("the change", () => ids().length === 1);
  assert.equal(visits[1]?.query.get("tables"), "notes");
});

test("warnings are reported with the welcome, and when a table was altered", async (t) => {
  const warning = { table: "orders", columns: ["customer"], message: "m", sql: "ALTER" };
  const { url } = await server(t, say({ ...welcome("1-0"), warnings: [warning] }, { type: "warnings", warnings: [] }, changes(0, 1, [1])));
  const told: unknown[] = [];
  const { ids, errors } = follow(t, { url, onWarnings: (warnings) => void told.push(warnings) });
  await waitFor("the change", () => ids().length === 1);
  assert.deepEqual(told, [[warning], []]);
  assert.deepEqual(errors, []);
});

test("a stored value that is not a position ends the feed, instead of being ignored", async (t) => {
  const { url } = await server(t, say(welcome("1-0")));
  await assert.rejects(
    follow(t, { url, storage: memoryStorage("yesterday") }).feed.done,
    (error) => error instanceof FeedError && error.kind === "storage",
  );
});

test("an expired ticket is followed by a new one", async (t) => {
  const expiring = (visit: Visit) => {
    say(welcome("1-0"), changes(0, 1, [1]), { type: "error", code: "ticket_expired", message: "the ticket has expired", retryable: false })(
      visit,
    );
    visit.socket.close(4001, "the ticket has expired");
  };
  // The next ticket expires before the welcome.
  const tooLate = say({ type: "error", code: "ticket_expired", message: "the ticket has expired", retryable: false });
  const { url, visits } = await server(t, expiring, tooLate, say(welcome("1-1"), changes(1, 2, [2])));
  let fetched = 0;
  const { ids } = follow(t, { url, ticket: async () => `ticket ${++fetched}` });
  await waitFor("both changes", () => ids().length === 2);
  assert.deepEqual(
    visits.map(({ protocols }) => Buffer.from(protocols.split("bearer.")[1] ?? "", "base64url").toString()),
    ["ticket 1", "ticket 2", "ticket 3"],
  );
});

test("a callback that fails ends the feed, and is not mistaken for a failure of the network", async (t) => {
  const { url } = await server(t, say(welcome("1-0")));
  const { feed } = follow(t, {
    url,
    onState: ({ status }) => {
      if (status === "catching_up") throw new Error("oops");
    },
  });
  await assert.rejects(
    feed.done,
    (error) => error instanceof FeedError && error.kind === "consumer" && /onState failed: Error: oops/.test(error.message),
  );
});

test("a rate-limited change of the subscription rejects as retryable, and the feed continues with the previous one", async (t) => {
  const limited = { type: "error", code: "rate_limited", message: "too many subscriptions in a minute", retryable: true };
  const refusing = (visit: Visit) => {
    say(welcome("1-0"), caughtUp(0), changes(0, 1, [1]))(visit);
    visit.socket.on("message", (text) => String(text).includes("subscribe") && say(limited)(visit));
  };
  const { url, visits } = await server(t, refusing, say(welcome("1-1"), changes(1, 2, [2])));
  const { feed, ids } = follow(t, { url, tables: ["items"] });
  await waitFor("the first change", () => ids().length === 1);
  await assert.rejects(
    feed.subscribe(["notes"]),
    (error) => error instanceof FeedError && error.code === "rate_limited" && error.retryable,
  );
  await waitFor("the second change", () => ids().length === 2);
  assert.equal(visits[1]?.query.get("tables"), "items");
  assert.equal(visits[1]?.query.get("after"), "1-1");
});

test("a rate-limited first subscription is requested again", async (t) => {
  const limited = { type: "error", code: "rate_limited", message: "too many subscriptions in a minute", retryable: true };
  const once = (visit: Visit) => {
    say(welcome("1-0"))(visit);
    visit.socket.on("message", () => say(visits.length === 1 ? limited : welcome("1-0"))(visit));
  };
  const { url, visits } = await server(t, once);
  const { feed, errors } = follow(t, { url, subscriptions: [{ table: "items", filter: [{ column: "id", op: "eq", value: 1 }] }] });
  await feed.ready;
  assert.deepEqual(
    errors.map(({ code, retryable }) => ({ code, retryable })),
    [{ code: "rate_limited", retryable: true }],
  );
});
