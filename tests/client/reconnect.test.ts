// When the library connects again after a connection was lost or could not be made.
import assert from "node:assert/strict";
import { test } from "node:test";
import { setTimeout as delay } from "node:timers/promises";
import { waitFor } from "../e2e/support/wait-for.ts";
import { caughtUp, changes, follow, refusing, say, server, welcome, type Follower, type Visit } from "./support/fake-server.ts";

/** Sends `frames`, lets the connection live for a while, and ends it with `code`. */
function closing(livesMs: number, code: number, ...frames: object[]): (visit: Visit) => void {
  return (visit) => {
    say(...frames)(visit);
    void delay(livesMs).then(() => (code === 1006 ? visit.socket.terminate() : visit.socket.close(code)));
  };
}

const pauses = ({ states }: Follower) => states.flatMap((state) => (state.status === "waiting" ? [state.retryMs] : []));

test("a ticket function that never answers counts as a lost connection after its deadline, and is called again", async (t) => {
  const { url, visits } = await server(t, say(welcome("1-0"), caughtUp(0)));
  let calls = 0;
  const ticket = () => ((calls += 1) < 3 ? new Promise<string>(() => undefined) : "ticket");
  const follower = follow(t, { url, ticket, watch: { credentialMs: 50 } });
  await waitFor("the third call", () => calls === 3);
  await follower.feed.ready;
  assert.deepEqual(
    follower.errors.map(({ kind, retryable, message }) => ({ kind, retryable, message })),
    Array.from({ length: 2 }, () => ({ kind: "credential", retryable: true, message: "no credential within 50 ms" })),
  );
  assert.equal(pauses(follower).length, 2);
  assert.equal(visits.length, 1);
});

test("a feed that is closed while its ticket function hangs ends at once", async (t) => {
  const { url } = await server(t, say(welcome("1-0")));
  const { feed, errors } = follow(t, { url, ticket: () => new Promise<string>(() => undefined) });
  await delay(20);
  feed.close();
  await feed.done;
  assert.deepEqual(errors, []);
});

for (const code of [1001, 1006, 1012]) {
  test(`after a healthy connection was closed with ${code}, clients reconnect over a longer window`, async (t) => {
    const { url } = await server(t, closing(60, code, welcome("1-0"), caughtUp(0)));
    const retry = { firstMs: 1, maxMs: 1_000, spreadMs: 400, healthyMs: 30 };
    const followers = Array.from({ length: 20 }, () => follow(t, { url, retry }));
    const first = await waitFor("every client waits", () => {
      const all = followers.flatMap((follower) => pauses(follower).slice(0, 1));
      return all.length === followers.length && all;
    });
    assert.ok(
      first.every((pause) => pause <= 400),
      first.join(", "),
    );
    // All twenty are within a quarter of the window once in a million million runs.
    assert.ok(Math.max(...first) > 100, first.join(", "));
  });
}

test("that window is never longer than the longest pause", async (t) => {
  const { url } = await server(t, closing(60, 1012, welcome("1-0"), caughtUp(0)));
  const follower = follow(t, { url, retry: { firstMs: 1, maxMs: 20, healthyMs: 30 } });
  await waitFor("some pauses", () => pauses(follower).length >= 5);
  assert.ok(
    pauses(follower).every((pause) => pause <= 20),
    pauses(follower).join(", "),
  );
});

test("after a close for missing acknowledgements the client reconnects at once", async (t) => {
  const { url } = await server(t, closing(0, 4002, welcome("1-0"), changes(0, 1, [1])), say(welcome("1-1"), caughtUp(1)));
  const follower = follow(t, { url, ack: false, retry: { firstMs: 10_000, maxMs: 10_000 } });
  await waitFor("the second connection", () => follower.states.some(({ status }) => status === "live"));
  assert.deepEqual(pauses(follower), [0]);
});

test("only the first retry is immediate if the server keeps closing for missing acknowledgements after little", async (t) => {
  const { url, visits } = await server(t, (visit) => {
    const sent = visits.length;
    closing(0, 4002, welcome("1-0"), changes(sent - 1, sent, [sent]))(visit);
  });
  const follower = follow(t, { url, ack: false, retry: { firstMs: 100, maxMs: 100 } });
  await waitFor("ten pauses", () => pauses(follower).length >= 10);
  const [first, ...others] = pauses(follower);
  assert.equal(first, 0);
  assert.ok(
    others.every((pause) => pause > 0),
    others.join(", "),
  );
});

test("every retry is immediate if the server closes for missing acknowledgements after much", async (t) => {
  const { url, visits } = await server(t, (visit) => {
    const sent = visits.length;
    const frame = changes(sent - 1, sent, [sent]);
    const large = { ...frame, changes: frame.changes.map((change) => ({ ...change, data: { text: "x".repeat(1 << 20) } })) };
    closing(0, 4002, welcome("1-0"), large)(visit);
  });
  const follower = follow(t, { url, ack: false, retry: { firstMs: 10_000, maxMs: 10_000 } });
  await waitFor("five pauses", () => pauses(follower).length >= 5);
  assert.deepEqual(new Set(pauses(follower)), new Set([0]));
});

test("a server that closes for missing acknowledgements without sending anything new is tried less and less often", async (t) => {
  const { url } = await server(t, closing(0, 4002, welcome("1-1"), changes(0, 1, [1])));
  const follower = follow(t, { url, ack: false, retry: { firstMs: 4, maxMs: 200 } });
  await waitFor("ten pauses", () => pauses(follower).length >= 10);
  assert.ok(Math.max(...pauses(follower)) > 4, pauses(follower).join(", "));
});

test("a server that sends welcome and caught_up and then closes is tried less and less often", async (t) => {
  const { url } = await server(t, closing(0, 1012, welcome("1-0"), caughtUp(0)));
  const follower = follow(t, { url, retry: { firstMs: 4, maxMs: 200 } });
  await waitFor("ten pauses", () => pauses(follower).length >= 10);
  for (const [index, pause] of pauses(follower).entries()) assert.ok(pause <= Math.min(200, 4 * 2 ** index), `pause ${index}: ${pause} ms`);
  assert.ok(Math.max(...pauses(follower)) > 4, pauses(follower).join(", "));
});

test("a connection that lasted but brought nothing is not healthy", async (t) => {
  const { url } = await server(t, closing(20, 1012, welcome("1-0")));
  const follower = follow(t, { url, retry: { firstMs: 4, maxMs: 200, spreadMs: 0, healthyMs: 1 } });
  await waitFor("ten pauses", () => pauses(follower).length >= 10);
  assert.ok(Math.max(...pauses(follower)) > 4, pauses(follower).join(", "));
});

test("a client that connects too often reports the rate limit and tries again", async (t) => {
  for (const body of [
    '{"error":{"code":"rate_limited","message":"too many connections","retryable":true}}',
    "<html>Too many requests</html>",
  ]) {
    const { url, refused } = await refusing(t, 429, body);
    const { feed, errors } = follow(t, { url });
    await waitFor("some tries", () => refused() >= 4);
    assert.ok(errors.length >= 1);
    for (const { kind, code, retryable } of errors) {
      assert.deepEqual({ kind, code, retryable }, { kind: "refused", code: "rate_limited", retryable: true });
    }
    feed.close();
    await feed.done;
  }
});
