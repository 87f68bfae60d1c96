// The client library with the real Worker: changes that are lost on the way come again, and none comes twice.
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import {
  connect,
  FeedError,
  memoryStorage,
  ResetError,
  type Batch,
  type Feed,
  type FeedOptions,
  type FeedState,
  type Reset,
  type TableChange,
} from "../../client/src/index.ts";
import { afterwards } from "./support/afterwards.ts";
import { signTicket } from "../../examples/tickets/sign-ticket.ts";
import { startFeedReader } from "./support/applications.ts";
import { dropSlot } from "./support/database.ts";
import { FaultProxy } from "./support/fault-proxy.ts";
import { Scenario } from "./support/scenario.ts";
import { waitFor } from "./support/wait-for.ts";

/** Short pauses between tries, and short timeouts. */
const hasty = { retry: { firstMs: 20, maxMs: 200 }, watch: { openMs: 2_000, heartbeatMs: 300 } };

/** A feed, and everything that it has reported. */
class Reader {
  readonly batches: Batch[] = [];
  readonly errors: FeedError[] = [];
  readonly states: FeedState[] = [];
  readonly resets: Reset[] = [];
  readonly feed: Feed;

  constructor(t: TestContext, options: FeedOptions) {
    this.feed = connect({
      ...hasty,
      onChanges: (batch) => void this.batches.push(batch),
      onReset: (reset) => void this.resets.push(reset),
      onError: (error) => void this.errors.push(error),
      onState: (state) => void this.states.push(state),
      ...options,
    });
    afterwards(t, () => this.feed.close());
  }

  get changes(): TableChange[] {
    return this.batches.flatMap((batch) => [...batch.changes]);
  }

  get items(): unknown[] {
    return this.changes.map((change) => change.data["id"]);
  }

  async received(count: number): Promise<TableChange[]> {
    return waitFor(`${count} changes`, () => this.changes.length >= count && this.changes);
  }

  async state<Status extends FeedState["status"]>(status: Status): Promise<void> {
    await waitFor(`the feed is ${status}`, () => this.states.at(-1)?.status === status);
  }
}

const ticketSecret = "a secret of the application, of 32 bytes or more";

async function start(t: TestContext, config: object = { pollInterval: 50 }) {
  const scenario = await Scenario.start(t, { secrets: { REPLICATION_TICKET_SECRET: ticketSecret } });
  await scenario.initialise(config);
  const { url, token } = scenario.worker;
  return { scenario, database: scenario.database, worker: scenario.worker, access: { url, token } };
}

const upTo = (count: number) => Array.from({ length: count }, (_, index) => index + 1);

test("a loop over the feed receives each change, typed by its table and operation", async (t) => {
  const { database, access } = await start(t);
  const feed = connect<{ items: { id: number; name: string } }>({ ...access, tables: ["items"] });
  afterwards(t, () => feed.close());
  const { head, epoch } = await feed.ready;
  assert.equal(head, `${epoch}-0`);
  await database.query("INSERT INTO items VALUES (1, 'lamp')");
  await database.query("UPDATE items SET name = 'desk lamp'");
  await database.query("DELETE FROM items");
  await database.query("TRUNCATE items");
  const seen: string[] = [];
  for await (const batch of feed) {
    for (const change of batch.changes) {
      switch (change.operation) {
        case "insert":
          seen.push(`+ ${change.data.id} ${change.data.name.toUpperCase()}`);
          break;
        case "update":
          seen.push(`= ${change.data.id} ${change.data.name?.toUpperCase()}`);
          break;
        case "delete":
          seen.push(`- ${change.data.id}`);
          break;
        case "truncate":
          seen.push(`x ${change.table}`);
          break;
        default:
          assert.fail(change satisfies never);
      }
    }
    if (seen.length === 4) break;
  }
  assert.deepEqual(seen, ["+ 1 LAMP", "= 1 DESK LAMP", "- 1", "x items"]);
  await feed.done;
});

test("a connection that is cut anywhere loses and duplicates nothing", async (t) => {
  const { scenario, worker, access } = await start(t);
  const { proxy, url } = await FaultProxy.to(t, worker.url.href);
  const reader = new Reader(t, { ...access, url, after: "earliest" });
  await reader.state("live");
  let written = 0;
  // A new connection sends about 350 bytes, and receives the upgrade, a welcome of 100 bytes, and changes.
  for (const [direction, ...sizes] of [
    ["received", 1, 60, 150, 200, 260, 320, 450, 600],
    ["sent", 1, 100, 300],
  ] as const) {
    for (const bytes of sizes) {
      const cut = proxy.cutAfter(direction, bytes);
      proxy.cutNow();
      await scenario.insert(++written, ++written);
      await cut;
      await reader.received(written);
    }
  }
  assert.deepEqual(reader.items, upTo(written));
  assert.deepEqual(
    reader.changes.map(({ id }) => id),
    upTo(written),
  );
  assert.deepEqual(await scenario.storedItems(), upTo(written));
  assert.ok(reader.errors.some(({ kind, retryable }) => kind === "connection" && retryable));
});

test("a network that dies silently is noticed, and the feed continues over another connection", async (t) => {
  const { scenario, worker, access } = await start(t);
  const { proxy, url } = await FaultProxy.to(t, worker.url.href);
  const reader = new Reader(t, { ...access, url });
  await reader.state("live");
  proxy.pause();
  await scenario.insert(1, 2);
  await waitFor("the silence is noticed", () => reader.errors.some(({ message }) => message.includes("nothing heard")));
  proxy.cutNow();
  proxy.resume();
  assert.deepEqual(
    (await reader.received(2)).map(({ id }) => id),
    [1, 2],
  );
});

test("a program that restarts resumes from its stored position, whatever happened meanwhile", async (t) => {
  const { scenario, worker, access } = await start(t);
  const storage = memoryStorage();
  const before = new Reader(t, { ...access, storage });
  await before.state("live");
  await scenario.insert(1, 2);
  await before.received(2);
  await waitFor("the position is stored", async () => (await storage.get()) === "1-2");
  before.feed.close();
  await before.feed.done;

  await scenario.insert(3);
  await worker.restart();
  await scenario.insert(4);
  const after = new Reader(t, { ...access, url: worker.url, storage });
  await after.received(2);
  assert.deepEqual([...before.items, ...after.items], [1, 2, 3, 4]);
});

test("the default start is the first welcome, even for a program that ends before the first change", async (t) => {
  const { scenario, access } = await start(t);
  const storage = memoryStorage();
  const before = new Reader(t, { ...access, storage });
  await before.state("live");
  before.feed.close();
  await scenario.insert(1);
  const after = new Reader(t, { ...access, storage });
  assert.deepEqual(
    (await after.received(1)).map(({ id }) => id),
    [1],
  );
});

test("a batch that the consumer fails on comes again, and earlier ones do not", async (t) => {
  const { scenario, access } = await start(t);
  const storage = memoryStorage();
  await scenario.insert(1);
  const dealtWith: unknown[] = [];
  const read = async (failAt: number | undefined, until: number) => {
    const feed = connect({ ...access, ...hasty, storage, after: "earliest" });
    for await (const { changes } of feed) {
      for (const { data } of changes) {
        if (data["id"] === failAt) throw new Error(`cannot deal with ${failAt}`);
      }
      dealtWith.push(...changes.map(({ data }) => data["id"]));
      if (dealtWith.length >= until) return feed.close();
      await scenario.insert(dealtWith.length + 1);
    }
  };
  await assert.rejects(read(3, 9), /cannot deal with 3/);
  assert.deepEqual(dealtWith, [1, 2]);
  assert.equal(await storage.get(), "1-2");
  await read(undefined, 5);
  assert.deepEqual(dealtWith, [1, 2, 3, 4, 5]);
});

test("a callback that fails ends the feed with its error, and its batch comes again", async (t) => {
  const { scenario, access } = await start(t);
  const storage = memoryStorage();
  const failing = new Reader(t, {
    ...access,
    storage,
    onChanges: async () => {
      throw new Error("no room");
    },
  });
  await failing.state("live");
  await scenario.insert(1);
  await assert.rejects(
    failing.feed.done,
    (error) => error instanceof FeedError && error.kind === "consumer" && /no room/.test(error.message),
  );
  assert.equal(await storage.get(), "1-0");
  const next = new Reader(t, { ...access, storage });
  assert.deepEqual(
    (await next.received(1)).map(({ id }) => id),
    [1],
  );
});

test("with manual commits only what was committed is stored", async (t) => {
  const { scenario, access } = await start(t);
  const storage = memoryStorage();
  const reader = new Reader(t, { ...access, storage, commit: "manual" });
  await reader.state("live");
  for (const id of [1, 2, 3]) {
    await scenario.insert(id);
    await reader.received(id);
  }
  assert.equal(await storage.get(), "1-0");
  await reader.batches[1]?.commit();
  assert.equal(await storage.get(), "1-2");
  await reader.batches[0]?.commit();
  assert.equal(await storage.get(), "1-2", "an earlier batch does not take it back");
  await reader.batches[2]?.commit();
  assert.equal(await storage.get(), "1-3");
});

test("a slow consumer loses nothing: the feed disconnects, and resumes when there is room", async (t) => {
  const { scenario, database, access } = await start(t);
  let release = () => {};
  const held = new Promise<void>((resolve) => (release = resolve));
  const sizes: number[] = [];
  const reader: Reader = new Reader(t, {
    ...access,
    maxBuffered: 200_000,
    onFrame: (frame) => void sizes.push(frame.length),
    onChanges: async (batch) => {
      await held;
      reader.batches.push(batch);
    },
  });
  await reader.state("live");
  for (let chunk = 0; chunk < 10; chunk += 1) {
    await database.query("INSERT INTO items SELECT id, repeat('x', 1000) FROM generate_series($1::int, $1::int + 99) AS id", [
      chunk * 100 + 1,
    ]);
    await scenario.worker.request("POST", "/poll");
  }
  await reader.state("paused");
  const received = sizes.reduce((sum, size) => sum + size, 0);
  assert.ok(received < 600_000, `${received} characters were received`);
  release();
  await reader.received(1_000);
  assert.deepEqual(reader.items, upTo(1_000));
});

test("a reset is reported, and changes that are written while the application reloads are not lost", async (t) => {
  const { scenario, database, access } = await start(t);
  const storage = memoryStorage();
  const reader: Reader = new Reader(t, {
    ...access,
    storage,
    onReset: async (reset) => {
      reader.resets.push(reset);
      // A write during the reload.
      await scenario.insert(2);
    },
  });
  await reader.state("live");
  await dropSlot(database);
  await scenario.insert(1);
  await waitFor("the reset", () => reader.resets.length > 0);
  await scenario.insert(3);
  await reader.received(2);
  assert.deepEqual(
    reader.resets.map(({ reason }) => reason),
    ["epoch_changed"],
  );
  assert.deepEqual(reader.items, [2, 3]);
  await waitFor("the position is of the new epoch", async () => (await storage.get())?.startsWith("2-"));
});

test("a client that begins with the earliest change receives the kept changes of earlier epochs too", async (t) => {
  const { scenario, database, worker, access } = await start(t);
  await scenario.insert(1);
  await worker.request("POST", "/poll");
  await dropSlot(database);
  await waitFor("the next epoch", async () => {
    await worker.request("POST", "/poll");
    return (await worker.request<{ epoch: number }>("GET", "/status")).body.epoch === 2;
  });
  await scenario.insert(2);
  const reader = new Reader(t, { ...access, after: "earliest" });
  assert.deepEqual(
    (await reader.received(2)).map(({ id, epoch }) => ({ id, epoch })),
    [
      { id: 1, epoch: 1 },
      { id: 2, epoch: 2 },
    ],
  );
  assert.deepEqual(reader.errors, []);
});

test("a reset without onReset ends the feed, and ends it again the next time", async (t) => {
  const { scenario, database, access } = await start(t);
  const storage = memoryStorage();
  const unaware = { ...access, storage, onReset: undefined };
  const reader = new Reader(t, unaware);
  await reader.state("live");
  await dropSlot(database);
  await scenario.insert(1);
  const isReset = (error: unknown) => error instanceof ResetError && error.reason === "epoch_changed" && error.position.startsWith("2-");
  await assert.rejects(reader.feed.done, isReset);
  assert.equal(await storage.get(), "1-0");
  await assert.rejects(new Reader(t, unaware).feed.done, isReset);
});

test("a wrong token ends the feed with the server's answer, unless a function can fetch another", async (t) => {
  const { scenario, access } = await start(t);
  const wrong = new Reader(t, { ...access, token: "wrong" });
  await assert.rejects(
    wrong.feed.done,
    (error) => error instanceof FeedError && error.kind === "refused" && error.code === "unauthorized" && !error.retryable,
  );
  await assert.rejects(wrong.feed.ready, FeedError);

  let asked = 0;
  const renewed = new Reader(t, { ...access, token: async () => (++asked > 2 ? access.token : "expired") });
  await renewed.state("live");
  assert.equal(asked, 3);
  await scenario.insert(1);
  await renewed.received(1);
});

test("the feed waits for a server that is down", async (t) => {
  const { scenario, worker, access } = await start(t);
  const { proxy, url } = await FaultProxy.to(t, worker.url.href);
  proxy.refuse(true);
  const reader = new Reader(t, { ...access, url });
  await waitFor("it was tried more than once", () => reader.errors.filter(({ kind }) => kind === "connection").length > 2);
  proxy.refuse(false);
  await reader.state("live");
  await scenario.insert(1);
  await reader.received(1);
});

test("a signal ends the feed and its loop, and a feed has one reader", async (t) => {
  const { access } = await start(t);
  const stop = new AbortController();
  const feed = connect({ ...access, signal: stop.signal });
  const loop = (async () => {
    for await (const _ of feed);
  })();
  await feed.ready;
  assert.throws(() => feed[Symbol.asyncIterator](), /one reader/);
  stop.abort();
  await loop;
  await feed.done;
  await assert.rejects(connect({ ...access, signal: stop.signal }).ready, /closed/);
});

test("a filtered feed receives only its rows, and resumes after a lost connection", async (t) => {
  const { scenario, worker, access } = await start(t);
  const { proxy, url } = await FaultProxy.to(t, worker.url.href);
  await scenario.insert(1, 2, 3, 4);
  await worker.request("POST", "/poll");
  const reader = new Reader(t, {
    ...access,
    url,
    after: "1-1",
    subscriptions: [{ table: "items", filter: [{ column: "id", op: "in", value: [1, 2, 4, 6] }] }],
  });
  await reader.received(2);
  proxy.cutNow();
  await scenario.insert(5, 6);
  await reader.received(3);
  assert.deepEqual(reader.items, [2, 4, 6]);
  await waitFor("the position is past what does not match", () => reader.feed.position === "1-6");
});

test("the subscription changes while the feed runs, and a mistake changes nothing", async (t) => {
  const { scenario, database, access } = await start(t);
  await database.query("CREATE TABLE notes (id int PRIMARY KEY)");
  await database.query(`ALTER PUBLICATION ${database.slot} ADD TABLE notes`);
  const reader = new Reader(t, { ...access, tables: ["items"] });
  await reader.state("live");
  await database.query("INSERT INTO notes VALUES (100)");
  await scenario.insert(1);
  await reader.received(1);
  await reader.feed.subscribe(["notes", { table: "items", filter: [{ column: "id", op: "gt", value: 2 }] }]);
  await database.query("INSERT INTO notes VALUES (101)");
  await scenario.insert(2, 3);
  await reader.received(3);
  assert.deepEqual(reader.items, [1, 101, 3]);
  await assert.rejects(
    reader.feed.subscribe([{ table: "items", filter: [{ column: "colour", op: "eq", value: "red" }] }]),
    (error) => error instanceof FeedError && error.code === "bad_field" && /colour/.test(error.message),
  );
  await scenario.insert(4);
  await reader.received(4);
  await reader.feed.subscribe(["notes"], { after: "earliest" });
  await reader.received(6);
  assert.deepEqual(reader.items, [1, 101, 3, 4, 100, 101]);
});

test("with acknowledgements the server waits for a slow consumer, which then receives everything over one connection", async (t) => {
  const { scenario, database, worker, access } = await start(t);
  let release = () => {};
  const held = new Promise<void>((resolve) => (release = resolve));
  let received = 0;
  const reader: Reader = new Reader(t, {
    ...access,
    ack: true,
    onFrame: (frame) => void (received += frame.length),
    onChanges: async (batch) => {
      await held;
      reader.batches.push(batch);
    },
  });
  await reader.state("live");
  await database.query("INSERT INTO items SELECT id, repeat('x', 100000) FROM generate_series(1, 150) AS id");
  await worker.request("POST", "/poll");
  const window = 8 << 20;
  await waitFor("a full window", () => received >= window);
  await scenario.insert(151);
  await worker.request("POST", "/poll");
  assert.ok(received < window + (2 << 20), `${received} characters without an acknowledgement`);
  release();
  await reader.received(151);
  assert.deepEqual(reader.items, upTo(151));
  assert.equal(reader.states.filter(({ status }) => status === "connecting").length, 1);
  assert.deepEqual(reader.errors, []);
});

test("a ticket opens its tables, and a new one is fetched when it has expired", async (t) => {
  const { scenario, access } = await start(t);
  let fetched = 0;
  const ticket = () => {
    fetched += 1;
    return signTicket(ticketSecret, [{ table: "items", filter: [{ column: "id", op: "lt", value: 3 }] }], fetched === 1 ? 2 : 60);
  };
  const reader = new Reader(t, { url: access.url, ticket });
  await reader.state("live");
  await waitFor("the next ticket", () => fetched >= 2);
  await reader.state("live");
  await scenario.insert(1, 2, 3);
  await reader.received(2);
  assert.deepEqual(reader.items, [1, 2]);
  const foreign = new Reader(t, { url: access.url, ticket, tables: ["secrets"] });
  await waitFor("it is refused", () => foreign.states.some(({ status }) => status === "waiting" || status === "closed"));
  assert.deepEqual(foreign.changes, []);
});

test("a Worker follows the feed as a browser does, over its own WebSocket", async (t) => {
  const { scenario, access } = await start(t);
  await scenario.insert(1, 2, 3);
  const reader = await startFeedReader(t);
  reader.search = new URLSearchParams({ url: access.url.href, token: access.token, count: "3" }).toString();
  assert.deepEqual(await (await fetch(reader)).json(), [1, 2, 3]);
});
