// Ten thousand sockets on one object.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { test } from "node:test";
import { createDatabase } from "./support/database.ts";
import type { FeedSocket } from "./support/feed-socket.ts";
import { waitFor } from "./support/wait-for.ts";
import { Workerd } from "./support/workerd.ts";

const crowd = 10_000;
/** The maximum number of file descriptors of a process. */
const descriptors = Number(execFileSync("sh", ["-c", "ulimit -Hn"], { encoding: "utf8" }).replace("unlimited\n", "Infinity"));
/** How many connect over TCP, where each costs workerd two descriptors. The others connect from another object. */
const outside = Math.min(9_800, Math.floor((descriptors - 400) / 2));
const inside = crowd - outside;
/** How many subscribe only to their own table. */
const filtered = 1_000;
/** How many stop reading. */
const dead = 50;

/** Holds many sockets on the feed, and reports how many changes each has received. */
const insiders = `
import { DurableObject } from "cloudflare:workers";
export class Beside extends DurableObject {
  changes = [];
  async fetch(request) {
    const feed = this.env.REPLICATION.getByName("default");
    const count = request.method === "POST" ? Number(await request.text()) : 0;
    for (let index = 0; index < count; index++) {
      const { webSocket } = await feed.fetch("https://feed/ws?v=1&tables=items", { headers: { upgrade: "websocket" } });
      this.changes[index] = 0;
      webSocket.addEventListener("message", ({ data }) => {
        const frame = JSON.parse(data);
        if (frame.type === "changes") this.changes[index] += frame.changes.length;
      });
      webSocket.accept();
    }
    return Response.json({ least: Math.min(...this.changes), most: Math.max(...this.changes), sockets: this.changes.length });
  }
}
`;

/** Reports each time a frame with changes becomes a JavaScript string. */
const watch = `
const decode = TextDecoder.prototype.decode;
TextDecoder.prototype.decode = function (...bytes) {
  const text = decode.apply(this, bytes);
  if (text.startsWith('{"type":"changes"')) console.log("a changes frame was made");
  return text;
};
`;

test("10,000 sockets receive every change, each batch is one string, and sockets that do not read slow nobody down", async (t) => {
  const database = await createDatabase(t);
  await database.query("CREATE TABLE items (id int PRIMARY KEY, name text); CREATE TABLE others (id int PRIMARY KEY)");
  await database.query(`CREATE PUBLICATION ${database.slot} FOR TABLE items, others`);
  const worker = await Workerd.start(t, { hyperdrive: database.url, slot: database.slot, before: watch, beside: insiders });
  await worker.initialise();

  const sockets: FeedSocket[] = [];
  const connecting = performance.now();
  while (sockets.length < outside) {
    const some = Array.from({ length: Math.min(100, outside - sockets.length) }, (_, index) =>
      worker.connect({ tables: (sockets.length + index) % (crowd / filtered) === 0 ? "others" : "items" }),
    );
    sockets.push(...(await Promise.all(some)));
  }
  const others = async (method: string, body?: number) =>
    (await worker.request<{ least: number; most: number; sockets: number }>(method, "/test/beside", body)).body;
  assert.equal((await others("POST", inside)).sockets, inside);
  await waitFor(
    "everybody is live",
    () => sockets.every((socket) => socket.messages.some((message) => message.type === "caught_up")),
    60_000,
  );
  t.diagnostic(`${crowd} sockets connected and caught up in ${Math.round(performance.now() - connecting)} ms`);
  const wantsItems = sockets.filter((_, index) => index % (crowd / filtered) !== 0);
  const paused = wantsItems.slice(0, dead);
  for (const socket of paused) socket.pause();
  const reading = wantsItems.slice(dead);

  const made = () => worker.log.split("a changes frame was made").length - 1;
  const rounds = 5;
  for (let round = 0; round < rounds; round++) {
    const before = made();
    await database.query("INSERT INTO items SELECT $1 * 10 + n, repeat('x', 100) FROM generate_series(1, 10) n", [round]);
    const started = performance.now();
    assert.equal((await worker.request("POST", "/poll")).status, 200);
    const polled = performance.now() - started;
    await waitFor("the last socket has them", () => reading.every((socket) => socket.changes.length === (round + 1) * 10), 60_000);
    await waitFor("the sockets of the other object have them", async () => (await others("GET")).least === (round + 1) * 10);
    t.diagnostic(
      `10 changes of 1 KB in all to ${reading.length} sockets: polled and handed out in ${Math.round(polled)} ms, the last has them after ${Math.round(performance.now() - started)} ms`,
    );
    assert.equal(made() - before, 1);
  }
  assert.deepEqual(await others("GET"), { least: rounds * 10, most: rounds * 10, sockets: inside });
  const status = (await worker.request<{ memoryBytes: number; clients: { webSockets: number } }>("GET", "/status")).body;
  t.diagnostic(`WASM memory ${(status.memoryBytes / (1 << 20)).toFixed(1)} MiB`);
  assert.equal(status.clients.webSockets, crowd);
  assert.ok(status.memoryBytes < 64 << 20);

  for (const socket of paused) socket.resume();
  await waitFor("sockets that read again have missed nothing", () => paused.every((socket) => socket.changes.length === rounds * 10));
  const ids = Array.from({ length: rounds * 10 }, (_, index) => index + 1);
  for (const socket of wantsItems) {
    assert.deepEqual(
      socket.changes.map((change) => change.id),
      ids,
    );
  }
  sockets.forEach((socket, index) => index % (crowd / filtered) === 0 && assert.deepEqual(socket.changes, []));
});
