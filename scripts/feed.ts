// Follows the feed of a running instance over a WebSocket, for `npm run tail` and `npm run demo`:
// reconnects with backoff and goes on after the last change that it gave out.
import { WebSocket } from "ws";
import { Failure } from "./steps.ts";

/** One row change as the feed sends it; fields that the scripts do not print are left out. */
export interface TableChange {
  id: number;
  lsn: string;
  epoch: number;
  schema: string;
  table: string;
  operation: "insert" | "update" | "delete" | "truncate";
  data: Record<string, unknown>;
  old: Record<string, unknown> | null;
  unchanged: string[];
  omitted: string[];
  committedAt: string;
}

type ServerMessage =
  | { type: "welcome"; clientId: string; epoch: number; oldest: string; head: string }
  | { type: "changes"; changes: TableChange[]; from: string; to: string }
  | { type: "caught_up"; position: string }
  | { type: "progress"; position: string }
  | { type: "reset"; reason: string }
  | { type: "error"; code: string; message: string; retryable: boolean };

/** Where and what to follow. */
export interface FeedOptions {
  /** The Worker's address, http or https. */
  url: string;
  token?: string | undefined;
  /** Table names separated by commas; all when left out. */
  tables?: string | undefined;
  /** Exclusive position to start after, or `earliest`; from now on when left out. */
  after?: string | undefined;
}

/** What a follower is told. */
export interface FeedListener {
  /** Each frame as it came. */
  frame?(text: string): void;
  /** The subscription stands. */
  welcome?(head: string): void;
  change?(change: TableChange): void;
  /** Everything up to `position` has been given out. */
  caughtUp?(position: string): void;
  /** Changes before this point may be missing: `reason` says why. */
  reset?(reason: string): void;
  /** The connection ended; the next try is in `retryMs`. */
  disconnected?(reason: string, retryMs: number): void;
}

const firstRetryMs = 250;
const longestRetryMs = 15_000;

/** A connection that neither opens nor speaks for so long is taken for dead. */
const silenceMs = 30_000;

/** Follows the feed until the signal stops it; fails when the server says that trying again is vain. */
export async function followFeed(options: FeedOptions, listener: FeedListener, stop: AbortSignal): Promise<void> {
  let position = options.after;
  let retryMs = firstRetryMs;
  while (!stop.aborted) {
    const ended = await connection({ ...options, after: position }, stop, {
      ...listener,
      welcome: (head) => {
        retryMs = firstRetryMs;
        // A connection that breaks before the first change must not skip what happens meanwhile.
        position ??= head;
        listener.welcome?.(head);
      },
      moved: (to) => (position = to),
      reset: (reason) => {
        // What was missed cannot be had any more: go on with what is kept. A slow reader has only to
        // come back.
        if (reason !== "slow_consumer") position = "earliest";
        listener.reset?.(reason);
      },
    });
    if (stop.aborted) return;
    listener.disconnected?.(ended, retryMs);
    await pause(retryMs, stop);
    retryMs = Math.min(retryMs * 2, longestRetryMs);
  }
}

/** One connection, to its end; gives the reason of the end. */
function connection(options: FeedOptions, stop: AbortSignal, listener: FeedListener & { moved(to: string): void }): Promise<string> {
  const url = new URL("/ws?v=1", options.url);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  if (options.tables !== undefined) url.searchParams.set("tables", options.tables);
  if (options.after !== undefined) url.searchParams.set("after", options.after);
  const protocols = ["replication.v1"];
  // A URL ends up in logs, so the token goes where browsers can put it too.
  if (options.token !== undefined) protocols.push(`bearer.${Buffer.from(options.token).toString("base64url")}`);
  const socket = new WebSocket(url, protocols, { handshakeTimeout: silenceMs });
  return new Promise((resolve, reject) => {
    let reason = "the connection was closed";
    let heard = true;
    const heartbeat = setInterval(() => {
      if (!heard) {
        reason = `nothing heard for ${silenceMs / 1000} s`;
        socket.terminate();
      } else if (socket.readyState === WebSocket.OPEN) {
        heard = false;
        socket.send("ping");
      }
    }, silenceMs / 2);
    const onStop = () => socket.close(1000);
    stop.addEventListener("abort", onStop);
    const cleanUp = () => {
      clearInterval(heartbeat);
      stop.removeEventListener("abort", onStop);
    };
    const fail = (failure: Failure) => {
      cleanUp();
      socket.terminate();
      reject(failure);
    };
    socket.on("message", (data) => {
      heard = true;
      const text = String(data);
      if (text === "pong") return;
      listener.frame?.(text);
      const message = JSON.parse(text) as ServerMessage;
      switch (message.type) {
        case "welcome":
          return listener.welcome?.(message.head);
        case "changes":
          for (const change of message.changes) {
            listener.change?.(change);
            listener.moved(`${change.epoch}-${change.id}`);
          }
          return listener.moved(message.to);
        case "caught_up":
          listener.moved(message.position);
          return listener.caughtUp?.(message.position);
        case "progress":
          return listener.moved(message.position);
        case "reset":
          reason = `reset: ${message.reason}`;
          listener.reset?.(message.reason);
          return socket.close(1000);
        case "error":
          reason = message.message;
          if (!message.retryable) fail(new Failure(`The server answered ${message.code}: ${message.message}`, "Mend what it says, then start again."));
          return;
      }
    });
    socket.on("unexpected-response", (_, response) => {
      let body = "";
      response.setEncoding("utf8").on("data", (text: string) => (body += text));
      response.on("end", () => {
        const { code, message, retryable } = refusal(response.statusCode ?? 0, body);
        reason = `refused with ${code}: ${message}`;
        if (retryable) {
          cleanUp();
          resolve(reason);
        } else {
          fail(new Failure(`The server ${reason}`, response.statusCode === 401 ? "Give the instance's token: --token, or REPLICATION_TOKEN in the environment." : "Mend what it says, then start again."));
        }
      });
    });
    socket.on("error", (error) => (reason = error.message || String((error as NodeJS.ErrnoException).code)));
    socket.on("close", () => {
      cleanUp();
      resolve(reason);
    });
  });
}

function refusal(status: number, body: string): { code: string; message: string; retryable: boolean } {
  try {
    return (JSON.parse(body) as { error: { code: string; message: string; retryable: boolean } }).error;
  } catch {
    return { code: String(status), message: body.slice(0, 200), retryable: status >= 500 };
  }
}

function pause(ms: number, stop: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const done = () => {
      clearTimeout(timer);
      stop.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    stop.addEventListener("abort", done);
  });
}

/** A change as one readable line; `latencyMs` is printed where it is known. */
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
