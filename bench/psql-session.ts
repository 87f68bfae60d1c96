// A psql that stays connected, so that the SQL is timed and not the start of a program.
import { spawn, type ChildProcess } from "node:child_process";
import { afterwards, type Lifetime } from "../tests/e2e/support/afterwards.ts";

/** One session. */
export class PsqlSession {
  readonly #child: ChildProcess;
  #printed = "";
  #errors = "";
  #answered: (() => void) | undefined;
  #commands = 0;

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      this.#printed += text;
      this.#answered?.();
    });
    child.stderr?.setEncoding("utf8").on("data", (text: string) => (this.#errors += text));
    child.on("exit", () => this.#answered?.());
  }

  /** Connects. The session ends with its owner. */
  static async open(t: Lifetime, psql: string, url: string): Promise<PsqlSession> {
    const args = ["--no-psqlrc", "--quiet", "--no-align", "--tuples-only", "--set=ON_ERROR_STOP=1", url];
    const child = spawn(psql, args, { stdio: ["pipe", "pipe", "pipe"], env: { ...process.env, PGOPTIONS: "" } });
    const session = new PsqlSession(child);
    afterwards(t, async () => {
      const ended = new Promise((resolve) =>
        child.exitCode === null && child.signalCode === null ? child.once("exit", resolve) : resolve(undefined),
      );
      child.stdin.end();
      await ended;
    });
    await session.run("SELECT 1;");
    return session;
  }

  /** The process. */
  get pid(): number | undefined {
    return this.#child.pid;
  }

  /** Runs commands as in a script. Returns what they print, without the last newline. */
  async run(script: string): Promise<string> {
    const marker = `-- done ${++this.#commands}`;
    this.#printed = "";
    const done = new Promise<void>((resolve, reject) => {
      this.#answered = () => {
        if (this.#printed.endsWith(`${marker}\n`)) resolve();
        else if (this.#child.exitCode !== null) reject(new Error(`psql ended: ${this.#errors}`));
      };
    });
    this.#child.stdin?.write(`${script}\n\\echo ${marker}\n`);
    await done;
    return this.#printed.slice(0, -marker.length - 1).replace(/\n$/, "");
  }

  /** Runs commands. Returns the milliseconds that they take. */
  async time(script: string): Promise<number> {
    const started = performance.now();
    await this.run(script);
    return performance.now() - started;
  }
}
