// psql, which the benchmarks use as the floor. npm's Postgres has only the server.
import { installDebianPackages } from "./debian.ts";
import { output } from "./steps.ts";

/** The path of a psql: one on PATH, or Debian's, which this installs. */
export async function psqlPath(): Promise<string> {
  const find = () => output("which", ["psql"]);
  const found = await find();
  if (found !== undefined) return found;
  await installDebianPackages(
    ["postgresql-client"],
    "There is no psql on PATH, and the benchmarks compare with it.",
    "Install PostgreSQL's client programs",
  );
  return (await find()) ?? "psql";
}
