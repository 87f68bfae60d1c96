// The backlog that is drained: a table in a fresh database, and transactions that wrote to it while nobody read.
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../scripts/steps.ts";
import type { Lifetime } from "../tests/e2e/support/afterwards.ts";
import { createDatabase, type TestDatabase } from "../tests/e2e/support/database.ts";

/** A number of changes, one row each, in a number of transactions of equal size. */
export interface Backlog {
  changes: number;
  transactions: number;
}

const schema = `
CREATE TABLE orders (
  id bigint PRIMARY KEY,
  customer_id int NOT NULL,
  amount numeric(10, 2) NOT NULL,
  status text NOT NULL,
  note text,
  created_at timestamptz NOT NULL
)`;

/** Creates a database with the table, and a publication with the slot's name. */
export async function createSource(t: Lifetime, server: string): Promise<TestDatabase> {
  const database = await createDatabase(t, server);
  await database.query(schema);
  await database.query(`CREATE PUBLICATION ${database.slot} FOR TABLE orders`);
  return database;
}

/** Writes a backlog, and leaves the server at rest, with nothing left to flush. */
export async function write(database: TestDatabase, { changes, transactions }: Backlog): Promise<void> {
  const rows = changes / transactions;
  const session = await database.session();
  try {
    // The writer need not wait for the disk ten thousand times: the checkpoint flushes everything.
    await session.query("SET synchronous_commit = off");
    await session.query(`DO $$
      DECLARE
        first bigint := (SELECT coalesce(max(id), 0) FROM orders);
      BEGIN
        FOR nth IN 0 .. ${transactions - 1} LOOP
          INSERT INTO orders
          SELECT id, id % 9973, (id % 100000) / 100.0, 'new', 'Please leave it at the back door ' || id, now()
          FROM generate_series(first + nth * ${rows} + 1, first + (nth + 1) * ${rows}) AS id;
          COMMIT;
        END LOOP;
      END $$`);
    await session.query("CHECKPOINT");
  } finally {
    await session.end();
  }
}

/** Creates the project's own tables, for contestants that store without the feed. */
export async function createHistory(database: TestDatabase): Promise<void> {
  const folder = join(root, "migrations");
  for (const file of readdirSync(folder).sort()) await database.query(readFileSync(join(folder, file), "utf8"));
}

/** Creates the slot as the feed would. */
export async function createSlot(database: TestDatabase): Promise<void> {
  await database.query("SELECT pg_create_logical_replication_slot($1::name, 'pgoutput')", [database.slot]);
}

/** Fails unless the history has exactly what was written, in its order, and the slot has moved past it. */
export async function assertDrained(database: TestDatabase, changes: number): Promise<void> {
  const [history] = await database.query<{ count: number; wrong: number }>(
    "SELECT count(*)::int AS count, count(*) FILTER (WHERE id <> (data ->> 'id')::bigint)::int AS wrong FROM change_history",
  );
  if (history?.count !== changes || history.wrong !== 0) {
    throw new Error(`the history of ${changes} changes has ${JSON.stringify(history)}`);
  }
  const [left] = await database.query<{ count: number }>(
    "SELECT count(*)::int FROM pg_logical_slot_peek_binary_changes($1::name, NULL, NULL, 'proto_version', '1', 'publication_names', $1::text) WHERE get_byte(data, 0) = ascii('I')",
    [database.slot],
  );
  if (left?.count !== 0) throw new Error(`the slot still holds ${left?.count} changes`);
}
