// Holds the feed's transaction at one of its last steps, so that a test can break things exactly there. Between two steps
// that take a millisecond a test would not hit a fault by chance.
import type { TestContext } from "node:test";
import { afterwards } from "./afterwards.ts";
import type { TestDatabase } from "./database.ts";
import { waitFor } from "./wait-for.ts";

/** After the changes are inserted and before the checkpoint moves, or in COMMIT, after everything is written. */
export type Step = "checkpoint" | "commit";

const steps: Record<Step, number> = { checkpoint: 1, commit: 2 };

const triggers = `
CREATE FUNCTION pass_gate() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock_shared(TG_ARGV[0]::int); RETURN NEW; END $$;
CREATE TRIGGER gate_checkpoint BEFORE UPDATE ON replication_checkpoint
  FOR EACH ROW EXECUTE FUNCTION pass_gate(${steps.checkpoint});
CREATE CONSTRAINT TRIGGER gate_commit AFTER UPDATE ON replication_checkpoint
  DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pass_gate(${steps.commit})`;

/** The feed stands at a gate. */
export interface Held {
  /** Lets it continue. */
  open(): Promise<void>;
  /** Ends its session and with it the transaction. */
  endSession(): Promise<void>;
}

/** Installs gates in an initialised feed. */
export async function putGates(database: TestDatabase): Promise<void> {
  await database.query(triggers);
}

/** Closes a gate, and waits until the feed stands at it. `nudge` makes it poll until then. */
export async function hold(t: TestContext, database: TestDatabase, step: Step, nudge?: () => Promise<unknown>): Promise<Held> {
  const keeper = await database.session();
  // A crash of the server ends this session too.
  keeper.on("error", () => undefined);
  let ended: Promise<void> | undefined;
  const open = () => (ended ??= keeper.end().catch(() => undefined));
  afterwards(t, open);
  await keeper.query("SELECT pg_advisory_lock($1)", [steps[step]]);
  let arrived = false;
  const nudging = async () => {
    // The nudge that brings the feed to the gate is answered once it has left.
    while (nudge !== undefined && !arrived) await nudge().catch(() => undefined);
  };
  void nudging();
  const pid = await waitFor(`the feed stands at its ${step}`, async () => {
    const [waiting] = await database.query<{ pid: number }>(
      "SELECT pid FROM pg_locks JOIN pg_database d ON d.oid = database WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted",
    );
    return waiting?.pid;
  }).finally(() => (arrived = true));
  return {
    open,
    endSession: async () => {
      await database.query("SELECT pg_terminate_backend($1, 20000)", [pid]);
      await open();
    },
  };
}
