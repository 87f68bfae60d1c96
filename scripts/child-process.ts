// Child processes that never outlive us.
import { spawn, type ChildProcess, type SpawnOptions, type StdioOptions } from "node:child_process";

/**
 * The program is a shell's child, and the shell ends it when its own input closes: however we end,
 * killed or crashed, nothing stays behind.
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
 * Starts a program that ends when `endChild` says so, or when we end in whatever way. It has a
 * process group of its own, so that Ctrl-C in the terminal reaches us alone and we choose the order
 * in which things stop.
 *
 * @param endSignal The signal that the program takes as the request to end.
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

/** Ends a program, the hard way after `patienceMs`. */
export async function endChild(child: ChildProcess, patienceMs: number): Promise<void> {
  child.stdin?.end();
  const impatient = setTimeout(() => {
    if (child.pid !== undefined) process.kill(-child.pid, "SIGKILL");
  }, patienceMs);
  await ended(child);
  clearTimeout(impatient);
}
