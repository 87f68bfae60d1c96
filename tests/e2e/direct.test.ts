// Without Hyperdrive: DATABASE_URL over the platform's own socket, with TLS according to its sslmode. The platform checks
// certificates, and the tests say which authorities it trusts.
import assert from "node:assert/strict";
import { connect, createServer, type AddressInfo } from "node:net";
import { test, type TestContext } from "node:test";
import { afterwards } from "./support/afterwards.ts";
import { createAuthority, type Authority } from "./support/certificates.ts";
import { createDatabase, type TestDatabase } from "./support/database.ts";
import { offerTls, startServer } from "./support/server.ts";
import { waitFor } from "./support/wait-for.ts";
import { Workerd, type WorkerdOptions } from "./support/workerd.ts";
import type { PostgresServer } from "../../scripts/postgres.ts";

type SslMode = "disable" | "prefer" | "require" | "verify-full";

interface Refusal {
  error: { code: string; message: string; remedy?: string };
}

/** A server with a database, and an authority that signs its certificates. */
class TlsScenario {
  readonly server: PostgresServer;
  readonly database: TestDatabase;
  readonly authority: Authority;
  readonly #t: TestContext;

  private constructor(t: TestContext, server: PostgresServer, database: TestDatabase) {
    this.#t = t;
    this.server = server;
    this.database = database;
    this.authority = createAuthority();
  }

  static async start(t: TestContext): Promise<TlsScenario> {
    const server = await startServer(t);
    const database = await createDatabase(t, server.url);
    await database.query("CREATE TABLE items (id serial PRIMARY KEY, name text)");
    await database.query(`CREATE PUBLICATION ${database.slot} FOR TABLE items`);
    return new TlsScenario(t, server, database);
  }

  /** Starts a Worker that connects to the database by host name. By default it trusts the authority. */
  async worker(mode: SslMode, options: Partial<WorkerdOptions> & { port?: number } = {}): Promise<Workerd> {
    const { port, ...rest } = options;
    const url = new URL(this.database.url);
    url.hostname = "localhost";
    url.port = String(port ?? this.server.port);
    url.searchParams.set("sslmode", mode);
    return Workerd.start(this.#t, { databaseUrl: url.href, slot: this.database.slot, trusted: [this.authority.certificate], ...rest });
  }

  /** Whether the Worker's session is encrypted, according to the server. */
  async encrypted(): Promise<boolean> {
    const session = await waitFor("one session of the Worker", async () => {
      const rows = await this.database.query<{ ssl: boolean }>(
        "SELECT ssl FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'pg-change-feed' AND datname = current_database()",
      );
      return rows.length === 1 && rows[0];
    });
    return session.ssl;
  }
}

/** Inserts rows and checks that they reach a client of the Worker. */
async function carries(database: TestDatabase, worker: Workerd, count: number, bytes: number): Promise<void> {
  await worker.initialise({ pollInterval: 50 });
  const feed = await worker.connect();
  await feed.message("welcome");
  await database.query("INSERT INTO items (name) SELECT repeat('x', $1) FROM generate_series(1, $2)", [bytes, count]);
  const changes = await feed.receivedChanges(count);
  assert.equal(changes.length, count);
  assert.ok(changes.every((change) => String(change.data["name"]).length === bytes));
}

/** The error with which POST /init is refused. */
async function refusal(worker: Workerd): Promise<Refusal["error"]> {
  const answer = await worker.request<Refusal>("POST", "/init");
  assert.equal(answer.status, 503, JSON.stringify(answer.body));
  return answer.body.error;
}

test("each sslmode reaches a server that offers TLS, encrypted unless it is disable", async (t) => {
  const scenario = await TlsScenario.start(t);
  await offerTls(scenario.server, scenario.authority.certify("localhost"));
  for (const mode of ["disable", "prefer", "require", "verify-full"] as const) {
    const worker = await scenario.worker(mode);
    await carries(scenario.database, worker, 2_000, 500);
    assert.equal(await scenario.encrypted(), mode !== "disable", mode);
    await worker.kill();
  }
});

test("only disable and prefer reach a server without TLS, and the other modes say why", async (t) => {
  const scenario = await TlsScenario.start(t);
  for (const mode of ["disable", "prefer"] as const) {
    const worker = await scenario.worker(mode);
    await carries(scenario.database, worker, 10, 10);
    assert.equal(await scenario.encrypted(), false);
    await worker.kill();
  }
  for (const mode of ["require", "verify-full"] as const) {
    const worker = await scenario.worker(mode);
    const answer = await worker.request<Refusal>("POST", "/init");
    assert.equal(answer.body.error.code, "tls_refused");
    assert.match(answer.body.error.remedy ?? "", /ssl = on/);
    await worker.kill();
  }
});

test("a certificate from an untrusted authority, or for another host, is refused with a remedy", async (t) => {
  const scenario = await TlsScenario.start(t);
  const stranger = createAuthority();
  for (const certificate of [stranger.certify("localhost"), scenario.authority.certify("elsewhere.test")]) {
    await offerTls(scenario.server, certificate);
    for (const mode of ["prefer", "require", "verify-full"] as const) {
      const worker = await scenario.worker(mode);
      const error = await refusal(worker);
      t.diagnostic(`${mode}: ${error.message}`);
      assert.equal(error.code, "tls_failed", mode);
      assert.match(error.remedy ?? "", /certificate from a public authority/);
      await worker.kill();
    }
  }
});

/** Forwards everything to a server, but adds bytes to its answer to SSLRequest, as a man in the middle can. */
async function stuffTlsAnswers(t: TestContext, port: number, stuffing: Buffer): Promise<number> {
  const middle = createServer((client) => {
    const upstream = connect(port, "127.0.0.1");
    upstream.once("data", (answer) => {
      // One segment, so that both reach the Worker together.
      client.write(Buffer.concat([answer, stuffing]));
      upstream.pipe(client);
    });
    client.pipe(upstream);
    client.on("error", () => upstream.destroy());
    upstream.on("error", () => client.destroy());
  });
  await new Promise<void>((resolve) => middle.listen(0, "127.0.0.1", resolve));
  afterwards(t, () => void middle.close());
  return (middle.address() as AddressInfo).port;
}

test("plaintext after the server has accepted TLS is refused, never treated as the server's", async (t) => {
  const scenario = await TlsScenario.start(t);
  await offerTls(scenario.server, scenario.authority.certify("localhost"));
  // AuthenticationOk, as if no password were needed.
  const stuffing = Buffer.from([0x52, 0, 0, 0, 8, 0, 0, 0, 0]);
  for (const [bytes, code] of [
    [stuffing, "protocol_violation"],
    [Buffer.alloc(0), undefined],
  ] as const) {
    const port = await stuffTlsAnswers(t, scenario.server.port, bytes);
    const worker = await scenario.worker("verify-full", { port });
    if (code === undefined) {
      // The proxy itself must not be the cause of the failure.
      await carries(scenario.database, worker, 10, 10);
    } else {
      const error = await refusal(worker);
      assert.equal(error.code, code);
      assert.match(error.message, /9 unencrypted bytes arrived/);
    }
    await worker.kill();
  }
});

/** Reports each reader that is acquired, and each read. */
const watchReads = `
const { getReader } = ReadableStream.prototype;
ReadableStream.prototype.getReader = function (options) {
  const reader = getReader.call(this, options);
  const mode = options?.mode ?? "default";
  const { read } = reader;
  reader.read = async (view) => {
    const room = view?.byteLength ?? 0;
    const result = await read.call(reader, view);
    console.log("READ " + JSON.stringify({ mode, room, bytes: result.value?.byteLength ?? 0 }));
    return result;
  };
  return reader;
};
`;

interface Read {
  mode: string;
  room: number;
  bytes: number;
}

for (const way of ["a direct socket", "a direct socket with TLS", "Hyperdrive"] as const) {
  test(`over ${way} the Worker reads into its own large buffer`, async (t) => {
    const scenario = await TlsScenario.start(t);
    await offerTls(scenario.server, scenario.authority.certify("localhost"));
    const worker =
      way === "Hyperdrive"
        ? await Workerd.start(t, { hyperdrive: scenario.database.url, slot: scenario.database.slot, before: watchReads })
        : await scenario.worker(way === "a direct socket" ? "disable" : "verify-full", { before: watchReads });
    await carries(scenario.database, worker, 10_000, 1_000);
    const reads = await waitFor("the reads are told", () => {
      const told = [...worker.log.matchAll(/READ (\{.*\})/g)].map((match) => JSON.parse(match[1] ?? "") as Read);
      // The body of POST /init is read by a default reader.
      const [others, byob] = [told.filter((read) => read.mode !== "byob"), told.filter((read) => read.mode === "byob")];
      assert.ok(
        others.every((read) => read.bytes < 100),
        "the socket too is read by a default reader",
      );
      return byob.length > 0 && byob;
    });
    const sum = reads.reduce((bytes, read) => bytes + read.bytes, 0);
    const large = reads.filter((read) => read.bytes > 4_096).length;
    t.diagnostic(`${sum} bytes in ${reads.length} reads, ${large} of them of more than 4 KiB`);
    assert.ok(
      reads.every((read) => read.room === 256 * 1024),
      JSON.stringify(reads[0]),
    );
    assert.ok(sum > 10_000_000, `${sum} bytes`);
    assert.ok(reads.length < sum / 4_096 / 2, `${reads.length} reads`);
  });
}
