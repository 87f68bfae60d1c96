// Builds the Worker into build/ (`npm run build`, which is also wrangler's [build] command).
import { createHash } from "node:crypto";
import { existsSync, readdirSync, readFileSync, renameSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";
import { npmBinary, prepareTools, workerBuild } from "./setup.ts";
import { main, root, run, say, step } from "./steps.ts";

const buildDir = join(root, "build");
const stamp = join(buildDir, ".inputs");
/** The same code with function names, to look up `wasm-function[1234]` in a stack trace. */
const named = join(buildDir, "index_bg.named.wasm");

/** Everything that the result of the build depends on. */
const inputs = ["Cargo.toml", "Cargo.lock", "src", "migrations", "package-lock.json", "scripts/setup.ts", "scripts/build.ts"];

/** Builds the Worker, unless build/ is up to date. */
export async function buildWorker(): Promise<void> {
  const wanted = inputsHash();
  if (existsSync(stamp) && readFileSync(stamp, "utf8") === wanted) return;
  const env = await prepareTools();
  await step("Building the Worker for WebAssembly", "about 2 minutes the first time, then about 40 seconds", () =>
    run(workerBuild, ["--release"], { cwd: root, env, log: "worker-build.log" }),
  );
  const file = join(buildDir, "index_bg.wasm");
  renameSync(file, named);
  // This makes the upload a tenth smaller.
  await run(
    process.execPath,
    [npmBinary("binaryen", "bin/wasm-opt"), named, "--all-features", "--strip-debug", "--strip-producers", "-o", file],
    { cwd: root, env, log: "wasm-opt.log" },
  );
  writeFileSync(stamp, wanted);
  const wasm = readFileSync(file);
  const kib = (bytes: number) => `${Math.round(bytes / 1024)} KiB`;
  say(`   index_bg.wasm: ${kib(wasm.length)}, ${kib(gzipSync(wasm).length)} compressed`);
}

/** Writes the bundle that `wrangler deploy` would upload to a folder. */
export async function bundleWorker(bundle: string): Promise<void> {
  const wrangler = join(root, "node_modules", "wrangler", "bin", "wrangler.js");
  const env = { ...process.env, WRANGLER_SEND_METRICS: "false" };
  await step("Bundling the Worker", "about 3 seconds", () =>
    run(process.execPath, [wrangler, "deploy", "--dry-run", "--outdir", bundle], { cwd: root, env, log: "bundle.log" }),
  );
}

/** Hashes contents, not times: a checkout or a rebase touches files without changing them. */
function inputsHash(): string {
  const hash = createHash("sha256");
  const add = (path: string): void => {
    const full = join(root, path);
    if (!existsSync(full)) return;
    if (statSync(full).isDirectory()) {
      for (const name of readdirSync(full).sort()) add(join(path, name));
    } else {
      hash.update(path).update("\0").update(readFileSync(full)).update("\0");
    }
  };
  for (const path of inputs) add(path);
  return hash.digest("hex");
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await main(buildWorker);
}
