// The jobs that the page knows: those of the last listing, and those it saw end. Pure: no page, no network.

import { attemptStarted, parse, recordsWritten } from "./positions.js";
import { History, Rate } from "./rates.js";

const ENDED_KEPT = 200;
const CURVE = 40;

/** What a job writes before its first text: the start of its run. */
const BEFORE_TEXT = 1;

export const GROUPS = ["all", "running", "queued", "ended", "failed"];

export function isOver(status) {
  return status !== "queued" && status !== "in_progress";
}

export function isBad(status) {
  return status === "failed" || status === "expired";
}

/** Whether a job is in a group of the list. */
export function inGroup(job, group) {
  switch (group) {
    case "running":
      return job.status === "in_progress";
    case "queued":
      return job.status === "queued";
    case "ended":
      return isOver(job.status);
    case "failed":
      return isBad(job.status);
    default:
      return true;
  }
}

/** Whether every word of a search is somewhere in what is known of a job. */
export function matches(job, search) {
  const words = search.toLowerCase().split(/\s+/).filter(Boolean);
  if (words.length === 0) return true;
  const known = [job.id, job.status, titleOf(job), job.api, ...job.tags, JSON.stringify(job.metadata)];
  const text = known.filter(Boolean).join("\n").toLowerCase();
  return words.every((word) => text.includes(word));
}

/** What a job is called. */
export function titleOf(job) {
  return job.task ?? job.model ?? "default model";
}

/** One job, as far as the page has seen it. */
export class JobSeen {
  constructor(id) {
    this.id = id;
    this.status = "queued";
    this.position = "0-1";
    this.created = null;
    this.deadline = null;
    this.api = null;
    this.model = null;
    this.task = null;
    this.metadata = {};
    this.tags = [];
    this.ended = null;
    this.finish_reason = null;
    this.usage = null;
    this.error = null;
    this.attempts = null;
    this.timings = null;
    /** When its last attempt began, by the server's clock. */
    this.startedAt = null;
    /** Milliseconds from its submission to its first text, as this page saw it: late by up to one poll. */
    this.firstTextMs = null;
    this.waited = false;
    /** Tokens a second, where a view of its stream counts them. */
    this.counted = null;
    this.rate = new Rate(6000);
    this.history = new History(CURVE);
  }

  get over() {
    return isOver(this.status);
  }

  /** Take what the API says of it. */
  take(said, nowMs, serverMs) {
    const before = this.position;
    for (const name of ["status", "position", "created", "deadline", "api", "model", "task"]) {
      if (said[name] !== undefined) this[name] = said[name];
    }
    for (const name of ["ended", "finish_reason", "usage", "error", "attempts", "timings"]) {
      if (said[name] !== undefined && said[name] !== null) this[name] = said[name];
    }
    this.metadata = said.metadata ?? this.metadata;
    this.tags = said.tags ?? this.tags;
    if (this.over) {
      this.ended ??= this.endTold(serverMs);
      return;
    }
    if (parse(before)?.epoch !== parse(this.position)?.epoch) this.rate.reset();
    const written = recordsWritten(this.position);
    if (!this.hasText) {
      this.waited = true;
    } else if (this.firstTextMs === null && this.waited && this.created !== null && this.task === null) {
      this.firstTextMs = Math.max(serverMs - this.created, 0);
    }
    if (written !== null) {
      this.rate.add(written, nowMs);
      const speed = this.tokensPerSecond(nowMs);
      if (speed !== null) this.history.add(speed);
    }
  }

  /** When it ended, from its timings; else now, when it was noticed. */
  endTold(serverMs) {
    const started = attemptStarted(this.position);
    const total = this.timings?.total_ms;
    return started !== null && Number.isFinite(total) ? started + total : serverMs;
  }

  /** When its last attempt began, by the server's clock; null if none has, or nobody has told. */
  get started() {
    const counted = this.ended !== null && Number.isFinite(this.timings?.total_ms) ? this.ended - this.timings.total_ms : null;
    return attemptStarted(this.position) ?? this.startedAt ?? counted;
  }

  /** Milliseconds from its submission until its end, or now. */
  age(serverMs) {
    return this.created === null ? null : Math.max((this.ended ?? serverMs) - this.created, 0);
  }

  /** Milliseconds from its submission to its first text, and whether that is only about so. Null: not yet, or unknown. */
  firstText() {
    // The worker's own figure counts from the start of the attempt.
    const told = this.timings?.first_chunk_ms;
    const started = this.started;
    if (Number.isFinite(told) && this.created !== null && Number.isFinite(started)) {
      return { ms: Math.max(started - this.created, 0) + told, about: false };
    }
    if (Number.isFinite(told)) return { ms: told, about: false };
    return this.firstTextMs === null ? null : { ms: this.firstTextMs, about: true };
  }

  /** Tokens a second: now, while it runs; over all, when it is over. */
  tokensPerSecond(nowMs) {
    if (this.status === "queued") return null;
    if (!this.over) return this.counted ?? this.rate.value(nowMs);
    const { first_chunk_ms: first, total_ms: total } = this.timings ?? {};
    if (this.tokens === null || !Number.isFinite(total)) return null;
    const writing = total - (Number.isFinite(first) ? first : 0);
    return writing > 0 ? (this.tokens * 1000) / writing : null;
  }

  /** Whether the speed is counted in records: a task writes what it passes on a second time. */
  get speedIsAbout() {
    return !this.over && this.counted === null && this.task !== null;
  }

  /** Whether more is written than the start of its run: text, but for a task, which may have begun a step. */
  get hasText() {
    return (recordsWritten(this.position) ?? 0) > BEFORE_TEXT;
  }

  /** Tokens put out, as the upstream counted them; before that, records, which are about as many. Null: unknown. */
  get tokens() {
    const told = this.usage?.completion_tokens ?? this.usage?.output_tokens;
    if (Number.isFinite(told)) return told;
    const written = this.over ? null : recordsWritten(this.position);
    return written === null ? null : Math.max(written - BEFORE_TEXT, 0);
  }
}

/** All of them. */
export class JobBook {
  constructor() {
    this.jobs = new Map();
    /** Whether there are more than the listing gave. */
    this.more = false;
  }

  get(id) {
    return this.jobs.get(id) ?? null;
  }

  /** Take one job. */
  take(said, nowMs, serverMs) {
    let job = this.jobs.get(said.id);
    if (job === undefined) {
      job = new JobSeen(said.id);
      this.jobs.set(said.id, job);
    }
    // A listing that was under way when the job ended knows less.
    if (job.over && !isOver(said.status)) return job;
    const started = attemptStarted(job.position);
    if (started !== null) job.startedAt = started;
    job.take(said, nowMs, serverMs);
    return job;
  }

  /** Take a listing. Returns the open jobs that are no longer in it: they have ended, or are gone. */
  list(listing, nowMs, serverMs) {
    const listed = new Set();
    for (const said of listing.jobs) {
      listed.add(said.id);
      this.take(said, nowMs, serverMs);
    }
    this.more = listing.more === true;
    this.#forget();
    return [...this.jobs.values()].filter((job) => !job.over && !listed.has(job.id));
  }

  drop(id) {
    this.jobs.delete(id);
  }

  clear() {
    this.jobs.clear();
  }

  /** Those in a group that match a search: open ones first, the newest first; then the last that ended. */
  shown(group, search) {
    const when = (job) => (job.over ? job.ended : job.created) ?? 0;
    return [...this.jobs.values()]
      .filter((job) => inGroup(job, group) && matches(job, search))
      .sort((a, b) => Number(a.over) - Number(b.over) || when(b) - when(a) || (a.id < b.id ? -1 : 1));
  }

  counts() {
    const counts = Object.fromEntries(GROUPS.map((group) => [group, 0]));
    for (const job of this.jobs.values()) {
      for (const group of GROUPS) counts[group] += Number(inGroup(job, group));
    }
    return counts;
  }

  /** Tokens a second of all that run. */
  tokensPerSecond(nowMs) {
    let sum = 0;
    for (const job of this.jobs.values()) if (!job.over) sum += job.tokensPerSecond(nowMs) ?? 0;
    return sum;
  }

  /** What to keep for when the page is loaded again: those that ended, without their text. */
  kept() {
    const names = ["id", "status", "position", "created", "deadline", "api", "model", "task", "metadata", "tags"];
    names.push("ended", "finish_reason", "usage", "error", "attempts", "timings", "firstTextMs", "startedAt");
    return [...this.jobs.values()]
      .filter((job) => job.over)
      .map((job) => Object.fromEntries(names.map((name) => [name, job[name] ?? null])));
  }

  /** Take what was kept. Whatever else may stand there is passed over. */
  restore(kept) {
    for (const said of Array.isArray(kept) ? kept : []) {
      if (typeof said?.id !== "string" || !isOver(said.status) || this.jobs.has(said.id)) continue;
      const job = this.take(said, 0, said.ended ?? 0);
      [job.firstTextMs, job.startedAt] = [said.firstTextMs ?? null, said.startedAt ?? null];
    }
  }

  #forget() {
    const ended = [...this.jobs.values()].filter((job) => job.over).sort((a, b) => (b.ended ?? 0) - (a.ended ?? 0));
    for (const job of ended.slice(ENDED_KEPT)) this.jobs.delete(job.id);
  }
}
