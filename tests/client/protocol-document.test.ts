// docs/protocol.md against the code: what it shows and says is what is sent and so.
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

test("each frame that the document shows is one that the library takes", () => {
  for (const frame of blocks.filter(({ type }) => !(type in fromClients))) checkServerMessage(frame);
});

test("the document shows every frame that there is", () => {
  assert.deepEqual(new Set(blocks.map(({ type }) => type)), new Set([...Object.keys(fromServers), ...Object.keys(fromClients)]));
});

test("each limit in the document is the server's", () => {
  const source = readdirSync("src/clients")
    .filter((name) => name.endsWith(".rs"))
    .map((name) => readFileSync(`src/clients/${name}`, "utf8"))
    .join("\n");
  const limits = [...document.matchAll(/^\| .* \| (?:about )?(\d+)\D* \| `([A-Z_]+)` \|$/gm)];
  assert.ok(limits.length >= 16, `${limits.length} limits`);
  for (const [, limit, constant] of limits) {
    const value = source.match(new RegExp(`^pub const ${constant}: \\w+ = (.+);$`, "m"))?.[1];
    assert.ok(value !== undefined, `${constant} is not in src/clients`);
    assert.equal(Number(limit), constantValue(value), constant);
  }
});

test("the document's way to sign a ticket is the one that the tests use", () => {
  assert.ok(document.includes(readFileSync("examples/tickets/sign-ticket.ts", "utf8").trimEnd()));
});

/** Products and shifts of literals, which is all that these constants are. */
function constantValue(expression: string): number {
  const [product = "", shift = "0"] = expression.replaceAll("_", "").split("<<");
  const factors = product.split("*").map((factor) => Number(factor.trim()));
  assert.ok(factors.every(Number.isFinite), expression);
  return factors.reduce((a, b) => a * b, 1) * 2 ** Number(shift.trim());
}
