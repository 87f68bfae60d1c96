// psql, which benchmarks take as the floor: npm's Postgres brings the server alone.
import { installDebianPackages } from "./debian.ts";
import { output } from "./steps.ts";

/** The path of a psql: one on PATH, or Debian's, which is installed. */
export async function psqlPath(): Promise<string> {
  const find = () => output("which", ["psql"]);
  const found = await find();
  if (found !== undefined) return found;
  await installDebianPackages(
    ["postgresql-client"],
    "There is no psql on PATH, and the benchmarks measure against it.",
    "Install PostgreSQL's client programs",
  );
  return (await find()) ?? "psql";
}
