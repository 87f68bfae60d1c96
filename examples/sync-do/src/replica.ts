// The rows of one table that have arrived so far, and the last changes, in the SQLite of a Durable Object. All of it is
// synchronous, so that no other event can interleave.
import { Sequence, type Position, type ProgressMessage, type ChangesMessage, type TableChange } from "../../../client/src/index.ts";

/** How many changes are kept for clients that reconnect. */
const keptChanges = 10_000;

/** The result of a message. */
export type Taken = "new" | "known" | "gap";

/** A copy of one table. */
export class Replica {
  readonly #storage: DurableObjectStorage;

  constructor(storage: DurableObjectStorage) {
    this.#storage = storage;
    storage.sql.exec(`
      CREATE TABLE IF NOT EXISTS place (one INTEGER PRIMARY KEY CHECK (one = 1), cursor TEXT NOT NULL, oldest TEXT NOT NULL);
      CREATE TABLE IF NOT EXISTS rows (key TEXT PRIMARY KEY, data TEXT NOT NULL);
      CREATE TABLE IF NOT EXISTS changes (id INTEGER PRIMARY KEY, change TEXT NOT NULL);
    `);
  }

  /** Everything up to here has been applied; undefined before the first message, and after `forget`. */
  get cursor(): Position | undefined {
    return this.#place()?.cursor;
  }

  /** The changes after this position are kept. */
  get oldest(): Position | undefined {
    return this.#place()?.oldest;
  }

  /** The rows as JSON. */
  rows(): unknown[] {
    return this.#storage.sql
      .exec<{ data: string }>("SELECT data FROM rows ORDER BY key")
      .toArray()
      .map(({ data }) => JSON.parse(data) as unknown);
  }

  /** The kept changes after an id, oldest first, as JSON. */
  *changesAfter(id: number): Generator<string> {
    for (const { change } of this.#storage.sql.exec<{ change: string }>("SELECT change FROM changes WHERE id > ? ORDER BY id", id)) {
      yield change;
    }
  }

  /** Applies changes and moves the cursor, in one transaction. */
  take(message: Pick<ChangesMessage, "changes" | "from" | "to"> | Pick<ProgressMessage, "position">): Taken {
    return this.#storage.transactionSync(() => {
      const start = "from" in message ? message.from : message.position;
      const sequence = new Sequence(this.cursor ?? start);
      const step = "from" in message ? sequence.take(message) : sequence.moveTo(message.position);
      if (step.kind === "gap") return "gap";
      if (step.kind === "known" && this.cursor !== undefined) return "known";
      for (const change of step.kind === "changes" ? step.changes : []) this.#apply(change);
      this.#storage.sql.exec(
        "INSERT INTO place VALUES (1, ?, ?) ON CONFLICT (one) DO UPDATE SET cursor = excluded.cursor",
        sequence.position,
        start,
      );
      this.#prune();
      return "new";
    });
  }

  /** Forgets everything: it may have missed changes. */
  forget(): void {
    this.#storage.transactionSync(() => this.#storage.sql.exec("DELETE FROM place; DELETE FROM rows; DELETE FROM changes"));
  }

  #place(): { cursor: Position; oldest: Position } | undefined {
    return this.#storage.sql.exec<{ cursor: string; oldest: string }>("SELECT cursor, oldest FROM place").toArray()[0];
  }

  #apply(change: TableChange): void {
    const { sql } = this.#storage;
    sql.exec("INSERT INTO changes VALUES (?, ?)", change.id, JSON.stringify(change));
    switch (change.operation) {
      case "insert":
        return this.#put(change.data);
      case "update": {
        // The old key is present only if it has changed.
        const before = keyOf(change.old ?? change.data);
        const [row] = sql.exec<{ data: string }>("SELECT data FROM rows WHERE key = ?", before).toArray();
        const known = row === undefined ? {} : (JSON.parse(row.data) as object);
        sql.exec("DELETE FROM rows WHERE key = ?", before);
        // Large columns that did not change are not sent again.
        return this.#put({ ...known, ...change.data });
      }
      case "delete":
        sql.exec("DELETE FROM rows WHERE key = ?", keyOf(change.data));
        return;
      case "truncate":
        sql.exec("DELETE FROM rows");
        return;
      default:
        throw new TypeError(`unknown change: ${JSON.stringify(change satisfies never)}`);
    }
  }

  #put(row: Record<string, unknown>): void {
    this.#storage.sql.exec(
      "INSERT INTO rows VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET data = excluded.data",
      keyOf(row),
      JSON.stringify(row),
    );
  }

  #prune(): void {
    const { sql } = this.#storage;
    const [last] = sql.exec<{ id: number }>("SELECT id FROM changes ORDER BY id DESC LIMIT 1 OFFSET ?", keptChanges).toArray();
    if (last === undefined) return;
    sql.exec("DELETE FROM changes WHERE id <= ?", last.id);
    const epoch = this.cursor?.split("-")[0];
    sql.exec("UPDATE place SET oldest = ?", `${epoch}-${last.id}`);
  }
}

/** In this example the primary key of every table is `id`. */
function keyOf(row: Record<string, unknown>): string {
  return JSON.stringify(row["id"]);
}
