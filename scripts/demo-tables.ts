// The two tables of the demo: `npm run dev` creates them in its own Postgres, `npm run demo` writes to them.
import pg from "pg";

const schema = `
CREATE TABLE IF NOT EXISTS orders (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  customer text NOT NULL,
  amount numeric(10, 2) NOT NULL,
  status text NOT NULL DEFAULT 'new'
);
CREATE TABLE IF NOT EXISTS todos (
  id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  title text NOT NULL,
  done boolean NOT NULL DEFAULT false
);
DO $$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_publication WHERE pubname = 'change_feed') THEN
    CREATE PUBLICATION change_feed FOR TABLE orders, todos;
  END IF;
END $$;
`;

/** Creates the demo's tables and publication if they are missing. */
export async function prepareDemo(database: string): Promise<void> {
  const client = new pg.Client(database);
  await client.connect();
  try {
    await client.query(schema);
  } finally {
    await client.end();
  }
}

/** One write to a demo table, and the id of its row. */
export interface DemoWrite {
  table: "orders" | "todos";
  operation: "insert" | "update" | "delete";
  id: number;
}

const customers = ["Ada", "Grace", "Edsger", "Barbara", "Donald"];
const titles = ["Water the plants", "Call the bank", "Mend the bicycle", "Answer the letters"];

function anyOf<T>(choices: T[]): T {
  return choices[Math.floor(Math.random() * choices.length)] as T;
}

/**
 * The endless writes of the demo: each row is inserted and updated, and todos are deleted too.
 *
 * @param committing Called with each write just before its commit is sent, which is the earliest moment at which anybody can
 *   see its change.
 */
export async function* demoWrites(client: pg.Client, committing: (write: DemoWrite) => void): AsyncGenerator<DemoWrite> {
  const run = async (write: Omit<DemoWrite, "id">, sql: string, values: unknown[]) => {
    await client.query("BEGIN");
    const { rows } = await client.query<{ id: string }>(`${sql} RETURNING id`, values);
    const done = { ...write, id: Number(rows[0]?.id) };
    committing(done);
    await client.query("COMMIT");
    return done;
  };
  for (;;) {
    const order = await run({ table: "orders", operation: "insert" }, "INSERT INTO orders (customer, amount) VALUES ($1, $2)", [
      anyOf(customers),
      (Math.random() * 500).toFixed(2),
    ]);
    yield order;
    const todo = await run({ table: "todos", operation: "insert" }, "INSERT INTO todos (title) VALUES ($1)", [anyOf(titles)]);
    yield todo;
    yield await run({ table: "orders", operation: "update" }, "UPDATE orders SET status = 'paid' WHERE id = $1", [order.id]);
    yield await run({ table: "todos", operation: "update" }, "UPDATE todos SET done = true WHERE id = $1", [todo.id]);
    yield await run({ table: "todos", operation: "delete" }, "DELETE FROM todos WHERE id = $1", [todo.id]);
  }
}
