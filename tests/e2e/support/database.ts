// A database for each test, in the Postgres that `npm test` has started.
import { randomBytes } from "node:crypto";
import pg from "pg";
import { afterwards, type Lifetime } from "./afterwards.ts";
import { waitFor } from "./wait-for.ts";

/** A fresh database. */
export interface TestDatabase {
  readonly name: string;
  /** The superuser's connection string. */
  readonly url: string;
  /** Unique on the server, since slots belong to the server and not to a database. */
  readonly slot: string;
  query<Row extends pg.QueryResultRow = pg.QueryResultRow>(sql: string, values?: unknown[]): Promise<Row[]>;
  /** A separate session, for tests that hold transactions open. The test ends it. */
  session(): Promise<pg.Client>;
}

/**
 * Creates a database on the running server of that major version, or on the server of a superuser's connection string. The
 * end of the test drops it and its slots.
 */
export async function createDatabase(t: Lifetime, on: 15 | 16 | 17 | 18 | string = 18): Promise<TestDatabase> {
  const serverUrl = typeof on === "string" ? on : runningServer(on);
  const name = `e2e_${randomBytes(6).toString("hex")}`;
  const server = new pg.Pool({ connectionString: serverUrl, max: 1 });
  await server.query(`CREATE DATABASE ${name}`);
  const url = Object.assign(new URL(serverUrl), { pathname: `/${name}` }).href;
  const pool = new pg.Pool({ connectionString: url, max: 2 });
  // A server that a test stops ends idle sessions, which is not an error of the pool.
  for (const idle of [server, pool]) idle.on("error", () => undefined);
  afterwards(t, async () => {
    await pool.end();
    await drop(name, server);
    await server.end();
  });
  return {
    name,
    url,
    slot: `slot_${name}`,
    query: async <Row extends pg.QueryResultRow>(sql: string, values?: unknown[]) => (await pool.query<Row>(sql, values)).rows,
    session: async () => {
      const client = new pg.Client(url);
      await client.connect();
      return client;
    },
  };
}

/** Drops a feed's slot once nobody reads it. When clients have received changes, the slot may still be advancing. */
export async function dropSlot({ slot, query }: TestDatabase): Promise<void> {
  await waitFor(`${slot} is dropped`, async () => {
    await query("SELECT pg_drop_replication_slot($1)", [slot]);
    return true;
  });
}

function runningServer(version: number): string {
  const variable = `TEST_POSTGRES_${version}`;
  const url = process.env[variable];
  if (url === undefined) {
    throw new Error(`${variable} is not set: run these tests with \`npm test\` (or \`npm test -- e2e\`), which starts Postgres`);
  }
  return url;
}

async function drop(name: string, server: pg.Pool): Promise<void> {
  await waitFor(`the slots of ${name} are dropped`, async () => {
    await server.query("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE database = $1 AND active_pid IS NOT NULL", [
      name,
    ]);
    await server.query("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE database = $1", [name]);
    return true;
  });
  await server.query(`DROP DATABASE ${name} WITH (FORCE)`);
}
