// An alarm that the platform has lost is set again by the next event of any kind.
import assert from "node:assert/strict";
import { globSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DatabaseSync } from "node:sqlite";
import { test, type TestContext } from "node:test";
import { afterwards } from "./support/afterwards.ts";
import { Scenario } from "./support/scenario.ts";
import { statusOf } from "./support/status.ts";
import { waitFor } from "./support/wait-for.ts";

/** Makes local workerd keep its storage in the test's own folder. Returns that folder. */
function storageFolder(t: TestContext): string {
  const [folder, before] = [mkdtempSync(join(tmpdir(), "watchdog-")), process.env["TMPDIR"]];
  process.env["TMPDIR"] = folder;
  afterwards(t, () => {
    if (before === undefined) delete process.env["TMPDIR"];
    else process.env["TMPDIR"] = before;
    rmSync(folder, { recursive: true, force: true });
  });
  return folder;
}

/** Removes the alarm from the storage of an object that is not in memory, where workerd keeps it. */
function loseAlarm(folder: string): number {
  const files = globSync("**/*ReplicationDO/*.sqlite", { cwd: folder });
  let lost = 0;
  for (const file of files) {
    const storage = new DatabaseSync(join(folder, file));
    const tables = storage.prepare("SELECT 1 FROM sqlite_master WHERE name = '_cf_METADATA'").all();
    if (tables.length > 0) lost += Number(storage.prepare("DELETE FROM _cf_METADATA WHERE key = 1").run().changes);
    storage.close();
  }
  return lost;
}

for (const [event, arrive] of [
  ["a request", async (scenario: Scenario) => void (await statusOf(scenario.worker))],
  ["a client", async (scenario: Scenario) => void (await scenario.worker.connect())],
] as const) {
  test(`${event} sets a lost alarm again`, async (t) => {
    const folder = storageFolder(t);
    const scenario = await Scenario.start(t);
    const { worker } = scenario;
    await scenario.initialise({ hibernationDelay: 1_000, maxSlotLag: 1 << 20 });
    await waitFor("the feed hibernates", async () => (await statusOf(worker)).state === "hibernating");
    // An alarm between the eviction and the loss may set the next one.
    await waitFor("the alarm is lost", async () => {
      await worker.evict();
      return loseAlarm(folder) === 1;
    });
    await arrive(scenario);
    await scenario.database.query("INSERT INTO items SELECT id, repeat('x', 1000) FROM generate_series(1, 3000) AS id");
    await waitFor("the alarm comes again and again", async () => (await scenario.storedItems()).length === 3_000);
    if (event === "a request") assert.match(worker.logs().join("\n"), /alarm_set_again/);
  });
}
