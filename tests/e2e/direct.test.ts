import assert from "node:assert/strict";
import { test } from "node:test";
import { createDatabase } from "./support/database.ts";
import { Workerd } from "./support/workerd.ts";

test("plain", async (t) => {
  const database = await createDatabase(t);
  await database.query("CREATE TABLE items (id int PRIMARY KEY, name text)");
  await database.query(`CREATE PUBLICATION ${database.slot} FOR TABLE items`);
  const worker = await Workerd.start(t, { databaseUrl: `${database.url}?sslmode=disable`, slot: database.slot });
  await worker.initialise();
  const feed = await worker.connect();
  await feed.message("welcome");
  await database.query("INSERT INTO items SELECT n, 'x' FROM generate_series(1, 100) n");
  await feed.receivedChanges(100);
  console.log((await worker.request("GET", "/status")).body);
  await worker.kill();
  await worker.run();
  console.log((await worker.request("GET", "/status")).body);
  assert.ok(true);
});
