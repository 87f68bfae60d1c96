// A WebSocket client of the feed that records everything it receives, so that a test can look at it in any order. Unlike the
// client library it neither reconnects nor skips anything. It checks each frame against the library's types, so that every
// test proves them right.
import { WebSocket, type ClientOptions } from "ws";
import { readServerMessage, type ServerMessage, type TableChange } from "../../../client/src/index.ts";
import { waitFor } from "./wait-for.ts";

export type { ServerMessage, TableChange };

/**
 * After the closing handshake workerd keeps its end of the connection open for a while, with any object, and by default a
 * client waits 30 seconds for it.
 */
const patience: ClientOptions & { closeTimeout: number } = { closeTimeout: 500 };

/** The query of the upgrade. */
export interface FeedOptions {
  token?: string | undefined;
  after?: string;
  tables?: string;
  client?: string;
  ack?: "1";
}

/** An open WebSocket on the feed. */
export class FeedSocket {
  readonly #messages: ServerMessage[] = [];
  #malformed: unknown;
  #keepsUp = false;
  /** Every frame as received, including "pong". */
  readonly frames: string[] = [];
  readonly #socket: WebSocket;
  #closed: { code: number; reason: string } | undefined;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on("message", (data) => {
      const text = String(data);
      this.frames.push(text);
      if (text !== "pong") this.#read(text);
    });
    socket.on("close", (code, reason) => (this.#closed = { code, reason: reason.toString() }));
    // The close event that follows has what a test needs.
    socket.on("error", () => undefined);
  }

  /** Connects. Fails with the HTTP status and body if the server refuses the upgrade. */
  static open(base: URL, { token, ...query }: FeedOptions): Promise<FeedSocket> {
    const url = new URL("/ws", base);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    url.searchParams.set("v", "1");
    for (const [name, value] of Object.entries(query)) url.searchParams.set(name, value);
    const protocols = token === undefined ? [] : ["replication.v1", `bearer.${Buffer.from(token).toString("base64url")}`];
    const socket = new WebSocket(url, protocols, patience);
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

  /** All messages in the order of their arrival. Throws if one did not match the library's types. */
  get messages(): ServerMessage[] {
    if (this.#malformed !== undefined) throw this.#malformed;
    return this.#messages;
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

  /** Sends a message, or raw text or bytes. */
  send(message: object | string): void {
    this.#socket.send(typeof message === "string" || Buffer.isBuffer(message) ? message : JSON.stringify(message));
  }

  /** Waits for the first message of a type, which may have come before this call. */
  async message<Type extends ServerMessage["type"]>(type: Type): Promise<Extract<ServerMessage, { type: Type }>> {
    return waitFor(`a ${type} message`, () =>
      this.messages.find((message): message is Extract<ServerMessage, { type: Type }> => message.type === type),
    );
  }

  /** Waits until this many changes have arrived since the socket opened. Returns all of them. */
  async receivedChanges(count: number): Promise<TableChange[]> {
    return waitFor(`${count} changes`, () => {
      const { changes } = this;
      if (changes.length >= count) return changes;
      throw new Error(`${changes.length} changes${this.#closed === undefined ? "" : `, and a close with code ${this.#closed.code}`}`);
    });
  }

  /** Acknowledges everything that has come and will come. The socket must have asked for `ack`. */
  keepUp(): void {
    this.#keepsUp = true;
    for (const message of this.messages) this.#acknowledge(message);
  }

  /** Stops reading from the network, like a client that hangs. */
  pause(): void {
    this.#socket.pause();
  }

  /** Reads again. */
  resume(): void {
    this.#socket.resume();
  }

  #read(text: string): void {
    try {
      const message = readServerMessage(text);
      this.#messages.push(message);
      if (this.#keepsUp) this.#acknowledge(message);
    } catch (cause) {
      this.#malformed = new Error(`does not match the client's types: ${text.slice(0, 500)}`, { cause });
    }
  }

  #acknowledge(message: ServerMessage): void {
    if (message.type === "changes") this.send({ type: "ack", position: message.to });
  }

  /** Closes with the closing handshake. */
  close(code = 1000): void {
    this.#socket.close(code);
  }

  /** Ends the connection without a close frame. */
  terminate(): void {
    this.#socket.terminate();
  }
}
