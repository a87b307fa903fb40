// The list of jobs: one link a job, kept and changed in place.

import { arrange, h, say, sparkline, toggle } from "./dom.js";
import { GROUPS, inGroup, titleOf } from "./jobs.js";
import { duration, perSecond } from "./rates.js";

export const STATUS = {
  queued: "queued",
  in_progress: "running",
  completed: "completed",
  incomplete: "incomplete",
  failed: "failed",
  cancelled: "cancelled",
  expired: "expired",
};

const GROUP_NAMES = { all: "All", running: "Running", queued: "Queued", ended: "Ended", failed: "Failed" };
const WIDTH = 64;
const HEIGHT = 16;
/** More rows than anybody reads. */
const SHOWN = 400;

export class JobList {
  constructor(book, { onGroup }) {
    this.book = book;
    this.group = "all";
    this.search = "";
    this.open = null;
    this.rows = new Map();
    this.element = document.getElementById("jobs");
    this.none = document.getElementById("none");
    this.buttons = Object.fromEntries(GROUPS.map((group) => [group, this.#groupButton(group, onGroup)]));
    document.getElementById("groups").append(...GROUPS.map((group) => this.buttons[group].element));
  }

  draw(nowMs, serverMs) {
    const counts = this.book.counts();
    for (const group of GROUPS) {
      const { element, number } = this.buttons[group];
      say(number, group === "all" && this.book.more ? `${counts[group]}+` : String(counts[group]));
      element.setAttribute("aria-pressed", String(group === this.group));
    }
    const jobs = this.book.shown(this.group, this.search).slice(0, SHOWN);
    for (const id of this.rows.keys()) if (this.book.get(id) === null) this.rows.delete(id);
    arrange(this.element, jobs.map((job) => this.#row(job, nowMs, serverMs).element));
    this.none.hidden = jobs.length > 0;
    if (jobs.length === 0) say(this.none, this.#whyNone());
  }

  /** The job whose row has the focus, else the one that is open. */
  get chosen() {
    return document.activeElement?.dataset?.job ?? this.open;
  }

  /** Focus the next row (1) or the one before (-1). */
  step(by) {
    const links = [...this.element.querySelectorAll("a")];
    if (links.length === 0) return;
    const at = links.findIndex((link) => link.dataset.job === this.chosen);
    const to = at < 0 ? (by > 0 ? 0 : links.length - 1) : Math.min(Math.max(at + by, 0), links.length - 1);
    links[to].focus();
    links[to].scrollIntoView({ block: "nearest" });
  }

  #whyNone() {
    if (this.search !== "") return "No job here matches. Enter opens a job by its id.";
    const empty = this.group === "all" || this.book.jobs.size === 0;
    return empty ? "No jobs at the moment. They appear here as they come." : `No job is ${this.group}.`;
  }

  #groupButton(group, onGroup) {
    const number = h("span", { class: "number" }, "0");
    const element = h("button", { type: "button", "aria-pressed": "false" }, GROUP_NAMES[group], number);
    element.addEventListener("click", () => onGroup(group));
    return { element, number };
  }

  #row(job, nowMs, serverMs) {
    let row = this.rows.get(job.id);
    if (row === undefined) {
      row = makeRow(job.id);
      this.rows.set(job.id, row);
    }
    const speed = job.tokensPerSecond(nowMs);
    const first = job.firstText();
    row.element.dataset.status = job.status;
    say(row.title, titleOf(job));
    say(row.status, STATUS[job.status] ?? job.status);
    say(row.tags, job.tags.join(" · "));
    say(row.age, job.over ? `took ${duration(job.age(serverMs))}` : duration(job.age(serverMs)));
    const none = job.status === "in_progress" && !job.hasText ? "no text yet" : "";
    say(row.first, first === null ? none : `${first.about ? "≈ " : ""}${duration(first.ms)} to first`);
    say(row.speed, speed === null ? "" : `${job.speedIsAbout ? "≈ " : ""}${perSecond(speed)} tok/s`);
    row.spark.draw(inGroup(job, "running") ? job.history.values : [], job.history.length);
    toggle(row.link, "aria-current", job.id === this.open, "true");
    return row;
  }
}

function makeRow(id) {
  const part = (name) => h("span", { class: name });
  const row = { title: part("title"), status: part("status"), tags: part("tags"), speed: part("speed") };
  Object.assign(row, { age: part("age"), first: part("first"), spark: sparkline(WIDTH, HEIGHT) });
  row.link = h(
    "a",
    { href: `#/jobs/${encodeURIComponent(id)}`, "data-job": id },
    h("span", { class: "line" }, h("span", { class: "dot", "aria-hidden": "true" }), h("bdi", { class: "title-box" }, row.title), row.status),
    h("span", { class: "line under" }, h("span", { class: "id" }, id), h("bdi", {}, row.tags)),
    h("span", { class: "line under" }, row.age, row.first, h("span", { class: "grow" }), row.spark.svg, row.speed),
  );
  row.element = h("li", {}, row.link);
  return row;
}
