// What every benchmark runs on: a Postgres of its own, psql, and the built Worker.
import { cpus, loadavg, totalmem } from "node:os";
import { createRequire } from "node:module";
import { output } from "../scripts/steps.ts";

/** The machine's parts that measurements share. */
export interface Environment {
  /** The superuser's connection string for a server with PostgreSQL's default durability. */
  postgres: string;
  /** The file that the server logs to. */
  log: string;
  /** The server's first process. */
  postmaster: number;
  /** The path of psql. */
  psql: string;
  /** A folder for files, empty at the start. */
  scratch: string;
  /** How often each contestant has its turn. */
  rounds: number;
}

/** What is printed above every result. */
export type MachineInfo = Record<string, string | number>;

/** The machine and the versions of what was measured. */
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
