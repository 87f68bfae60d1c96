// Runs the benchmarks: `npm run bench`, or some of them: `npm run bench -- drain latency`. BENCH_ROUNDS is the number of
// rounds of each.
//
// They use their own Postgres with PostgreSQL's default durability, psql (Debian's if none is installed), and the Worker's
// production bundle in real workerd.
import { mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import pg from "pg";
import { buildWorker, bundleWorker } from "../scripts/build.ts";
import { removeStaleDirs } from "../scripts/stale-dirs.ts";
import { startPostgres } from "../scripts/postgres.ts";
import { psqlPath } from "../scripts/psql.ts";
import { Failure, main, root, step } from "../scripts/steps.ts";
import { batch } from "./batch.ts";
import { catchUp } from "./catch-up.ts";
import { drain } from "./drain.ts";
import { fanOut } from "./fan-out.ts";
import { giant } from "./giant.ts";
import { growth } from "./growth.ts";
import { latency } from "./latency.ts";
import { idle } from "./idle.ts";
import { save, table, type Report } from "./report.ts";
import { size } from "./size.ts";
import { machineInfo, type Environment } from "./environment.ts";

const benchmarks: Record<string, (environment: Environment) => Promise<Report>> = {
  drain,
  size,
  latency,
  "fan-out": fanOut,
  giant,
  "catch-up": catchUp,
  growth,
  idle,
  batch,
};

await main(async () => {
  const requested = process.argv.slice(2);
  const unknown = requested.find((name) => !(name in benchmarks));
  if (unknown !== undefined) {
    throw new Failure(
      `There is no benchmark "${unknown}".`,
      `The benchmarks are ${Object.keys(benchmarks).join(", ")}; without a name, all of them run.`,
    );
  }
  await buildWorker();
  const psql = await psqlPath();
  const scratch = join(root, ".postgres", `bench-${process.pid}`);
  removeStaleDirs("bench");
  mkdirSync(scratch, { recursive: true });
  process.env["TEST_WORKER_BUNDLE"] = join(scratch, "bundle");
  await bundleWorker(join(scratch, "bundle"));
  const server = await step("Starting PostgreSQL 18", "about 3 seconds", () =>
    startPostgres(18, { dataDir: join(scratch, "data"), settings: { max_replication_slots: 50 } }),
  );
  try {
    const postmaster = Number(readFileSync(join(server.dataDir, "postmaster.pid"), "utf8").split("\n")[0]);
    const on = await machineInfo({ psql, postgresVersion: await version(server.url) });
    const environment: Environment = {
      postgres: server.url,
      log: `${server.dataDir}.log`,
      postmaster,
      psql,
      scratch,
      rounds: Number(process.env["BENCH_ROUNDS"] ?? 5),
    };
    for (const name of requested.length === 0 ? Object.keys(benchmarks) : requested) {
      const report = await step(`Benchmark ${name}`, "some minutes", () => (benchmarks[name] as (typeof benchmarks)[string])(environment));
      process.stdout.write(`\n${name}: ${report.about}\n${JSON.stringify(on)}\n${table(report)}\n`);
      save(report, on);
    }
  } finally {
    await server.stop("immediate");
    rmSync(scratch, { recursive: true, force: true });
    rmSync(server.dataDir, { recursive: true, force: true });
  }
});

async function version(url: string): Promise<string> {
  const client = new pg.Client(url);
  await client.connect();
  try {
    const { rows } = await client.query<{ server_version: string }>("SHOW server_version");
    return rows[0]?.server_version ?? "unknown";
  } finally {
    await client.end();
  }
}
