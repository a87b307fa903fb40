import assert from "node:assert/strict";
import { test } from "node:test";

const { JobBook, matches } = await import(`${process.env.CONSOLE}/jobs.js`);
const { room } = await import(`${process.env.CONSOLE}/blocks.js`);

const EPOCH = "1795357050672850";
const job = (id, more = {}) => ({
  id, status: "in_progress", position: `${EPOCH}-5`, created: 1795357050000, deadline: 1795360650000, api: "chat", model: "gpt-4o-mini",
  task: null, metadata: { user: "u-7" }, tags: ["song"], ...more,
});
const listed = (book, jobs, now = 0) => book.list({ jobs, more: false }, now, 1795357050000 + now).map((gone) => gone.id);

test("a job that is no longer listed is asked for, and shown as it ended", () => {
  const book = new JobBook();
  assert.deepEqual(listed(book, [job("a"), job("b")]), []);
  assert.deepEqual(listed(book, [job("b")], 1000), ["a"]);
  book.take({ ...job("a"), status: "completed", timings: { first_chunk_ms: 100, total_ms: 1100 }, usage: { completion_tokens: 50 } }, 0, 0);
  assert.deepEqual(listed(book, [job("b")], 2000), []);
  const ended = book.get("a");
  assert.equal(ended.tokensPerSecond(0), 50);
  assert.equal(ended.age(0), 672 + 1100);
  assert.deepEqual(ended.firstText(), { ms: 672 + 100, about: false });
  assert.deepEqual(book.shown("all", "").map((each) => each.id), ["b", "a"]);
});

test("a listing that was under way when a job ended does not bring it back", () => {
  const book = new JobBook();
  book.take({ ...job("a"), status: "cancelled" }, 0, 0);
  listed(book, [job("a")]);
  assert.equal(book.get("a").status, "cancelled");
});

test("positions tell how fast a job writes", () => {
  const book = new JobBook();
  for (let second = 0; second <= 4; second += 1) listed(book, [job("a", { position: `${EPOCH}-${second * 40}` })], second * 1000);
  assert.equal(book.get("a").tokensPerSecond(4000), 40);
  assert.equal(book.tokensPerSecond(4000), 40);
  listed(book, [job("a", { position: "1795357059672850-300" })], 5000);
  assert.equal(book.get("a").tokensPerSecond(5000), null, "another attempt is another count");
});

test("the first text is timed by whoever saw the job before it", () => {
  const book = new JobBook();
  const queued = { status: "queued", position: "0-1" };
  listed(book, [job("seen", queued)], 0);
  listed(book, [job("seen"), job("late")], 1000);
  assert.deepEqual(book.get("seen").firstText(), { ms: 1000, about: true });
  assert.equal(book.get("late").firstText(), null);
});

test("search looks at all that is known, for all words; groups narrow it", () => {
  const book = new JobBook();
  listed(book, [job("a"), job("b", { model: null, task: "research", tags: [], metadata: {} }), job("c", { status: "queued", position: "0-1" })]);
  book.take({ ...job("d"), status: "failed" }, 0, 0);
  const found = (group, search) => book.shown(group, search).map((each) => each.id).sort();
  assert.deepEqual(found("all", "SONG u-7"), ["a", "c", "d"]);
  assert.deepEqual(found("all", "research"), ["b"]);
  assert.deepEqual(found("running", "gpt"), ["a"]);
  assert.deepEqual(found("failed", ""), ["d"]);
  assert.deepEqual(found("queued", "nothing like it"), []);
  assert.deepEqual(book.counts(), { all: 4, running: 2, queued: 1, ended: 1, failed: 1 });
  assert.ok(matches(book.get("a"), "   "));
});

test("what is kept over a reload is what ended, and foreign things in its place are passed over", () => {
  const book = new JobBook();
  listed(book, [job("open")]);
  book.take({ ...job("a"), status: "completed", ended: 1795357052000 }, 0, 0);
  const again = new JobBook();
  again.restore(JSON.parse(JSON.stringify(book.kept())));
  assert.deepEqual([...again.jobs.keys()], ["a"]);
  assert.equal(again.get("a").age(0), 2000);
  for (const wrong of [null, 7, {}, [null, 7, "a", { id: 7 }, { id: "x", status: "in_progress" }]]) again.restore(wrong);
  assert.deepEqual([...again.jobs.keys()], ["a"]);
});

test("thousands of ended jobs are not kept for ever", () => {
  const book = new JobBook();
  for (let number = 0; number < 1000; number += 1) book.take({ ...job(`j${number}`), status: "completed", ended: number }, 0, 0);
  listed(book, []);
  assert.equal(book.jobs.size, 200);
  assert.ok(book.get("j999") !== null);
});

test("long text is cut into blocks at lines, never within a character, and nothing is lost", () => {
  const emoji = "🌊";
  for (const text of ["a".repeat(50_000), "line\n".repeat(20_000), emoji.repeat(30_001), `${"x".repeat(3999)}\n${"y".repeat(100)}`, "\n\n", ""]) {
    const blocks = [];
    let [rest, held] = [text, 0];
    while (rest !== "") {
      const { take, full } = room(held, rest);
      if (held === 0) blocks.push("");
      blocks[blocks.length - 1] += rest.slice(0, take);
      held = full ? 0 : held + take;
      rest = rest.slice(take);
    }
    assert.equal(blocks.join(""), text);
    for (const block of blocks) {
      assert.ok(block.length <= (text.includes("\n") ? 4_100 : 16_000));
      assert.ok(block.isWellFormed());
    }
  }
});
