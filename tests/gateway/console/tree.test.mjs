import assert from "node:assert/strict";
import { test } from "node:test";

const { MAIN, RunTree, placed, ticks } = await import(`${process.env.CONSOLE}/tree.js`);

let seq = 0;
const event = (name, run, data = {}, more = {}) => ({
  event: name, name: run, run_id: run, parent_ids: [], tags: [], metadata: {}, data, position: `5-${(seq += 1)}`, attempt: 1, ts: 1000 + seq, ...more,
});
const below = (...parents) => ({ parent_ids: parents });
const chunk = (text) => ({ chunk: { type: "AIMessageChunk", content: text } });
const folded = (...events) => {
  const tree = new RunTree();
  for (const each of events) tree.fold(each);
  return tree;
};

test("runs are a tree in the order in which they were first heard of", () => {
  const tree = folded(
    event("on_chain_start", "root"),
    event("on_chat_model_start", "plan", {}, below("root")),
    event("on_chat_model_start", "deep", {}, below("root", "plan")),
    event("on_chat_model_start", "read", {}, below("root")),
    event("on_chat_model_end", "plan", { output: { content: "x", usage_metadata: { output_tokens: 12 } } }, below("root")),
  );
  assert.deepEqual([...tree.all()].map((run) => [run.name, run.depth, run.state]), [
    ["root", 0, "running"], ["plan", 1, "done"], ["deep", 2, "running"], ["read", 1, "running"],
  ]);
});

test("text, reasoning, refusals, tool calls and other choices are parts of their own", () => {
  const tree = folded(
    event("on_chat_model_start", "a"),
    event("on_chat_model_stream", "a", { chunk: { content: "", additional_kwargs: { reasoning_content: "hm" } } }),
    event("on_chat_model_stream", "a", chunk("Hel")),
    event("on_chat_model_stream", "a", { ...chunk("other"), choice: 1 }),
    event("on_chat_model_stream", "a", chunk("lo")),
    event("on_chat_model_stream", "a", { chunk: { content: "", tool_call_chunks: [{ index: 0, name: "look", args: "" }] } }),
    event("on_chat_model_stream", "a", { chunk: { content: "", tool_call_chunks: [{ index: 0, args: '{"a":' }] } }),
    event("on_chat_model_stream", "a", { chunk: { content: "", tool_call_chunks: [{ index: 0, args: "1}" }] } }),
    event("on_chat_model_stream", "a", { chunk: { content: "", response_metadata: { finish_reason: "stop" } } }),
  );
  assert.equal(tree.root.text, "Hello");
  assert.deepEqual(tree.root.parts.map((part) => [part.key, part.name, part.text()]), [
    ["reasoning/0/0", "", "hm"], [MAIN, "", "Hello"], ["text/1/0", "", "other"], ["tool_call/0/0", "look", '{"a":1}'],
  ]);
});

test("a rewind takes back what stood behind its position, in every part", () => {
  const [first, gone] = [event("on_chat_model_stream", "a", chunk("one ")), event("on_chat_model_stream", "a", chunk("two"))];
  const reasoning = event("on_chat_model_stream", "a", { chunk: { content: "", additional_kwargs: { reasoning_content: "hm" } } });
  const tree = folded(event("on_chat_model_start", "a"), first, gone, reasoning);
  const part = tree.root.parts[0];
  tree.fold(event("on_custom_event", "tailrace.rewind", { position: first.position, text: "one " }, { run_id: "a" }));
  tree.fold(event("on_chat_model_stream", "a", chunk("three")));
  assert.equal(tree.root.text, "one three");
  assert.equal(part.edition, 1, "whoever shows it must show it anew");
  assert.equal(tree.root.parts[1].text(), "");
  assert.equal(tree.notes[0].sign, "rewind");
  assert.match(tree.notes[0].text, /2 pieces/);
});

test("the text that a rewind brings is right, whatever was heard", () => {
  const tree = folded(event("on_chat_model_start", "a"), event("on_chat_model_stream", "a", chunk("wrong")));
  tree.fold(event("on_custom_event", "tailrace.rewind", { position: "4-9", text: "right" }, { run_id: "a" }));
  assert.equal(tree.root.text, "right");
});

test("a rewind reopens a run that had ended behind its position", () => {
  const start = event("on_chat_model_start", "a");
  const tree = folded(start, event("on_chat_model_stream", "a", chunk("x")), event("on_chat_model_end", "a", {}));
  tree.fold(event("on_custom_event", "tailrace.rewind", { position: start.position, text: "" }, { run_id: "a" }));
  assert.equal(tree.root.state, "running");
  tree.fold(event("on_custom_event", "tailrace.rewind", { position: "0-1", text: "" }, { run_id: "a" }));
  assert.equal(tree.root.state, "void");
});

test("a record that comes twice, because it was cut off, is told once", () => {
  const rewind = event("on_custom_event", "tailrace.rewind", { position: "0-1", text: "" }, { run_id: "a" });
  assert.equal(folded(event("on_chat_model_start", "a"), rewind, rewind).notes.length, 1);
});

test("tokens are counted where they come from, not again where they are passed on", () => {
  const tree = folded(
    event("on_chain_start", "root"),
    event("on_chat_model_start", "a", {}, below("root")),
    event("on_chat_model_stream", "a", chunk("x"), below("root")),
    event("on_chain_stream", "root", { chunk: "x" }),
  );
  assert.equal(tree.root.tokens, 1);
  assert.equal(tree.heard, 1);
  tree.fold(event("on_chat_model_end", "a", { output: { content: "x", usage_metadata: { output_tokens: 5 } } }, below("root")));
  assert.equal(tree.root.tokens, 5);
});

test("what happens beside the text is noted; progress is not a note", () => {
  const tree = folded(
    event("on_chain_start", "root"),
    event("on_custom_event", "notes", { words: 3 }, { run_id: "root" }),
    event("on_custom_event", "mark", { value: "here" }, { run_id: "root" }),
    event("on_custom_event", "tailrace.retry", { error: { type: "upstream_status", message: "no" } }, { run_id: "root" }),
    event("on_custom_event", "tailrace.progress", { done: 1, total: 4 }, { run_id: "root" }),
    event("on_chain_error", "root", { error: { type: "failed", message: "no" } }),
  );
  assert.deepEqual(tree.notes.map((note) => note.text), ['notes  {"words":3}', "mark  here", "Tried again: upstream_status: no"]);
  assert.deepEqual([tree.root.progress.done, tree.root.progress.total], [1, 4]);
  assert.deepEqual([tree.root.state, tree.root.output], ["failed", "failed: no"]);
});

test("a task's value is shown, its text is not shown twice", () => {
  const told = (output) => {
    const tree = folded(event("on_chain_start", "t"), event("on_chain_stream", "t", { chunk: "hi" }), event("on_chain_end", "t", { output }));
    return tree.root.output;
  };
  assert.equal(told("hi"), "");
  assert.equal(told({ a: [1] }), '{"a":[1]}');
  assert.equal(told(null), "");
});

test("events of shapes that nobody knows yet break nothing", () => {
  for (const data of [{}, { chunk: null }, { chunk: 7 }, { chunk: [] }, { chunk: { content: [{ type: "image" }, "a", { text: "b" }] } }]) {
    const tree = folded(event("on_chat_model_start", "a"), event("on_chat_model_stream", "a", data), event("on_new_thing", "a"));
    assert.ok(["", "ab", "[]"].includes(tree.root.text), tree.root.text);
  }
});

test("bars lie within their timeline, and can be seen", () => {
  assert.deepEqual(placed(25, 75, { from: 0, to: 100 }), { left: 25, width: 50 });
  for (const [from, to] of [[-50, -10], [0, 0], [100, 100], [90, 500]]) {
    const { left, width } = placed(from, to, { from: 0, to: 100 });
    assert.ok(left >= 0 && width > 0 && left + width <= 100.0001);
  }
});

test("a timeline has a few round marks, whatever its length", () => {
  for (const ms of [1, 70, 900, 4200, 61_000, 3.7e6, 9e8]) {
    const marks = ticks(ms);
    assert.ok(marks.length >= 1 && marks.length <= 5, `${ms}: ${marks}`);
    assert.equal(marks[0], 0);
  }
  assert.deepEqual(ticks(4200), [0, 1000, 2000, 3000, 4000]);
});
