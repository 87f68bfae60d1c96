// When the library tells the server what has been dealt with.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { Acknowledgements } from "../../client/src/acknowledgements.ts";
import { memoryStorage } from "../../client/src/index.ts";
import { waitFor } from "../e2e/support/wait-for.ts";
import { caughtUp, changes, follow, say, server, welcome, type Visit } from "./support/fake-server.ts";

/** Acknowledgements by size or time, and the positions that they send. */
function acknowledging(everyChars: number, everyMs: number): { acknowledgements: Acknowledgements; sent: string[] } {
  const sent: string[] = [];
  return { acknowledgements: new Acknowledgements({ everyChars, everyMs }, (position) => void sent.push(position)), sent };
}

test("an acknowledgement is sent at once when enough has been dealt with", () => {
  const { acknowledgements, sent } = acknowledging(100, 60_000);
  const frames = [40, 40, 40, 250].map((size) => acknowledgements.received(size));
  frames.forEach((dealtWith, index) => dealtWith(`1-${index + 1}`));
  assert.deepEqual(sent, ["1-3", "1-4"]);
  acknowledgements.abandon();
});

test("smaller amounts are acknowledged once, after a while, and nothing is sent without anything new", async () => {
  const { acknowledgements, sent } = acknowledging(100, 40);
  for (const position of ["1-1", "1-2"]) acknowledgements.received(10)(position);
  assert.deepEqual(sent, []);
  await waitFor("the acknowledgement", () => sent.length === 1);
  await delay(100);
  assert.deepEqual(sent, ["1-2"]);
});

test("changes that have arrived are not acknowledged before they have been dealt with", async () => {
  const { acknowledgements, sent } = acknowledging(100, 10);
  const [first] = [acknowledgements.received(10), acknowledgements.received(10_000)];
  first("1-1");
  await waitFor("the acknowledgement", () => sent.length > 0);
  await delay(30);
  assert.deepEqual(sent, ["1-1"]);
});

test("nothing is sent after a new subscription was requested or the connection has ended", async () => {
  const { acknowledgements, sent } = acknowledging(100, 10);
  const [first, second] = [acknowledgements.received(10), acknowledgements.received(200)];
  first("1-1");
  acknowledgements.abandon();
  second("1-2");
  await delay(40);
  assert.deepEqual(sent, []);
});

test("the position of a new subscription is acknowledged once, and covers everything before it", async () => {
  const { acknowledgements, sent } = acknowledging(100, 10);
  acknowledgements.received(10)("1-1");
  acknowledgements.received(5_000);
  acknowledgements.abandon();
  acknowledgements.subscribed("1-0");
  acknowledgements.received(99)("1-1");
  assert.deepEqual(sent, ["1-0"]);
  await waitFor("the acknowledgement", () => sent.length === 2);
  assert.deepEqual(sent, ["1-0", "1-1"]);
});

test("the time of an acknowledgement is different for each client", async () => {
  const times = await Promise.all(
    Array.from({ length: 20 }, async () => {
      const { acknowledgements, sent } = acknowledging(100, 200);
      const started = performance.now();
      acknowledgements.received(1)("1-1");
      await waitFor("the acknowledgement", () => sent.length === 1, undefined, 2);
      return performance.now() - started;
    }),
  );
  assert.ok(Math.min(...times) >= 95, times.join(", "));
  assert.ok(Math.max(...times) - Math.min(...times) > 20, times.join(", "));
});

test("a small change is acknowledged within five seconds, though nothing follows it", async (t) => {
  // The earliest time of all clients: half of the longest.
  t.mock.method(Math, "random", () => 0);
  const { url, visits } = await server(t, say(welcome("1-0"), changes(0, 1, [1]), changes(1, 2, [2])));
  const started = performance.now();
  const { ids } = follow(t, { url });
  await waitFor("both changes", () => ids().length === 2);
  await waitFor("the acknowledgement", () => visits[0]?.heard.length === 1);
  // The timer fires after half of that. The rest allows for a busy machine.
  assert.ok(performance.now() - started < 5_000);
  assert.deepEqual(visits[0]?.heard, ['{"type":"ack","position":"1-2"}']);
});

/** Answers each `subscribe` with a welcome that says where the subscription stands, followed by one change. */
const subscribing = (visit: Visit) => {
  say(welcome("1-0"), changes(0, 1, [1]))(visit);
  visit.socket.on("message", (text) => {
    if (String(text).includes("subscribe")) say(changes(1, 2, [2]), { ...welcome("1-5"), position: "1-1" }, changes(1, 5, [5]))(visit);
  });
};

test("after a changed subscription the position of its welcome is acknowledged, and then its changes", async (t) => {
  const { url, visits } = await server(t, subscribing);
  const { feed, ids } = follow(t, { url, ack: true });
  await waitFor("the first acknowledgement", () => visits[0]?.heard.length === 1);
  await feed.subscribe(["items"]);
  await waitFor("the next change", () => ids().length === 2);
  await waitFor("its acknowledgement", () => visits[0]?.heard.length === 4);
  assert.deepEqual(visits[0]?.heard, [
    '{"type":"ack","position":"1-1"}',
    '{"type":"subscribe","subscriptions":[{"table":"items"}],"after":"1-1"}',
    '{"type":"ack","position":"1-1"}',
    '{"type":"ack","position":"1-5"}',
  ]);
});

test("without acknowledgements the position of a welcome is not acknowledged either", async (t) => {
  for (const options of [{ ack: false }, { commit: "manual" as const }]) {
    const { url, visits } = await server(t, subscribing);
    const { feed, batches, ids } = follow(t, { url, ...options });
    await waitFor("the first change", () => ids().length === 1);
    await feed.subscribe(["items"]);
    await waitFor("the next change", () => ids().length === 2);
    for (const batch of batches) await batch.commit();
    await delay(50);
    assert.deepEqual(
      visits[0]?.heard.map((text) => (JSON.parse(text) as { type: string }).type),
      ["subscribe"],
    );
  }
});

test("the welcome that answers an upgrade is not acknowledged, since nothing came before it", async (t) => {
  const { url, visits } = await server(t, say({ ...welcome("1-0"), position: "1-0" }, caughtUp(0)));
  const { states } = follow(t, { url, ack: true });
  await waitFor("the feed is live", () => states.at(-1)?.status === "live");
  await delay(50);
  assert.deepEqual(visits[0]?.heard, []);
});

test("a repeated frame is acknowledged after the changes that came before it, never ahead of them", async (t) => {
  const { url, visits } = await server(t, say(welcome("1-0"), changes(0, 1, [1]), changes(1, 2, [2]), changes(0, 2, [1, 2])));
  const { batches } = follow(t, { url, ack: true, commit: "manual" });
  await waitFor("both batches", () => batches.length === 2);
  await delay(50);
  assert.deepEqual(visits[0]?.heard, []);
  for (const batch of batches) await batch.commit();
  await waitFor("the acknowledgement", () => visits[0]?.heard.includes('{"type":"ack","position":"1-2"}'));
});

test("a batch is acknowledged once it has been dealt with, and only over the connection that brought it", async (t) => {
  const { url, visits } = await server(
    t,
    say(welcome("1-0"), changes(0, 1, [1]), changes(1, 2, [2])),
    say(welcome("1-2"), changes(2, 3, [3])),
  );
  const { batches } = follow(t, { url, ack: true, commit: "manual" });
  await waitFor("two batches", () => batches.length === 2);
  await batches[0]?.commit();
  await waitFor("the acknowledgement", () => visits[0]?.heard.includes('{"type":"ack","position":"1-1"}'));
  visits[0]?.socket.terminate();
  await waitFor("the third batch", () => batches.length === 3);
  await batches[1]?.commit();
  await batches[2]?.commit();
  await waitFor("the acknowledgement", () => visits[1]?.heard.includes('{"type":"ack","position":"1-3"}'));
  assert.deepEqual(visits[1]?.heard, ['{"type":"ack","position":"1-3"}']);
});

test("by default the library acknowledges every 64 KiB or five seconds, but not with manual commits", async (t) => {
  const large = (id: number) => {
    const frame = changes(id - 1, id, [id]);
    return { ...frame, changes: frame.changes.map((change) => ({ ...change, data: { text: "x".repeat(25_000) } })) };
  };
  const script = say(welcome("1-0"), ...Array.from({ length: 7 }, (_, index) => large(index + 1)), changes(7, 8, [8]));
  const { url, visits } = await server(t, script);
  const { ids } = follow(t, { url });
  await waitFor("all changes", () => ids().length === 8);
  const acks = () => visits[0]?.heard.filter((text) => text.includes("ack"));
  await waitFor("three acknowledgements", () => acks()?.length === 3);
  assert.deepEqual(acks(), ['{"type":"ack","position":"1-3"}', '{"type":"ack","position":"1-6"}', '{"type":"ack","position":"1-8"}']);
  assert.equal(visits[0]?.query.get("ack"), "1");
  const manual = follow(t, { url, commit: "manual" });
  await waitFor("all changes", () => manual.ids().length === 8);
  for (const batch of manual.batches) await batch.commit();
  assert.equal(visits[1]?.query.get("ack"), null);
  assert.deepEqual(visits[1]?.heard, []);
});

test("a position that came without changes is stored and not acknowledged, since the server counts only changes", async (t) => {
  const storage = memoryStorage();
  const { url, visits } = await server(t, say(welcome("1-0"), caughtUp(0), { type: "progress", position: "1-5" }, changes(5, 6, [6])));
  follow(t, { url, ack: true, storage });
  await waitFor("the position", async () => (await storage.get()) === "1-6");
  await waitFor("the acknowledgement", () => visits[0]?.heard.length === 1);
  assert.deepEqual(visits[0]?.heard, ['{"type":"ack","position":"1-6"}']);
});

test("changes from before a changed subscription are not acknowledged after it", async (t) => {
  const script = (visit: Visit) => {
    say(welcome("1-0"), changes(0, 1, [1]))(visit);
    visit.socket.on("message", (text) => String(text).includes("subscribe") && say(welcome("1-1"), changes(1, 2, [2]))(visit));
  };
  const { url, visits } = await server(t, script);
  const { feed, batches } = follow(t, { url, ack: true, commit: "manual" });
  await waitFor("the first batch", () => batches.length === 1);
  await feed.subscribe(["items"]);
  await waitFor("the second batch", () => batches.length === 2);
  await batches[0]?.commit();
  await batches[1]?.commit();
  await waitFor("the acknowledgement", () => visits[0]?.heard.length === 2);
  assert.deepEqual(visits[0]?.heard, [
    '{"type":"subscribe","subscriptions":[{"table":"items"}],"after":"1-1"}',
    '{"type":"ack","position":"1-2"}',
  ]);
});
