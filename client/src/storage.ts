// Where a feed keeps its position between runs. Anything with `get` and `set` will do: a file, a row
// beside the data that the changes are applied to, the storage of a Durable Object.
import type { Position } from "./protocol.ts";

/** Keeps one position. */
export interface PositionStorage {
  /** The position that was set last; nothing where none was. */
  get(): Position | null | undefined | Promise<Position | null | undefined>;
  /**
   * Keeps a position. The feed waits for it. If it fails, `onError` is told, the feed goes on, and the next commit calls it again with
   * its own, later position. A `set` that also stores what the changes led to must therefore store everything since it last succeeded.
   */
  set(position: Position): void | Promise<void>;
}

/** Keeps the position as long as this object lives: over several feeds of one program. */
export function memoryStorage(initial?: Position): PositionStorage {
  let kept = initial;
  return {
    get: () => kept,
    set: (position) => {
      kept = position;
    },
  };
}

/** What the browser's `localStorage` and `sessionStorage` have in common. */
interface WebStorage {
  getItem(key: string): string | null;
  setItem(key: string, value: string): void;
}

/**
 * Keeps the position in the browser: `webStorage(localStorage, "orders-feed")`. A key for each feed:
 * two tabs that share one would each skip what the other got.
 */
export function webStorage(storage: WebStorage, key: string): PositionStorage {
  return {
    get: () => storage.getItem(key),
    set: (position) => storage.setItem(key, position),
  };
}
