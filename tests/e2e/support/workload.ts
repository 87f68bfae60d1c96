// Writers that never stop while a test breaks things, and the proof afterwards: the history, applied to empty tables,
// reproduces the tables.
import assert from "node:assert/strict";
import type { TestContext } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { afterwards } from "./afterwards.ts";
import type { TestDatabase } from "./database.ts";
import { Random } from "./random.ts";

const schema = `
CREATE SEQUENCE ids;
CREATE TABLE accounts (id int PRIMARY KEY DEFAULT nextval('ids'), owner text, balance int);
CREATE TABLE documents (id int PRIMARY KEY DEFAULT nextval('ids'), title text, body text);
ALTER TABLE documents ALTER COLUMN body SET STORAGE EXTERNAL`;

const tables = ["accounts", "documents"];

/** Creates the tables that the writers write to, and their publication. */
export async function createTables(database: TestDatabase): Promise<void> {
  await database.query(schema);
  await database.query(`CREATE PUBLICATION ${database.slot} FOR TABLE ${tables.join(", ")}`);
}

/** Writers at work. */
export class Workload {
  readonly #database: TestDatabase;
  readonly #writers: Promise<void>[];
  #stopping = false;
  /** The number of completed transactions. */
  transactions = 0;

  /** Starts the writers. They end with the test at the latest. */
  constructor(t: TestContext, database: TestDatabase, seed: number, writers = 3) {
    this.#database = database;
    this.#writers = Array.from({ length: writers }, (_, nth) => this.#write(new Random(seed + nth)));
    afterwards(t, () => this.stop());
  }

  /** Ends the writers after their current transactions. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#writers);
  }

  async #write(random: Random): Promise<void> {
    let client: pg.Client | undefined;
    while (!this.#stopping) {
      try {
        client ??= await connect(this.#database.url);
        await client.query(transaction(random));
        this.transactions += 1;
      } catch {
        // The server is down, or there was a deadlock. The tables will show whether it has committed.
        await client?.end().catch(() => undefined);
        client = undefined;
      }
      // Writers without pauses would leave nothing of two cores for the feed.
      await delay(random.below(12));
    }
    await client?.end();
  }
}

async function connect(url: string): Promise<pg.Client> {
  const client = new pg.Client(url);
  client.on("error", () => undefined);
  await client.connect();
  return client;
}

function transaction(random: Random): string {
  const statements = Array.from({ length: 1 + random.below(4) }, () => statement(random));
  return `BEGIN; ${statements.join("; ")}; ${random.below(10) === 0 ? "ROLLBACK" : "COMMIT"}`;
}

function statement(random: Random): string {
  const [number, few, part] = [random.below(1_000_000), 1 + random.below(5), random.below(31)];
  switch (random.below(8)) {
    case 0:
    case 1:
      return `INSERT INTO accounts (owner, balance) SELECT 'owner ${number}', ${number} FROM generate_series(1, ${few})`;
    case 2:
      return `UPDATE accounts SET balance = ${number} WHERE id % 31 = ${part}`;
    case 3:
      return `DELETE FROM accounts WHERE id % 31 = ${part}`;
    case 4:
    case 5:
      return `INSERT INTO documents (title, body) SELECT 'title ${number}', repeat(md5('${number}'), 80) FROM generate_series(1, ${few})`;
    case 6:
      return `UPDATE documents SET title = 'title ${number}' WHERE id % 31 = ${part}`;
    default:
      return random.below(40) === 0 ? "TRUNCATE documents" : `DELETE FROM documents WHERE id % 31 = ${part}`;
  }
}

type Row = Record<string, unknown>;

interface Stored {
  id: number;
  xid: string;
  table_name: string;
  operation: string;
  data: Row;
  unchanged: string[] | null;
}

/**
 * Fails unless ids have no gap, transactions are complete and in commit order, and the history, applied to empty tables,
 * reproduces the tables exactly. Returns the number of changes.
 */
export async function assertHistoryGivesTables(database: TestDatabase): Promise<number> {
  const history = await database.query<Stored>(
    "SELECT id::int, xid::text, table_name, operation, data, unchanged FROM change_history ORDER BY id",
  );
  assert.deepEqual(
    history.map((change) => change.id),
    history.map((_, index) => index + 1),
    "ids have a gap or repeat",
  );
  const [order] = await database.query<{ wrong: number }>(
    "SELECT count(*)::int AS wrong FROM (SELECT lsn::pg_lsn AS lsn, lag(lsn::pg_lsn) OVER w AS before, xid, lag(xid) OVER w AS xid_before FROM change_history WINDOW w AS (ORDER BY id)) c " +
      "WHERE (xid = xid_before AND lsn <> before) OR (xid <> xid_before AND lsn <= before)",
  );
  assert.equal(order?.wrong, 0, "transactions are in parts or out of order");
  const replayed = replay(history);
  for (const table of tables) {
    const rows = await database.query<{ id: number; row: Row }>(`SELECT id, to_jsonb(t) AS row FROM ${table} t`);
    assert.deepEqual(replayed.get(table), new Map(rows.map(({ id, row }) => [id, row])), table);
  }
  return history.length;
}

function replay(history: Stored[]): Map<string, Map<number, Row>> {
  const replayed = new Map(tables.map((table) => [table, new Map<number, Row>()]));
  for (const { id: position, table_name, operation, data, unchanged } of history) {
    const rows = replayed.get(table_name);
    assert.ok(rows !== undefined, `${table_name} is not captured`);
    const id = Number(data["id"]);
    const what = `${operation} of ${table_name} ${id} at ${position}`;
    if (operation === "truncate") {
      rows.clear();
      continue;
    }
    assert.equal(rows.has(id), operation !== "insert", what);
    const before = rows.get(id) ?? {};
    const kept = (unchanged ?? []).map((column) => [column, before[column]]);
    if (operation === "delete") rows.delete(id);
    else rows.set(id, { ...data, ...Object.fromEntries(kept) });
  }
  return replayed;
}
