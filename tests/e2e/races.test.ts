// Everything at once, many times: initialisations, alarms, nudges, clients that come and go, and evictions of the object in
// the middle of it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { startCluster } from "./support/cluster.ts";
import type { FeedSocket, TableChange } from "./support/feed-socket.ts";
import { Scenario } from "./support/scenario.ts";
import { statusOf } from "./support/status.ts";
import { waitFor } from "./support/wait-for.ts";

const rounds = 25;

/** Reproducible random numbers, from a seed. */
function random(seed: number): (below: number) => number {
  let state = seed;
  return (below) => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
    return Math.floor((state / 2 ** 32) * below);
  };
}

/** A client that reconnects with its last position whenever it is cut off, and keeps everything it receives. */
class Follower {
  readonly changes: TableChange[] = [];
  readonly #connect: (after: string) => Promise<FeedSocket>;
  #feed: FeedSocket | undefined;

  constructor(connect: (after: string) => Promise<FeedSocket>) {
    this.#connect = connect;
  }

  /** Disconnects and keeps what it has received, or reconnects. */
  async toggle(): Promise<void> {
    if (this.#feed === undefined) await this.come();
    else this.leave();
  }

  async come(): Promise<void> {
    if (this.#feed !== undefined && this.#feed.closed === undefined) return;
    this.leave();
    const last = this.changes.at(-1);
    this.#feed = await this.#connect(last === undefined ? "1-0" : `${last.epoch}-${last.id}`);
  }

  leave(): void {
    if (this.#feed === undefined) return;
    this.#feed.terminate();
    assert.ok(!this.#feed.messages.some(({ type }) => type === "reset"), "the follower was reset");
    this.changes.push(...this.#feed.changes);
    this.#feed = undefined;
  }

  get received(): number {
    return this.changes.length + (this.#feed?.changes.length ?? 0);
  }
}

test("initialisations, alarms, nudges, clients and evictions race, and every change is stored and sent once", async (t) => {
  const seed = Math.floor(Math.random() * 2 ** 32);
  t.diagnostic(`seed ${seed}`);
  const pick = random(seed);
  const cluster = await startCluster(t, { log_statement: "all", log_line_prefix: "%a|" });
  const scenario = await Scenario.start(t, { on: await cluster.createDatabase() });
  const { worker } = scenario;
  await scenario.initialise();
  const follower = new Follower((after) => worker.connect({ after }));
  // Short and long pauses. With a long one the object has no connection and can be evicted.
  const configs = [{ pollInterval: 20 }, { pollInterval: 10_000 }, { hibernationDelay: 1_000 }, { maxChangesPerPoll: 2 }, {}];
  let last = 0;
  const tally: Record<string, number> = {};
  const answered = async (what: string, request: Promise<{ status: number; body: unknown }>) => {
    const answer = await request.catch((error: unknown) => ({ status: 0, body: String(error) }));
    tally[`${what} ${answer.status}`] = (tally[`${what} ${answer.status}`] ?? 0) + 1;
    // 0 and 500 mean that an eviction or a restart cut the request off. Any other answer must be a success.
    assert.ok([0, 200, 500, 503].includes(answer.status), `${what}: ${answer.status} ${JSON.stringify(answer.body)}`);
  };
  for (let round = 0; round < rounds; round += 1) {
    const ids = Array.from({ length: 1 + pick(5) }, () => (last += 1));
    const actions: (() => Promise<unknown>)[] = [
      () => scenario.insert(...ids),
      () => answered("init", worker.request("POST", "/init", configs[pick(configs.length)])),
      () => answered("init", worker.request("POST", "/init")),
      () => answered("poll", worker.request("POST", "/poll")),
      () => answered("poll", worker.request("POST", "/poll")),
      () => answered("wait", worker.request("GET", "/wait-for-initial-poll")),
      () => answered("status", worker.request("GET", "/status")),
      () => follower.toggle().catch((error: unknown) => assert.match(String(error), /upgrade refused: 50|socket hang up|ECONNRESET/)),
    ];
    if (pick(3) === 0) {
      actions.push(() =>
        worker.evict(pick(2) === 0 ? "hibernate" : "close").then(
          () => (tally["evicted"] = (tally["evicted"] ?? 0) + 1),
          () => undefined,
        ),
      );
    }
    for (let n = actions.length - 1; n > 0; n -= 1) {
      const other = pick(n + 1);
      [actions[n], actions[other]] = [actions[other]!, actions[n]!];
    }
    await Promise.all(actions.map((act) => act()));
  }
  t.diagnostic(JSON.stringify(tally));
  await scenario.initialise({ pollInterval: 200, maxChangesPerPoll: null });
  await follower.come();
  await waitFor(`the follower has ${last} changes`, () => follower.received >= last);
  follower.leave();
  const wanted = Array.from({ length: last }, (_, n) => n + 1);
  assert.deepEqual(await scenario.storedItems(), wanted);
  assert.deepEqual(
    follower.changes.map((change) => change.data["id"]),
    wanted,
  );
  assert.deepEqual(
    follower.changes.map((change) => change.id),
    wanted,
  );
  const status = await statusOf(worker);
  assert.deepEqual([status.epoch, status.position?.id, status.halted], [1, last, null]);

  // A single alarm remains: with a client the feed polls at its interval, not more often.
  const polls = () =>
    cluster.log().match(/^pg-change-feed\|LOG: {2}execute [^:]*: SELECT pg_catalog\.pg_current_wal_flush_lsn\(\)$/gm)?.length ?? 0;
  const idle = await worker.connect();
  await idle.message("caught_up");
  await waitFor("the pace is that of an idle feed", async () => {
    const { polling } = await statusOf(worker);
    return (polling as { intervalMs?: number }).intervalMs === 200;
  });
  const before = polls();
  const started = performance.now();
  await waitFor("ten polls", () => polls() >= before + 10);
  const took = performance.now() - started;
  assert.ok(took > 9 * 200 - 50, `ten polls in ${took} ms`);
});
