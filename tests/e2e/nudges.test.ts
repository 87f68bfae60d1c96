// POST /poll while a poll is running: a caller must not be answered by that poll, which has already read the slot. All such
// callers share the next poll.
import assert from "node:assert/strict";
import { test } from "node:test";
import { hold, putGates } from "./support/gate.ts";
import { Scenario } from "./support/scenario.ts";
import { statusOf } from "./support/status.ts";

for (const version of [15, 18] as const) {
  test(`nudges during a poll share the next one, which stores what their callers have written, on PostgreSQL ${version}`, async (t) => {
    const scenario = await Scenario.start(t, { version });
    const { database, worker } = scenario;
    // Only nudges start a poll.
    await scenario.initialise({ hibernationDelay: 3_600_000 });
    await putGates(database);
    const { polling: before } = await statusOf(worker);
    const nudge = () => worker.request<{ position: string; complete: boolean }>("POST", "/poll");

    await scenario.insert(1);
    const holding = hold(t, database, "commit");
    const first = nudge();
    const held = await holding;
    // The running poll has read the slot, and cannot know of later commits.
    await scenario.insert(2);
    let answered = 0;
    const others = Array.from({ length: 10 }, async () => {
      const answer = await nudge();
      answered += 1;
      return answer;
    });
    // This request comes after the others, so its answer shows that all of them are queued.
    await statusOf(worker);
    assert.equal(answered, 0);
    await held.open();

    assert.deepEqual((await first).body, { position: "1-1", complete: true });
    for (const { status, body } of await Promise.all(others)) {
      assert.equal(status, 200);
      assert.deepEqual(body, { position: "1-2", complete: true });
    }
    assert.deepEqual(await scenario.storedItems(), [1, 2]);
    const { polling: after } = await statusOf(worker);
    assert.equal(after.cycles - before.cycles, 2, "a flight for the first and one for all the others");
  });
}
