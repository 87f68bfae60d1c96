// The example application, with Sync Durable Objects that can be told to fail.
import application, { SyncDO as Example } from "../../../examples/sync-do/src/index.ts";

export default application;

/** How a callback fails. */
export type Failure = "refuses" | "throws" | "forgets to answer" | "stores, then fails";

/** Fails as it was last told to. Until then it behaves like the example. */
export class SyncDO extends Example {
  #failure: Failure | undefined;
  #calls = 0;

  /** Makes callbacks fail from now on, or succeed again. */
  fail(failure: Failure | undefined): void {
    this.#failure = failure;
  }

  /** The number of callbacks since the object was last loaded. */
  calls(): number {
    return this.#calls;
  }

  override async fetch(request: Request): Promise<Response> {
    if (request.method !== "POST") return super.fetch(request);
    this.#calls += 1;
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
      default:
        throw new TypeError(`unknown failure: ${String(this.#failure satisfies never)}`);
    }
  }
}
