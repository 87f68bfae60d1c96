// What an operator sees in /status, /metrics and the logs, on good days and on bad ones.
import assert from "node:assert/strict";
import { test } from "node:test";
import { createDatabase } from "./support/database.ts";
import { FaultProxy } from "./support/fault-proxy.ts";
import { Scenario } from "./support/scenario.ts";
import { statusOf } from "./support/status.ts";
import { waitFor } from "./support/wait-for.ts";

test("while the database does not answer at all, the status answers within a second and says how old its facts are", async (t) => {
  const database = await createDatabase(t);
  const { proxy, url } = await FaultProxy.to(t, database.url);
  const scenario = await Scenario.start(t, { on: database, through: url });
  const { worker } = scenario;
  await scenario.initialise({ pollInterval: 50 });
  const feed = await worker.connect();
  await feed.message("caught_up");

  proxy.pause();
  await scenario.insert(1);
  // A poll certainly hangs: it was requested and has no answer.
  let answered = false;
  const nudge = worker.request("POST", "/poll").then(() => (answered = true));
  const ages: number[] = [];
  for (let n = 0; n < 20; n += 1) {
    const started = performance.now();
    const [status, metrics] = await Promise.all([
      statusOf(worker),
      worker.fetch("/metrics", { headers: { authorization: `Bearer ${worker.token}` } }),
    ]);
    const took = performance.now() - started;
    assert.ok(took < 1_000, `${took} ms`);
    assert.equal(metrics.status, 200);
    assert.equal(status.position?.id, 0);
    assert.equal(status.slot?.exists, true);
    ages.push(status.slot.ageMs);
  }
  assert.equal(answered, false);
  assert.ok((ages.at(-1) ?? 0) > (ages[0] ?? 0), ages.join());
  proxy.resume();
  await nudge;
  await feed.receivedChanges(1);
});

/** The samples by name and labels. Fails for text with lines that are not in the OpenMetrics format. */
function samples(text: string): Map<string, number> {
  const found = new Map<string, number>();
  const lines = text.split("\n");
  assert.deepEqual(lines.slice(-2), ["# EOF", ""]);
  for (const line of lines.slice(0, -2)) {
    if (line.startsWith("# ")) continue;
    const [, key = "", value = ""] = line.match(/^([a-z_]+(?:\{[^{}]+\})?) (\S+)$/) ?? assert.fail(`not a sample: ${line}`);
    assert.ok(!found.has(key), `${key} twice`);
    found.set(key, Number(value));
  }
  return found;
}

test("/metrics is valid OpenMetrics and agrees with /status", async (t) => {
  const scenario = await Scenario.start(t);
  const { database, worker } = scenario;
  const scrape = async () => {
    const response = await worker.fetch("/metrics", { headers: { authorization: `Bearer ${worker.token}` } });
    assert.equal(response.status, 200);
    assert.match(response.headers.get("content-type") ?? "", /^application\/openmetrics-text; version=1\.0\.0/);
    return samples(await response.text());
  };
  const before = await scrape();
  assert.equal(before.get('pg_change_feed_state{pg_change_feed_state="uninitialized"}'), 1);
  assert.equal(before.get("pg_change_feed_cycles_total"), 0);
  assert.ok(!before.has("pg_change_feed_epoch"));

  await scenario.initialise({ hibernationDelay: 3_600_000 });
  await scenario.insert(1, 2, 3);
  await worker.request("POST", "/poll");
  await database.query(`DROP PUBLICATION ${database.slot}`);
  await scenario.insert(4);
  assert.equal((await worker.request("POST", "/poll")).status, 424);
  const [status, after] = [await statusOf(worker), await scrape()];
  for (const [name, value] of [
    ['state{pg_change_feed_state="halted"}', 1],
    ['state{pg_change_feed_state="polling"}', 0],
    ["initial_poll_complete", 1],
    ["epoch", status.epoch],
    ["last_change_id", 3],
    ["changes_total", 3],
    ["cycles_total", status.polling.cycles],
    ["consecutive_failures", status.polling.consecutiveFailures],
    ['errors_total{category="publication_missing"}', status.errors["publication_missing"]?.count],
    ["slot_retained_bytes", status.slot?.retainedBytes],
    ["slot_lost", 0],
    ['clients{kind="websocket"}', 0],
    ['cycle_phase_duration_seconds_bucket{phase="probe",le="+Inf"}', status.polling.cycles],
    ['cycle_phase_duration_seconds_count{phase="probe"}', status.polling.cycles],
  ] as const) {
    assert.equal(after.get(`pg_change_feed_${name}`), value, name);
  }
});

test("the Worker logs lines of JSON with context, without row values and credentials", async (t) => {
  const scenario = await Scenario.start(t);
  const { database, worker } = scenario;
  const secret = "geheim-7f3a";
  await scenario.initialise({ hibernationDelay: 3_600_000 });
  // One is refused by a constraint, for which Postgres's message shows the whole row; the other by the type.
  await database.query("ALTER TABLE change_history ADD CONSTRAINT no CHECK (data ->> 'name' IS NULL)");
  await database.query("INSERT INTO items VALUES (1, $1)", [secret]);
  await waitFor("the row is refused", async () => (await worker.request("POST", "/poll")).status !== 200);
  await database.query("ALTER TABLE change_history DROP CONSTRAINT no");
  await database.query("ALTER TABLE change_history ADD CONSTRAINT again UNIQUE (table_name)");
  await database.query("INSERT INTO items VALUES (2, $1)", [secret]);
  await waitFor("the second is refused", async () => (await worker.request("POST", "/poll")).status !== 200);
  await worker.request("POST", "/init", { slot: secret });
  const status = JSON.stringify(await statusOf(worker));

  const lines = worker.logs().flatMap((log) => log.split("\n"));
  const events = lines.filter((line) => line.startsWith("{")).map((line) => JSON.parse(line) as Record<string, unknown>);
  assert.ok(
    events.some(({ event, level }) => event === "initialized" && level === "info"),
    lines.join("\n"),
  );
  const failed = events.filter(({ event }) => event === "cycle_failed");
  assert.ok(failed.length >= 2, lines.join("\n"));
  for (const { level, category, code, message, slot, consecutiveFailures } of failed) {
    assert.ok(level === "error" && category && code && message, JSON.stringify(failed));
    assert.deepEqual([slot, typeof consecutiveFailures], [database.slot, "number"]);
  }
  const password = new URL(database.url).password;
  assert.ok(password.length > 0);
  for (const forbidden of [secret, worker.token, `:${password}@`]) {
    assert.ok(!lines.join("\n").includes(forbidden), `${forbidden} is in the logs`);
    assert.ok(!status.includes(forbidden), `${forbidden} is in the status`);
  }
});
