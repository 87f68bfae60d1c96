// The client's own check of the order: new changes, duplicates and gaps.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Sequence, type Step } from "../../client/src/index.ts";
import { change } from "./support/fake-server.ts";

function frame(from: string, to: string, ...ids: number[]) {
  return { from, to, changes: ids.map((id) => change(id)) };
}

const ids = (step: Step) => (step.kind === "changes" ? step.changes.map(({ id }) => id) : step.kind);

test("changes that begin where the last ones ended are taken, and the position moves past them", () => {
  const sequence = new Sequence("1-0");
  assert.deepEqual(ids(sequence.take(frame("1-0", "1-2", 1, 2))), [1, 2]);
  assert.deepEqual(ids(sequence.take(frame("1-2", "1-9", 5))), [5]);
  assert.equal(sequence.position, "1-9");
});

test("of a frame that overlaps the last one only the new changes are taken", () => {
  const sequence = new Sequence("1-3");
  assert.equal(ids(sequence.take(frame("1-0", "1-2", 1, 2))), "known");
  assert.deepEqual(ids(sequence.take(frame("1-1", "1-5", 2, 3, 4, 5))), [4, 5]);
  assert.equal(ids(sequence.take(frame("1-4", "1-6", 5))), "moved");
  assert.equal(sequence.position, "1-6");
});

test("changes that begin ahead of the position are a gap, and none of them is taken", () => {
  const sequence = new Sequence("1-3");
  assert.equal(ids(sequence.take(frame("1-4", "1-5", 5))), "gap");
  assert.equal(sequence.position, "1-3");
});

test("changes of another epoch are a gap", () => {
  const sequence = new Sequence("1-3");
  assert.equal(ids(sequence.take(frame("2-3", "2-4", 4))), "gap");
  assert.equal(ids(sequence.take({ from: "1-3", to: "1-4", changes: [change(4, 2)] })), "gap");
  assert.equal(ids(sequence.moveTo("2-3")), "gap");
});

test("changes from earlier epochs are taken in their place", () => {
  const sequence = new Sequence("2-0");
  assert.deepEqual(ids(sequence.take({ from: "2-0", to: "2-3", changes: [change(1, 1), change(2, 1), change(3, 2)] })), [1, 2, 3]);
  assert.equal(sequence.position, "2-3");
});

test("changes out of order or outside of their frame are a gap", () => {
  for (const wrong of [frame("1-3", "1-6", 5, 4), frame("1-3", "1-6", 4, 4), frame("1-3", "1-4", 5), frame("1-3", "1-6", 3)]) {
    const sequence = new Sequence("1-3");
    assert.equal(ids(sequence.take(wrong)), "gap", JSON.stringify(wrong));
    assert.equal(sequence.position, "1-3");
  }
});

test("a position moves the feed forwards, never back", () => {
  const sequence = new Sequence("1-3");
  assert.equal(ids(sequence.moveTo("1-7")), "moved");
  assert.equal(ids(sequence.moveTo("1-5")), "known");
  assert.equal(sequence.position, "1-7");
});

test("ids that a double cannot hold exactly are distinguished", () => {
  const sequence = new Sequence("1-9007199254740992");
  assert.equal(ids(sequence.moveTo("1-9007199254740993")), "moved");
  assert.equal(sequence.position, "1-9007199254740993");
});

test("text that is not a position is refused", () => {
  for (const text of ["", "1", "-1", "1-", "01-1", "1-01", "1-1 ", "1-1-1", "x-1", "earliest"]) {
    assert.throws(() => new Sequence(text), RangeError, text);
  }
});

test("whatever is repeated, cut or dropped, each change is taken once and in order, or a gap is detected", () => {
  // The frames of changes 1 to 200, sent over connections that break anywhere, with links that are repeated or lost.
  let seed = 20_261_123;
  const random = (below: number) => {
    seed = (Math.imul(seed, 1_103_515_245) + 12_345) & 0x7fffffff;
    return seed % below;
  };
  for (let round = 0; round < 500; round += 1) {
    const sequence = new Sequence("1-0");
    const taken: number[] = [];
    let at = 0;
    while (taken.length < 200) {
      const back = Math.min(at, random(5) === 0 ? random(6) : 0);
      const ahead = random(10) === 0 ? 1 + random(3) : 0;
      const from = Math.min(200, at - back + ahead);
      const to = Math.min(200, from + 1 + random(8));
      const all = Array.from({ length: to - from }, (_, index) => from + 1 + index);
      const step = sequence.take(frame(`1-${from}`, `1-${to}`, ...all));
      assert.equal(step.kind === "gap", from > at, `from ${from} at ${at}`);
      if (step.kind === "changes") taken.push(...step.changes.map(({ id }) => id));
      at = Number(sequence.position.slice(2));
    }
    assert.deepEqual(
      taken,
      Array.from({ length: 200 }, (_, index) => index + 1),
    );
  }
});
