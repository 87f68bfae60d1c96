// One WebSocket from its opening to its end, with a heartbeat: a network that dies silently leaves a socket that looks
// open for ever.
//
//     new -> open -> text, text, ... -> end (reported once: closed, silent for too long, or never opened)

/** The part of a WebSocket that this library needs. Browsers, Node and Workers have it as a global. */
export interface WebSocketLike {
  send(data: string): void;
  close(code?: number, reason?: string): void;
  addEventListener(type: "open" | "message" | "close" | "error", listener: (event: never) => void): void;
}

/** What a close event says of a connection that was lost without a close frame. */
const lostCode = 1006;

/** The constructor of a WebSocket. */
export type WebSocketConstructor = new (url: string, protocols: string[]) => WebSocketLike;

/** How long the steps of a connection may take, in milliseconds. */
export interface Watch {
  /** The function that fetches the ticket or token must have answered within this time. */
  credentialMs: number;
  /** It must be open within this time. */
  openMs: number;
  /** The interval between pings. A server that has said nothing by the next one is considered dead. */
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

/** Learns what happens on a connection. */
export interface Listener {
  /** A text frame, except for pongs. */
  text(frame: string): void;
  /** A binary frame. */
  binary(): void;
  end(end: End): void;
}

/** A WebSocket that is open or opening. */
export class Connection {
  readonly #socket: WebSocketLike;
  readonly #listener: Listener;
  readonly #watch: Watch;
  /** When it opened, by `performance.now()`. */
  #openedAt: number | undefined;
  #ended = false;
  #opening: ReturnType<typeof setTimeout> | undefined;
  #heartbeat: ReturnType<typeof setInterval> | undefined;
  /** A ping was sent, and nothing has come since. */
  #waiting = false;
  #lastTick = 0;

  /** Opens a connection. Throws what the constructor of the WebSocket throws, for an invalid URL. */
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

  /** Sends a text frame. It is dropped if the connection is not open. */
  send(frame: string): void {
    if (this.#openedAt === undefined || this.#ended) return;
    try {
      this.#socket.send(frame);
    } catch (error) {
      // Some runtimes refuse to send while the socket is closing.
      this.#giveUp(String(error));
    }
  }

  /** Closes the socket. The listener is told at once, and hears nothing afterwards. */
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
    // If the timer itself is late (a hidden tab, a busy program), the server's answer may be waiting to be read.
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
      // Workers refuse to close a WebSocket that is not open yet. Nothing refers to it any more.
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
