// The process with the clients, as the benchmark sees it.
import { fork, type ChildProcess } from "node:child_process";
import { join } from "node:path";
import { afterwards, type Lifetime } from "../tests/e2e/support/afterwards.ts";
import type { Workerd } from "../tests/e2e/support/workerd.ts";
import type { CrowdAnswer, CrowdOrder } from "./crowd.ts";

/** When all clients had received a frame, in milliseconds since the Unix epoch. */
export type Arrival = Extract<CrowdAnswer, { type: "all" }>;

/** Far longer than anything that they wait for takes. */
const deadlineMs = 300_000;

/** Connected clients. */
export class CrowdProcess {
  readonly #child: ChildProcess;
  #answers: CrowdAnswer[] = [];
  #waiting: (() => void) | undefined;

  private constructor(child: ChildProcess) {
    this.#child = child;
    child.on("message", (answer: CrowdAnswer) => {
      this.#answers.push(answer);
      this.#waiting?.();
    });
    child.on("exit", () => this.#waiting?.());
  }

  /** Connects clients to a path of the Worker, and waits until all are ready. They end with `t`. */
  static async connect(t: Lifetime, worker: Workerd, path: string, order: Omit<CrowdOrder, "url" | "protocols">): Promise<CrowdProcess> {
    const crowd = CrowdProcess.start(t, worker, path, order);
    await crowd.#answer();
    return crowd;
  }

  /** Starts to connect them, for benchmarks that measure what arrives meanwhile. */
  static start(t: Lifetime, worker: Workerd, path: string, order: Omit<CrowdOrder, "url" | "protocols">): CrowdProcess {
    const child = fork(join(import.meta.dirname, "crowd.ts"), { stdio: "inherit" });
    afterwards(t, async () => {
      const ended = new Promise((resolve) => child.once("exit", resolve));
      if (child.exitCode !== null || !child.kill()) return;
      await ended;
    });
    const url = Object.assign(new URL(path, worker.url), { protocol: "ws:" }).href;
    const protocols = ["replication.v1", `bearer.${Buffer.from(worker.token).toString("base64url")}`];
    child.send({ ...order, url, protocols } satisfies CrowdOrder);
    return new CrowdProcess(child);
  }

  /** Waits until each client has received one more frame that counts. */
  async arrival(): Promise<Arrival> {
    for (;;) {
      const answer = await this.#answer();
      if (answer.type === "all") return answer;
    }
  }

  async #answer(): Promise<CrowdAnswer> {
    const deadline = AbortSignal.timeout(deadlineMs);
    deadline.addEventListener("abort", () => this.#waiting?.());
    for (;;) {
      const answer = this.#answers.shift();
      if (answer !== undefined) return answer;
      if (this.#child.exitCode !== null) throw new Error("the clients' process has ended");
      if (deadline.aborted) throw new Error(`the clients have waited for ${deadlineMs} ms`);
      await new Promise<void>((resolve) => (this.#waiting = resolve));
    }
  }
}
