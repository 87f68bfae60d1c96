// The size of the Worker, and the time from nothing to its first answer, compared with an empty Worker with an empty
// Durable Object in JavaScript.
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { constants, brotliCompressSync, gzipSync } from "node:zlib";
import type { Lifetime } from "../tests/e2e/support/afterwards.ts";
import { bundleDir } from "../tests/e2e/support/worker.ts";
import { Workerd } from "../tests/e2e/support/workerd.ts";
import { createSource } from "./backlog.ts";
import { figureOf, takeTurns, type Contestant, type Sample } from "./trial.ts";
import type { Figure, Report } from "./report.ts";
import type { Environment } from "./environment.ts";

const empty = `
import { DurableObject, WorkerEntrypoint } from "cloudflare:workers";
export class ReplicationDO extends DurableObject {
  fetch() {
    return Response.json({});
  }
}
export default class extends WorkerEntrypoint {
  fetch(request) {
    return this.env.REPLICATION.getByName("default").fetch(request);
  }
}
`;

/** The whole benchmark. */
export async function size(environment: Environment): Promise<Report> {
  const bundle = join(environment.scratch, "empty-worker");
  mkdirSync(bundle, { recursive: true });
  writeFileSync(join(bundle, "index.js"), empty);
  const contestants: Contestant[] = [
    { name: "empty Worker", run: (t) => start(t, environment, bundle) },
    { name: "feed", run: (t) => start(t, environment, undefined) },
  ];
  const samples = await takeTurns(contestants, environment.rounds * 2);
  const starts = [
    "from the start of the process to the first answer",
    "from the end of the object to the next answer",
    "an answer when it runs",
  ].flatMap((part) => {
    const floor = { ...figureOf(samples, "empty Worker", part, "ms"), group: part, name: "empty Worker" };
    return [floor, { ...figureOf(samples, "feed", part, "ms"), group: part, name: "feed", against: [floor] }];
  });
  return {
    name: "size",
    about: "Size of the uploaded WebAssembly, and milliseconds until GET /status is answered.",
    figures: [...sizes(), ...starts],
  };
}

function sizes(): Figure[] {
  const name = readdirSync(bundleDir()).find((file) => file.endsWith(".wasm"));
  if (name === undefined) throw new Error("the bundle has no WebAssembly");
  const wasm = readFileSync(join(bundleDir(), name));
  const brotli = brotliCompressSync(wasm, { params: { [constants.BROTLI_PARAM_QUALITY]: 11 } });
  const kib = (name: string, bytes: Buffer): Figure => ({ group: "WebAssembly", name, unit: "KiB", samples: [bytes.length / 1024] });
  return [kib("as it is", wasm), kib("gzip -9", gzipSync(wasm, { level: 9 })), kib("brotli -11", brotli)];
}

async function start(t: Lifetime, environment: Environment, bundle: string | undefined): Promise<Sample> {
  const database = await createSource(t, environment.postgres);
  const answer = async (worker: Workerd): Promise<number> => {
    const started = performance.now();
    const { status } = await worker.request("GET", "/status");
    if (status !== 200) throw new Error(`GET /status: ${status}`);
    return performance.now() - started;
  };
  const started = performance.now();
  const worker = await Workerd.start(t, { hyperdrive: database.url, slot: database.slot, ...(bundle === undefined ? {} : { bundle }) });
  await answer(worker);
  const process = performance.now() - started;
  const warm = await answer(worker);
  await worker.abort();
  const object = await answer(worker);
  return {
    "from the start of the process to the first answer": process,
    "from the end of the object to the next answer": object,
    "an answer when it runs": warm,
  };
}
