// One job: where it stands, its steps, its text as it comes.

import { copyButton, h, say, sparkline } from "./dom.js";
import { Feed } from "./feed.js";
import { isOver, titleOf } from "./jobs.js";
import { STATUS } from "./list.js";
import { compare } from "./positions.js";
import { count, duration, History, perSecond, Rate } from "./rates.js";
import { Steps } from "./steps.js";
import { TextPane } from "./text.js";
import { errorOf, MAIN, RunTree } from "./tree.js";

const SORTS = { text: "Text", reasoning: "Reasoning", refusal: "Refusal", tool_call: "Tool call" };
const WIDTH = 96;
const HEIGHT = 22;
/** How near to the end of the page somebody must be to be taken along. */
const NEAR = 48;

export class JobView {
  /**
   * `seen`: what the list knows of the job. `page`: clock, api, onCancel(job), onEnd(id, record), onLocked(), said(text),
   * redraw().
   */
  constructor(pane, seen, page) {
    [this.pane, this.seen, this.page] = [pane, seen, page];
    this.tree = new RunTree();
    this.rate = new Rate(4000);
    this.history = new History(48);
    this.chosen = null;
    this.following = true;
    this.end = null;
    this.panes = new Map();
    this.dirty = true;
    this.backlogUntil = seen.position;
    this.make();
    this.feed = new Feed(page.api, seen.id, {
      event: (event) => this.#take(event),
      end: (record) => this.#ended(record),
      state: (state, problem) => this.#state(state, problem),
      reconnected: () => this.page.said("The stream goes on"),
    });
  }

  open() {
    this.pane.replaceChildren(this.element);
    this.pane.scrollTop = 0;
    this.feed.open();
    this.pane.addEventListener("scroll", this.onScroll, { passive: true });
    addEventListener("scroll", this.onScroll, { passive: true });
  }

  close() {
    this.seen.counted = null;
    this.feed.close();
    this.pane.removeEventListener("scroll", this.onScroll);
    removeEventListener("scroll", this.onScroll);
    this.pane.replaceChildren();
  }

  make() {
    const id = this.seen.id;
    this.title = h("h1", { tabindex: "-1" }, h("bdi"));
    this.badge = h("span", { class: "badge" }, h("span", { class: "dot", "aria-hidden": "true" }), h("span"));
    this.cancel = h("button", { type: "button", class: "danger", on: { click: () => this.page.onCancel(this.seen) } }, "Cancel");
    this.tags = h("span", { class: "tag-list" });
    this.figures = Object.fromEntries(["Age", "Queued", "First text", "Speed", "Tokens", "Attempt"].map((name) => [name, figure(name)]));
    this.spark = sparkline(WIDTH, HEIGHT);
    this.figures.Speed.element.append(this.spark.svg);
    this.connection = h("p", { class: "connection", role: "status", hidden: true });
    this.steps = new Steps((run) => this.#choose(run));
    this.error = h("p", { class: "error", role: "alert", hidden: true });
    this.outputTitle = h("h2", {}, "Output");
    this.parts = h("div", { class: "parts", role: "log", "aria-live": "off", "aria-label": "Output", tabindex: "0" });
    this.value = h("pre", { class: "value", hidden: true, dir: "auto" });
    this.empty = h("p", { class: "none" }, "No text yet.");
    this.follow = h("button", { type: "button", class: "follow", hidden: true, on: { click: () => this.toggleFollow(true) } }, "↓ Follow");
    this.notes = h("ol", { class: "notes" });
    this.notesBox = h("section", { class: "card", hidden: true }, h("h2", {}, "What happened"), this.notes);
    this.metadata = h("pre", { dir: "auto" });
    this.metadataBox = h("details", { class: "card", hidden: true }, h("summary", {}, "Metadata"), this.metadata);
    const copyText = copyButton("Copy text", () => this.#shownPart()?.text() ?? this.#shownRun()?.output ?? "", this.page.said);
    this.element = h(
      "article",
      { class: "job" },
      h("a", { class: "back", href: "#/" }, "‹ All jobs"),
      h("div", { class: "head" }, this.title, this.badge, h("span", { class: "grow" }), this.cancel),
      h("p", { class: "sub" }, h("code", {}, id), copyButton("Copy id", () => id, this.page.said), this.tags),
      this.connection,
      h("dl", { class: "figures" }, ...Object.values(this.figures).map((each) => each.element)),
      this.error,
      (this.stepsBox = h("section", { class: "card steps-card", hidden: true }, h("h2", {}, "Steps"), this.steps.element)),
      h("section", { class: "card output" }, h("div", { class: "card-head" }, this.outputTitle, copyText), this.parts, this.value, this.empty),
      this.notesBox,
      this.metadataBox,
      this.follow,
    );
    this.onScroll = () => this.#scrolled();
  }

  /** Draw what has changed. `tick`: time has passed, also where nothing came. */
  draw(tick) {
    const now = Date.now();
    const serverMs = this.page.clock.now(now);
    if (tick) {
      this.rate.add(this.tree.heard, now);
      const speed = this.seen.status === "in_progress" ? this.rate.value(now) : null;
      if (speed !== null) this.history.add(speed);
      this.seen.counted = speed;
      this.feed.heardOf(this.seen.position, now);
    }
    this.#drawHead(now, serverMs);
    if (tick || this.dirty) this.#drawSteps(serverMs);
    if (!this.dirty) return;
    this.dirty = false;
    this.#drawOutput();
    this.#drawNotes();
    if (this.following && !this.seen.over) this.#toEnd();
  }

  toggleFollow(on = !this.following) {
    this.following = on;
    if (on) this.#toEnd();
    this.#offerFollow();
  }

  get scroller() {
    return getComputedStyle(this.pane).overflowY === "visible" ? document.scrollingElement : this.pane;
  }

  #take(event) {
    this.tree.fold(event);
    this.#sawFirstText(event);
    // What was written before this page came, or came back, is no measure of speed.
    if (compare(event.position, this.backlogUntil) <= 0) this.rate.reset();
    this.dirty = true;
    this.page.redraw();
  }

  /** Seen as it came, the first text tells how long it took, better than a poll can. */
  #sawFirstText(event) {
    if (this.tree.root?.pieces !== 1 || this.sawFirst || this.seen.created === null) return;
    this.sawFirst = true;
    if (compare(event.position, this.backlogUntil) <= 0) return;
    this.seen.firstTextMs = Math.max(this.page.clock.now(Date.now()) - this.seen.created, 0);
  }

  #ended(record) {
    this.end = record;
    this.dirty = true;
    this.page.redraw();
    this.page.onEnd(this.seen.id, record);
  }

  #state(state, problem) {
    const words = {
      connecting: "",
      live: "",
      ended: "",
      cut: "Connection lost. Coming back to where the text stopped …",
      lost: problem?.message ?? "This job cannot be read any more",
    };
    if (state === "live") this.backlogUntil = this.seen.position;
    this.element.dataset.stream = state;
    this.connection.hidden = words[state] === "";
    say(this.connection, words[state]);
    if (state === "cut") this.page.said("Connection lost");
    if (state === "lost" && problem?.status === 401) this.page.onLocked();
  }

  #drawHead(now, serverMs) {
    const job = this.seen;
    const status = STATUS[job.status] ?? job.status;
    say(this.title.firstChild, titleOf(job));
    this.element.dataset.status = job.status;
    say(this.badge.lastChild, status);
    this.cancel.hidden = job.over;
    const tags = [job.task === null ? job.api : `task${job.model === null ? "" : ` · ${job.model}`}`, ...job.tags].filter(Boolean);
    if (this.tags.children.length !== tags.length) this.tags.replaceChildren(...tags.map((tag) => h("bdi", { class: "tag" }, tag)));
    const started = job.started ?? this.tree.root?.startedAt ?? null;
    const first = job.firstText();
    const running = job.status === "in_progress" ? this.rate.value(now) : null;
    const tokens = job.over && job.tokens !== null ? job.tokens : this.tree.roots.reduce((sum, run) => sum + run.tokens, 0);
    this.figures.Age.set(duration(job.age(serverMs)), job.over ? "Took" : "Age");
    const queued = job.created === null ? null : started === null ? (job.over ? null : serverMs - job.created) : started - job.created;
    this.figures.Queued.set(duration(queued === null ? null : Math.max(queued, 0)), "Queued for");
    this.figures["First text"].set(first === null ? "–" : `${first.about ? "≈ " : ""}${duration(first.ms)}`, "First token");
    this.figures.Speed.set(job.over ? perSecond(job.tokensPerSecond(now)) : perSecond(running), "Tokens/s");
    this.figures.Tokens.set(count(tokens), "Tokens");
    this.figures.Attempt.set(String(job.attempts ?? this.tree.attempt), job.over ? "Attempts" : "Attempt");
    this.spark.draw(this.history.values, this.history.length);
    const problem = job.error ?? this.end?.error ?? null;
    this.error.hidden = problem === null;
    if (problem !== null) say(this.error, errorOf(problem));
    const metadata = Object.keys(job.metadata).length === 0 ? "" : JSON.stringify(job.metadata, null, 2);
    this.metadataBox.hidden = metadata === "";
    say(this.metadata, metadata);
  }

  #drawSteps(serverMs) {
    const root = this.tree.root;
    this.stepsBox.hidden = root === null;
    if (root === null) return;
    const from = this.seen.created ?? root.startedAt ?? serverMs;
    const ended = this.end?.ts ?? (this.seen.over ? this.seen.ended : null);
    this.steps.draw(this.tree, { from, to: Math.max(ended ?? serverMs, from + 1) }, ended ?? serverMs, this.#shownRun());
  }

  #shownRun() {
    return this.chosen ?? this.tree.root;
  }

  #shownPart() {
    return this.#shownRun()?.parts.find((part) => part.key === MAIN) ?? null;
  }

  #choose(run) {
    this.chosen = run;
    this.dirty = true;
    this.draw(false);
  }

  #drawOutput() {
    const run = this.#shownRun();
    const isRoot = run === null || run === this.tree.root;
    say(this.outputTitle, isRoot ? "Output" : `Output of ${run.name}`);
    const parts = run?.parts ?? [];
    if (this.panesOf !== run) {
      this.panes.clear();
      this.parts.replaceChildren();
      this.panesOf = run;
    }
    const several = parts.length > 1 || parts.some((part) => part.key !== MAIN);
    for (const part of parts) this.#pane(part, several);
    for (const [part, pane] of this.panes) if (!parts.includes(part)) pane.box.remove();
    const value = run?.output ?? "";
    this.value.hidden = value === "" || run.state === "failed";
    say(this.value, this.value.hidden ? "" : value);
    this.empty.hidden = parts.some((part) => part.pieces.length > 0) || !this.value.hidden;
    say(this.empty, this.seen.over || run?.over ? "It has no text." : "No text yet.");
    this.parts.classList.toggle("live", run !== null && run.state === "running" && !this.seen.over);
  }

  #pane(part, several) {
    let pane = this.panes.get(part);
    if (pane === undefined) {
      const text = new TextPane(part.key === MAIN ? { id: "text" } : {});
      const label = h("h3", {});
      pane = { text, label, box: h("div", { class: `part ${part.sort}` }, label, text.element) };
      this.panes.set(part, pane);
      this.parts.append(pane.box);
    }
    pane.label.hidden = !several;
    const choice = part.choice === 0 ? "" : ` of choice ${part.choice + 1}`;
    say(pane.label, `${SORTS[part.sort]}${part.name === "" ? "" : ` ${part.name}`}${choice}`);
    pane.text.show(part);
  }

  #drawNotes() {
    this.notesBox.hidden = this.tree.notes.length === 0;
    const from = this.seen.created ?? this.tree.root?.startedAt ?? 0;
    this.notes.replaceChildren(
      ...this.tree.notes.slice(-60).map((note) =>
        h(
          "li",
          { "data-sign": note.sign },
          h("time", {}, duration(note.at - from)),
          h("bdi", { class: "of" }, note.run.name),
          h("span", { class: "words", dir: "auto" }, note.text),
        ),
      ),
    );
  }

  #scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.scroller;
    // Scrolled up by the reader: the text comes no longer along. Scrolled back to the end: it does again.
    if (scrollTop < (this.lastTop ?? 0) - 2) this.following = false;
    if (scrollHeight - scrollTop - clientHeight < NEAR) this.following = true;
    this.lastTop = scrollTop;
    this.#offerFollow();
  }

  #offerFollow() {
    this.follow.hidden = this.following || isOver(this.seen.status);
  }

  #toEnd() {
    const scroller = this.scroller;
    const bottom = this.parts.getBoundingClientRect().bottom;
    const shown = scroller === this.pane ? this.pane.getBoundingClientRect().bottom : innerHeight;
    if (bottom + 24 > shown) scroller.scrollTop += bottom + 24 - shown;
    this.lastTop = scroller.scrollTop;
  }
}

function figure(name) {
  const [label, value] = [h("dt", {}, name), h("dd", {})];
  const set = (text, title) => {
    say(value, text);
    say(label, title);
  };
  return { element: h("div", {}, label, value), set };
}
