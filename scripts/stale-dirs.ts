// Folders that killed runs left behind.
import { existsSync, readdirSync, rmSync } from "node:fs";
import { join } from "node:path";
import { root } from "./steps.ts";

/** Removes what killed runs of this kind left in `.postgres`. Their servers ended with them. */
export function removeStaleDirs(kind: "test" | "bench"): void {
  const folder = join(root, ".postgres");
  for (const name of existsSync(folder) ? readdirSync(folder) : []) {
    const pid = name.match(/^(test|bench)-(\d+)/);
    if (pid?.[1] === kind && !isAlive(Number(pid[2]))) rmSync(join(folder, name), { recursive: true });
  }
}

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}
