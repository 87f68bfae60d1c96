// A PostgreSQL server for one test, which may stop, break and restore it.
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { readFileSync, readdirSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import pg from "pg";
import { startPostgres, type PostgresServer, type PostgresVersion } from "../../../scripts/postgres.ts";
import { afterwards } from "./afterwards.ts";
import type { TestDatabase } from "./database.ts";

/** A server of one test. */
export interface Cluster {
  readonly server: PostgresServer;
  /** A new database, which ends with the server. */
  createDatabase(): Promise<TestDatabase>;
  /** Runs statements in the database `postgres`, each in its own transaction. */
  run(...statements: string[]): Promise<void>;
  /** The log of the server since its last start. */
  log(): string;
  /** Copies the data folder of the stopped server. Returns the copy. */
  backUp(): string;
  /**
   * Replaces the data of the stopped server by a copy: as a snapshot of the disk; as a base backup, which has no replication
   * slots; or as one with point-in-time recovery, which begins a new timeline.
   */
  restore(copy: string, as: "snapshot" | "backup" | "recovery"): void;
}

let number = 0;

/** Starts a server. It ends with the test, and its data are deleted. */
export async function startCluster(
  t: TestContext,
  settings: Record<string, string | number> = {},
  version: PostgresVersion = 18,
): Promise<Cluster> {
  number += 1;
  // By this name the next run removes what a killed one leaves.
  const dataDir = join(".postgres", `test-${process.pid}-own-${number}`);
  const quick = { fsync: "off", max_replication_slots: 20, ...settings };
  const server = await startPostgres(version, { dataDir: join(process.cwd(), dataDir), settings: quick });
  afterwards(t, async () => {
    await server.stop("immediate");
    for (const path of [server.dataDir, `${server.dataDir}.log`, `${server.dataDir}.copy`]) rmSync(path, { recursive: true, force: true });
  });
  const clients = new Set<pg.Pool>();
  afterwards(t, async () => {
    for (const client of clients) await client.end();
  });
  const connect = (connectionString: string) => {
    const pool = new pg.Pool({ connectionString, max: 2 });
    // A server that a test stops ends idle sessions, which is not an error of the pool.
    pool.on("error", () => undefined);
    clients.add(pool);
    return pool;
  };
  const admin = connect(server.url);
  return {
    server,
    createDatabase: async () => {
      const name = `e2e_${randomBytes(6).toString("hex")}`;
      await admin.query(`CREATE DATABASE ${name}`);
      const pool = connect(server.urlFor(name));
      return {
        name,
        url: server.urlFor(name),
        slot: `slot_${name}`,
        query: async <Row extends pg.QueryResultRow>(sql: string, values?: unknown[]) => (await pool.query<Row>(sql, values)).rows,
        session: async () => {
          const client = new pg.Client(server.urlFor(name));
          await client.connect();
          return client;
        },
      };
    },
    run: async (...statements) => {
      for (const statement of statements) await admin.query(statement);
    },
    log: () => readFileSync(`${server.dataDir}.log`, "utf8"),
    backUp: () => {
      const copy = `${server.dataDir}.copy`;
      copyWithOwner(server.dataDir, copy);
      return copy;
    },
    restore: (copy, as) => {
      rmSync(server.dataDir, { recursive: true });
      copyWithOwner(copy, server.dataDir);
      if (as === "snapshot") return;
      const slots = join(server.dataDir, "pg_replslot");
      for (const slot of readdirSync(slots)) rmSync(join(slots, slot), { recursive: true });
      if (as === "backup") return;
      copyWithOwner(join(server.dataDir, "PG_VERSION"), join(server.dataDir, "recovery.signal"));
      writeFileSync(join(server.dataDir, "postgresql.auto.conf"), "restore_command = 'false'\n");
    },
  };
}

function copyWithOwner(from: string, to: string): void {
  execFileSync("cp", ["-a", from, to]);
}
