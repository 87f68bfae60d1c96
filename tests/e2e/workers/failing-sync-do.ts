// The example application, with Sync Durable Objects that can be told to fail.
import application, { SyncDO as Example } from "../../../examples/sync-do/src/index.ts";

export default application;

/** How a callback fails, or how else it differs from the example. */
export type Failure = "refuses" | "throws" | "forgets to answer" | "stores, then fails" | "is gone" | "only counts";

/** Fails as it was last told to. Until then it behaves like the example. */
export class SyncDO extends Example {
  #failure: Failure | undefined;
  #calls = 0;
  #running = 0;
  #atOnce = 0;

  /** Makes callbacks fail from now on, or succeed again. */
  fail(failure: Failure | undefined): void {
    this.#failure = failure;
  }

  /** The number of callbacks since the object was last loaded. */
  calls(): number {
    return this.#calls;
  }

  /** The most callbacks that ran at the same time. */
  atOnce(): number {
    return this.#atOnce;
  }

  override async fetch(request: Request): Promise<Response> {
    if (request.method !== "POST") return super.fetch(request);
    this.#calls += 1;
    this.#running += 1;
    this.#atOnce = Math.max(this.#atOnce, this.#running);
    try {
      return await this.#answer(request);
    } finally {
      this.#running -= 1;
    }
  }

  async #answer(request: Request): Promise<Response> {
    switch (this.#failure) {
      case undefined:
        return super.fetch(request);
      case "refuses":
        return new Response("not now", { status: 503 });
      case "throws":
        throw new Error("told to");
      case "forgets to answer":
        return new Promise(() => undefined);
      case "stores, then fails":
        await super.fetch(request);
        return new Response("stored, but", { status: 500 });
      case "is gone":
        return new Response("gone", { status: 410 });
      case "only counts":
        // Long enough that another call could overlap it.
        await scheduler.wait(20);
        return new Response("counted");
      default:
        throw new TypeError(`unknown failure: ${String(this.#failure satisfies never)}`);
    }
  }
}
