// What every benchmark runs on: its own Postgres, psql, and the machine.
import { cpus, loadavg, totalmem } from "node:os";
import { createRequire } from "node:module";
import { output } from "../scripts/steps.ts";

/** What the measurements share. */
export interface Environment {
  /** The superuser's connection string for a server with PostgreSQL's default durability. */
  postgres: string;
  /** The server's log file. */
  log: string;
  /** The process id of the postmaster. */
  postmaster: number;
  /** The path of psql. */
  psql: string;
  /** A folder for files. It is empty at the start. */
  scratch: string;
  /** How many turns each contestant has. */
  rounds: number;
}

/** The machine, as printed above every result. */
export type MachineInfo = Record<string, string | number>;

/** Describes the machine, and the versions of what is measured. */
export async function machineInfo({ psql, postgresVersion }: { psql: string; postgresVersion: string }): Promise<MachineInfo> {
  const require = createRequire(import.meta.url);
  const version = (name: string) => (require(`${name}/package.json`) as { version: string }).version;
  return {
    date: new Date().toISOString().slice(0, 16),
    commit: (await output("git", ["describe", "--always", "--dirty"])) ?? "unknown",
    cores: cpus().length,
    cpu: cpus()[0]?.model ?? "unknown",
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    system: `${process.platform} ${process.arch}`,
    load: Number((loadavg()[0] ?? 0).toFixed(1)),
    postgres: postgresVersion,
    psql: ((await output(psql, ["--version"])) ?? "").replace(/^.*\) (\S+).*$/, "$1"),
    workerd: version("workerd"),
    node: process.versions.node,
  };
}
