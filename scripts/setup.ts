// Brings everything the WASM build needs that npm and cargo do not bring by themselves. Idempotent;
// where nothing is missing it takes well under a second and says nothing.
import { existsSync, readFileSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Failure, main, output, root, run, say, step, toolsDir } from "./steps.ts";
import { wasmToolchain } from "./wasm-target.ts";

/** Has to go with the `worker` crate of Cargo.toml. */
const workerBuildVersion = "0.8.7";

const cargoRoot = join(toolsDir, "cargo");
const cargoBin = join(cargoRoot, "bin");

/** Makes sure that all tools are there, and gives the environment in which `worker-build` runs. */
export async function prepareTools(): Promise<NodeJS.ProcessEnv> {
  const wasm = await wasmToolchain();
  await cargoTool("worker-build", workerBuildVersion, "about 3 minutes");
  // The bindings' format changes with every release: the tool must be the library's very version.
  await cargoTool("wasm-bindgen-cli", lockedVersion("wasm-bindgen"), "about 2 minutes");
  return {
    ...process.env,
    ...wasm,
    // wasm-opt and esbuild are scripts that take `node` from PATH: give them the one that runs this.
    PATH: [dirname(process.execPath), wasm["PATH"] ?? process.env["PATH"] ?? ""].join(delimiter),
    // worker-build would download these from hosts that not every machine reaches.
    WASM_BINDGEN_BIN: join(cargoBin, "wasm-bindgen"),
    WASM_OPT_BIN: npmBinary("binaryen", "bin/wasm-opt"),
    ESBUILD_BIN: npmBinary("esbuild", "bin/esbuild"),
  };
}

/** Where `worker-build` is once `prepareTools` has run. */
export const workerBuild = join(cargoBin, "worker-build");

/** Installs a program of the crate registry into `.tools`, unless that version is there. */
async function cargoTool(crate: string, version: string, usually: string): Promise<void> {
  if (installedVersion(crate) === version) return;
  await step(`Building ${crate} ${version}`, `once, ${usually}`, () =>
    // Without --locked: wasm-bindgen-cli's own lockfile names a package that was withdrawn.
    run("cargo", ["install", crate, "--version", version, "--root", cargoRoot], { cwd: toolsDir, log: `${crate}.log` }),
  );
}

/** What cargo itself has noted about a program it installed. */
function installedVersion(crate: string): string | undefined {
  const notes = join(cargoRoot, ".crates.toml");
  if (!existsSync(notes)) return undefined;
  return readFileSync(notes, "utf8").match(new RegExp(`^"${crate} (\\S+) `, "m"))?.[1];
}

/** The version of a package in Cargo.lock. */
function lockedVersion(crate: string): string {
  const lock = readFileSync(join(root, "Cargo.lock"), "utf8");
  const version = lock.match(new RegExp(`^name = "${crate}"\nversion = "(.+)"$`, "m"))?.[1];
  if (version === undefined) throw new Failure(`Cargo.lock has no ${crate}.`, "Restore it: git checkout Cargo.lock");
  return version;
}

/** A program that a package of npm brings. */
export function npmBinary(name: string, path: string): string {
  const binary = join(root, "node_modules", name, path);
  if (!existsSync(binary)) throw new Failure(`npm's package ${name} is not installed.`, "Run: npm ci");
  return binary;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  await main(async () => {
    const tools = await prepareTools();
    say(
      `Ready: ${await output("rustc", ["--version"], { env: tools })}, worker-build ${workerBuildVersion}, wasm-bindgen ${lockedVersion("wasm-bindgen")}`,
    );
  });
}
