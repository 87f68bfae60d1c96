// A Sync Durable Object: the feed calls it with the changes of one table. It keeps a copy of the table, and passes the
// changes on to its own WebSocket clients. One feed can serve a thousand of these objects, with thirty thousand clients
// each.
//
//     ReplicationDO --POST /replication/changes--> SyncDO --changes--> WebSocket clients
//                   <--POST /clients (alarm)------     |
//                                                      +-> SQLite: rows, last changes, cursor
//
// The cursor here is authoritative: it moves in one transaction with the rows, and the feed continues only after a 2xx.
// Duplicates are skipped, and a gap makes the feed send the missing changes again.
import { DurableObject } from "cloudflare:workers";
import {
  checkServerMessage,
  isPosition,
  MalformedFrame,
  type Position,
  type ServerMessage,
  type TableChange,
} from "../../../client/src/index.ts";
import { Replica } from "./replica.ts";

/** The bindings in wrangler.toml. */
export interface Env {
  SYNC: DurableObjectNamespace<SyncDO>;
  REPLICATION: DurableObjectNamespace;
  /** Tables that may be followed, separated by commas. */
  TABLES: string;
  /** The feed forgets a client that has not renewed its registration for this many seconds. */
  TTL_SECONDS: string;
  SYNC_TOKEN?: string;
}

/** The name under which the feed's own wrangler.toml binds this class. */
const bindingOfTheFeed = "SYNC";

const firstRetryMs = 1_000;
const waitForInitialPollMs = 20_000;

/** The number of changes in one frame to a client that reconnects. */
const frameChanges = 500;

const subprotocol = "replication.v1";

/** Follows one table. */
export class SyncDO extends DurableObject<Env> {
  readonly #replica: Replica;
  #isRegistering = false;

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    this.#replica = new Replica(ctx.storage);
    // The platform answers pings without waking the object.
    ctx.setWebSocketAutoResponse(new WebSocketRequestResponsePair("ping", "pong"));
  }

  /** Follows a table from now on; does nothing if it follows it already. */
  async follow(table: string): Promise<void> {
    await this.ctx.storage.put("table", table);
    // While the handler runs no alarm is set. Otherwise a missing alarm was lost together with its handler.
    if (!this.#isRegistering && (await this.ctx.storage.getAlarm()) === null) await this.ctx.storage.setAlarm(Date.now());
  }

  /** The rows that have arrived, and their position, which is null before the first. */
  rows(): { position: Position | null; rows: unknown[] } {
    return { position: this.#replica.cursor ?? null, rows: this.#replica.rows() };
  }

  override async fetch(request: Request): Promise<Response> {
    const { pathname, searchParams } = new URL(request.url);
    if (request.method === "POST" && pathname === "/replication/changes") return this.#callback(await request.text());
    if (request.method === "GET" && pathname === "/ws") return this.#connect(request, searchParams);
    return problem(404, "not_found", "there is no such endpoint");
  }

  /** Registers with the feed, and renews that in time. Never throws: the platform gives up on an alarm that does. */
  override async alarm(): Promise<void> {
    // Early enough for several retries.
    const renewMs = (Number(this.env.TTL_SECONDS) * 1_000) / 3;
    const failures = (await this.ctx.storage.get<number>("failures")) ?? 0;
    this.#isRegistering = true;
    try {
      await this.#register();
      await this.ctx.storage.delete("failures");
      // After a reset in the meantime the object must start over, not renew.
      await this.ctx.storage.setAlarm(Date.now() + (this.#replica.cursor === undefined ? 0 : renewMs));
    } catch (error) {
      console.error(JSON.stringify({ event: "registration_failed", error: String(error) }));
      await this.ctx.storage.put("failures", failures + 1);
      await this.ctx.storage.setAlarm(Date.now() + Math.min(renewMs / 4, firstRetryMs * 2 ** failures));
    } finally {
      this.#isRegistering = false;
    }
  }

  async #register(): Promise<void> {
    const table = await this.ctx.storage.get<string>("table");
    if (table === undefined) return;
    if (this.#replica.cursor === undefined) await this.#begin(table);
    await this.#call("POST", "/clients", {
      id: `sync-${this.ctx.id.toString().slice(0, 32)}`,
      binding: bindingOfTheFeed,
      objectId: this.ctx.id.toString(),
      tables: [table],
      // Also for a renewal: if the feed stands elsewhere, it returns to this position.
      after: this.#replica.cursor,
      ttlSeconds: Number(this.env.TTL_SECONDS),
    });
  }

  /**
   * Fetches a first position, with the oldest changes that are kept. If the table is older than the feed, an application loads the
   * table itself here, from the database, after fetching the position.
   */
  async #begin(table: string): Promise<void> {
    // Until then, changes from the time when nobody polled may not be stored yet.
    await this.#call("GET", `/wait-for-initial-poll?timeoutMs=${waitForInitialPollMs}`);
    const query = new URLSearchParams({ after: "earliest", tables: table });
    const page = (await this.#call("GET", `/changes?${query.toString()}`)) as { changes: TableChange[]; next: Position };
    const epoch = page.next.split("-")[0];
    // The page begins with the oldest change that is kept.
    this.#replica.take({
      changes: page.changes,
      from: `${epoch}-${(page.changes[0]?.id ?? Number(page.next.split("-")[1]) + 1) - 1}`,
      to: page.next,
    });
  }

  /** Calls the feed. The binding is the credential: its holder is trusted. */
  async #call(method: string, path: string, body?: object): Promise<unknown> {
    const feed = this.env.REPLICATION.getByName("default");
    const response = await feed.fetch(`https://feed${path}`, { method, ...(body === undefined ? {} : { body: JSON.stringify(body) }) });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return JSON.parse(text);
  }

  /** Takes a message of the feed, and answers with 2xx only once it is stored. */
  async #callback(body: string): Promise<Response> {
    let message: ServerMessage;
    try {
      message = checkServerMessage(JSON.parse(body));
    } catch (error) {
      if (error instanceof MalformedFrame || error instanceof SyntaxError) return problem(400, "bad_message", error.message);
      throw error;
    }
    switch (message.type) {
      case "changes":
      case "progress":
      case "caught_up": {
        const taken = this.#replica.take(message);
        // The feed continues after the position in this answer.
        if (taken === "gap") return Response.json({ position: this.#replica.cursor }, { status: 409 });
        // The same text for every client: one that already has a part of it skips that part.
        if (taken === "new") this.#broadcast(body);
        return new Response(null, { status: 204 });
      }
      case "reset":
        // Changes may be missing, so the copy cannot be trusted: start over.
        this.#replica.forget();
        this.#broadcast(body);
        await this.ctx.storage.setAlarm(Date.now());
        return new Response(null, { status: 204 });
      case "welcome":
      case "warnings":
      case "error":
        return problem(400, "bad_message", `a callback cannot be ${message.type}`);
      default:
        throw new TypeError(`unknown message: ${JSON.stringify(message satisfies never)}`);
    }
  }

  #broadcast(frame: string): void {
    for (const socket of this.ctx.getWebSockets()) send(socket, frame);
  }

  /** Accepts a client. It speaks the protocol of the feed, so that the same library connects to both. */
  #connect(request: Request, query: URLSearchParams): Response {
    if (request.headers.get("upgrade")?.toLowerCase() !== "websocket") {
      return problem(426, "upgrade_required", "this endpoint is a WebSocket: send Upgrade: websocket");
    }
    const after = query.get("after");
    if (query.get("v") !== "1") return problem(400, "bad_field", "v: this server speaks version 1 only");
    if (after !== null && after !== "earliest" && !isPosition(after)) return problem(400, "bad_field", "after: not a position");
    const { cursor, oldest } = this.#replica;
    if (cursor === undefined || oldest === undefined) return problem(503, "not_ready", "the first changes have not arrived yet", true);
    const { 0: client, 1: socket } = new WebSocketPair();
    this.ctx.acceptWebSocket(socket);
    // Nothing is awaited from here on, so the next broadcast begins where this ends.
    for (const frame of this.#greeting(cursor, oldest, after, query.get("client"))) send(socket, frame);
    const protocol = request.headers.has("sec-websocket-protocol") ? { "sec-websocket-protocol": subprotocol } : {};
    return new Response(null, { status: 101, webSocket: client, headers: protocol });
  }

  *#greeting(cursor: Position, oldest: Position, after: string | null, name: string | null): Generator<string> {
    const [epoch = "", head = ""] = cursor.split("-");
    const start = after === null ? cursor : after === "earliest" ? oldest : after;
    const [startEpoch = "", id = ""] = start.split("-");
    const isOther = startEpoch !== epoch || Number(id) > Number(head);
    if (isOther || Number(id) < Number(oldest.split("-")[1])) {
      yield JSON.stringify({ type: "reset", reason: isOther ? "epoch_changed" : "too_old" } satisfies ServerMessage);
      return;
    }
    yield JSON.stringify({
      type: "welcome",
      clientId: name ?? crypto.randomUUID(),
      epoch: Number(epoch),
      oldest,
      head: cursor,
    } satisfies ServerMessage);
    let from = start;
    const frame = (changes: string[], to: Position) => {
      const text = `{"type":"changes","changes":[${changes.join(",")}],"from":"${from}","to":"${to}","catchUp":true}`;
      from = to;
      return text;
    };
    let changes: string[] = [];
    for (const change of this.#replica.changesAfter(Number(id))) {
      if (changes.length === frameChanges) {
        const last = JSON.parse(changes.at(-1) ?? "") as TableChange;
        yield frame(changes, `${epoch}-${last.id}`);
        changes = [];
      }
      changes.push(change);
    }
    if (changes.length > 0) yield frame(changes, cursor);
    yield JSON.stringify({ type: "caught_up", position: cursor } satisfies ServerMessage);
  }

  override webSocketMessage(socket: WebSocket, text: string | ArrayBuffer): void {
    // The kept changes are few, so that no window is needed.
    if (typeof text === "string" && text.startsWith('{"type":"ack"')) return;
    const message = "this server accepts only ping and ack";
    send(socket, JSON.stringify({ type: "error", code: "unknown_type", message, retryable: false } satisfies ServerMessage));
  }

  override webSocketClose(socket: WebSocket): void {
    socket.close(1000);
  }
}

/** A client that has gone reconnects with its own position. */
function send(socket: WebSocket, frame: string): void {
  try {
    socket.send(frame);
  } catch {
    socket.close(1011, "sending failed");
  }
}

function problem(status: number, code: string, message: string, retryable = false): Response {
  return Response.json({ error: { code, message, retryable } }, { status });
}
