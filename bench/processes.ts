// The resources that processes have used, from /proc on Linux (proc(5)).
import { readdirSync, readFileSync } from "node:fs";

/** Linux counts processor time in hundredths of a second. */
const tickMs = 10;

/** Milliseconds of processor time that a process has used, in its own code and in the kernel. */
export function processorMs(pid: number | undefined): number {
  const { own } = times(pid);
  return own * tickMs;
}

/** The same for a process and its children, including those that have ended. */
export function processorMsOfFamily(pid: number): number {
  const children = readdirSync("/proc").filter((name) => /^\d+$/.test(name) && parentOf(name) === pid);
  const { own, ended } = times(pid);
  return (own + ended + children.reduce((sum, child) => sum + (attempt(() => times(child).own) ?? 0), 0)) * tickMs;
}

/** The most memory that a process has held at any time, in MiB. */
export function peakMemoryMib(pid: number | undefined): number {
  const peak = readFileSync(`/proc/${pid}/status`, "utf8").match(/^VmHWM:\s+(\d+) kB$/m)?.[1];
  return Number(peak) / 1024;
}

/** The fields of /proc/PID/stat from the third on. The second is a name that may contain spaces. */
function stat(pid: number | string | undefined): string[] {
  return readFileSync(`/proc/${pid}/stat`, "utf8")
    .replace(/^.*\) /, "")
    .split(" ");
}

function times(pid: number | string | undefined): { own: number; ended: number } {
  const [user, system, childrenUser, childrenSystem] = stat(pid).slice(11, 15).map(Number) as [number, number, number, number];
  return { own: user + system, ended: childrenUser + childrenSystem };
}

function parentOf(pid: string): number | undefined {
  return attempt(() => Number(stat(pid)[1]));
}

/** Undefined if the process ends while it is read. */
function attempt<T>(read: () => T): T | undefined {
  try {
    return read();
  } catch {
    return undefined;
  }
}
