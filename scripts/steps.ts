// How the scripts talk to whoever runs them, and how they run programs: every long step says what
// it does and how long it usually takes, and a failure says what was tried and what to do.
import { spawn, type SpawnOptions } from "node:child_process";
import { createWriteStream, mkdirSync, readFileSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The checkout. */
export const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** Tools that set-up builds or copies; ignored by git, kept between runs. */
export const toolsDir = join(root, ".tools");

/** A failure that was foreseen: printed as what happened and what to do, without a stack. */
export class Failure extends Error {
  readonly remedy: string;

  constructor(what: string, remedy: string, options?: ErrorOptions) {
    super(what, options);
    this.name = "Failure";
    this.remedy = remedy;
  }
}

/** One line to the person at the terminal. */
export function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

/**
 * Runs one step that takes noticeably long.
 *
 * @param what What is being done, as "Building worker-build 0.8.7".
 * @param usually How long it usually takes, as "once, about 3 minutes".
 */
export async function step<T>(what: string, usually: string, work: () => Promise<T>): Promise<T> {
  const started = performance.now();
  say(`-> ${what} (${usually})`);
  const seconds = () => ((performance.now() - started) / 1000).toFixed(1);
  // Where no terminal shows the program's own progress, silence looks like a hang.
  const heartbeat = setInterval(() => say(`   still at it: ${what}, ${seconds()} s`), 30_000);
  try {
    const result = await work();
    say(`   done in ${seconds()} s`);
    return result;
  } finally {
    clearInterval(heartbeat);
  }
}

/** How a program is run. */
export interface RunOptions extends Pick<SpawnOptions, "cwd" | "env" | "uid" | "gid"> {
  /** The program is stopped after so many milliseconds. */
  timeoutMs?: number;
  /** Its output goes to this file under `.tools/logs` unless a terminal can show it. */
  log?: string;
}

/** What a program that ended by itself left behind. */
export interface Finished {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a program to its end and gives its exit code and output; fails only if it cannot start. */
export function capture(program: string, args: string[], options: RunOptions = {}): Promise<Finished> {
  return new Promise((resolve, reject) => {
    const { timeoutMs, log: _, ...spawnOptions } = options;
    const child = spawn(program, args, {
      ...spawnOptions,
      ...(timeoutMs === undefined ? {} : { timeout: timeoutMs }),
      stdio: ["ignore", "pipe", "pipe"],
    });
    let stdout = "";
    let stderr = "";
    child.stdout?.setEncoding("utf8").on("data", (text: string) => (stdout += text));
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    child.on("error", reject);
    child.on("close", (code) => resolve({ code: code ?? 1, stdout, stderr }));
  });
}

/** The output of a program, or undefined where it is not installed or fails. */
export async function output(program: string, args: string[], options: RunOptions = {}): Promise<string | undefined> {
  try {
    const finished = await capture(program, args, options);
    return finished.code === 0 ? finished.stdout.trim() : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Runs a program whose progress is worth seeing: on a terminal it draws there itself, elsewhere it
 * writes to a log file, whose end is shown when it fails.
 */
export async function run(program: string, args: string[], options: RunOptions & { log: string }): Promise<void> {
  const { timeoutMs, log, ...spawnOptions } = options;
  const shown = process.stderr.isTTY === true;
  const logs = join(toolsDir, "logs");
  mkdirSync(logs, { recursive: true });
  const logFile = join(logs, log);
  const code = await new Promise<number>((resolve, reject) => {
    const child = spawn(program, args, {
      ...spawnOptions,
      ...(timeoutMs === undefined ? {} : { timeout: timeoutMs }),
      stdio: shown ? ["ignore", process.stderr, process.stderr] : ["ignore", "pipe", "pipe"],
    });
    if (!shown) {
      const file = createWriteStream(logFile);
      child.stdout?.pipe(file, { end: false });
      child.stderr?.pipe(file, { end: false });
      child.on("close", (status) => file.end(() => resolve(status ?? 1)));
    } else {
      child.on("close", (status) => resolve(status ?? 1));
    }
    child.on("error", reject);
  });
  if (code !== 0) {
    const tail = shown ? "" : `\n${lastLines(logFile, 25)}`;
    throw new Failure(
      `\`${[program, ...args].join(" ")}\` ended with exit code ${code}.${tail}`,
      "Mend what it says above, then run the command again.",
    );
  }
}

/** The end of a text file, for messages. */
export function lastLines(file: string, count: number): string {
  try {
    return readFileSync(file, "utf8").trimEnd().split("\n").slice(-count).join("\n");
  } catch {
    return "";
  }
}

/** PATH with folders put first. */
export function pathWith(...folders: string[]): string {
  return [...folders, process.env["PATH"] ?? ""].join(delimiter);
}

/** Runs a script's main function; a foreseen failure ends it with a message instead of a stack. */
export async function main(work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    process.exitCode = 1;
    if (error instanceof Failure) {
      say(`\nFailed: ${error.message}\n\nWhat to do: ${error.remedy}`);
    } else {
      console.error(error);
    }
  }
}
