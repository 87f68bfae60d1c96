// Many WebSocket clients, in a process of their own: their work is not the server's. All but
// the first do not parse what they get; they tell when all have got it, and how much.
import { WebSocket } from "ws";

/** The clients to make: the parent sends it once. */
export interface CrowdOrder {
  /** Where to, for all of them. */
  url: string;
  protocols: string[];
  count: number;
  /** Each is ready when it has had a frame of this beginning. Without it, when it is open. */
  ready?: string;
  /** A subscription that each asks for when it is ready; it is then ready again. `%` becomes its number. */
  subscription?: string;
  /** The frames that count begin so. */
  counted: string;
}

/** What it answers: `ready` once, then an `all` whenever each has had one more frame that counts. */
export type CrowdAnswer =
  | { type: "ready" }
  /**
   * When the first and the last client got it, in milliseconds since the Unix epoch; the least and the
   * most bytes that a client has got in all frames so far; and the changes in those of the first.
   */
  | { type: "all"; first: number; last: number; leastBytes: number; mostBytes: number; changes: number };

const answer = (message: CrowdAnswer) => process.send?.(message);

/** So many connect at a time. */
const abreast = 100;

class Crowd {
  readonly #order: CrowdOrder;
  #got = 0;
  #first = 0;
  readonly #bytes: number[] = [];
  #changes = 0;

  constructor(order: CrowdOrder) {
    this.#order = order;
  }

  async connect(): Promise<void> {
    for (let first = 0; first < this.#order.count; first += abreast) {
      const some = Array.from({ length: Math.min(abreast, this.#order.count - first) }, (_, index) => this.#join(first + index));
      await Promise.all(some);
    }
    answer({ type: "ready" });
  }

  #join(number: number): Promise<void> {
    const { url, protocols, subscription, ready, counted } = this.#order;
    const socket = new WebSocket(url, protocols, { perMessageDeflate: false });
    const acknowledges = new URL(url).searchParams.get("ack") === "1";
    const asks = subscription === undefined ? [] : [subscription.replaceAll("%", String(number))];
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
        const next = asks.pop();
        if (next === undefined) resolve();
        else socket.send(next);
      });
    });
  }

  #count(): void {
    const now = performance.timeOrigin + performance.now();
    if (this.#got === 0) this.#first = now;
    this.#got += 1;
    if (this.#got < this.#order.count) return;
    const [leastBytes, mostBytes] = [Math.min(...this.#bytes), Math.max(...this.#bytes)];
    answer({ type: "all", first: this.#first, last: now, leastBytes, mostBytes, changes: this.#changes });
    this.#got = 0;
  }
}

/** The changes of a frame. One client's are enough: the others get the same bytes. */
function changesIn(data: Buffer): number {
  const frame = JSON.parse(data.toString()) as { changes?: unknown[] };
  return frame.changes?.length ?? 0;
}

/** Where a reader of the frame stands, which is at its end. */
function end(data: Buffer): string {
  const position = data.toString("latin1", data.length - 100).match(/"to":"([\d-]+)"/)?.[1];
  if (position === undefined) throw new Error("a frame of changes does not say where it ends");
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
