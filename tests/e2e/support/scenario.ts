// What most tests start from: a database with one published table, and the Worker on it.
import type { TestDatabase } from "./database.ts";
import { createDatabase } from "./database.ts";
import { startWorker, type RunningWorker, type WorkerOptions } from "./worker.ts";

/** A change of `items`, without what differs from run to run. */
export interface Item {
  id: number;
  name: string;
}

/** A database and the Worker on it; disposing of it stops both. */
export class Scenario implements AsyncDisposable {
  readonly database: TestDatabase;
  readonly worker: RunningWorker;

  private constructor(database: TestDatabase, worker: RunningWorker) {
    this.database = database;
    this.worker = worker;
  }

  /** Makes the database with a published table `items (id, name)`, and starts the Worker uninitialised. */
  static async start(options: Partial<WorkerOptions> & { version?: 15 | 18; publish?: boolean; through?: (url: string) => Promise<string> } = {}): Promise<Scenario> {
    const { version, publish = true, through, ...worker } = options;
    const database = await createDatabase(version);
    try {
      await database.query("CREATE TABLE items (id int PRIMARY KEY, name text)");
      if (publish) await database.query(`CREATE PUBLICATION ${database.slot} FOR TABLE items`);
      const url = through === undefined ? database.url : await through(database.url);
      return new Scenario(database, await startWorker({ database: url, slot: database.slot, ...worker }));
    } catch (error) {
      await database[Symbol.asyncDispose]();
      throw error;
    }
  }

  /** Initialises the feed, and waits until everything that was in the slot is stored. */
  async initialise(config?: object): Promise<void> {
    for (const [method, path, body] of [
      ["POST", "/init", config],
      ["GET", "/wait-for-initial-poll", undefined],
    ] as const) {
      const answer = await this.worker.request(method, path, body);
      if (answer.status !== 200) throw new Error(`${method} ${path}: ${answer.status} ${JSON.stringify(answer.body)}`);
    }
  }

  /** Inserts items in one transaction. */
  async insert(...ids: number[]): Promise<void> {
    await this.database.query("INSERT INTO items SELECT id, 'item ' || id FROM unnest($1::int[]) AS id", [ids]);
  }

  /** The ids of the items whose insertion is in change_history, in its order. */
  async storedItems(): Promise<number[]> {
    const rows = await this.database.query<{ item: number }>(
      "SELECT (data ->> 'id')::int AS item FROM change_history WHERE table_name = 'items' AND operation = 'insert' ORDER BY id",
    );
    return rows.map((row) => row.item);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // The Worker first: it holds the slot that the database's end drops.
    await this.worker[Symbol.asyncDispose]();
    await this.database[Symbol.asyncDispose]();
  }
}
