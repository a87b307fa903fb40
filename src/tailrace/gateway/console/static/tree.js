// A job's runs as a tree, folded from its events (`GET /v1/jobs/{id}/events`). Pure: no page, no clock.

import { START, compare } from "./positions.js";

const MODELS = new Set(["llm", "chat_model"]);
const NOTES_KEPT = 200;
const KEPT = 2000;

/** One run: what it is, where it stands, what it has said, part by part. */
export class Run {
  constructor(id, parent) {
    this.id = id;
    this.parent = parent;
    this.children = [];
    this.depth = parent === null ? 0 : parent.depth + 1;
    /** Empty as long as only its children were heard of. */
    this.name = "";
    this.kind = "";
    this.tags = [];
    /** running, done, failed, void (its start was taken back). */
    this.state = "running";
    this.startedAt = null;
    this.started = START;
    this.endedAt = null;
    this.ended = null;
    /** What it ended with where that is not its text: a task's value, an error. */
    this.output = "";
    this.progress = null;
    this.usage = null;
    this.marks = [];
    /** Parts of its output in the order in which they were opened. */
    this.parts = [];
    this.pieces = 0;
  }

  /** The text that a reader of the job's stream gets, if this is the root. */
  get text() {
    return this.parts.find((part) => part.key === MAIN)?.text() ?? "";
  }

  get over() {
    return this.state !== "running";
  }

  /** Tokens of the models in it: what a chain passes on was counted where it came from. */
  get tokens() {
    const own = this.usage ?? this.pieces;
    const below = this.children.reduce((sum, child) => sum + child.tokens, 0);
    return MODELS.has(this.kind) ? below + own : below || own;
  }
}

/** The key of the part that is the answer itself. */
export const MAIN = "text/0/0";

/** Text of one sort (answer, reasoning, refusal, a tool call's arguments) of one choice. */
export class Part {
  constructor(key, sort, choice, name = "") {
    this.key = key;
    this.sort = sort;
    this.choice = choice;
    this.name = name;
    this.pieces = [];
    this.positions = [];
    /** Changes when text was taken back: whoever showed it must show it anew. */
    this.edition = 0;
  }

  text() {
    return this.pieces.join("");
  }

  add(piece, position) {
    this.pieces.push(piece);
    this.positions.push(position);
  }

  /** Drop what stands after a position. */
  cut(to) {
    let kept = this.positions.length;
    while (kept > 0 && compare(this.positions[kept - 1], to) > 0) kept -= 1;
    if (kept === this.positions.length) return;
    this.pieces.length = kept;
    this.positions.length = kept;
    this.edition += 1;
  }

  /** Its text is this, whatever was heard. */
  set(text, position) {
    if (this.text() === text) return;
    this.pieces = text === "" ? [] : [text];
    this.positions = text === "" ? [] : [position];
    this.edition += 1;
  }
}

/** The runs of a job. `fold` its events in their order, from the beginning. */
export class RunTree {
  constructor() {
    this.roots = [];
    this.attempt = 1;
    /** What happened beside the text: custom events, retries, what was taken back. */
    this.notes = [];
    this.notesDropped = 0;
    /** Pieces of text that came from models, whatever became of them. */
    this.heard = 0;
    this.runs = new Map();
  }

  get root() {
    return this.roots[0] ?? null;
  }

  /** All runs, parents before their children. */
  *all(runs = this.roots) {
    for (const run of runs) {
      yield run;
      yield* this.all(run.children);
    }
  }

  fold(event) {
    this.attempt = Math.max(this.attempt, event.attempt ?? 1);
    const run = this.#run(event);
    if (event.event === "on_custom_event") {
      this.#happened(run, event);
      return run;
    }
    const match = /^on_([a-z_]+)_(start|stream|end|error)$/.exec(event.event);
    if (match === null) return run;
    const [, kind, phase] = match;
    [run.name, run.kind, run.tags] = [event.name, kind, event.tags ?? []];
    if (phase === "start") {
      Object.assign(run, { state: "running", started: event.position, startedAt: event.ts, ended: null, endedAt: null });
    } else if (phase === "stream") {
      this.#said(run, event);
    } else {
      run.state = phase === "end" ? "done" : "failed";
      [run.ended, run.endedAt] = [event.position, event.ts];
      run.output = phase === "end" ? valueOf(event.data?.output, run) : errorOf(event.data?.error);
      run.usage = event.data?.output?.usage_metadata?.output_tokens ?? run.usage;
    }
    return run;
  }

  #run(event) {
    let parent = null;
    for (const id of event.parent_ids ?? []) parent = this.#known(id, parent);
    return this.#known(event.run_id, parent);
  }

  #known(id, parent) {
    let run = this.runs.get(id);
    if (run === undefined) {
      run = new Run(id, parent);
      this.runs.set(id, run);
      (parent === null ? this.roots : parent.children).push(run);
    }
    return run;
  }

  #said(run, event) {
    const choice = event.data?.choice ?? 0;
    for (const piece of piecesOf(event.data?.chunk)) {
      const key = `${piece.sort}/${choice}/${piece.index}`;
      let part = run.parts.find((each) => each.key === key);
      if (part === undefined) {
        part = new Part(key, piece.sort, choice);
        run.parts.push(part);
      }
      if (piece.name) part.name = piece.name;
      if (piece.text === "") continue;
      part.add(piece.text, event.position);
      run.pieces += 1;
      if (MODELS.has(run.kind)) this.heard += 1;
    }
  }

  #happened(run, event) {
    const { name, data = {}, position } = event;
    if (name === "tailrace.rewind") {
      this.#rewind(run, event);
    } else if (name === "tailrace.retry") {
      const why = data.error === undefined ? "handed back by its worker" : errorOf(data.error);
      this.#note(run, event, "retry", `Tried again: ${why}`);
    } else if (name === "tailrace.progress") {
      if (Number.isFinite(data.done)) {
        const total = Number.isFinite(data.total) && data.total > 0 ? data.total : null;
        run.progress = { position, done: data.done, total };
      }
    } else {
      const keys = Object.keys(data);
      const value = keys.length === 1 && keys[0] === "value" ? data.value : data;
      const text = keys.length === 0 ? "" : plain(value);
      this.#note(run, event, "event", text === "" ? name : `${name}  ${text}`);
    }
  }

  #note(run, event, sign, text) {
    // A record that was cut off comes once more.
    const told = (each) => each.run === run && each.position === event.position && each.sign === sign;
    if (this.notes.slice(-20).some(told)) return;
    const note = { position: event.position, at: event.ts, sign, run, text: text.slice(0, KEPT) };
    this.notes.push(note);
    run.marks.push({ position: event.position, at: event.ts, sign });
    if (run.marks.length > NOTES_KEPT) run.marks.shift();
    if (this.notes.length > NOTES_KEPT) {
      this.notes.shift();
      this.notesDropped += 1;
    }
  }

  /** Take back what a run had after a position; `data.text` is what stands of its answer. */
  #rewind(run, event) {
    const to = event.data?.position ?? START;
    const before = run.pieces;
    for (const part of run.parts) part.cut(to);
    const main = run.parts.find((part) => part.key === MAIN);
    if (typeof event.data?.text === "string") {
      if (main !== undefined) main.set(event.data.text, to);
      else if (event.data.text !== "") {
        const part = new Part(MAIN, "text", 0);
        part.set(event.data.text, to);
        run.parts.unshift(part);
      }
    }
    run.pieces = run.parts.reduce((sum, part) => sum + part.pieces.length, 0);
    const stands = (each) => each.sign !== "event" || each.run !== run || compare(each.position, to) <= 0;
    this.notes = this.notes.filter(stands);
    run.marks = run.marks.filter((mark) => mark.sign !== "event" || compare(mark.position, to) <= 0);
    if (run.progress !== null && compare(run.progress.position, to) > 0) run.progress = null;
    if (run.ended !== null && compare(run.ended, to) > 0) {
      Object.assign(run, { state: "running", ended: null, endedAt: null, output: "", usage: null });
    }
    if (compare(run.started, to) > 0) run.state = "void";
    const gone = before - run.pieces;
    const what = gone > 0 ? `${gone} ${gone === 1 ? "piece" : "pieces"} of text` : "what it had begun";
    this.#note(run, event, "rewind", `Taken back: ${what}. A restarted attempt went another way`);
  }
}

/** The pieces of text in a chunk: a string, or a message's content, reasoning, refusal and tool calls. */
function piecesOf(chunk) {
  if (typeof chunk === "string") return [{ sort: "text", index: 0, text: chunk }];
  if (chunk === null || typeof chunk !== "object") return [];
  const pieces = [];
  const content = contentOf(chunk.content);
  if (content !== "") pieces.push({ sort: "text", index: 0, text: content });
  for (const [word, sort] of [["reasoning_content", "reasoning"], ["refusal", "refusal"]]) {
    const text = chunk.additional_kwargs?.[word];
    if (typeof text === "string" && text !== "") pieces.push({ sort, index: 0, text });
  }
  for (const call of Array.isArray(chunk.tool_call_chunks) ? chunk.tool_call_chunks : []) {
    const text = typeof call?.args === "string" ? call.args : "";
    pieces.push({ sort: "tool_call", index: Number(call?.index ?? 0), name: call?.name ?? "", text });
  }
  // Runnables of others stream values that are no messages.
  if (pieces.length === 0 && !("content" in chunk)) pieces.push({ sort: "text", index: 0, text: plain(chunk) });
  return pieces;
}

/** A message's text, which may come in blocks. */
function contentOf(content) {
  if (typeof content === "string") return content;
  if (!Array.isArray(content)) return "";
  return content.map((block) => (typeof block === "string" ? block : (block?.text ?? ""))).join("");
}

/** What a run ended with, where its text does not say it. */
function valueOf(output, run) {
  if (output === null || output === undefined || MODELS.has(run.kind)) return "";
  const text = plain(output);
  return text === run.text ? "" : text;
}

function plain(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "string") return value;
  if (typeof value === "object" && "content" in value) return contentOf(value.content);
  return JSON.stringify(value);
}

/** An error for people. */
export function errorOf(error) {
  if (error === null || error === undefined) return "";
  if (typeof error === "object") {
    const words = [error.type, error.message].filter(Boolean).join(": ");
    return words || plain(error);
  }
  return String(error);
}

/** Where a stretch of time lies in a span, in percent; never outside it, never too small to see. */
export function placed(from, to, span, least = 0.4) {
  const whole = Math.max(span.to - span.from, 1);
  const left = Math.min(Math.max(((from - span.from) / whole) * 100, 0), 100 - least);
  const width = Math.min(Math.max(((to - from) / whole) * 100, least), 100 - left);
  return { left, width };
}

/** Round times for the marks of a timeline of so many milliseconds: at most `most` of them, 0 first. */
export function ticks(ms, most = 5) {
  const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1e3, 2e3, 5e3, 1e4, 1.5e4, 3e4, 6e4, 12e4, 3e5, 6e5, 18e5, 36e5, 72e5];
  const step = steps.find((each) => ms / each < most) ?? Math.ceil(ms / most / 36e5) * 36e5;
  const found = [];
  for (let at = 0; at < ms; at += step) found.push(at);
  return found;
}
