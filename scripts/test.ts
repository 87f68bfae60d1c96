// Runs all tests: `npm test`, or parts of them: `npm test -- lint`, `-- client`, `-- rust`, `-- e2e`.
//
//     lint   rustfmt, clippy, prettier, tsc
//     client the client library on its own
//     rust   unit and integration tests, natively, against real Postgres servers
//     e2e    the WASM build, `wrangler deploy --dry-run`, and its bundle in real workerd
//
// `TEST_POSTGRES_VERSIONS=16,17 npm test -- rust` also runs the tests that depend on the server's version on those, which are
// fetched from npm. `TEST_ONLY=part-of-a-name` runs only the Node tests in files with that in their name.
//
// The last line is the sum of all suites: "N passed, N failed".
import { spawn } from "node:child_process";
import { readdirSync, rmSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import { buildWorker } from "./build.ts";
import { chromium } from "./chromium.ts";
import { removeStaleDirs } from "./stale-dirs.ts";
import { startPostgres, type PostgresServer, type PostgresVersion } from "./postgres.ts";
import { Failure, lastLines, main, pathWith, root, say, step } from "./steps.ts";

const parts = ["lint", "client", "rust", "e2e"] as const;
type Part = (typeof parts)[number];

/**
 * Test servers keep nothing, so they need not wait for the disk. Commits still flush, which is cheap without fsync: logical
 * decoding sees a change only once it is flushed.
 */
const settings = {
  fsync: "off",
  full_page_writes: "off",
  max_connections: 200,
  max_wal_senders: 20,
  max_replication_slots: 200,
  max_prepared_transactions: 50,
};

const bundle = join(root, "build", "bundle");

/** Node's time limit for a test also applies to its whole file. */
const fileTimeoutMs = 600_000;

/** The versions in TEST_POSTGRES_VERSIONS: those between the oldest and the newest. */
function versionsOnDemand(): PostgresVersion[] {
  const asked = (process.env["TEST_POSTGRES_VERSIONS"] ?? "").split(",").filter((text) => text.trim() !== "");
  return asked.map((text) => {
    const version = ([16, 17] as const).find((known) => known === Number(text));
    if (version === undefined) {
      throw new Failure(
        `TEST_POSTGRES_VERSIONS names "${text}".`,
        "It takes 16, 17 or both, separated by a comma; 18 and 15 are always tested.",
      );
    }
    return version;
  });
}

let passed = 0;
let failed = 0;

/** The result of one suite. */
interface Counts {
  passed: number;
  failed: number;
}

/**
 * Runs one suite, shows its output and adds up its counts. A suite that fails without a failed test (because it does not
 * compile, say) counts as one failure.
 */
async function suite(
  name: string,
  usually: string,
  program: string,
  args: string[],
  env: NodeJS.ProcessEnv,
  count: (output: string) => Counts,
): Promise<boolean> {
  const started = performance.now();
  say(`\n=== ${name} (${usually}): ${[basename(program), ...args].join(" ")}`);
  const { code, output } = await new Promise<{ code: number; output: string }>((resolve, reject) => {
    const child = spawn(program, args, { cwd: root, env, stdio: ["ignore", "pipe", "inherit"] });
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      output += text;
      process.stdout.write(text);
    });
    child.on("error", reject);
    child.on("close", (status) => resolve({ code: status ?? 1, output }));
  });
  const counts = count(output);
  passed += counts.passed;
  failed += code !== 0 && counts.failed === 0 ? 1 : counts.failed;
  say(`=== ${name}: ${code === 0 ? "ok" : "FAILED"} after ${((performance.now() - started) / 1000).toFixed(0)} s`);
  return code === 0;
}

/** A check without tests counts as one. */
const asOne = (): Counts => ({ passed: 0, failed: 0 });

async function check(name: string, usually: string, program: string, args: string[], env: NodeJS.ProcessEnv): Promise<void> {
  if (await suite(name, usually, program, args, env, asOne)) passed += 1;
}

function sum(output: string, pattern: RegExp): number {
  return [...output.matchAll(pattern)].reduce((total, match) => total + Number(match[1]), 0);
}

const countCargo = (output: string): Counts => ({
  passed: sum(output, /^test result: .* (\d+) passed;/gm),
  failed: sum(output, /^test result: .* (\d+) failed;/gm),
});

const countNode = (output: string): Counts => ({
  passed: sum(output, /^# pass (\d+)$/gm) + sum(output, /^ℹ pass (\d+)$/gm),
  failed: sum(output, /^# fail (\d+)$/gm) + sum(output, /^ℹ fail (\d+)$/gm),
});

async function lint(env: NodeJS.ProcessEnv): Promise<void> {
  await check("rustfmt", "1 second", "cargo", ["fmt", "--check"], env);
  await check("clippy", "2 minutes the first time", "cargo", ["clippy", "--all-targets", "--quiet", "--", "--deny", "warnings"], env);
  const prettier = join("node_modules", "prettier", "bin", "prettier.cjs");
  await check("prettier", "3 seconds", process.execPath, [prettier, "--check", "--log-level=warn", "**/*.{ts,mjs}"], env);
  // One project for each runtime: each has its own globals.
  for (const project of [".", "client", "examples/browser", "examples/sync-do", "tests/e2e/workers"]) {
    await check(
      `tsc ${project}`,
      "2 seconds",
      process.execPath,
      [join("node_modules", "typescript", "bin", "tsc"), "--project", project],
      env,
    );
  }
}

/** The native tests, with their output: seeds, counts, times. */
async function nativeTests(env: NodeJS.ProcessEnv, onDemand: PostgresVersion[]): Promise<void> {
  const test = ["test", "--no-fail-fast"];
  await suite("cargo test", "8 minutes the first time", "cargo", [...test, "--", "--show-output"], env, countCargo);
  for (const version of onDemand) {
    const args = [...test, `on_${version}`, "--", "--ignored", "--show-output"];
    await suite(`cargo test on PostgreSQL ${version}`, "3 minutes", "cargo", args, env, countCargo);
  }
}

async function endToEnd(env: NodeJS.ProcessEnv): Promise<void> {
  try {
    await buildWorker();
    passed += 1;
  } catch (error) {
    failed += 1;
    say(`=== WASM build: FAILED\n${error instanceof Failure ? error.message : String(error)}`);
    return;
  }
  rmSync(bundle, { recursive: true, force: true });
  const wrangler = join("node_modules", "wrangler", "bin", "wrangler.js");
  await check("wrangler deploy --dry-run", "3 seconds", process.execPath, [wrangler, "deploy", "--dry-run", "--outdir", bundle], env);
  await nodeTests("end to end", "2 minutes", "e2e", { ...env, ...(await browser()), TEST_WORKER_BUNDLE: bundle });
}

/** Tests that wait for minutes and use hardly any resources: they run in parallel with the others. */
const slow = ["outage.test.ts"];

/** Runs the tests in one folder of `tests`; if TEST_ONLY is set, only the files with that in their name. */
async function nodeTests(name: string, usually: string, folder: string, env: NodeJS.ProcessEnv): Promise<void> {
  const only = process.env["TEST_ONLY"];
  const names = readdirSync(join(root, "tests", folder)).filter(
    (name) => name.endsWith(".test.ts") && (only === undefined || name.includes(only)),
  );
  const run = async (suiteName: string, chosen: string[]) => {
    if (chosen.length === 0) return;
    const files = chosen.map((name) => join("tests", folder, name));
    await suite(
      suiteName,
      usually,
      process.execPath,
      ["--test", "--test-reporter=spec", `--test-timeout=${fileTimeoutMs}`, ...files],
      env,
      countNode,
    );
  };
  await Promise.all([
    run(
      name,
      names.filter((name) => !slow.includes(name)),
    ),
    run(
      `${name}, in parallel`,
      names.filter((name) => slow.includes(name)),
    ),
  ]);
}

/** Without a browser, only the tests that need one fail. */
async function browser(): Promise<NodeJS.ProcessEnv> {
  try {
    return { TEST_CHROMIUM: await chromium() };
  } catch (error) {
    if (!(error instanceof Failure)) throw error;
    return { TEST_CHROMIUM_MISSING: `${error.message}\n${error.remedy}` };
  }
}

/** Starts the servers that tests find in TEST_POSTGRES_<version>, except for those that the environment already names. */
async function servers(versions: PostgresVersion[], env: NodeJS.ProcessEnv, started: PostgresServer[]): Promise<void> {
  removeStaleDirs("test");
  for (const version of versions) {
    if (env[`TEST_POSTGRES_${version}`] !== undefined && env[`TEST_POSTGRES_BIN_${version}`] !== undefined) continue;
    const server = await startPostgres(version, { dataDir: join(root, ".postgres", `test-${process.pid}-${version}`), settings });
    started.push(server);
    env[`TEST_POSTGRES_${version}`] = server.url;
    env[`TEST_POSTGRES_BIN_${version}`] = server.binDir;
  }
}

await main(async () => {
  const requested = process.argv.slice(2);
  const unknown = requested.find((part) => !parts.includes(part as Part));
  if (unknown !== undefined) {
    throw new Failure(`There is no part "${unknown}".`, `The parts are ${parts.join(", ")}; without one, all of them run.`);
  }
  const onDemand = versionsOnDemand();
  const wanted = new Set<string>(requested.length === 0 ? parts : requested);
  const env: NodeJS.ProcessEnv = {
    ...process.env,
    PATH: pathWith(dirname(process.execPath)),
    WRANGLER_SEND_METRICS: "false",
    // Colours would hide the counts in the output.
    NO_COLOR: "1",
    CARGO_TERM_COLOR: "never",
    RUST_BACKTRACE: process.env["RUST_BACKTRACE"] ?? "0",
  };
  delete env["FORCE_COLOR"];
  const started: PostgresServer[] = [];
  const stop = async () => {
    for (const server of started.splice(0)) {
      await server.stop("immediate");
      rmSync(server.dataDir, { recursive: true, force: true });
      rmSync(`${server.dataDir}.log`, { force: true });
    }
  };
  for (const signal of ["SIGINT", "SIGTERM"] as const) {
    process.on(signal, () => void stop().finally(() => process.exit(130)));
  }
  try {
    if (wanted.has("lint")) await lint(env);
    if (wanted.has("client")) await nodeTests("client library", "5 seconds", "client", env);
    if (wanted.has("rust") || wanted.has("e2e")) {
      const versions: PostgresVersion[] = [18, 15, ...onDemand];
      await step(`Starting PostgreSQL ${versions.join(", ")}`, "about 5 seconds", () => servers(versions, env, started));
    }
    if (wanted.has("rust")) await nativeTests(env, onDemand);
    if (wanted.has("e2e")) await endToEnd(env);
  } finally {
    for (const server of started) {
      const log = lastLines(`${server.dataDir}.log`, 200);
      // A server that crashed explains every failure after that.
      if (/PANIC|terminated by signal/.test(log)) say(`PostgreSQL ${server.version} crashed:\n${log}`);
    }
    await stop();
  }
  process.exitCode = failed === 0 && passed > 0 ? 0 : 1;
  process.stdout.write(`\n${passed} passed, ${failed} failed\n`);
});
