// Where the instance of `npm run dev` can be found by the other commands.
import { readFileSync, rmSync, writeFileSync, mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { Failure, root } from "./steps.ts";

/** What `npm run dev` tells about itself. */
export interface Instance {
  pid: number;
  /** The Worker's address. */
  url: string;
  /** The database's connection string. */
  database: string;
  /** Whether the database is the one with the demo tables that `npm run dev` brings. */
  demo: boolean;
}

const file = join(root, ".postgres", "dev.json");

/** The instance that runs, if one does. */
export function findInstance(): Instance | undefined {
  try {
    const instance = JSON.parse(readFileSync(file, "utf8")) as Instance;
    process.kill(instance.pid, 0);
    return instance;
  } catch {
    return undefined;
  }
}

/** The instance that runs; fails where none does. */
export function runningInstance(): Instance {
  const instance = findInstance();
  if (instance === undefined) {
    throw new Failure(
      "`npm run dev` does not run here.",
      "Start it in another terminal and wait for its URL; or name another instance with --url.",
    );
  }
  return instance;
}

/** Notes the instance for the other commands. It holds a connection string: for its owner's eyes. */
export function announceInstance(instance: Instance): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, JSON.stringify(instance), { mode: 0o600 });
}

/** Takes the note back. */
export function withdrawInstance(): void {
  rmSync(file, { force: true });
}
