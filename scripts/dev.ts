// Runs the whole system on this machine: `npm run dev`.
//
//     Postgres 18 (.postgres/) <-- demo tables, publication
//         ^
//         | Hyperdrive binding
//     wrangler dev (workerd) <-- POST /init, then it polls
//
// If DATABASE_URL is set, that database takes the place of the first box. Nothing in it is touched except for this
// system's own tables, slot and publication.
import { createHash } from "node:crypto";
import { mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as delay } from "node:timers/promises";
import type { ChildProcess } from "node:child_process";
import { buildWorker } from "./build.ts";
import { prepareDemo } from "./demo-tables.ts";
import { endChild, ended, spawnChild } from "./child-process.ts";
import { announceInstance, findInstance, withdrawInstance } from "./instance.ts";
import { freePort, isFree, startPostgres, type PostgresServer } from "./postgres.ts";
import { Failure, main, root, say, step } from "./steps.ts";

const workerPort = 8787;
const postgresPort = 54329;

/** Everything that was started, to be stopped in the reverse order. */
class Running {
  postgres: PostgresServer | undefined;
  wrangler: ChildProcess | undefined;
  #stopping: Promise<void> | undefined;

  /** Whether it is being stopped. */
  get stopping(): boolean {
    return this.#stopping !== undefined;
  }

  /** Stops everything. Calling it again does nothing. */
  stop(): Promise<void> {
    return (this.#stopping ??= (async () => {
      withdrawInstance();
      if (this.wrangler !== undefined) await endChild(this.wrangler, 5_000);
      await this.postgres?.stop("fast");
    })());
  }
}

/** The preferred port, or a free one, which is then announced. */
async function portNear(preferred: number, user: string): Promise<number> {
  if (await isFree(preferred)) return preferred;
  const port = await freePort();
  say(`   Port ${preferred} is taken, so ${user} listens on ${port}`);
  return port;
}

async function startDatabase(running: Running): Promise<string> {
  const given = process.env["DATABASE_URL"];
  if (given !== undefined && given !== "") {
    say("-> Using the database in DATABASE_URL");
    return given;
  }
  const port = await portNear(postgresPort, "Postgres");
  running.postgres = await step("Starting PostgreSQL 18", "about 1 second, 3 the first time", () =>
    startPostgres(18, { dataDir: join(root, ".postgres", "18"), port }),
  );
  await prepareDemo(running.postgres.url);
  return running.postgres.url;
}

/** Starts wrangler dev, and waits until the Worker answers. */
async function startWorker(running: Running, database: string, port: number): Promise<void> {
  // The object's storage belongs to one database. Another database gets another object.
  const key = createHash("sha256")
    .update(running.postgres?.dataDir ?? database)
    .digest("hex")
    .slice(0, 12);
  const state = join(root, ".wrangler", `dev-${key}`);
  mkdirSync(state, { recursive: true });
  const overrides = ["REPLICATION_SLOT", "REPLICATION_PUBLICATION", "REPLICATION_TABLES", "POLL_INTERVAL_MS", "HIBERNATION_DELAY_MS"]
    .filter((name) => process.env[name] !== undefined)
    .map((name) => `${name}:${process.env[name]}`);
  const wrangler = spawnChild(
    "TERM",
    process.execPath,
    [
      join("node_modules", "wrangler", "bin", "wrangler.js"),
      "dev",
      "--ip=127.0.0.1",
      `--port=${port}`,
      "--inspector-port=0",
      `--persist-to=${state}`,
      "--show-interactive-dev-session=false",
      "--log-level=log",
      // For this machine only. In production every request is refused unless the secret REPLICATION_TOKEN is set.
      ...["REPLICATION_DEV_NO_AUTH:true", ...overrides].flatMap((pair) => ["--var", pair]),
    ],
    {
      cwd: root,
      env: {
        ...process.env,
        PATH: `${dirname(process.execPath)}:${process.env["PATH"] ?? ""}`,
        CLOUDFLARE_HYPERDRIVE_LOCAL_CONNECTION_STRING_HYPERDRIVE: database,
        // Otherwise it asks the network where this machine is, and complains if it cannot.
        CLOUDFLARE_CF_FETCH_ENABLED: "false",
        WRANGLER_SEND_METRICS: "false",
      },
      stdio: ["pipe", "pipe", "pipe"],
    },
  );
  running.wrangler = wrangler;
  // The output of its start matters only if it fails. Later output is shown, except for its line about each request.
  let held: string[] | undefined = [];
  const show = (line: string) => {
    if (held !== undefined) held.push(line);
    else if (!line.startsWith("[wrangler:info]")) say(line);
  };
  for (const stream of [wrangler.stdout, wrangler.stderr]) {
    if (stream !== null) createInterface(stream).on("line", show);
  }
  const answers = async () => {
    try {
      return (await fetch(`http://127.0.0.1:${port}/status`, { signal: AbortSignal.timeout(5_000) })).ok;
    } catch {
      return false;
    }
  };
  while (!(await answers())) {
    if (running.stopping) return;
    if (wrangler.exitCode !== null) {
      throw new Failure(`wrangler dev ended:\n${held.join("\n")}`, "Fix what it reports above, then run the command again.");
    }
    await delay(100);
  }
  held = undefined;
}

/** Initialises the feed, and waits until it has stored the changes that waited in the slot. */
async function initialise(url: string): Promise<void> {
  await call(`${url}/init`, "POST");
  await call(`${url}/wait-for-initial-poll?timeoutMs=60000`, "GET");
}

async function call(url: string, method: string): Promise<void> {
  const response = await fetch(url, { method });
  if (response.ok) return;
  const body = await response.text();
  let error: { code?: string; message: string; remedy?: string } = { message: body };
  try {
    error = (JSON.parse(body) as { error: typeof error }).error;
  } catch {
    // The runtime's own error page, or nothing: shown as it is.
  }
  const here =
    error.code === "publication_missing" ? "\nOr let it create one: REPLICATION_TABLES=first_table,second_table npm run dev" : "";
  throw new Failure(
    `${method} ${new URL(url).pathname} answered ${response.status}: ${error.message}`,
    `${error.remedy ?? "See the Worker's messages above."}${here}`,
  );
}

function printBanner(url: string, database: string, demo: boolean): void {
  const shown = new URL(database);
  // The user's own password must not appear on the screen. The local server's password is not a secret.
  if (!demo && shown.password !== "") shown.password = "...";
  const first = demo ? "  npm run demo                    writes to the demo tables and shows each change as it arrives\n" : "";
  const write = demo ? "INSERT INTO orders (customer, amount) VALUES ('you', 42)" : "UPDATE your_table SET ...";
  say(`
The change feed is running. Press Ctrl-C to stop it.

  Worker      ${url}
  Database    ${shown.href}

In a second terminal:
${first}  npm run tail                    follows the feed; in a third, change a row with any client:
  psql '${shown.href}' \\
    -c "${write}"
  curl ${url}/status
`);
}

await main(async () => {
  const other = findInstance();
  if (other !== undefined) {
    throw new Failure(
      `\`npm run dev\` is already running, as process ${other.pid}, at ${other.url}.`,
      "Use that one, or stop it with Ctrl-C first.",
    );
  }
  const running = new Running();
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(signal, () => {
      if (!running.stopping) say("\nStopping");
      void running.stop().then(() => process.exit(0));
    });
  }
  try {
    await buildWorker();
    const database = await startDatabase(running);
    const port = await portNear(workerPort, "the Worker");
    const url = `http://127.0.0.1:${port}`;
    await step("Starting the Worker in wrangler dev", "about 5 seconds", () => startWorker(running, database, port));
    if (running.stopping) return;
    await step("Initialising the feed", "about 1 second", () => initialise(url));
    const demo = running.postgres !== undefined;
    announceInstance({ pid: process.pid, url, database, demo });
    printBanner(url, database, demo);
    if (running.wrangler !== undefined) await ended(running.wrangler);
    if (!running.stopping) throw new Failure("wrangler dev ended by itself.", "See its last messages above, then start again.");
  } finally {
    await running.stop();
  }
});
