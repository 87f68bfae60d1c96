// Starts one of this folder's scripts under a Node that can run it: `node scripts/run.mjs dev`.
//
// The scripts are TypeScript and run as they are, and wrangler needs Node 22, while Debian brings
// Node 20. So this one file is plain JavaScript for any Node, and hands over to the Node that
// package.json brings from npm where the one that runs it is too old.
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath, pathToFileURL } from "node:url";

const scripts = dirname(fileURLToPath(import.meta.url));
const root = dirname(scripts);
const [name, ...args] = process.argv.slice(2);
const script = join(scripts, `${name}.ts`);

/** Type stripping needs no flag from 22.18 on. */
const suffices = (version) => {
  const [major = 0, minor = 0] = version.split(".").map(Number);
  return major > 22 || (major === 22 && minor >= 18);
};

if (name === undefined || !existsSync(script)) {
  console.error(`There is no script "${name}" in scripts/.`);
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
      `Node ${process.versions.node} is too old (22.18 is needed), and npm has none for ` +
        `${process.platform}-${process.arch} among this project's packages.\n` +
        "Install Node 22 or newer, then run the command again.",
    );
    process.exit(1);
  }
  const child = spawn(own, [script, ...args], { stdio: "inherit" });
  // A terminal signals the whole group by itself; these are for a signal to this process alone.
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) {
    process.on(signal, () => {
      if (!(signal === "SIGINT" && process.stdin.isTTY)) child.kill(signal);
    });
  }
  child.on("exit", (code, signal) => process.exit(code ?? (signal === "SIGINT" ? 130 : 1)));
}
