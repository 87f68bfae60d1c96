// The feed that is measured: the production bundle in its own workerd process.
import type { Lifetime } from "../tests/e2e/support/afterwards.ts";
import type { TestDatabase } from "../tests/e2e/support/database.ts";
import { Workerd, type WorkerdOptions } from "../tests/e2e/support/workerd.ts";

/** How the Worker reaches Postgres. */
export type Way = "direct" | "hyperdrive";

/** The part of GET /status that benchmarks use. */
export interface Status {
  memoryBytes: number;
  position: { id: number } | null;
  polling: { cycles: number; lastCycleMs: Record<"probe" | "peek" | "store" | "commit" | "advance", number> };
}

/** Configuration for a feed that does nothing until it is asked to poll. */
export const atRest = { pollInterval: 3_600_000, hibernationDelay: 86_400_000 };

/** Starts the Worker on a database and initialises its feed. */
export async function startFeed(
  t: Lifetime,
  database: TestDatabase,
  way: Way,
  config: object,
  options: Partial<WorkerdOptions> = {},
): Promise<Workerd> {
  const direct = Object.assign(new URL(database.url), { search: "?sslmode=disable" }).href;
  const reach = way === "direct" ? { databaseUrl: direct } : { hyperdrive: database.url };
  const worker = await Workerd.start(t, { ...reach, slot: database.slot, ...options });
  await worker.initialise(config);
  return worker;
}

/** Nudges the feed. Returns the milliseconds until it answers that everything is stored. */
export async function poll(worker: Workerd): Promise<number> {
  const started = performance.now();
  const answer = await worker.request("POST", "/poll");
  const took = performance.now() - started;
  if (answer.status !== 200) throw new Error(`POST /poll: ${answer.status} ${JSON.stringify(answer.body)}`);
  return took;
}

/** GET /status. */
export async function status(worker: Workerd): Promise<Status> {
  return (await worker.request<Status>("GET", "/status")).body;
}
