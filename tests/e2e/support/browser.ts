// A real browser on the example page.
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import type { TestContext } from "node:test";
import { build } from "esbuild";
import { chromium, type BrowserContext } from "playwright-core";
import { afterwards } from "./afterwards.ts";

/** A fresh browser. It ends with the test. */
export async function startBrowser(t: TestContext): Promise<BrowserContext> {
  const executablePath = process.env["TEST_CHROMIUM"];
  if (executablePath === undefined) {
    throw new Error(
      process.env["TEST_CHROMIUM_MISSING"] ??
        "TEST_CHROMIUM is not set: run these tests with `npm test` (or `npm test -- e2e`), which finds or installs a Chromium",
    );
  }
  const browser = await chromium.launch({ executablePath });
  afterwards(t, () => browser.close());
  return browser.newContext();
}

/** Serves examples/browser as its own command does. Returns the address. */
export async function servePage(t: TestContext): Promise<string> {
  const { outputFiles } = await build({ entryPoints: ["examples/browser/page.ts"], bundle: true, format: "esm", write: false });
  const files: Record<string, { type: string; body: Uint8Array }> = {
    "/": { type: "text/html", body: await readFile("examples/browser/index.html") },
    "/page.js": { type: "text/javascript", body: outputFiles[0]?.contents ?? new Uint8Array() },
  };
  const server = createServer((request, response) => {
    const file = files[request.url ?? ""];
    response.writeHead(file === undefined ? 404 : 200, { "content-type": file?.type ?? "text/plain" }).end(file?.body);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  afterwards(t, () => {
    server.closeAllConnections();
    server.close();
  });
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`;
}
