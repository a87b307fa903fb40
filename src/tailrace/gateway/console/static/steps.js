// A job's steps: a tree on the left, when each of them ran on the right.

import { arrange, h, say } from "./dom.js";
import { duration, perSecond } from "./rates.js";
import { placed, ticks } from "./tree.js";

const STATE = { running: "running", done: "done", failed: "failed", void: "taken back" };
const DEEPEST = 10;

export class Steps {
  /** `onChoose(run)`: somebody wants to read what it says. */
  constructor(onChoose) {
    this.onChoose = onChoose;
    this.rows = new Map();
    this.scale = h("div", { class: "scale", "aria-hidden": "true" });
    this.tree = h("ul", { class: "tree", role: "tree", "aria-label": "Steps", on: { keydown: (event) => this.#key(event) } });
    this.element = h("div", { class: "steps" }, this.scale, this.tree);
    this.ticksOf = "";
  }

  /** `span`: from when to when, in milliseconds of the server's clock. `nowMs`: where running ones end, the same clock. */
  draw(tree, span, nowMs, chosen) {
    const runs = [...tree.all()];
    const last = (run) => run.endedAt ?? (run.state === "running" ? nowMs : (run.startedAt ?? span.from));
    arrange(this.tree, runs.map((run) => this.#row(run, span, last(run), run === chosen).element));
    this.#drawScale(span.to - span.from);
  }

  #row(run, span, endMs, chosen) {
    let row = this.rows.get(run);
    if (row === undefined) {
      row = this.#make(run);
      this.rows.set(run, row);
    }
    row.element.dataset.state = run.state;
    row.element.dataset.kind = run.kind;
    say(row.name, run.name === "" ? "…" : run.name);
    row.element.title = run.name;
    say(row.state, STATE[run.state]);
    say(row.tags, run.tags.join(" "));
    row.element.setAttribute("aria-selected", String(chosen));
    row.element.tabIndex = chosen ? 0 : -1;
    const started = run.startedAt;
    const { left, width } = placed(started ?? span.from, endMs, span);
    row.bar.style.left = `${left}%`;
    row.bar.style.width = `${width}%`;
    const took = started === null ? "" : duration(endMs - started);
    const progress = run.progress === null || run.over ? "" : told(run.progress);
    say(row.progress, progress);
    say(row.took, took);
    row.done.style.width = run.progress?.total ? `${Math.min((run.progress.done / run.progress.total) * 100, 100)}%` : "";
    this.#drawMarks(row, run, span);
    return row;
  }

  #drawMarks(row, run, span) {
    const marks = run.marks.slice(-40);
    while (row.marks.children.length < marks.length) row.marks.append(h("i"));
    while (row.marks.children.length > marks.length) row.marks.lastElementChild.remove();
    marks.forEach((mark, at) => {
      const element = row.marks.children[at];
      element.dataset.sign = mark.sign;
      element.style.left = `${placed(mark.at, mark.at, span, 0).left}%`;
    });
  }

  #make(run) {
    const row = { name: h("bdi", { class: "name" }), state: h("span", { class: "unseen" }), tags: h("bdi", { class: "tags" }) };
    Object.assign(row, { done: h("span", { class: "done" }), marks: h("span", { class: "marks" }), progress: h("span", { class: "progress" }), took: h("span") });
    row.bar = h("span", { class: "bar" }, row.done);
    const level = Math.min(run.depth, DEEPEST);
    row.element = h(
      "li",
      { role: "treeitem", "aria-level": run.depth + 1, on: { click: () => this.onChoose(run) } },
      h("span", { class: "what" }, h("span", { class: "dot", "aria-hidden": "true" }), row.name, row.tags, row.state),
      h("span", { class: "when" }, row.bar, row.marks),
      h("span", { class: "took" }, row.progress, row.took),
    );
    row.element.style.setProperty("--level", level);
    row.run = run;
    return row;
  }

  #drawScale(ms) {
    // A mark at the very end would have no room for its name.
    const marks = ticks(ms).filter((at) => at < ms * 0.93);
    const key = `${marks.length} ${marks[1] ?? 0}`;
    if (key !== this.ticksOf) {
      this.ticksOf = key;
      this.scale.replaceChildren(...marks.map((at) => h("span", {}, at === 0 ? "0" : mark(at))));
    }
    marks.forEach((at, number) => (this.scale.children[number].style.left = `${(at / Math.max(ms, 1)) * 100}%`));
  }

  #key(event) {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (by === undefined) return;
    event.preventDefault();
    const rows = [...this.tree.children];
    const next = rows[rows.indexOf(document.activeElement) + by];
    if (next === undefined) return;
    next.click();
    next.focus();
  }
}

const told = ({ done, total }) => (total === null ? perSecond(done) : `${Math.round((done / total) * 100)} %`);

function mark(ms) {
  if (ms < 1000) return `${ms} ms`;
  if (ms < 60000) return `${ms / 1000} s`;
  return ms < 3600000 ? `${ms / 60000} min` : `${ms / 3600000} h`;
}
