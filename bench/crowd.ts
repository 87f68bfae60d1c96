// Many WebSocket clients, in their own process, since their work must not count as the server's. They report when all of
// them have received a frame, and how many bytes. Only the first client parses its frames.
import { WebSocket } from "ws";

/** The clients to create. The parent sends this once. */
export interface CrowdOrder {
  /** Where all of them connect to. */
  url: string;
  protocols: string[];
  count: number;
  /** Each is ready when it has received a frame that begins like this; without this, when it is open. */
  ready?: string;
  /** A frame that each sends when it is ready, to be ready again later. `%` becomes the number of the client. */
  subscription?: string;
  /** The beginning of the frames that count. */
  counted: string;
}

/** The answers: `ready` once, then `all` whenever each client has received one more frame that counts. */
export type CrowdAnswer =
  | { type: "ready" }
  /**
   * When the first and the last client received it, in milliseconds since the Unix epoch; the fewest and the most bytes that a
   * client has received in all its frames so far; and the number of changes in the frames of the first.
   */
  | { type: "all"; first: number; last: number; leastBytes: number; mostBytes: number; changes: number };

const answer = (message: CrowdAnswer) => process.send?.(message);

/** How many connect at the same time. */
const concurrency = 100;

class Crowd {
  readonly #order: CrowdOrder;
  #received = 0;
  #first = 0;
  readonly #bytes: number[] = [];
  #changes = 0;

  constructor(order: CrowdOrder) {
    this.#order = order;
  }

  async connect(): Promise<void> {
    for (let first = 0; first < this.#order.count; first += concurrency) {
      const batch = Array.from({ length: Math.min(concurrency, this.#order.count - first) }, (_, index) => this.#join(first + index));
      await Promise.all(batch);
    }
    answer({ type: "ready" });
  }

  #join(number: number): Promise<void> {
    const { url, protocols, subscription, ready, counted } = this.#order;
    const socket = new WebSocket(url, protocols, { perMessageDeflate: false });
    const acknowledges = new URL(url).searchParams.get("ack") === "1";
    const requests = subscription === undefined ? [] : [subscription.replaceAll("%", String(number))];
    return new Promise((resolve, reject) => {
      socket.on("error", reject);
      socket.on("close", (code) => fail(new Error(`client ${number} was closed with ${code}`)));
      socket.on("open", () => ready === undefined && resolve());
      socket.on("message", (data: Buffer) => {
        this.#bytes[number] = (this.#bytes[number] ?? 0) + data.length;
        if (number === 0) this.#changes += changesIn(data);
        if (acknowledges && begins(data, '{"type":"changes"')) socket.send(JSON.stringify({ type: "ack", position: end(data) }));
        if (begins(data, counted)) this.#count();
        if (ready === undefined || !begins(data, ready)) return;
        const next = requests.pop();
        if (next === undefined) resolve();
        else socket.send(next);
      });
    });
  }

  #count(): void {
    const now = performance.timeOrigin + performance.now();
    if (this.#received === 0) this.#first = now;
    this.#received += 1;
    if (this.#received < this.#order.count) return;
    const [leastBytes, mostBytes] = [Math.min(...this.#bytes), Math.max(...this.#bytes)];
    answer({ type: "all", first: this.#first, last: now, leastBytes, mostBytes, changes: this.#changes });
    this.#received = 0;
  }
}

/** The number of changes in a frame. One client is enough: the others receive the same bytes. */
function changesIn(data: Buffer): number {
  const frame = JSON.parse(data.toString()) as { changes?: unknown[] };
  return frame.changes?.length ?? 0;
}

/** The position after a frame, which stands near its end. */
function end(data: Buffer): string {
  const position = data.toString("latin1", data.length - 100).match(/"to":"([\d-]+)"/)?.[1];
  if (position === undefined) throw new Error("a changes frame without its end");
  return position;
}

function begins(data: Buffer, beginning: string): boolean {
  return data.toString("latin1", 0, beginning.length) === beginning;
}

function fail(error: unknown): void {
  console.error(error);
  process.exit(1);
}

process.once("message", (order: CrowdOrder) => {
  new Crowd(order).connect().catch(fail);
});
process.on("disconnect", () => process.exit(0));
