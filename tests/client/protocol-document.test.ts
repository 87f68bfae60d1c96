// Checks docs/protocol.md against the code: its frames, its limits and its way to sign a ticket.
import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { test } from "node:test";
import { checkServerMessage, type ClientMessage, type ServerMessage } from "../../client/src/index.ts";

const document = readFileSync("docs/protocol.md", "utf8");
const blocks = [...document.matchAll(/^```json\n(.*?)\n```$/gms)].map((match) => JSON.parse(match[1] ?? "") as { type: string });

const fromClients = { subscribe: true, ack: true } satisfies Record<ClientMessage["type"], true>;
const fromServers = {
  welcome: true,
  warnings: true,
  changes: true,
  caught_up: true,
  progress: true,
  reset: true,
  error: true,
} satisfies Record<ServerMessage["type"], true>;

test("the library accepts each frame in the document", () => {
  for (const frame of blocks.filter(({ type }) => !(type in fromClients))) checkServerMessage(frame);
});

test("the document shows every type of frame", () => {
  assert.deepEqual(new Set(blocks.map(({ type }) => type)), new Set([...Object.keys(fromServers), ...Object.keys(fromClients)]));
});

test("each limit in the document is the server's", () => {
  const sources = ["src/clients", "src/delivery"].flatMap((folder) => readdirSync(folder).map((name) => `${folder}/${name}`));
  const source = sources
    .filter((name) => name.endsWith(".rs"))
    .map((name) => readFileSync(name, "utf8"))
    .join("\n");
  const limits = [...document.matchAll(/^\| .* \| (?:about )?(\d+)\D* \| `([A-Z_]+)` \|$/gm)];
  assert.ok(limits.length >= 16, `${limits.length} limits`);
  for (const [, limit, constant] of limits) {
    const value = source.match(new RegExp(`^pub const ${constant}: \\w+ = (.+);$`, "m"))?.[1];
    assert.ok(value !== undefined, `${constant} is in neither folder`);
    assert.equal(Number(limit), constantValue(value), constant);
  }
});

test("the document and the tests sign tickets with the same code", () => {
  assert.ok(document.includes(readFileSync("examples/tickets/sign-ticket.ts", "utf8").trimEnd()));
});

/** Evaluates a product or a shift of literals, since these constants are nothing else. */
function constantValue(expression: string): number {
  const [product = "", shift = "0"] = expression.replaceAll("_", "").split("<<");
  const factors = product.split("*").map((factor) => Number(factor.trim()));
  assert.ok(factors.every(Number.isFinite), expression);
  return factors.reduce((a, b) => a * b, 1) * 2 ** Number(shift.trim());
}
