// The platform throws the object out of memory at will: nothing is lost, nothing comes twice.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Scenario } from "./support/scenario.ts";
import { waitFor } from "./support/wait-for.ts";

test("an evicted object goes on over the same WebSocket where it stood", async () => {
  await using scenario = await Scenario.start();
  const { worker } = scenario;
  await scenario.initialise();
  const feed = await worker.connect();
  await feed.message("welcome");
  await scenario.insert(1, 2);
  await feed.receivedChanges(2);

  await worker.evict("hibernate");
  await scenario.insert(3, 4);
  const changes = await feed.receivedChanges(4);

  assert.deepEqual(changes.map((change) => change.data["id"]), [1, 2, 3, 4]);
  assert.deepEqual(changes.map((change) => change.id), [1, 2, 3, 4]);
  assert.equal(feed.closed, undefined);
  assert.deepEqual(await scenario.storedItems(), [1, 2, 3, 4]);
});

test("changes made while every client is away arrive when one comes back with its position", async () => {
  await using scenario = await Scenario.start();
  const { worker } = scenario;
  await scenario.initialise();
  const before = await worker.connect();
  await before.message("welcome");
  await scenario.insert(1, 2);
  const last = (await before.receivedChanges(2)).at(-1);

  await worker.evict("close");
  await waitFor("the WebSocket has closed", () => before.closed !== undefined);
  await scenario.insert(3);
  const after = await worker.connect({ after: `${last?.epoch}-${last?.id}` });
  await scenario.insert(4);

  assert.deepEqual((await after.receivedChanges(2)).map((change) => change.data["id"]), [3, 4]);
});

test("an object evicted again and again stores every change exactly once", async () => {
  await using scenario = await Scenario.start();
  const { worker } = scenario;
  await scenario.initialise();
  const feed = await worker.connect();
  await feed.message("welcome");
  const wanted: number[] = [];
  for (let round = 0; round < 5; round += 1) {
    const ids = [1, 2, 3].map((n) => round * 3 + n);
    wanted.push(...ids);
    await scenario.insert(...ids);
    // Each at another point of the cycle that the insert set off.
    const polled = worker.request("POST", "/poll");
    await worker.evict("hibernate");
    await polled.catch(() => undefined);
  }
  const changes = await feed.receivedChanges(wanted.length);
  assert.deepEqual(await scenario.storedItems(), wanted);
  assert.deepEqual([...new Set(changes.map((change) => change.data["id"]))], wanted);
});
