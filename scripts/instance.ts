// How the other commands find the instance of `npm run dev`.
import { readFileSync, rmSync, writeFileSync, mkdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { Failure, root } from "./steps.ts";

/** The running `npm run dev`, by its own account. */
export interface Instance {
  pid: number;
  /** The Worker's address. */
  url: string;
  /** The database's connection string. */
  database: string;
  /** Whether the database is the one with the demo tables, which `npm run dev` starts. */
  demo: boolean;
}

const file = join(root, ".postgres", "dev.json");

/** The running instance, if there is one. */
export function findInstance(): Instance | undefined {
  try {
    const instance = JSON.parse(readFileSync(file, "utf8")) as Instance;
    process.kill(instance.pid, 0);
    return instance;
  } catch {
    return undefined;
  }
}

/** The running instance. Throws a `Failure` if there is none. */
export function runningInstance(): Instance {
  const instance = findInstance();
  if (instance === undefined) {
    throw new Failure(
      "`npm run dev` is not running here.",
      "Start it in another terminal and wait for its URL; or name another instance with --url.",
    );
  }
  return instance;
}

/** Announces the instance to the other commands. The file has a connection string, so only its owner may read it. */
export function announceInstance(instance: Instance): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, JSON.stringify(instance), { mode: 0o600 });
}

/** Withdraws the announcement. */
export function withdrawInstance(): void {
  rmSync(file, { force: true });
}
