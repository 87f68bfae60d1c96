// A PostgreSQL server for one test that stops it or changes its settings.
import { chownSync, rmSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { TestContext } from "node:test";
import pg from "pg";
import { startPostgres, type PostgresServer } from "../../../scripts/postgres.ts";
import { root } from "../../../scripts/steps.ts";
import { afterwards } from "./afterwards.ts";
import type { ServerCertificate } from "./certificates.ts";

/** Starts a server that keeps nothing. It ends with the test. */
export async function startServer(t: TestContext, version: 15 | 18 = 18): Promise<PostgresServer> {
  // `npm test` removes folders named after a run that has ended.
  const dataDir = join(root, ".postgres", `test-${process.pid}-own`);
  const server = await startPostgres(version, { dataDir, settings: { fsync: "off" } });
  afterwards(t, async () => {
    await server.stop("immediate");
    rmSync(server.dataDir, { recursive: true });
    rmSync(`${server.dataDir}.log`);
  });
  return server;
}

/** Makes the server offer TLS with a certificate, or without one no TLS. */
export async function offerTls(server: PostgresServer, certified?: ServerCertificate): Promise<void> {
  const { uid, gid } = statSync(server.dataDir);
  for (const [name, pem] of [
    ["server.key", certified?.key],
    ["server.crt", certified?.certificate],
  ] as const) {
    if (pem === undefined) continue;
    const path = join(server.dataDir, name);
    // The server refuses a key that others can read.
    rmSync(path, { force: true });
    writeFileSync(path, pem, { mode: 0o600 });
    chownSync(path, uid, gid);
  }
  const client = new pg.Client(server.url);
  await client.connect();
  await client.query(`ALTER SYSTEM SET ssl = ${certified === undefined ? "off" : "on"}`);
  await client.query("SELECT pg_reload_conf()");
  await client.end();
}
