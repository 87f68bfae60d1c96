// A Sync Durable Object: the feed calls it with the changes of one table; it keeps a copy of the
// table, and passes the changes on to WebSocket clients of its own. A thousand of these with thirty
// thousand clients each hang on one feed.
//
//     ReplicationDO --POST /replication/changes--> SyncDO --changes--> WebSocket clients
//                   <--POST /clients (alarm)------     |
//                                                      +-> SQLite: rows, last changes, cursor
//
// The cursor here is the truth: it moves in one transaction with the rows, and the feed only goes on
// when it has been answered with 2xx. What comes twice is left out, what is missing is asked for again.
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

/** What wrangler.toml binds. */
export interface Env {
  SYNC: DurableObjectNamespace<SyncDO>;
  REPLICATION: DurableObjectNamespace;
  /** Tables that may be followed, separated by commas. */
  TABLES: string;
  /** The feed forgets a client that has not renewed its registration for so many seconds. */
  TTL_SECONDS: string;
  SYNC_TOKEN?: string;
}

/** The name under which the feed's own wrangler.toml binds this class. */
const bindingOfTheFeed = "SYNC";

const firstRetryMs = 1_000;
const waitForInitialPollMs = 20_000;

/** Changes in one frame to a client that comes back. */
const frameChanges = 500;

const subprotocol = "replication.v1";

/** Follows one table. */
export class SyncDO extends DurableObject<Env> {
  readonly #replica: Replica;
  #isRegistering = false;

  constructor(ctx: DurableObjectState, env: Env) {
    super(ctx, env);
    this.#replica = new Replica(ctx.storage);
    // Answered by the platform, without waking the object.
    ctx.setWebSocketAutoResponse(new WebSocketRequestResponsePair("ping", "pong"));
  }

  /** Follows a table from now on; where it does already, nothing happens. */
  async follow(table: string): Promise<void> {
    await this.ctx.storage.put("table", table);
    // While the alarm goes off there is none; else one that is missing was lost with its handler.
    if (!this.#isRegistering && (await this.ctx.storage.getAlarm()) === null) await this.ctx.storage.setAlarm(Date.now());
  }

  /** The rows that have arrived, and up to where; the position is null before the first. */
  rows(): { position: Position | null; rows: unknown[] } {
    return { position: this.#replica.cursor ?? null, rows: this.#replica.rows() };
  }

  override async fetch(request: Request): Promise<Response> {
    const { pathname, searchParams } = new URL(request.url);
    if (request.method === "POST" && pathname === "/replication/changes") return this.#callback(await request.text());
    if (request.method === "GET" && pathname === "/ws") return this.#connect(request, searchParams);
    return problem(404, "not_found", "there is no such endpoint");
  }

  /** Registers with the feed, and again in time. Never throws: the platform gives up on an alarm that does. */
  override async alarm(): Promise<void> {
    // With time enough for some failures.
    const renewMs = (Number(this.env.TTL_SECONDS) * 1_000) / 3;
    const failures = (await this.ctx.storage.get<number>("failures")) ?? 0;
    this.#isRegistering = true;
    try {
      await this.#register();
      await this.ctx.storage.delete("failures");
      // A reset that came meanwhile asks for a beginning, not for a renewal.
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
    await this.#ask("POST", "/clients", {
      id: `sync-${this.ctx.id.toString().slice(0, 32)}`,
      binding: bindingOfTheFeed,
      objectId: this.ctx.id.toString(),
      tables: [table],
      // Also when it is renewed: should the feed stand elsewhere, it comes back to where we are.
      after: this.#replica.cursor,
      ttlSeconds: Number(this.env.TTL_SECONDS),
    });
  }

  /**
   * Gets a first position, with the first changes that are kept. An application whose table is older
   * than the feed loads the table itself here, from the database, after it has got the position.
   */
  async #begin(table: string): Promise<void> {
    // Till then, changes from the time when nobody polled may not be stored.
    await this.#ask("GET", `/wait-for-initial-poll?timeoutMs=${waitForInitialPollMs}`);
    const query = new URLSearchParams({ after: "earliest", tables: table });
    const page = (await this.#ask("GET", `/changes?${query.toString()}`)) as { changes: TableChange[]; next: Position };
    const epoch = page.next.split("-")[0];
    // The page begins with the oldest change that is kept.
    this.#replica.take({
      changes: page.changes,
      from: `${epoch}-${(page.changes[0]?.id ?? Number(page.next.split("-")[1]) + 1) - 1}`,
      to: page.next,
    });
  }

  /** Asks the feed. The binding is the credential: who holds it is trusted. */
  async #ask(method: string, path: string, body?: object): Promise<unknown> {
    const feed = this.env.REPLICATION.getByName("default");
    const response = await feed.fetch(`https://feed${path}`, { method, ...(body === undefined ? {} : { body: JSON.stringify(body) }) });
    const text = await response.text();
    if (!response.ok) throw new Error(`${method} ${path}: ${response.status} ${text}`);
    return JSON.parse(text);
  }

  /** Takes in what the feed sends: answered with 2xx only once it is stored. */
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
        // The feed goes on behind the position in this answer.
        if (taken === "gap") return Response.json({ position: this.#replica.cursor }, { status: 409 });
        // One string for all: those who have a part of it already leave that out.
        if (taken === "new") this.#broadcast(body);
        return new Response(null, { status: 204 });
      }
      case "reset":
        // Something may be missing, so nothing of this can be relied on: begin anew.
        this.#replica.forget();
        this.#broadcast(body);
        await this.ctx.storage.setAlarm(Date.now());
        return new Response(null, { status: 204 });
      case "welcome":
      case "warnings":
      case "error":
        return problem(400, "bad_message", `a callback is no place for ${message.type}`);
      default:
        throw new TypeError(`unknown message: ${JSON.stringify(message satisfies never)}`);
    }
  }

  #broadcast(frame: string): void {
    for (const socket of this.ctx.getWebSockets()) send(socket, frame);
  }

  /** Takes in a client. It speaks the protocol of the feed, so the same library connects to both. */
  #connect(request: Request, query: URLSearchParams): Response {
    if (request.headers.get("upgrade")?.toLowerCase() !== "websocket")
      return problem(426, "upgrade_required", "this endpoint is a WebSocket: send Upgrade: websocket");
    const after = query.get("after");
    if (query.get("v") !== "1") return problem(400, "bad_field", "v: this server speaks version 1 only");
    if (after !== null && after !== "earliest" && !isPosition(after)) return problem(400, "bad_field", "after: not a position");
    const { cursor, oldest } = this.#replica;
    if (cursor === undefined || oldest === undefined) return problem(503, "not_ready", "the first changes have not arrived yet", true);
    const { 0: client, 1: socket } = new WebSocketPair();
    this.ctx.acceptWebSocket(socket);
    // Nothing is awaited from here on, so what is broadcast next begins where this ends.
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
    // What is kept is small, so nobody is waited for.
    if (typeof text === "string" && text.startsWith('{"type":"ack"')) return;
    const message = "this server takes no messages but ping and ack";
    send(socket, JSON.stringify({ type: "error", code: "unknown_type", message, retryable: false } satisfies ServerMessage));
  }

  override webSocketClose(socket: WebSocket): void {
    socket.close(1000);
  }
}

/** A client that has gone comes back with its own position. */
function send(socket: WebSocket, frame: string): void {
  try {
    socket.send(frame);
  } catch {
    socket.close(1011, "cannot be sent to");
  }
}

function problem(status: number, code: string, message: string, retryable = false): Response {
  return Response.json({ error: { code, message, retryable } }, { status });
}
