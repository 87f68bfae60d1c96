// Starts a script under a Node that can run it: `node scripts/run.mjs dev` runs scripts/dev.ts, and
// `node scripts/run.mjs bench` runs bench/main.ts.
//
// The scripts are TypeScript and run as they are, and wrangler needs Node 22, while Debian ships Node 20. So this
// file is plain JavaScript for any Node. If the Node that runs it is too old, it hands over to the one that
// package.json installs from npm.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const scripts = dirname(fileURLToPath(import.meta.url));
const root = dirname(scripts);
const [name, ...args] = process.argv.slice(2);
const script = [join(scripts, `${name}.ts`), join(root, String(name), "main.ts")].find((path) => existsSync(path));

/** From 22.18 on Node runs TypeScript without a flag. */
const suffices = (version) => {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return major > 22 || (major === 22 && minor >= 18);
};

if (script === undefined) {
  console.error(`There is no script "${name ?? ""}".`);
  process.exit(2);
} else if (!existsSync(join(root, "node_modules", "wrangler"))) {
  console.error("The packages are not installed yet. Run: npm ci");
  process.exit(1);
} else if (suffices(process.versions.node)) {
  process.argv.splice(1, 2, script);
  await import(pathToFileURL(script).href);
} else {
  const own = join(root, "node_modules", `node-${process.platform}-${process.arch}`, "bin", "node");
  if (!existsSync(own)) {
    console.error(
      `Node ${process.versions.node} is too old (22.18 is needed), and this project's packages include none for ` +
        `${process.platform}-${process.arch}.\n` +
        "Install Node 22 or newer, then run the command again.",
    );
    process.exit(1);
  }
  const child = spawn(own, [script, ...args], { stdio: "inherit" });
  // A terminal signals the whole process group. These handlers are for a signal to this process alone.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.on(signal, () => {
      if (!(signal === "SIGINT" && process.stdin.isTTY)) child.kill(signal);
    });
  }
  child.on("exit", (code, signal) => process.exit(code ?? (signal === "SIGINT" ? 130 : 1)));
}
