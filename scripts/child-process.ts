// Child processes that never outlive this process.
import { spawn, type ChildProcess, type SpawnOptions, type StdioOptions } from "node:child_process";

/**
 * The program is the child of a shell, which ends it when the shell's own input closes. So nothing stays behind however
 * this process ends, even if it is killed or crashes.
 */
const guard = `
exec 3<&0
signal=$1; shift
"$@" 3<&- </dev/null & program=$!
( while read -r line <&3; do :; done; kill -s "$signal" "$program" 2>/dev/null ) & guard=$!
wait "$program"; code=$?
kill "$guard" 2>/dev/null
exit "$code"
`;

/**
 * Starts a program that ends with `endChild`, or when this process ends for any reason. It has its own process group, so
 * that Ctrl-C in the terminal reaches only this process, which chooses the order in which things stop.
 *
 * @param endSignal The signal that asks the program to end.
 */
export function spawnChild(
  endSignal: "INT" | "TERM",
  program: string,
  args: string[],
  options: SpawnOptions & {
    stdio: [stdin: "pipe", stdout: Exclude<StdioOptions, string>[number], stderr: Exclude<StdioOptions, string>[number]];
  },
): ChildProcess {
  return spawn("/bin/sh", ["-c", guard, "sh", endSignal, program, ...args], { ...options, detached: true });
}

/** Resolves when the program has ended. */
export function ended(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return Promise.resolve();
  return new Promise((resolve) => child.once("exit", () => resolve()));
}

/** Ends a program, and kills it after `patienceMs`. */
export async function endChild(child: ChildProcess, patienceMs: number): Promise<void> {
  child.stdin?.end();
  const killTimer = setTimeout(() => {
    if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
  }, patienceMs);
  await ended(child);
  clearTimeout(killTimer);
}
