// What has arrived and has not been taken yet: between the socket, which cannot be made to wait, and the application,
// which takes its time.
import type { Acknowledge } from "./acknowledgements.ts";
import type { Position, ResetReason, TableChange } from "./protocol.ts";

/** What the reader of a feed finds in its inbox, in this order. */
export type InboxItem =
  | { kind: "batch"; changes: TableChange[]; from: Position; to: Position; catchUp: boolean; acknowledge: Acknowledge }
  /** Nothing to give out up to here. Only positions that came in `changes` are acknowledged. */
  | { kind: "moved"; to: Position; acknowledge?: Acknowledge }
  | { kind: "live"; to: Position }
  /** Changes before `to` may be missing. */
  | { kind: "reset"; reason: ResetReason; to: Position };

/** A queue with one reader. */
export class Inbox<Item> {
  readonly #items: { item: Item; size: number }[] = [];
  #size = 0;
  #closed: { error?: unknown } | undefined;
  #wakeReader: (() => void) | undefined;
  readonly #wakeWriters: (() => void)[] = [];

  /** The total size of the waiting items. */
  get size(): number {
    return this.#size;
  }

  /** Adds an item; does nothing once the inbox is closed. */
  push(item: Item, size: number): void {
    if (this.#closed !== undefined) return;
    this.#items.push({ item, size });
    this.#size += size;
    this.#wakeReader?.();
  }

  /** Waits for the next item; undefined once closed. Throws the error that the inbox was closed with. */
  async next(): Promise<Item | undefined> {
    for (;;) {
      if (this.#closed !== undefined) {
        if ("error" in this.#closed) throw this.#closed.error;
        return undefined;
      }
      const next = this.#items.shift();
      if (next !== undefined) {
        this.#size -= next.size;
        if (this.#items.length === 0) this.#wake();
        return next.item;
      }
      await new Promise<void>((resolve) => (this.#wakeReader = resolve));
      this.#wakeReader = undefined;
    }
  }

  /** Waits until every item has been taken, or the inbox is closed. */
  async drained(): Promise<void> {
    while (this.#items.length > 0) await new Promise<void>((resolve) => this.#wakeWriters.push(resolve));
  }

  /** Drops the waiting items, which the server can send again, and ends the reader. */
  close(failure?: { error: unknown }): void {
    if (this.#closed !== undefined) return;
    this.#closed = failure ?? {};
    this.#items.length = 0;
    this.#size = 0;
    this.#wakeReader?.();
    this.#wake();
  }

  #wake(): void {
    for (const wake of this.#wakeWriters.splice(0)) wake();
  }
}
