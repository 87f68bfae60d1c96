// A position that cannot be stored, or read.
import assert from "node:assert/strict";
import { test } from "node:test";
import { FeedError, webStorage, type Position } from "../../client/src/index.ts";
import { waitFor } from "../e2e/support/wait-for.ts";
import { changes, follow, say, server, welcome } from "./support/fake-server.ts";

const summary = (errors: FeedError[]) => errors.map(({ kind, retryable }) => ({ kind, retryable }));

test("a full localStorage does not end the feed, and the position is stored when there is room again", async (t) => {
  const kept = new Map<string, string>();
  let isFull = true;
  const browser = {
    getItem: (key: string) => kept.get(key) ?? null,
    setItem: (key: string, value: string) => {
      if (isFull) throw new DOMException("the quota has been exceeded", "QuotaExceededError");
      kept.set(key, value);
    },
  };
  const { url, visits } = await server(t, say(welcome("1-0"), changes(0, 1, [1])), say(welcome("1-1"), changes(1, 2, [2])));
  const { feed, ids, errors } = follow(t, { url, storage: webStorage(browser, "feed") });
  await waitFor("the first change", () => ids().length === 1);
  await waitFor("the failures are reported", () => errors.length >= 2);
  assert.deepEqual(
    summary(errors.slice(0, 2)),
    Array.from({ length: 2 }, () => ({ kind: "storage", retryable: true })),
  );
  assert.match(errors[0]?.message ?? "", /quota/);
  assert.equal(feed.position, "1-1");
  assert.equal(kept.get("feed"), undefined);

  isFull = false;
  visits[0]?.socket.terminate();
  await waitFor("the next change is stored", () => kept.get("feed") === "1-2");
  assert.equal(visits[1]?.query.get("after"), "1-1");
  assert.deepEqual(ids(), [1, 2]);
});

test("each commit is offered to a failing storage, in order, and each failure is reported", async (t) => {
  const sets: Position[] = [];
  const storage = {
    get: () => "1-0",
    set: async (position: Position) => {
      sets.push(position);
      if (position === "1-1" || position === "1-2") throw new Error("no connection");
    },
  };
  const { url } = await server(t, say(welcome("1-0"), changes(0, 1, [1]), changes(1, 2, [2]), changes(2, 3, [3])));
  const { ids, errors, feed } = follow(t, { url, storage });
  await waitFor("all changes", () => ids().length === 3);
  await waitFor("every commit has been offered", () => sets.length === 3);
  assert.deepEqual(sets, ["1-1", "1-2", "1-3"]);
  assert.deepEqual(
    summary(errors),
    Array.from({ length: 2 }, () => ({ kind: "storage", retryable: true })),
  );
  assert.equal(feed.position, "1-3");
});

test("a manual commit that cannot be stored is reported, and neither rejects nor ends the feed", async (t) => {
  const storage = {
    get: () => "1-0",
    set: () => {
      throw new Error("disk full");
    },
  };
  const { url } = await server(t, say(welcome("1-0"), changes(0, 1, [1]), changes(1, 2, [2])));
  const { batches, errors, feed } = follow(t, { url, storage, commit: "manual" });
  await waitFor("both batches", () => batches.length === 2);
  for (const batch of batches) await batch.commit();
  assert.deepEqual(
    summary(errors),
    Array.from({ length: 2 }, () => ({ kind: "storage", retryable: true })),
  );
  assert.equal(feed.position, "1-2");
});

test("a storage that cannot be read ends the feed, which would otherwise begin at the wrong place", async (t) => {
  const { url, visits } = await server(t, say(welcome("1-0")));
  const storage = {
    get: () => {
      throw new Error("no access");
    },
    set: () => undefined,
  };
  const { feed } = follow(t, { url, storage });
  await assert.rejects(feed.done, (error) => error instanceof FeedError && error.kind === "storage" && !error.retryable);
  assert.equal(visits.length, 0);
});

test("a commit is acknowledged even if it could not be stored, so that the server does not stop sending", async (t) => {
  const storage = {
    get: () => "1-0",
    set: () => {
      throw new Error("disk full");
    },
  };
  const { url, visits } = await server(t, say(welcome("1-0"), changes(0, 1, [1])));
  const { errors } = follow(t, { url, storage, ack: true });
  await waitFor("the acknowledgement", () => visits[0]?.heard.includes('{"type":"ack","position":"1-1"}'));
  assert.deepEqual(summary(errors), [{ kind: "storage", retryable: true }]);
});
