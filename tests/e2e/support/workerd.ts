// A workerd process for one test, with its storage on disk. It can do what wrangler's harness cannot: be killed, run twice,
// leave Hyperdrive out, and trust given certificates.
import { spawn, type ChildProcess } from "node:child_process";
import { randomBytes } from "node:crypto";
import { copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Readable } from "node:stream";
import { afterwards, hasPassed, type Lifetime } from "./afterwards.ts";
import { FeedSocket, type FeedOptions } from "./feed-socket.ts";
import { requestJson, type Answer } from "./request.ts";
import { bundleDir } from "./worker.ts";

/** How the process is started. */
export interface WorkerdOptions {
  /** The connection string behind the HYPERDRIVE binding. Without it there is no such binding. */
  hyperdrive?: string;
  /** The secret DATABASE_URL, over a direct socket. */
  databaseUrl?: string;
  /** The replication slot. The publication has the same name. */
  slot: string;
  /** The certificates, as PEM, of the only authorities that it trusts. */
  trusted?: string[];
  /** A folder with the scripts of another Worker with the same exports, instead of the built bundle. */
  bundle?: string;
  /**
   * JavaScript that runs in the Worker first, to watch how it uses the platform. It may set `globalThis.onConstruction`, which
   * is called with an object's context, and `globalThis.onAlarm`, which is called with the milliseconds that an alarm took.
   */
  before?: string;
  /** JavaScript that exports a Durable Object class `Beside`, which receives requests to /test/beside. */
  beside?: string;
}

/** A workerd process that serves the Worker. */
export class Workerd {
  readonly #folder = mkdtempSync(join(tmpdir(), "pg-change-feed-workerd-"));
  readonly #token = randomBytes(16).toString("hex");
  readonly #sockets = new Set<FeedSocket>();
  #child: ChildProcess | undefined;
  #url = new URL("http://127.0.0.1");
  #log = "";

  private constructor(options: WorkerdOptions) {
    const bundle = options.bundle ?? bundleDir();
    for (const file of modules(bundle)) copyFileSync(join(bundle, file), join(this.#folder, file));
    writeFileSync(join(this.#folder, "before.js"), options.before ?? "");
    writeFileSync(join(this.#folder, "beside.js"), options.beside ?? "export class Beside {}");
    writeFileSync(join(this.#folder, "main.js"), main);
    mkdirSync(join(this.#folder, "storage"));
    writeFileSync(join(this.#folder, "config.capnp"), config(options, modules(bundle), this.#token));
  }

  /** Starts it. It ends with the test. */
  static async start(t: Lifetime, options: WorkerdOptions): Promise<Workerd> {
    const workerd = new Workerd(options);
    afterwards(t, async () => {
      for (const socket of workerd.#sockets) socket.terminate();
      await workerd.kill();
      if (!hasPassed(t)) process.stderr.write(workerd.#log);
      rmSync(workerd.#folder, { recursive: true });
    });
    await workerd.run();
    return workerd;
  }

  /** Starts the killed process again, with its storage and on another port. */
  async run(): Promise<void> {
    const args = ["serve", "config.capnp", "--socket-addr=http=127.0.0.1:0", "--control-fd=3"];
    const child = spawn(binary(), args, { cwd: this.#folder, stdio: ["ignore", "pipe", "pipe", "pipe"] });
    this.#child = child;
    for (const output of [child.stdout, child.stderr]) output?.setEncoding("utf8").on("data", (text: string) => (this.#log += text));
    const control = child.stdio[3] as Readable;
    const port = await new Promise<number>((resolve, reject) => {
      let said = "";
      control.setEncoding("utf8").on("data", (text: string) => {
        said += text;
        const event = said.match(/\{.*"port":\s*(\d+).*\}\n/);
        if (event !== null) resolve(Number(event[1]));
      });
      child.on("error", reject).on("exit", () => reject(new Error(`workerd does not start:\n${this.#log}`)));
    });
    this.#url = new URL(`http://127.0.0.1:${port}`);
  }

  /** Kills the process, in the middle of whatever it does. */
  async kill(): Promise<void> {
    const child = this.#child;
    this.#child = undefined;
    if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
    const ended = new Promise((resolve) => child.once("exit", resolve));
    child.kill("SIGKILL");
    await ended;
  }

  /** Destroys the object in the middle of whatever it does. The process continues. */
  async abort(): Promise<void> {
    const { status } = await this.request("POST", "/test/abort").catch(() => ({ status: 500 }));
    if (status !== 500) throw new Error(`ending the object was answered with ${status}`);
  }

  /** The address on which it listens. */
  get url(): URL {
    return this.#url;
  }

  /** The bearer token that it requires. */
  get token(): string {
    return this.#token;
  }

  /** The process id, while it runs. */
  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** Everything that it has printed. */
  get log(): string {
    return this.#log;
  }

  /** An authorised request. */
  request<Body = Record<string, unknown>>(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Answer<Body>> {
    return requestJson<Body>(new URL(path, this.#url), this.#token, method, body, signal);
  }

  /** Opens a WebSocket on GET /ws and waits for the upgrade. */
  async connect(feed: FeedOptions = {}): Promise<FeedSocket> {
    const socket = await FeedSocket.open(this.#url, { token: this.#token, ...feed });
    this.#sockets.add(socket);
    return socket;
  }

  /** Initialises the feed, and waits until everything that was in the slot is stored. */
  async initialise(config?: object): Promise<void> {
    for (const [method, path, body] of [
      ["POST", "/init", config],
      ["GET", "/wait-for-initial-poll", undefined],
    ] as const) {
      const answer = await this.request(method, path, body);
      if (answer.status !== 200) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
    }
  }
}

/** The Worker, with an additional way to end its object. */
const main = `
import "before.js";
import Feed, { ReplicationDO as Original } from "index.js";
export { Beside } from "beside.js";
export default class extends Feed {
  fetch(request) {
    if (new URL(request.url).pathname === "/test/beside") return this.env.BESIDE.getByName("default").fetch(request);
    return super.fetch(request);
  }
}
export class ReplicationDO extends Original {
  constructor(ctx, env) {
    globalThis.onConstruction?.(ctx);
    super(ctx, env);
    this.abort = () => ctx.abort("aborted by the test");
  }
  fetch(request) {
    if (new URL(request.url).pathname === "/test/abort") this.abort();
    return super.fetch(request);
  }
  async alarm(info) {
    const started = Date.now();
    await super.alarm(info);
    globalThis.onAlarm?.(Date.now() - started);
  }
}
`;

/** The bundle's script and its WebAssembly. */
function modules(bundle: string): string[] {
  return readdirSync(bundle).filter((name) => /\.(js|wasm)$/.test(name));
}

function binary(): string {
  const require = createRequire(import.meta.url);
  return (require("workerd") as { default: string }).default;
}

function config({ hyperdrive, databaseUrl, slot, trusted = [] }: WorkerdOptions, modules: string[], token: string): string {
  const text = JSON.stringify;
  const vars: Record<string, string | undefined> = {
    REPLICATION_TOKEN: token,
    REPLICATION_SLOT: slot,
    REPLICATION_PUBLICATION: slot,
    DATABASE_URL: databaseUrl,
  };
  const bindings = Object.entries(vars).flatMap(([name, value]) =>
    value === undefined ? [] : [`(name = ${text(name)}, text = ${text(value)})`],
  );
  bindings.push('(name = "REPLICATION", durableObjectNamespace = "ReplicationDO")', '(name = "BESIDE", durableObjectNamespace = "Beside")');
  const services = [
    '(name = "feed", worker = .feed)',
    '(name = "storage", disk = (path = "storage", writable = true))',
    `(name = "internet", network = (allow = ["public", "private", "local"], tlsOptions = (trustedCertificates = [${trusted.map((pem) => text(pem)).join(", ")}])))`,
  ];
  if (hyperdrive !== undefined) {
    const url = new URL(hyperdrive);
    const parts = {
      database: url.pathname.slice(1),
      user: decodeURIComponent(url.username),
      password: decodeURIComponent(url.password),
      scheme: "postgres",
    };
    const fields = Object.entries(parts).map(([name, value]) => `${name} = ${text(value)}`);
    bindings.push(`(name = "HYPERDRIVE", hyperdrive = (designator = "database", ${fields.join(", ")}))`);
    services.push(`(name = "database", external = (address = ${text(url.host)}, tcp = ()))`);
  }
  const files = ["main.js", "before.js", "beside.js", ...modules].map((name) =>
    name.endsWith(".js")
      ? `(name = ${text(name)}, esModule = embed ${text(name)})`
      : `(name = ${text(`./${name}`)}, wasm = embed ${text(name)})`,
  );
  return `
using Workerd = import "/workerd/workerd.capnp";
const config :Workerd.Config = (
  services = [${services.join(", ")}],
  sockets = [(name = "http", address = "127.0.0.1:0", http = (), service = "feed")],
);
const feed :Workerd.Worker = (
  modules = [${files.join(", ")}],
  compatibilityDate = ${text(compatibilityDate())},
  bindings = [${bindings.join(", ")}],
  durableObjectNamespaces = [(className = "ReplicationDO", uniqueKey = "feed", enableSql = true), (className = "Beside", uniqueKey = "beside", enableSql = true)],
  durableObjectStorage = (localDisk = "storage"),
);
`;
}

/** The compatibility date of production. */
function compatibilityDate(): string {
  const date = readFileSync("wrangler.toml", "utf8").match(/^compatibility_date = "(.*)"$/m)?.[1];
  if (date === undefined) throw new Error("wrangler.toml has no compatibility_date");
  return date;
}
