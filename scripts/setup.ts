// Installs everything that the WASM build needs and that npm and cargo do not install by themselves. Idempotent: if nothing
// is missing it takes well under a second and prints nothing.
import { existsSync, readFileSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { Failure, main, output, root, run, say, step, toolsDir } from "./steps.ts";
import { wasmToolchain } from "./wasm-target.ts";

/** Must match the `worker` crate in Cargo.toml. */
const workerBuildVersion = "0.8.7";

const cargoRoot = join(toolsDir, "cargo");
const cargoBin = join(cargoRoot, "bin");

/** Installs the tools that are missing, and returns the environment for `worker-build`. */
export async function prepareTools(): Promise<NodeJS.ProcessEnv> {
  const wasm = await wasmToolchain();
  await cargoTool("worker-build", workerBuildVersion, "about 3 minutes");
  // The format of the bindings changes with every release: the tool must have exactly the library's version.
  await cargoTool("wasm-bindgen-cli", lockedVersion("wasm-bindgen"), "about 2 minutes");
  return {
    ...process.env,
    ...wasm,
    // wasm-opt and esbuild are scripts that use the `node` on PATH: give them the one that runs this.
    PATH: [dirname(process.execPath), wasm["PATH"] ?? process.env["PATH"] ?? ""].join(delimiter),
    // Otherwise worker-build downloads these from hosts that not every machine can reach.
    WASM_BINDGEN_BIN: join(cargoBin, "wasm-bindgen"),
    WASM_OPT_BIN: npmBinary("binaryen", "bin/wasm-opt"),
    ESBUILD_BIN: npmBinary("esbuild", "bin/esbuild"),
  };
}

/** The path of `worker-build`, once `prepareTools` has run. */
export const workerBuild = join(cargoBin, "worker-build");

/** Installs a program from the crate registry into `.tools`, unless that version is installed. */
async function cargoTool(crate: string, version: string, usually: string): Promise<void> {
  if (installedVersion(crate) === version) return;
  await step(`Building ${crate} ${version}`, `once, ${usually}`, () =>
    // Without --locked: wasm-bindgen-cli's own lockfile names a package that was withdrawn.
    run("cargo", ["install", crate, "--version", version, "--root", cargoRoot], { cwd: toolsDir, log: `${crate}.log` }),
  );
}

/** The version of a program that cargo installed, from its own records. */
function installedVersion(crate: string): string | undefined {
  const notes = join(cargoRoot, ".crates.toml");
  if (!existsSync(notes)) return undefined;
  return readFileSync(notes, "utf8").match(new RegExp(`^"${crate} (\\S+) `, "m"))?.[1];
}

/** The version of a package in Cargo.lock. */
function lockedVersion(crate: string): string {
  const lock = readFileSync(join(root, "Cargo.lock"), "utf8");
  const version = lock.match(new RegExp(`^name = "${crate}"\nversion = "(.+)"$`, "m"))?.[1];
  if (version === undefined) throw new Failure(`Cargo.lock does not contain ${crate}.`, "Restore it: git checkout Cargo.lock");
  return version;
}

/** The path of a program in an npm package. */
export function npmBinary(name: string, path: string): string {
  const binary = join(root, "node_modules", name, path);
  if (!existsSync(binary)) throw new Failure(`The npm package ${name} is not installed.`, "Run: npm ci");
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
