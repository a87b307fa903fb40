// The page: asks for the jobs, shows them, opens one.

import { Api } from "./api.js";
import { JobView } from "./detail.js";
import { h, say, sparkline } from "./dom.js";
import { JobBook, titleOf } from "./jobs.js";
import { JobList, STATUS } from "./list.js";
import { backoff, History, perSecond, ServerClock } from "./rates.js";

const KEPT = "tailrace.ended";
const POLL_MS = 1500;
/** How often what depends on the time alone is drawn. */
const TICK_MS = 250;
const LOOKED_UP = 8;

const $ = (id) => document.getElementById(id);

const clock = new ServerClock();
const api = new Api(clock);
const book = new JobBook();
const list = new JobList(book, { onGroup: chooseGroup });
const gauge = makeGauge();
const pane = $("job");

let view = null;
let pollTimer = null;
let polling = false;
let failures = 0;
let locked = false;
let framed = false;
let cancelling = null;
let noticeUntil = 0;

// --- what is shown ---

function redraw() {
  if (framed) return;
  framed = true;
  requestAnimationFrame(() => {
    framed = false;
    view?.draw(false);
  });
}

function tick() {
  if (document.hidden) return;
  const now = Date.now();
  list.draw(now, clock.now(now));
  view?.draw(true);
}

function announce(text) {
  $("said").textContent = text;
}

/** A line at the top; "" takes it away. Until `untilMs` the next good listing leaves it there. */
function notice(text, untilMs = 0) {
  const element = $("notice");
  if (text === "" && Date.now() < noticeUntil) return;
  noticeUntil = untilMs;
  element.hidden = text === "";
  say(element, text);
}

function makeGauge() {
  const value = (label) => {
    const number = h("b", {}, "–");
    return { number, element: h("span", { class: "figure" }, number, ` ${label}`) };
  };
  const [running, queued, speed] = [value("running"), value("queued"), value("tok/s")];
  const spark = sparkline(120, 22);
  const history = new History(100);
  $("gauge").append(running.element, queued.element, speed.element, spark.svg);
  return {
    draw(now) {
      const counts = book.counts();
      const rate = book.tokensPerSecond(now);
      history.add(rate);
      say(running.number, String(counts.running));
      say(queued.number, String(counts.queued));
      say(speed.number, perSecond(rate));
      spark.draw(history.values, history.length);
    },
  };
}

function chooseGroup(group) {
  list.group = group;
  tick();
}

// --- the jobs there are ---

async function poll() {
  clearTimeout(pollTimer);
  if (polling || locked || document.hidden) return;
  polling = true;
  let wait = POLL_MS;
  try {
    const listing = await api.jobs(failures > 0 || book.jobs.size === 0 ? 60 : 20);
    const now = Date.now();
    const ended = book.list(listing, now, clock.now(now)).slice(0, LOOKED_UP);
    if (failures > 0) view?.feed.hurry();
    failures = 0;
    notice("");
    await Promise.all(ended.map(lookUp));
    if (ended.length > 0) keep();
    gauge.draw(now);
    tick();
  } catch (problem) {
    failures += 1;
    wait = Math.max(backoff(failures), problem.waitMs ?? 0);
    refused(problem, wait);
  } finally {
    polling = false;
    if (!locked && !document.hidden) pollTimer = setTimeout(poll, wait);
  }
}

/** How a job has ended that is no longer listed. */
async function lookUp(job) {
  try {
    const now = Date.now();
    book.take(await api.job(job.id), now, clock.now(now));
    if (job.over) announce(`${titleOf(job)} ${STATUS[job.status]}`);
  } catch (problem) {
    if (problem.status !== 404 && problem.status !== 410) throw problem;
    // Deleted, or its time is over.
    book.drop(job.id);
  }
}

function refused(problem, wait) {
  if (problem.status === 401) lock(api.key === null ? "" : problem.message);
  else notice(`${problem.message}. Trying again in ${Math.ceil(wait / 1000)} s`);
}

function keep() {
  try {
    sessionStorage.setItem(KEPT, JSON.stringify(book.kept()));
  } catch {
    // Full: the page still knows them until it is loaded again.
  }
}

function restore() {
  try {
    book.restore(JSON.parse(sessionStorage.getItem(KEPT) ?? "[]"));
  } catch {
    sessionStorage.removeItem(KEPT);
  }
}

// --- one job ---

async function route() {
  const match = /^#\/jobs\/([^/]+)$/.exec(location.hash);
  const id = match === null ? null : decode(match[1]);
  if (view?.seen.id === id && id !== null) return;
  view?.close();
  view = null;
  list.open = id;
  document.body.dataset.view = id === null ? "list" : "job";
  document.title = "tailrace";
  if (id === null) showNothing();
  else await openJob(id);
  tick();
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

async function openJob(id) {
  let job = book.get(id);
  if (job === null || job.over) {
    try {
      const now = Date.now();
      const said = await api.job(id);
      if (list.open !== id) return;
      job = book.take(said, now, clock.now(now));
    } catch (problem) {
      if (list.open !== id) return;
      if (problem.status === 401) lock(api.key === null ? "" : problem.message);
      const back = h("a", { class: "back", href: "#/" }, "‹ All jobs");
      pane.replaceChildren(back, h("div", { class: "nothing" }, h("h1", {}, "Not here"), h("p", {}, problem.message)));
      return;
    }
  }
  view = new JobView(pane, job, { clock, api, redraw, said: announce, onCancel: askCancel, onEnd: ended, onLocked: lock });
  view.open();
  document.title = `${titleOf(job)} – tailrace`;
  announce(`Opened ${titleOf(job)}`);
  // Where the list is out of sight, the focus must not stay in it.
  if (getComputedStyle($("jobs").parentElement).display === "none") view.title.focus();
}

function ended(id, record) {
  const now = Date.now();
  const { status, ts, ...said } = record;
  const job = book.take({ id, status, ended: ts, ...said }, now, clock.now(now));
  announce(`${titleOf(job)} ${STATUS[job.status]}`);
  keep();
  tick();
}

function showNothing() {
  const command = `curl -s ${new URL("../v1/jobs", import.meta.url)} -H 'content-type: application/json' -d '{"prompt": "A verse about rain"}'`;
  pane.replaceChildren(
    h(
      "div",
      { class: "nothing" },
      h("svg:svg", { viewBox: "0 0 120 40", "aria-hidden": "true" }, ...[8, 20, 32].map((y) => h("svg:path", { d: wave(y) }))),
      h("h1", {}, "No job is open"),
      h("p", {}, "Choose one on the left, or press ", h("kbd", {}, "j"), " and ", h("kbd", {}, "Enter"), ". To start one:"),
      h("pre", { tabindex: "0", "aria-label": "Command" }, command),
    ),
  );
}

const wave = (y) => `M4 ${y}c14 0 14 6 28 6s14-6 28-6 14 6 28 6 14-6 28-6`;

// --- questions ---

function lock(problem = "") {
  locked = true;
  clearTimeout(pollTimer);
  const element = $("key-problem");
  element.hidden = problem === "";
  say(element, problem);
  $("key").hidden = false;
  notice("");
  if (!$("ask-key").open) $("ask-key").showModal();
}

function unlock(key) {
  api.useKey(key);
  // Another key may not see what this one saw.
  view?.close();
  view = null;
  book.clear();
  sessionStorage.removeItem(KEPT);
  [locked, failures, list.open] = [false, 0, null];
  void poll();
  void route();
}

function askCancel(job) {
  if (job === null || job.over) return;
  cancelling = job;
  say($("cancel-name"), `${titleOf(job)} (${job.id})`);
  $("ask-cancel").showModal();
  $("cancel-no").focus();
}

async function cancel() {
  const job = cancelling;
  $("ask-cancel").close();
  try {
    const said = await api.cancel(job.id);
    const now = Date.now();
    book.take(said, now, clock.now(now));
    announce(`${titleOf(job)} ${STATUS[job.status]}`);
  } catch (problem) {
    notice(`It could not be cancelled: ${problem.message}`, Date.now() + 8000);
  }
  tick();
}

// --- keys, and what else comes from outside ---

const KEYS = {
  j: () => list.step(1),
  k: () => list.step(-1),
  "/": () => {
    if (getComputedStyle($("search")).visibility === "hidden" || $("search").offsetParent === null) location.hash = "#/";
    $("search").focus();
  },
  c: () => askCancel(book.get(list.chosen ?? "")),
  f: () => view?.toggleFollow(),
  "?": () => $("show-help").showModal(),
  Escape: () => {
    const was = list.open;
    location.hash = "#/";
    if (was !== null) list.rows.get(was)?.link.focus();
  },
};

function pressed(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]") !== null) return;
  if (event.target.closest?.("input, textarea, select")) return;
  const act = KEYS[event.key];
  if (act === undefined) return;
  event.preventDefault();
  act();
}

function searchKey(event) {
  const search = $("search");
  if (event.key === "Escape") {
    event.preventDefault();
    if (search.value === "") search.blur();
    search.value = "";
    searched();
  } else if (event.key === "Enter") {
    const [first] = book.shown(list.group, list.search);
    const id = first?.id ?? search.value.trim();
    if (id !== "") location.hash = `#/jobs/${encodeURIComponent(id)}`;
  } else if (event.key === "ArrowDown") {
    event.preventDefault();
    list.step(1);
  }
}

function searched() {
  list.search = $("search").value;
  tick();
}

function switchTheme() {
  const root = document.documentElement;
  const dark = (root.dataset.theme ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  root.dataset.theme = dark ? "light" : "dark";
  localStorage.setItem("tailrace.theme", root.dataset.theme);
}

function listen() {
  addEventListener("hashchange", () => void route());
  addEventListener("keydown", pressed);
  addEventListener("online", () => {
    view?.feed.hurry();
    void poll();
  });
  addEventListener("offline", () => notice("This device is offline"));
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(pollTimer);
    else void poll();
  });
  $("search").addEventListener("input", searched);
  $("search").addEventListener("keydown", searchKey);
  $("theme").addEventListener("click", switchTheme);
  $("help").addEventListener("click", KEYS["?"]);
  $("help-close").addEventListener("click", () => $("show-help").close());
  $("cancel-no").addEventListener("click", () => $("ask-cancel").close());
  $("cancel-yes").addEventListener("click", () => void cancel());
  $("key").addEventListener("click", () => $("ask-key").showModal());
  $("key-forget").addEventListener("click", () => {
    $("ask-key").close();
    unlock("");
  });
  $("ask-key").addEventListener("submit", () => {
    const key = $("key-input").value.trim();
    $("key-input").value = "";
    unlock(key);
  });
}

$("key").hidden = api.key === null;
restore();
listen();
void route();
void poll();
setInterval(tick, TICK_MS);

