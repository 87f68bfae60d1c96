// A server for the library's own tests: a WebSocket that sends exactly what a test tells it to.
import { createServer, type IncomingMessage } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";
import { WebSocketServer, type WebSocket } from "ws";
import {
  connect,
  type Batch,
  type Feed,
  type FeedError,
  type FeedOptions,
  type FeedState,
  type Position,
  type TableChange,
} from "../../../client/src/index.ts";
import { afterwards } from "../../e2e/support/afterwards.ts";

/** One connection of the library. */
export interface Visit {
  path: string;
  query: URLSearchParams;
  protocols: string;
  heard: string[];
  socket: WebSocket;
}

/** A server that runs one script for each connection, and the last script for all further ones. */
export async function server(t: TestContext, ...scripts: ((visit: Visit) => void)[]): Promise<{ url: string; visits: Visit[] }> {
  const visits: Visit[] = [];
  const listening = new WebSocketServer({ port: 0, host: "127.0.0.1", handleProtocols: () => "replication.v1" });
  listening.on("connection", (socket: WebSocket, request: IncomingMessage) => {
    const { pathname: path, searchParams: query } = new URL(request.url ?? "", "ws://any");
    const visit: Visit = { path, query, protocols: request.headers["sec-websocket-protocol"] ?? "", heard: [], socket };
    socket.on("message", (data) => visit.heard.push(String(data)));
    const script = scripts[Math.min(visits.length, scripts.length - 1)];
    visits.push(visit);
    script?.(visit);
  });
  await new Promise<void>((resolve) => listening.on("listening", resolve));
  afterwards(t, () => {
    for (const socket of listening.clients) socket.terminate();
    listening.close();
  });
  return { url: `http://127.0.0.1:${(listening.address() as AddressInfo).port}`, visits };
}

/** A feed, and everything that it has reported. */
export interface Follower {
  feed: Feed;
  batches: Batch[];
  errors: FeedError[];
  states: FeedState[];
  /** The ids of the changes in `batches`. */
  ids(): number[];
}

/** Follows a feed until the test ends, with short pauses between tries. */
export function follow(t: TestContext, options: FeedOptions): Follower {
  const batches: Batch[] = [];
  const errors: FeedError[] = [];
  const states: FeedState[] = [];
  const feed = connect({
    retry: { firstMs: 10, maxMs: 50 },
    watch: { openMs: 1_000, heartbeatMs: 5_000 },
    onChanges: (batch) => void batches.push(batch),
    onError: (error) => void errors.push(error),
    onState: (state) => void states.push(state),
    ...options,
  });
  afterwards(t, () => feed.close());
  return { feed, batches, errors, states, ids: () => batches.flatMap(({ changes }) => changes.map(({ id }) => id)) };
}

export function change(id: number, epoch = 1): TableChange {
  return {
    id,
    lsn: "0/1A",
    epoch,
    xid: 7,
    schema: "public",
    table: "items",
    operation: "insert",
    data: { id },
    old: null,
    unchanged: [],
    omitted: [],
    committedAt: "2026-01-01T00:00:00.000000Z",
  };
}

export const say =
  (...frames: (object | string)[]) =>
  ({ socket }: Visit) =>
    frames.forEach((frame) => socket.send(typeof frame === "string" ? frame : JSON.stringify(frame)));
export const welcome = (head: Position, oldest: Position = "1-0") => ({ type: "welcome", clientId: "c", epoch: 1, oldest, head });
export const changes = (from: number, to: number, ids: number[], epoch = 1) => ({
  type: "changes",
  changes: ids.map((id) => change(id, epoch)),
  from: `${epoch}-${from}`,
  to: `${epoch}-${to}`,
  catchUp: false,
});
export const caughtUp = (id: number) => ({ type: "caught_up", position: `1-${id}` });

/** A server that refuses every upgrade, and the plain request after it, with this status and body. */
export async function refusing(t: TestContext, status: number, body: string): Promise<{ url: string; refused(): number }> {
  let count = 0;
  const listening = createServer((_, response) => response.writeHead(status).end(body));
  listening.on("upgrade", (_, socket) => {
    count += 1;
    socket.end(`HTTP/1.1 ${status} Refused\r\nConnection: close\r\nContent-Length: 0\r\n\r\n`);
  });
  await new Promise<void>((resolve) => listening.listen(0, "127.0.0.1", resolve));
  afterwards(t, () => {
    listening.closeAllConnections();
    listening.close();
  });
  return { url: `http://127.0.0.1:${(listening.address() as AddressInfo).port}`, refused: () => count };
}
