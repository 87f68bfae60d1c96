// One WebSocket from its opening to its end, with a heartbeat: a network that dies without a word
// leaves a socket that looks open for ever.
//
//     new -> open -> text, text, ... -> end (told once: closed, silent for too long, or never opened)

/** What this library needs of a WebSocket. Browsers, Node and Workers have it as a global. */
export interface WebSocketLike {
  send(data: string): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: "open" | "message" | "close" | "error", listener: (event: never) => void): void;
}

/** What a close event says of a connection that was lost without a close frame. */
const lostCode = 1006;

/** Makes a WebSocket. */
export type WebSocketConstructor = new (url: string, protocols: string[]) => WebSocketLike;

/** How a connection is watched, in milliseconds. */
export interface Watch {
  /** The function that fetches the ticket or token must have answered within this time. */
  credentialMs: number;
  /** It must be open within this time. */
  openMs: number;
  /** A ping is sent as often; a server that has said nothing by the next one is taken for dead. */
  heartbeatMs: number;
}

/** How a connection ended. */
export interface End {
  /** How long it was open; undefined if it never was. */
  lastedMs: number | undefined;
  /** The close code (RFC 6455, section 7.4); undefined if this side gave up. */
  code: number | undefined;
  reason: string;
}

/** Who is told what happens. */
export interface Listener {
  /** A text frame, pongs excepted. */
  text(frame: string): void;
  /** A frame that is not text. */
  binary(): void;
  end(end: End): void;
}

/** An open WebSocket, or one that is being opened. */
export class Connection {
  readonly #socket: WebSocketLike;
  readonly #listener: Listener;
  readonly #watch: Watch;
  /** When it opened, by `performance.now()`. */
  #openedAt: number | undefined;
  #ended = false;
  #opening: ReturnType<typeof setTimeout> | undefined;
  #heartbeat: ReturnType<typeof setInterval> | undefined;
  /** A ping was sent, and nothing was heard since. */
  #waiting = false;
  #lastTick = 0;

  /** Opens a connection. Throws what the constructor of the WebSocket throws, for a wrong URL. */
  constructor(url: URL, protocols: string[], listener: Listener, watch: Watch, Socket: WebSocketConstructor) {
    this.#listener = listener;
    this.#watch = watch;
    this.#socket = new Socket(url.href, protocols);
    this.#socket.addEventListener("open", () => this.#open());
    this.#socket.addEventListener("message", ({ data }: { data: unknown }) => this.#message(data));
    this.#socket.addEventListener("close", ({ code, reason }: { code: number; reason: string }) =>
      this.#end(code, reason || `closed with code ${code}`),
    );
    // Each runtime words this in its own way, if at all. Some report an error and no close.
    this.#socket.addEventListener("error", ({ message }: { message?: unknown }) =>
      this.#end(lostCode, typeof message === "string" && message !== "" ? message : "the connection failed"),
    );
    this.#opening = setTimeout(() => this.#giveUp(`not open within ${watch.openMs} ms`), watch.openMs);
  }

  /** Sends a text frame; dropped when the connection is not open. */
  send(frame: string): void {
    if (this.#openedAt === undefined || this.#ended) return;
    try {
      this.#socket.send(frame);
    } catch (error) {
      // Some runtimes refuse to send while the socket closes.
      this.#giveUp(String(error));
    }
  }

  /** Closes in order. The listener is told at once, and nothing else afterwards. */
  close(reason: string): void {
    this.#giveUp(reason);
  }

  #open(): void {
    if (this.#ended) return;
    this.#openedAt = performance.now();
    if (this.#opening !== undefined) clearTimeout(this.#opening);
    this.#lastTick = Date.now();
    this.#heartbeat = setInterval(() => this.#tick(), this.#watch.heartbeatMs);
  }

  #message(data: unknown): void {
    if (this.#ended) return;
    this.#waiting = false;
    if (data === "pong") return;
    if (typeof data === "string") this.#listener.text(data);
    else this.#listener.binary();
  }

  #tick(): void {
    const { heartbeatMs } = this.#watch;
    const now = Date.now();
    // A timer that is late (a hidden tab, a program that was busy) says nothing about the server,
    // whose answer may wait to be read.
    const late = now - this.#lastTick > heartbeatMs * 1.5;
    this.#lastTick = now;
    if (this.#waiting && !late) return this.#giveUp(`nothing heard for ${heartbeatMs} ms`);
    this.#waiting = true;
    this.send("ping");
  }

  #giveUp(reason: string): void {
    if (this.#ended) return;
    this.#end(undefined, reason);
    try {
      this.#socket.close(1000);
    } catch {
      // Workers refuse to close a WebSocket that is not open yet; it is forgotten.
    }
  }

  #end(code: number | undefined, reason: string): void {
    if (this.#ended) return;
    this.#ended = true;
    if (this.#opening !== undefined) clearTimeout(this.#opening);
    if (this.#heartbeat !== undefined) clearInterval(this.#heartbeat);
    const lastedMs = this.#openedAt === undefined ? undefined : performance.now() - this.#openedAt;
    this.#listener.end({ lastedMs, code, reason });
  }
}
