// Requests of a client over the wire: subscriptions, acknowledgements, pages, and mistakes.
import assert from "node:assert/strict";
import { test } from "node:test";
import type { TableChange } from "./support/feed-socket.ts";
import { Scenario } from "./support/scenario.ts";
import { waitFor } from "./support/wait-for.ts";

interface Page {
  changes: TableChange[];
  next: string;
  head: string;
}

interface Refusal {
  error: { code: string; message: string; retryable: boolean };
}

const ids = (changes: TableChange[]): unknown[] => changes.map((change) => change.data["id"]);

test("a client's mistake is answered, and harms neither it nor anybody else", async (t) => {
  const scenario = await Scenario.start(t);
  const { worker } = scenario;
  await scenario.initialise();
  const [clumsy, other] = await Promise.all([worker.connect(), worker.connect()]);
  await Promise.all([clumsy.message("caught_up"), other.message("caught_up")]);
  const mistakes: [frame: string | Buffer, code: string, says: RegExp][] = [
    ["{", "bad_json", /JSON/],
    ["[]", "unknown_type", /type/],
    ['{"type":"dance"}', "unknown_type", /dance/],
    ['{"type":"subscribe"}', "bad_field", /subscriptions/],
    [
      '{"type":"subscribe","subscriptions":[{"table":"items","filter":[{"column":"id","op":"like","value":1}]}]}',
      "bad_field",
      /subscriptions\[0\]\.filter\[0\]\.op/,
    ],
    ['{"type":"subscribe","subscriptions":[],"extra":1}', "bad_field", /extra/],
    ['{"type":"ack","position":"9-9"}', "bad_position", /epoch/],
    ['{"type":"ack","position":"1-999"}', "bad_position", /ahead/],
    [`{"type":"ack","position":"${"x".repeat(17_000)}"}`, "too_large", /message/],
    [Buffer.from([1, 2, 3]), "binary", /text/],
  ];
  for (const [frame] of mistakes) clumsy.send(frame);
  const errors = await waitFor(`${mistakes.length} errors`, () => {
    const errors = clumsy.messages.filter((message) => message.type === "error");
    return errors.length === mistakes.length && errors;
  });
  mistakes.forEach(([frame, code, says], index) => {
    assert.equal(errors[index]?.code, code, String(frame).slice(0, 80));
    assert.match(errors[index]?.message ?? "", says);
  });
  await scenario.insert(1);
  assert.deepEqual(ids(await clumsy.receivedChanges(1)), [1]);
  assert.deepEqual(ids(await other.receivedChanges(1)), [1]);
});

test("a subscription can change at run time, and begins where it says", async (t) => {
  const scenario = await Scenario.start(t);
  const { worker, database } = scenario;
  await database.query("CREATE TABLE others (id int PRIMARY KEY)");
  await database.query(`ALTER PUBLICATION ${database.slot} ADD TABLE others`);
  await scenario.initialise();
  const feed = await worker.connect({ tables: "items" });
  await feed.message("caught_up");
  await database.query("INSERT INTO others VALUES (100)");
  await scenario.insert(1, 2, 3);
  await feed.receivedChanges(3);
  feed.send({
    type: "subscribe",
    after: "earliest",
    subscriptions: [{ table: "others" }, { table: "items", filter: [{ column: "id", op: "gt", value: "1" }] }],
  });
  const again = (await feed.receivedChanges(6)).slice(3);
  assert.deepEqual(ids(again), [100, 2, 3]);
  // From where it stands.
  feed.send({ type: "subscribe", subscriptions: [{ table: "items", filter: [{ column: "id", op: "in", value: [5, 6] }] }] });
  await waitFor("three welcomes", () => feed.messages.filter((message) => message.type === "welcome").length === 3);
  await scenario.insert(4, 5);
  assert.deepEqual(ids((await feed.receivedChanges(7)).slice(6)), [5]);
});

test("an idle filtered client keeps a fresh position", async (t) => {
  const scenario = await Scenario.start(t);
  const { worker } = scenario;
  await scenario.initialise();
  const feed = await worker.connect({ tables: "nothing" });
  await feed.message("caught_up");
  await scenario.insert(1, 2, 3);
  const progress = await feed.message("progress");
  assert.equal(progress.position, "1-3");
  assert.deepEqual(feed.changes, []);
});

test("with ack=1 a client is sent a window, and the rest when it acknowledges", async (t) => {
  const scenario = await Scenario.start(t);
  const { worker, database } = scenario;
  await scenario.initialise();
  await database.query("INSERT INTO items SELECT id, repeat('x', 100000) FROM generate_series(1, 200) AS id");
  await worker.request("POST", "/poll");
  const feed = await worker.connect({ after: "earliest", ack: "1" });
  const window = 8 << 20;
  const bytes = () => feed.frames.reduce((sum, frame) => sum + frame.length, 0);
  await waitFor("a full window", () => bytes() >= window);
  // Live changes wait too, since they come after earlier changes.
  await scenario.insert(1000);
  await worker.request("POST", "/poll");
  assert.ok(bytes() < window + (2 << 20), `${bytes()} bytes without an acknowledgement`);
  await waitFor("everything, acknowledged as it comes", () => {
    const last = feed.messages.filter((message) => message.type === "changes").at(-1);
    if (last !== undefined) feed.send({ type: "ack", position: last.to });
    return feed.changes.length === 201;
  });
  assert.deepEqual(ids(feed.changes), [...Array.from({ length: 200 }, (_, index) => index + 1), 1000]);
  assert.equal(feed.messages.filter((message) => message.type === "error").length, 0);
});

test("each page of changes continues where the last one ended, up to the head", async (t) => {
  const scenario = await Scenario.start(t);
  const { worker } = scenario;
  await scenario.initialise();
  await scenario.insert(...Array.from({ length: 25 }, (_, index) => index + 1));
  await worker.request("POST", "/poll");
  const seen: unknown[] = [];
  let after = "earliest";
  for (let pages = 0; ; pages++) {
    const { status, body } = await worker.request<Page>("GET", `/changes?limit=10&after=${after}`);
    assert.equal(status, 200);
    seen.push(...ids(body.changes));
    assert.equal(body.head, "1-25");
    after = body.next;
    if (after === body.head) {
      assert.equal(pages, 2);
      break;
    }
  }
  assert.deepEqual(
    seen,
    Array.from({ length: 25 }, (_, index) => index + 1),
  );
  // The pages have exactly the bytes that the WebSocket sends.
  const feed = await worker.connect({ after: "earliest" });
  await feed.receivedChanges(25);
  const whole = await worker.request<Page>("GET", "/changes");
  assert.deepEqual(whole.body.changes, feed.changes);
});

test("a page that is no longer available is 410, and says where to begin", async (t) => {
  const scenario = await Scenario.start(t);
  const { worker, database } = scenario;
  await scenario.initialise();
  await scenario.insert(1, 2, 3);
  await worker.request("POST", "/poll");
  await database.query("DELETE FROM change_history WHERE id <= 2");
  for (const [after, code] of [
    ["1-1", "too_old"],
    ["7-1", "epoch_changed"],
    ["1-9", "epoch_changed"],
  ]) {
    const { status, body } = await worker.request<Refusal>("GET", `/changes?after=${after}`);
    assert.equal(status, 410, after);
    assert.equal(body.error.code, code);
    assert.match(body.error.message, /after 1-2/);
  }
  assert.equal((await worker.request<Page>("GET", "/changes?after=1-2")).body.changes.length, 1);
  // A WebSocket is told the same, and may subscribe again.
  const feed = await worker.connect({ after: "1-1" });
  assert.equal((await feed.message("reset")).reason, "too_old");
  feed.send({ type: "subscribe", after: "earliest", subscriptions: [{ table: "items" }] });
  assert.deepEqual(ids(await feed.receivedChanges(1)), [3]);
});
