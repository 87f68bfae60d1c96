// The published package: plain JavaScript with types, without dependencies.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";

test("the package builds to plain JavaScript with types and without dependencies", async (t) => {
  const outDir = mkdtempSync(join(tmpdir(), "pg-change-feed-client-"));
  t.after(() => rmSync(outDir, { recursive: true }));
  execFileSync(process.execPath, ["node_modules/typescript/bin/tsc", "--project", "client/tsconfig.build.json", "--outDir", outDir]);
  const { exports, dependencies } = JSON.parse(readFileSync("client/package.json", "utf8")) as {
    exports: { ".": Record<string, string> };
    dependencies?: object;
  };
  assert.equal(dependencies, undefined);
  for (const path of Object.values(exports["."])) assert.ok(existsSync(join(outDir, path.replace("./dist/", ""))), path);
  const built = (await import(pathToFileURL(join(outDir, "index.js")).href)) as Record<string, unknown>;
  for (const name of ["connect", "memoryStorage", "webStorage", "readServerMessage", "FeedError", "ResetError"]) {
    assert.equal(typeof built[name], "function", name);
  }
});
