// Workers next to the feed: the example with Sync Durable Objects, and one that reads the feed.
import type { TestContext } from "node:test";
import { build } from "esbuild";
import { convertV4MiniflareOptions, Miniflare } from "miniflare";
import { experimental_readRawConfig } from "wrangler";
import { connect, type Feed, type FeedOptions } from "../../../client/src/index.ts";
import { afterwards } from "./afterwards.ts";
import { Scenario } from "./scenario.ts";

const compatibilityDate = "2026-11-17";
const exampleName = "sync-do-example";
const exampleToken = "application-token";

/** The address of a Worker that reads the feed with the client library, in its own runtime. */
export async function startFeedReader(t: TestContext): Promise<URL> {
  const { outputFiles } = await build({ entryPoints: ["tests/e2e/workers/feed-reader.ts"], bundle: true, format: "esm", write: false });
  // Wrangler's test harness sends a Worker's fetches through Node, which cannot upgrade.
  const runtime = new Miniflare(convertV4MiniflareOptions({ modules: true, script: outputFiles[0]?.text ?? "", compatibilityDate }));
  afterwards(t, () => runtime.dispose());
  return runtime.ready;
}

/** How a Sync Durable Object of the test fails. */
export type Failure = "refuses" | "throws" | "forgets to answer" | "stores, then fails" | "is gone" | "only counts";

/** The methods of the Sync Durable Object that only tests call. */
interface Stub {
  fail(failure: Failure | undefined): Promise<void>;
  calls(): Promise<number>;
  atOnce(): Promise<number>;
}

interface ExampleEnv {
  SYNC: { getByName(name: string): Stub };
}

/** The feed and the example application as two Workers, each bound to the other. */
export class Example {
  readonly scenario: Scenario;

  private constructor(scenario: Scenario) {
    this.scenario = scenario;
  }

  /** Starts both. The feed is not initialised. */
  static async start(t: TestContext, ttlSeconds = 600): Promise<Example> {
    const { rawConfig } = experimental_readRawConfig({ config: "examples/sync-do/wrangler.toml" });
    const config = {
      ...rawConfig,
      main: "tests/e2e/workers/failing-sync-do.ts",
      vars: { TABLES: "items", TTL_SECONDS: String(ttlSeconds), SYNC_TOKEN: exampleToken },
      routes: ["*/items/*"],
    };
    const scenario = await Scenario.start(t, {
      others: [{ config }],
      calls: [{ name: "SYNC", class_name: "SyncDO", script_name: exampleName }],
    });
    return new Example(scenario);
  }

  /** The rows and the position of the Sync Durable Object, from the application's public route. */
  async rows(): Promise<{ position: string | null; rows: { id: number; name: string }[] }> {
    const response = await fetch(new URL("/items/rows", this.scenario.worker.url), {
      headers: { authorization: `Bearer ${exampleToken}` },
    });
    if (!response.ok) throw new Error(`${response.status} ${await response.text()}`);
    return (await response.json()) as { position: string | null; rows: { id: number; name: string }[] };
  }

  /** A client of the Sync Durable Object. */
  connect(t: TestContext, options: Omit<FeedOptions, "url" | "token"> = {}): Feed {
    const feed = connect({
      url: new URL("/items", this.scenario.worker.url),
      token: exampleToken,
      retry: { firstMs: 50, maxMs: 500 },
      ...options,
    });
    afterwards(t, () => feed.close());
    return feed;
  }

  /** The Sync Durable Object, or another one of its class. */
  async object(name = "items"): Promise<Stub> {
    const env = await this.scenario.worker.other(exampleName).getEnv();
    return (env as unknown as ExampleEnv).SYNC.getByName(name);
  }

  /** Evicts the Sync Durable Object. The WebSockets of its clients hibernate, or close. */
  async evictObject(webSockets: "hibernate" | "close" = "hibernate"): Promise<void> {
    await this.scenario.worker.other(exampleName).evictDurableObject("SyncDO", { name: "items", webSockets });
  }
}
