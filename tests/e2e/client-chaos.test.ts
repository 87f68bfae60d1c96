// Programs that follow the feed with the client library while everything around them breaks. Each of them ends up with
// exactly its part of the history, in order.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { connect, type Feed, type FeedOptions, type Position } from "../../client/src/index.ts";
import { afterwards } from "./support/afterwards.ts";
import { FaultProxy } from "./support/fault-proxy.ts";
import { Random } from "./support/random.ts";
import { Scenario } from "./support/scenario.ts";
import { waitFor } from "./support/wait-for.ts";

/** A program that keeps its position together with the data it derives, and may crash at any moment. */
class Program {
  /** What it has stored. Both parts change in one step, as in a transaction. */
  stored: { position: Position | undefined; ids: number[] } = { position: undefined, ids: [] };
  readonly problems: unknown[] = [];
  /** The condition for its rows in `change_history`. */
  readonly where: string;
  readonly #options: FeedOptions;
  #feed: Feed | undefined;

  constructor(where: string, options: FeedOptions) {
    this.where = where;
    this.#options = options;
  }

  start(): void {
    let dealtWith: number[] = [];
    let isAlive = true;
    const feed = connect({
      retry: { firstMs: 10, maxMs: 100 },
      watch: { openMs: 2_000, heartbeatMs: 500 },
      after: "earliest",
      ...this.#options,
      storage: {
        get: () => this.stored.position,
        set: (position) => {
          // A crashed program stores nothing.
          if (!isAlive) return;
          this.stored = { position, ids: [...this.stored.ids, ...dealtWith] };
          dealtWith = [];
        },
      },
      onChanges: async ({ changes }) => {
        for (const { id } of changes) {
          dealtWith.push(id);
          if (id % 4 === 0) await turn();
        }
      },
      onError: (error) => !error.retryable && isAlive && this.problems.push(error),
    });
    this.#feed = feed;
    this.crash = () => {
      isAlive = false;
      feed.close();
    };
  }

  /** Ends without warning. */
  crash: () => void = () => undefined;

  /** Requests the same subscription again, from where it stands. */
  resubscribe(): void {
    const { subscriptions } = this.#options;
    // A request that is cut off is answered after the next welcome, or never if the program crashes.
    if (subscriptions !== undefined) this.#feed?.subscribe(subscriptions).catch(() => undefined);
  }
}

test("programs that crash, over connections that break anywhere, each store exactly their part of the history", async (t) => {
  const random = Random.seeded(t);
  const scenario = await Scenario.start(t);
  const { database, worker } = scenario;
  await database.query("ALTER TABLE items REPLICA IDENTITY FULL");
  await scenario.initialise({ pollInterval: 50 });
  const { proxy, url } = await FaultProxy.to(t, worker.url.href);
  const access = { url, token: worker.token };
  const programs = [
    new Program("true", access),
    new Program("true", { ...access, ack: true, maxBuffered: 2_000 }),
    new Program("(data ->> 'id')::int > 50 OR (old_data ->> 'id')::int > 50", {
      ...access,
      subscriptions: [{ table: "items", filter: [{ column: "id", op: "gt", value: 50 }] }],
    }),
    new Program("data ->> 'name' = 'even' OR old_data ->> 'name' = 'even'", {
      ...access,
      ack: true,
      subscriptions: [{ table: "items", filter: [{ column: "name", op: "eq", value: "even" }] }],
    }),
    new Program("false", { ...access, tables: ["nothing"] }),
  ];
  afterwards(t, () => programs.forEach((program) => program.crash()));
  programs.forEach((program) => program.start());

  const poll = () => worker.request("POST", "/poll", undefined, AbortSignal.timeout(5_000));

  let next = 1;
  const any = () => programs[random.below(programs.length)] as Program;
  const actions = [
    () =>
      database.query(
        "INSERT INTO items SELECT id, CASE WHEN id % 2 = 0 THEN 'even' ELSE 'odd' END FROM generate_series($1::int, $2::int) AS id",
        [next, (next += 1 + random.below(9)) - 1],
      ),
    () => database.query("UPDATE items SET name = CASE name WHEN 'even' THEN 'odd' ELSE 'even' END WHERE id % 7 = $1", [random.below(7)]),
    () => database.query("DELETE FROM items WHERE id % 11 = $1", [random.below(11)]),
    () => proxy.cutNow(),
    () => void proxy.cutAfter("received", 1 + random.below(5_000)),
    () => void poll().catch(() => undefined),
    () => any().resubscribe(),
    () => {
      const program = any();
      program.crash();
      program.start();
    },
  ];
  for (let step = 0; step < 120; step += 1) await actions[random.below(actions.length)]?.();
  await waitFor("everything is stored", async () => (await poll()).status === 200);

  const [{ head } = { head: 0 }] = await database.query<{ head: number }>("SELECT max(id)::int AS head FROM change_history");
  await waitFor("every program stands at the head", () => {
    for (const { where, stored } of programs) assert.equal(stored.position, `1-${head}`, where);
    return true;
  });
  for (const { where, stored, problems } of programs) {
    const due = await database.query<{ id: number }>(`SELECT id::int FROM change_history WHERE ${where} ORDER BY id`);
    assert.deepEqual(
      stored.ids,
      due.map(({ id }) => id),
      where,
    );
    assert.deepEqual(problems, [], where);
  }
});
