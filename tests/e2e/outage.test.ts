// The server is down for minutes and nobody helps. This is in its own file, since it mostly waits.
import assert from "node:assert/strict";
import { test } from "node:test";
import { startCluster } from "./support/cluster.ts";
import { Scenario } from "./support/scenario.ts";
import { statusOf } from "./support/status.ts";
import { waitFor } from "./support/wait-for.ts";

const second = 1_000;

/** According to docs/operations.md: 0.5, 1, 2, ... up to 60 seconds, half of each at random. */
const longestPause = (failures: number) => Math.min(0.5 * second * 2 ** (failures - 1), 60 * second);

test("a server that is down for minutes is tried less and less often, the status keeps answering, and nothing is lost", async (t) => {
  const cluster = await startCluster(t);
  const scenario = await Scenario.start(t, { on: await cluster.createDatabase() });
  const { worker } = scenario;
  await scenario.initialise({ pollInterval: 50 });
  const feed = await worker.connect();
  await feed.message("caught_up");
  await scenario.insert(1);
  await feed.receivedChanges(1);
  // The server stops at once, whether the feed has read this one or not.
  await scenario.insert(2);
  await cluster.server.stop();

  const downSince = performance.now();
  /** The pause after each observed failure, by the number of failures in a row. */
  const pauses = new Map<number, number>();
  let slowest = 0;
  await waitFor(
    "the pauses have reached their limit, and minutes have passed",
    async () => {
      const asked = performance.now();
      const { state, halted, polling, errors } = await statusOf(worker);
      slowest = Math.max(slowest, performance.now() - asked);
      assert.deepEqual([state, halted], ["polling", null]);
      const { consecutiveFailures: failures, nextPollAt } = polling;
      const failedAt = errors["connection"]?.lastAt;
      if (failures > 0 && nextPollAt !== null && failedAt !== undefined && nextPollAt > Date.now()) {
        pauses.set(failures, nextPollAt - failedAt);
      }
      return failures >= 10 && performance.now() - downSince >= 120 * second;
    },
    300 * second,
    100,
  );
  t.diagnostic(
    `down for ${((performance.now() - downSince) / second).toFixed(0)} s, pauses ${JSON.stringify([...pauses])} ms, slowest status ${slowest.toFixed(0)} ms`,
  );
  assert.ok(slowest < second, `a status took ${slowest} ms`);
  for (const failures of [5, 6, 7, 8, 9, 10]) assert.ok(pauses.has(failures), `failure ${failures} was not seen`);
  for (const [failures, pause] of pauses) {
    const longest = longestPause(failures);
    // A few milliseconds pass between the failure and the setting of the alarm.
    assert.ok(pause >= longest / 2 && pause <= longest + 0.5 * second, `${pause} ms after failure ${failures}`);
  }

  await cluster.server.restart();
  await scenario.insert(3);
  // Nobody nudges. The feed recovers by itself, within the longest pause.
  await waitFor("the feed polls again", async () => (await statusOf(worker)).polling.consecutiveFailures === 0, 60 * second + 20 * second);
  const changes = await feed.receivedChanges(3);
  assert.deepEqual(
    changes.map((change) => [change.id, change.data["id"]]),
    [
      [1, 1],
      [2, 2],
      [3, 3],
    ],
  );
  assert.deepEqual(await scenario.storedItems(), [1, 2, 3]);
  const status = await statusOf(worker);
  assert.deepEqual([status.state, status.epoch, status.polling.consecutiveFailures], ["polling", 1, 0]);
});
