// A TCP proxy that breaks connections where a test says so. It is the only fault injector between the Worker and Postgres.
import { connect, createServer, type AddressInfo, type Socket } from "node:net";
import type { TestContext } from "node:test";
import { afterwards } from "./afterwards.ts";

/** From the view of the Worker: `sent` goes to Postgres, `received` comes from it. */
export type Direction = "sent" | "received";

/** The bytes that have passed since the proxy started. */
export interface Counts {
  connections: number;
  sent: number;
  received: number;
}

/** A fault that waits for its moment. */
interface Cut {
  direction: Direction;
  /** Bytes in that direction that still pass. */
  remaining: number;
  done: () => void;
}

/** Stands between a client and a server, and forwards everything until told otherwise. */
export class FaultProxy {
  readonly counts: Counts = { connections: 0, sent: 0, received: 0 };
  readonly #server = createServer();
  readonly #target: { host: string; port: number };
  readonly #links = new Set<{ client: Socket; upstream: Socket }>();
  #cut: Cut | undefined;
  #paused = false;
  #refusing = false;

  private constructor(target: { host: string; port: number }) {
    this.#target = target;
    this.#server.on("connection", (client) => this.#accept(client));
  }

  /**
   * Starts a proxy to the server of a connection string. Returns it with the string that leads through it. It ends with the
   * test.
   */
  static async to(t: TestContext, connectionString: string): Promise<{ proxy: FaultProxy; url: string }> {
    const url = new URL(connectionString);
    const proxy = new FaultProxy({ host: url.hostname, port: Number(url.port) });
    await new Promise<void>((resolve) => proxy.#server.listen(0, "127.0.0.1", resolve));
    afterwards(t, () => proxy.#close());
    url.port = String((proxy.#server.address() as AddressInfo).port);
    return { proxy, url: url.href };
  }

  /**
   * Lets `bytes` more bytes pass in one direction, over all connections, then resets every connection. New connections work.
   * Resolves when the cut has happened.
   */
  cutAfter(direction: Direction, bytes: number): Promise<void> {
    return new Promise((done) => {
      this.#cut = { direction, remaining: bytes, done };
    });
  }

  /** Resets every connection now. */
  cutNow(): void {
    for (const { client, upstream } of this.#links) {
      reset(client);
      reset(upstream);
    }
  }

  /** Lets nothing pass in either direction and closes nothing, like a dead network. */
  pause(): void {
    this.#paused = true;
    for (const { client, upstream } of this.#links) {
      client.pause();
      upstream.pause();
    }
  }

  /** Ends `pause`. */
  resume(): void {
    this.#paused = false;
    for (const { client, upstream } of this.#links) {
      client.resume();
      upstream.resume();
    }
  }

  /** Resets every new connection at once, like a server that is down. */
  refuse(refusing: boolean): void {
    this.#refusing = refusing;
  }

  /** The connections that are open now. */
  get open(): number {
    return this.#links.size;
  }

  async #close(): Promise<void> {
    this.cutNow();
    await new Promise<void>((resolve) => this.#server.close(() => resolve()));
  }

  #accept(client: Socket): void {
    this.counts.connections += 1;
    if (this.#refusing) {
      client.resetAndDestroy();
      return;
    }
    const upstream = connect(this.#target);
    const link = { client, upstream };
    this.#links.add(link);
    this.#pass(client, upstream, "sent");
    this.#pass(upstream, client, "received");
    if (this.#paused) {
      client.pause();
      upstream.pause();
    }
    const end = () => {
      this.#links.delete(link);
      client.destroy();
      upstream.destroy();
    };
    // A reset by one side is what this proxy is for, not an error of the test.
    client.on("error", end).on("close", end);
    upstream.on("error", end).on("close", end);
  }

  #pass(from: Socket, to: Socket, direction: Direction): void {
    from.on("data", (chunk: Buffer) => {
      const cut = this.#cut;
      if (cut === undefined || cut.direction !== direction || chunk.length < cut.remaining) {
        if (cut?.direction === direction) cut.remaining -= chunk.length;
        this.counts[direction] += chunk.length;
        // A slow reader slows the writer down, as it would without a proxy.
        if (!to.write(chunk)) {
          from.pause();
          to.once("drain", () => {
            if (!this.#paused) from.resume();
          });
        }
        return;
      }
      this.#cut = undefined;
      this.counts[direction] += cut.remaining;
      // The bytes before the cut arrive, and nothing after it.
      to.write(chunk.subarray(0, cut.remaining), () => {
        this.cutNow();
        cut.done();
      });
    });
    from.on("end", () => to.end());
  }
}

/**
 * Resets a connection. One that is being shut down is closed instead: Node 22 never releases a handle that it resets
 * meanwhile, and a process with such a handle spins for ever when it exits.
 */
function reset(socket: Socket): void {
  if (socket.writableEnded) socket.destroy();
  else socket.resetAndDestroy();
}
