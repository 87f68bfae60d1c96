// How the scripts report progress and run programs: every long step says what it does and how long it usually takes, and
// a failure says what was tried and what to do.
import { spawn, type SpawnOptions } from "node:child_process";
import { createWriteStream, mkdirSync, readFileSync } from "node:fs";
import { delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

/** The root of the checkout. */
export const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** Tools that the set-up builds or copies. Ignored by git, kept between runs. */
export const toolsDir = join(root, ".tools");

/** An anticipated failure: printed as what happened and what to do, without a stack trace. */
export class Failure extends Error {
  readonly remedy: string;

  constructor(what: string, remedy: string, options?: ErrorOptions) {
    super(what, options);
    this.name = "Failure";
    this.remedy = remedy;
  }
}

/** Prints one line to the terminal. */
export function say(line: string): void {
  process.stderr.write(`${line}\n`);
}

/**
 * Runs a step that takes noticeably long.
 *
 * @param what What is being done, for example "Building worker-build 0.8.7".
 * @param usually How long it usually takes, for example "once, about 3 minutes".
 */
export async function step<T>(what: string, usually: string, work: () => Promise<T>): Promise<T> {
  const started = performance.now();
  say(`-> ${what} (${usually})`);
  const seconds = () => ((performance.now() - started) / 1000).toFixed(1);
  // Without a terminal that shows the program's own progress, silence looks like a hang.
  const heartbeat = setInterval(() => say(`   still running: ${what}, ${seconds()} s`), 30_000);
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
  /** The program is stopped after this time. */
  timeoutMs?: number;
  /** Its output goes to this file in `.tools/logs`, unless a terminal can show it. */
  log?: string;
}

/** The result of a program that ended by itself. */
export interface Finished {
  code: number;
  stdout: string;
  stderr: string;
}

/** Runs a program and returns its exit code and output. Rejects only if it cannot start. */
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

/** The output of a program; undefined if it is not installed or fails. */
export async function output(program: string, args: string[], options: RunOptions = {}): Promise<string | undefined> {
  try {
    const finished = await capture(program, args, options);
    return finished.code === 0 ? finished.stdout.trim() : undefined;
  } catch {
    return undefined;
  }
}

/**
 * Runs a program whose progress is worth seeing. On a terminal its output goes there; otherwise it goes to a log file, and
 * the end of that is shown if the program fails.
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
      "Fix what it reports above, then run the command again.",
    );
  }
}

/** The last lines of a text file, for messages. */
export function lastLines(file: string, count: number): string {
  try {
    return readFileSync(file, "utf8").trimEnd().split("\n").slice(-count).join("\n");
  } catch {
    return "";
  }
}

/** PATH with these folders in front. */
export function pathWith(...folders: string[]): string {
  return [...folders, process.env["PATH"] ?? ""].join(delimiter);
}

/** Runs a script's main function. A `Failure` ends it with a message instead of a stack trace. */
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
