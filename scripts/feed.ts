// How `npm run tail` and `npm run demo` print the feed, and the error that ends it.
import { FeedError, type TableChange } from "../client/src/index.ts";
import { Failure } from "./steps.ts";

/** The error that ended a feed, with a remedy. */
export function feedFailure(error: unknown): unknown {
  if (!(error instanceof FeedError)) return error;
  const remedy =
    error.code === "unauthorized"
      ? "Give the instance's token: --token, or REPLICATION_TOKEN in the environment."
      : "Fix what it reports, then start again.";
  return new Failure(error.kind === "refused" || error.kind === "server" ? `The server refused: ${error.message}` : error.message, remedy, {
    cause: error,
  });
}

/** How long until the next try, for humans. */
export function soon(retryMs: number): string {
  return `${(retryMs / 1000).toFixed(1)} s`;
}

/** A change as one readable line, with its latency if that is known. */
export function changeLine(change: TableChange, latencyMs?: number): string {
  const name = change.schema === "public" ? change.table : `${change.schema}.${change.table}`;
  const after = change.operation === "update" && change.old !== null ? `${JSON.stringify(change.old)} => ` : "";
  const data = change.operation === "truncate" ? "" : JSON.stringify(change.data);
  const notes = [
    change.unchanged.length > 0 ? `unchanged: ${change.unchanged.join(", ")}` : undefined,
    change.omitted.length > 0 ? `too large: ${change.omitted.join(", ")}` : undefined,
    latencyMs === undefined ? undefined : `${Math.round(latencyMs)} ms`,
  ].filter((note) => note !== undefined);
  return `${String(change.id).padStart(6)}  ${change.operation.padEnd(8)} ${name.padEnd(8)} ${after}${data}${notes.length > 0 ? `  (${notes.join("; ")})` : ""}`;
}
