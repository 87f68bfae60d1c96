// A WebSocket client of the feed that records all it is sent, so that a test can ask for it in any
// order. Unlike the client library it neither reconnects nor leaves anything out; but it holds each
// frame against the library's types, so that every test checks that they are true.
import { WebSocket, type ClientOptions } from "ws";
import { readServerMessage, type ServerMessage, type TableChange } from "../../../client/src/index.ts";
import { waitFor } from "./wait-for.ts";

export type { ServerMessage, TableChange };

/**
 * After the closing handshake workerd leaves its end of the connection open for a while, with any
 * object, and a client that is not told otherwise waits 30 seconds for it.
 */
const patience: ClientOptions & { closeTimeout: number } = { closeTimeout: 500 };

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
  readonly #messages: ServerMessage[] = [];
  #malformed: unknown;
  #keepsUp = false;
  /** Every frame as it came, "pong" included. */
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

  /** All messages in the order of their arrival. Throws when one was not as the library's types say. */
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

  /** Waits for the first message of a type, the ones before this call included. */
  async message<Type extends ServerMessage["type"]>(type: Type): Promise<Extract<ServerMessage, { type: Type }>> {
    return waitFor(`a ${type} message`, () =>
      this.messages.find((message): message is Extract<ServerMessage, { type: Type }> => message.type === type),
    );
  }

  /** Waits until so many changes have arrived since the socket opened, and gives them all. */
  async receivedChanges(count: number): Promise<TableChange[]> {
    return waitFor(`${count} changes`, () => {
      const { changes } = this;
      if (changes.length >= count) return changes;
      throw new Error(`${changes.length} changes${this.#closed === undefined ? "" : `, and a close with code ${this.#closed.code}`}`);
    });
  }

  /** Acknowledges all that has come and will come: the socket asked for `ack`. */
  keepUp(): void {
    this.#keepsUp = true;
    for (const message of this.messages) this.#acknowledge(message);
  }

  /** Stops reading from the network, as a client that hangs. */
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
      this.#malformed = new Error(`not as the client's types say: ${text.slice(0, 500)}`, { cause });
    }
  }

  #acknowledge(message: ServerMessage): void {
    if (message.type === "changes") this.send({ type: "ack", position: message.to });
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
