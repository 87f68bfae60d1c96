// The built Worker in real workerd, on a database that the test chooses.
import { randomBytes } from "node:crypto";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import type { TestContext } from "node:test";
import { createTestHarness, experimental_readRawConfig, type TestHarnessOptions, type WorkerHandle } from "wrangler";
import { afterwards, hasPassed } from "./afterwards.ts";
import { FeedSocket, type FeedOptions } from "./feed-socket.ts";
import { requestJson, type Answer } from "./request.ts";

// Otherwise local workerd asks the network for the location of its requests, and complains if it cannot.
process.env["CLOUDFLARE_CF_FETCH_ENABLED"] = "false";

const objectClass = "ReplicationDO";

/** How the Worker is started. */
export interface WorkerOptions {
  /** The connection string behind the HYPERDRIVE binding. */
  database: string;
  /** The replication slot. The publication has the same name. */
  slot: string;
  /** Overrides of wrangler.toml's [vars]. */
  vars?: Record<string, string>;
  /** Secrets in addition to the token. */
  secrets?: Record<string, string>;
  /** Other Workers next to it, such as applications with Sync Durable Objects. */
  others?: TestHarnessOptions["workers"];
  /** Their Durable Objects that it may call, as its wrangler.toml would bind them. */
  calls?: { name: string; class_name: string; script_name: string }[];
}

/** A running Worker. */
export interface RunningWorker {
  readonly url: URL;
  /** The bearer token that it requires. */
  readonly token: string;
  /** An authorised request. */
  request<Body = Record<string, unknown>>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Answer<Body>>;
  /** A request exactly as given, without a token unless the test sends one. */
  fetch(path: string, init?: RequestInit): Promise<Response>;
  /** Opens a WebSocket on GET /ws and waits for the upgrade. */
  connect(options?: FeedOptions): Promise<FeedSocket>;
  /**
   * Evicts the object from memory, as the platform does with an idle one. Its storage stays, and its WebSockets hibernate or
   * close. An object that has a connection is not idle: see `restart`.
   */
  evict(webSockets?: "hibernate" | "close"): Promise<void>;
  /** Ends the runtime in the middle of whatever it does, and starts it again, as a deploy does. */
  restart(): Promise<void>;
  /** The log of the Worker since it started. */
  logs(): string[];
  /** One of the other Workers. */
  other(name: string): WorkerHandle;
}

/**
 * Starts the Worker that `wrangler deploy --dry-run` has bundled, with the production wrangler.toml. It ends with the test.
 */
export async function startWorker(t: TestContext, options: WorkerOptions): Promise<RunningWorker> {
  const token = randomBytes(16).toString("hex");
  // Wrangler reads the local connection string of the binding from here when the server starts.
  process.env["CLOUDFLARE_HYPERDRIVE_LOCAL_CONNECTION_STRING_HYPERDRIVE"] = options.database;
  const server = createTestHarness({
    workers: [
      {
        configPath: options.calls === undefined ? "wrangler.toml" : configWith(t, options.calls),
        prebuiltWorkerDir: bundleDir(),
        vars: { REPLICATION_SLOT: options.slot, REPLICATION_PUBLICATION: options.slot, ...options.vars },
        secrets: { REPLICATION_TOKEN: token, ...options.secrets },
      },
      ...(options.others ?? []),
    ],
  });
  const { url } = await server.listen();
  const worker = server.getWorker();
  const sockets = new Set<FeedSocket>();
  afterwards(t, async () => {
    for (const socket of sockets) socket.terminate();
    // The log of the Worker shows why a test failed.
    if (!hasPassed(t)) server.debug();
    const logged = server.getLogs().flatMap((log) => log.message.split("\n"));
    await server.close();
    refuseSecrets(logged, [token, passwordOf(options.database)]);
  });
  // There is one object for each database, and only the Worker knows its name.
  const object = async () => {
    const [id] = await worker.listDurableObjectIds(objectClass);
    if (id === undefined) throw new Error(`no ${objectClass} has stored anything yet`);
    return { id };
  };
  return {
    url,
    token,
    request: (method, path, body, signal) => requestJson(new URL(path, url), token, method, body, signal),
    fetch: (path, init) => fetch(new URL(path, url), init),
    connect: async (feed = {}) => {
      const socket = await FeedSocket.open(url, { token, ...feed });
      sockets.add(socket);
      return socket;
    },
    evict: async (webSockets = "hibernate") => worker.evictDurableObject(objectClass, { ...(await object()), webSockets }),
    restart: () => server.update((current) => current),
    logs: () => server.getLogs().map((log) => log.message),
    other: (name) => server.getWorker(name),
  };
}

/** The production configuration with additional bindings, in a separate file. */
function configWith(t: TestContext, bindings: NonNullable<WorkerOptions["calls"]>): string {
  const { rawConfig } = experimental_readRawConfig({ config: "wrangler.toml" });
  const folder = mkdtempSync(join(tmpdir(), "pg-change-feed-config-"));
  afterwards(t, () => rmSync(folder, { recursive: true }));
  const { build: _, main = "", durable_objects, ...rest } = rawConfig;
  const config = { ...rest, main: resolve(main), durable_objects: { bindings: [...(durable_objects?.bindings ?? []), ...bindings] } };
  const file = join(folder, "wrangler.json");
  writeFileSync(file, JSON.stringify(config));
  return file;
}

/** Whatever a test does, the Worker logs lines of JSON without credentials and row values. */
function refuseSecrets(logged: string[], secrets: string[]): void {
  for (const line of logged.filter((line) => line.startsWith('{"'))) {
    JSON.parse(line);
    // Items are called "item 1" and so on.
    const leak = secrets.find((secret) => secret !== "postgres" && line.includes(secret)) ?? line.match(/\bitem \d/)?.[0];
    if (leak !== undefined) throw new Error(`the Worker logged ${JSON.stringify(leak)}: ${line}`);
  }
}

/** The password of the test servers is part of almost every name, so tests of credentials use another one. */
function passwordOf(connectionString: string): string {
  return new URL(connectionString).password || "postgres";
}

/** The folder with the Worker's bundle. */
export function bundleDir(): string {
  const dir = process.env["TEST_WORKER_BUNDLE"];
  if (dir === undefined) {
    throw new Error("TEST_WORKER_BUNDLE is not set: run these tests with `npm test` (or `npm test -- e2e`), which builds the Worker");
  }
  return dir;
}
