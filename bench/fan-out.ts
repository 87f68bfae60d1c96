// One change of 1 KB to many sockets, from POST /poll to the last of them. Compared with a minimal JavaScript Durable Object
// in the same workerd that sends the same string to as many hibernatable sockets, from its request to the last of them. That
// one uses no database.
import type { Lifetime } from "../tests/e2e/support/afterwards.ts";
import type { TestDatabase } from "../tests/e2e/support/database.ts";
import { Workerd } from "../tests/e2e/support/workerd.ts";
import { createSource } from "./backlog.ts";
import { CrowdProcess } from "./crowd-process.ts";
import { atRest, poll, startFeed } from "./feed.ts";
import { figureOf, runTrial, takeTurns, type Contestant, type Sample } from "./trial.ts";
import type { Report } from "./report.ts";
import { spread } from "./statistics.ts";
import type { Environment } from "./environment.ts";

/** workerd needs two of its 20,000 file descriptors for each socket. */
const crowds = [100, 1_000, 9_800];

/** How many changes are measured, after as many that are not, until the code is compiled. */
const broadcasts = 5;

const minimal = `
import { DurableObject } from "cloudflare:workers";
export class Beside extends DurableObject {
  async fetch(request) {
    if (request.headers.get("upgrade") === "websocket") {
      const pair = new WebSocketPair();
      this.ctx.acceptWebSocket(pair[1]);
      return new Response(null, { status: 101, webSocket: pair[0], headers: { "sec-websocket-protocol": "replication.v1" } });
    }
    const text = await request.json();
    for (const socket of this.ctx.getWebSockets()) socket.send(text);
    return Response.json({});
  }
}
`;

const changes = '{"type":"changes"';

/** Each client has its own filter, which the row passes. */
const filters = '{"type":"subscribe","subscriptions":[{"table":"orders","filter":[{"column":"customer_id","op":"gte","value":%}]}]}';

/** The whole benchmark. */
export async function fanOut(environment: Environment): Promise<Report> {
  const text = await frame(environment);
  const kinds = ["minimal JavaScript", "feed", "feed, a filter for each client"] as const;
  const run = (t: Lifetime, kind: (typeof kinds)[number], count: number) =>
    kind === "minimal JavaScript"
      ? runMinimal(t, environment, count, text)
      : runFeed(t, environment, count, kind === "feed" ? undefined : filters);
  const figures: Report["figures"] = [];
  for (const count of crowds) {
    const contestants: Contestant[] = kinds.map((kind) => ({ name: kind, run: (t) => run(t, kind, count) }));
    const samples = await takeTurns(contestants, environment.rounds);
    const group = `${count.toLocaleString("en")} sockets`;
    const figure = (kind: string, part: string, unit: string) => ({
      ...figureOf(samples, kind, part, unit),
      group,
      name: `${kind}, ${part}`,
    });
    const floor = figure("minimal JavaScript", "to the last socket", "ms");
    const floorSpan = figure("minimal JavaScript", "from first to last", "ms");
    const plain = figure("feed", "to the last socket", "ms");
    figures.push(
      floor,
      { ...plain, against: [floor] },
      { ...figure("feed, a filter for each client", "to the last socket", "ms"), against: [floor, plain] },
      floorSpan,
      { ...figure("feed", "from first to last", "ms"), against: [floorSpan] },
      { ...figure("feed, a filter for each client", "from first to last", "ms"), against: [floorSpan] },
      ...kinds.map((kind) => figure(kind, "deliveries", "a second")),
    );
  }
  return {
    name: "fan-out",
    about: `One change (a frame of ${text.length} bytes) to many sockets, whose clients run in their own process.`,
    figures,
  };
}

async function insert(database: TestDatabase, id: number): Promise<void> {
  await database.query("INSERT INTO orders VALUES ($1, 9999, 10, 'new', repeat('x', 700), now())", [id]);
}

/** The frame that the feed sends for one change. */
function frame(environment: Environment): Promise<string> {
  return runTrial(async (t) => {
    const database = await createSource(t, environment.postgres);
    const worker = await startFeed(t, database, "hyperdrive", atRest);
    const socket = await worker.connect();
    await socket.message("caught_up");
    await insert(database, 1);
    await poll(worker);
    await socket.message("changes");
    return socket.frames.find((text) => text.startsWith(changes)) ?? "";
  });
}

async function runFeed(t: Lifetime, environment: Environment, count: number, subscription: string | undefined): Promise<Sample> {
  const database = await createSource(t, environment.postgres);
  const worker = await startFeed(t, database, "hyperdrive", atRest);
  const order = { count, counted: changes, ready: '{"type":"caught_up"' };
  const crowd = await CrowdProcess.connect(t, worker, "/ws?v=1", subscription === undefined ? order : { ...order, subscription });
  let id = 0;
  return broadcast(crowd, count, async () => {
    id += 1;
    await insert(database, id);
    return () => poll(worker);
  });
}

async function runMinimal(t: Lifetime, environment: Environment, count: number, text: string): Promise<Sample> {
  const database = await createSource(t, environment.postgres);
  const worker = await Workerd.start(t, { hyperdrive: database.url, slot: database.slot, beside: minimal });
  const crowd = await CrowdProcess.connect(t, worker, "/test/beside", { count, counted: changes });
  return broadcast(crowd, count, async () => () => worker.request("POST", "/test/beside", text));
}

/** Sends some changes, each of which is prepared first. Returns the medians. */
async function broadcast(crowd: CrowdProcess, count: number, prepare: () => Promise<() => Promise<unknown>>): Promise<Sample> {
  const last: number[] = [];
  const span: number[] = [];
  for (let nth = 0; nth < 2 * broadcasts; nth++) {
    const send = await prepare();
    const started = performance.timeOrigin + performance.now();
    const [arrival] = await Promise.all([crowd.arrival(), send()]);
    if (nth < broadcasts) continue;
    last.push(arrival.last - started);
    span.push(arrival.last - arrival.first);
  }
  const ms = spread(last).median;
  return { "to the last socket": ms, "from first to last": spread(span).median, deliveries: (count / ms) * 1000 };
}
