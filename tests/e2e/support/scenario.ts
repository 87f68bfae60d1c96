// The start of most tests: a database with one published table, and the Worker on it.
import type { TestContext } from "node:test";
import type { TestDatabase } from "./database.ts";
import { createDatabase } from "./database.ts";
import { startWorker, type RunningWorker, type WorkerOptions } from "./worker.ts";

/** How a scenario starts. By default the database is a new one on PostgreSQL 18. */
export interface ScenarioOptions extends Partial<WorkerOptions> {
  version?: 15 | 18;
  /** A database that the test has created. */
  on?: TestDatabase;
  /** The Worker's connection string, if it is not that of the database. */
  through?: string;
  /** Whether to create the publication. */
  publish?: boolean;
}

/** A database and the Worker on it. Both end with the test. */
export class Scenario {
  readonly database: TestDatabase;
  readonly worker: RunningWorker;

  private constructor(database: TestDatabase, worker: RunningWorker) {
    this.database = database;
    this.worker = worker;
  }

  /** Creates a published table `items (id, name)` in the database, and starts the Worker without initialising it. */
  static async start(t: TestContext, options: ScenarioOptions = {}): Promise<Scenario> {
    const { version, on, through, publish = true, ...worker } = options;
    const database = on ?? (await createDatabase(t, version));
    await database.query("CREATE TABLE items (id int PRIMARY KEY, name text)");
    if (publish) await database.query(`CREATE PUBLICATION ${database.slot} FOR TABLE items`);
    return new Scenario(database, await startWorker(t, { database: through ?? database.url, slot: database.slot, ...worker }));
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

  /** The ids of the items whose insertion is in change_history, in the order of the history. */
  async storedItems(): Promise<number[]> {
    const rows = await this.database.query<{ item: number }>(
      "SELECT (data ->> 'id')::int AS item FROM change_history WHERE table_name = 'items' AND operation = 'insert' ORDER BY id",
    );
    return rows.map((row) => row.item);
  }
}
