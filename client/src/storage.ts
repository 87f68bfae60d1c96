// Where a feed keeps its position between runs. Anything with `get` and `set` will do: a file, a row next to the data that
// the changes are applied to, the storage of a Durable Object.
import type { Position } from "./protocol.ts";

/** Keeps one position. */
export interface PositionStorage {
  /** The position that was stored last; null or undefined if there is none. If it fails, the feed ends. */
  get(): Position | null | undefined | Promise<Position | null | undefined>;
  /**
   * Keeps a position. The feed waits for it. If it fails, the error goes to `onError`, the feed continues, and the next commit calls
   * this with its own, later position. So a `set` that also stores what the changes led to must store everything since its last
   * success.
   */
  set(position: Position): void | Promise<void>;
}

/** Keeps the position as long as this object lives, for several feeds of one program. */
export function memoryStorage(initial?: Position): PositionStorage {
  let kept = initial;
  return {
    get: () => kept,
    set: (position) => {
      kept = position;
    },
  };
}

/** The common part of `localStorage` and `sessionStorage`. */
interface WebStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

/**
 * Keeps the position in the browser: `webStorage(localStorage, "orders-feed")`. Use a key for each feed: two tabs that
 * share one would each skip what the other received.
 */
export function webStorage(storage: WebStorage, key: string): PositionStorage {
  return {
    get: () => storage.getItem(key),
    set: (position) => storage.setItem(key, position),
  };
}
