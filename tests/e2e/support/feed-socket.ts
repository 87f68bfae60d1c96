// A WebSocket client of the feed that records all it is sent, so that a test can ask for it in any order.
import { WebSocket } from "ws";
import { waitFor } from "./wait-for.ts";

/** One row change as the feed sends it. */
export interface TableChange {
  id: number;
  lsn: string;
  epoch: number;
  xid: number;
  schema: string;
  table: string;
  operation: "insert" | "update" | "delete" | "truncate";
  data: Record<string, unknown>;
  old: Record<string, unknown> | null;
  unchanged: string[];
  omitted: string[];
  committedAt: string;
}

/** Every message that the server sends. */
export type ServerMessage =
  | { type: "welcome"; clientId: string; epoch: number; oldest: string; head: string }
  | { type: "changes"; changes: TableChange[]; from: string; to: string; catchUp: boolean }
  | { type: "caught_up"; position: string }
  | { type: "progress"; position: string }
  | { type: "reset"; reason: string }
  | { type: "error"; code: string; message: string; retryable: boolean };

/** What the socket asks for in its URL. */
export interface FeedOptions {
  token?: string | undefined;
  after?: string;
  tables?: string;
  client?: string;
  ack?: "1";
}

/** An open WebSocket on the feed. */
export class FeedSocket {
  /** All messages in the order of their arrival. */
  readonly messages: ServerMessage[] = [];
  /** Every frame as it came, "pong" included. */
  readonly frames: string[] = [];
  readonly #socket: WebSocket;
  #closed: { code: number; reason: string } | undefined;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on("message", (data) => {
      const text = String(data);
      this.frames.push(text);
      if (text !== "pong") this.messages.push(JSON.parse(text) as ServerMessage);
    });
    socket.on("close", (code, reason) => (this.#closed = { code, reason: reason.toString() }));
    // The close that follows tells the test what it wants to know.
    socket.on("error", () => undefined);
  }

  /** Connects; fails with the HTTP status and body when the server refuses the upgrade. */
  static open(base: URL, { token, ...query }: FeedOptions): Promise<FeedSocket> {
    const url = new URL("/ws", base);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.searchParams.set("v", "1");
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    const protocols = token === undefined ? [] : ["replication.v1", `bearer.${Buffer.from(token).toString("base64url")}`];
    const socket = new WebSocket(url, protocols);
    const feed = new FeedSocket(socket);
    return new Promise((resolve, reject) => {
      socket.on("open", () => resolve(feed));
      socket.on("error", reject);
      socket.on("unexpected-response", (_, response) => {
        let body = "";
        response.setEncoding("utf8").on("data", (text: string) => (body += text));
        response.on("end", () => reject(new Error(`upgrade refused: ${response.statusCode} ${body}`)));
      });
    });
  }

  /** The subprotocol that the server chose. */
  get protocol(): string {
    return this.#socket.protocol;
  }

  /** Why the socket closed, once it has. */
  get closed(): { code: number; reason: string } | undefined {
    return this.#closed;
  }

  /** All changes so far, in the order of their arrival. */
  get changes(): TableChange[] {
    return this.messages.flatMap((message) => (message.type === "changes" ? message.changes : []));
  }

  /** Sends a message, or a raw string. */
  send(message: object | string): void {
    this.#socket.send(typeof message === "string" ? message : JSON.stringify(message));
  }

  /** Waits for the first message of a type, the ones before this call included. */
  async message<Type extends ServerMessage["type"]>(type: Type): Promise<Extract<ServerMessage, { type: Type }>> {
    return waitFor(`a ${type} message`, () =>
      this.messages.find((message): message is Extract<ServerMessage, { type: Type }> => message.type === type),
    );
  }

  /** Waits until so many changes have arrived since the socket opened, and gives them all. */
  async receivedChanges(count: number): Promise<TableChange[]> {
    return waitFor(`${count} changes (${this.changes.length} so far)`, () => this.changes.length >= count && this.changes);
  }

  /** Stops reading from the network, as a client that hangs. */
  pause(): void {
    this.#socket.pause();
  }

  /** Reads again. */
  resume(): void {
    this.#socket.resume();
  }

  /** Closes in order. */
  close(code = 1000): void {
    this.#socket.close(code);
  }

  /** Ends the connection without a close frame, as a dead network does. */
  terminate(): void {
    this.#socket.terminate();
  }
}
