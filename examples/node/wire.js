// The wire format of docs/wire.md, without I/O: names, requests, publications, snapshots, logs, text.

import { createHash } from "node:crypto";
import { inflateSync } from "node:zlib";

export const START = "0-0";
/** Positions are strings: the last one there is does not fit a JavaScript number. */
export const END = "18446744073709551615-18446744073709551615";
export const GRACE_MS = 30_000;

/** No such job: never stored, deleted, or its time is over. */
export class JobNotFound extends Error {}
/** The id is another request's already. */
export class JobConflict extends Error {}
/** The queue is as long as its operator allows. */
export class QueueFull extends Error {}
/** Records are missing from the log. */
export class HistoryLost extends Error {}
/** No attempt of this log has such a position. */
export class PositionLost extends Error {}

/** The job failed, was cancelled or expired: `.end` holds the fields of its end record. */
export class JobEnded extends Error {
  constructor(end) {
    super(end.error?.message ?? end.status);
    this.end = end;
  }
}

export function keys(job, namespace = "tailrace") {
  return {
    log: `${namespace}:{${job}}:log`,
    request: `${namespace}:{${job}}:job`,
    snapshot: `${namespace}:{${job}}:snapshot`,
    live: `${namespace}:{${job}}:live`,
    queue: `${namespace}:queue`,
    wake: `${namespace}:queue:wake`,
    open: `${namespace}:open`,
    queued: `${namespace}:${job}`,
    payload: `arq:job:${namespace}:${job}`,
    worker: (name) => `${namespace}:worker:${name}`,
  };
}

/** JSON with sorted keys and without spaces: equal requests give equal text. */
export function canonical(value) {
  if (Array.isArray(value)) return `[${value.map(canonical).join(",")}]`;
  if (value === null || typeof value !== "object") return JSON.stringify(value);
  const fields = Object.entries(value).filter(([, field]) => field !== undefined);
  fields.sort(([one], [other]) => (one < other ? -1 : 1));
  return `{${fields.map(([name, field]) => `${JSON.stringify(name)}:${canonical(field)}`).join(",")}}`;
}

export const digest = (request) => createHash("sha256").update(canonical(request)).digest("hex");

/** Negative, zero or positive, as Redis orders the two positions. */
export function compare(one, other) {
  const [[epoch, seq], [otherEpoch, otherSeq]] = [one, other].map((position) => position.split("-").map(BigInt));
  return Number(epoch === otherEpoch ? seq - otherSeq : epoch - otherEpoch);
}

const epochOf = (position) => position.slice(0, position.indexOf("-"));

/** A message of the live channel: `{ after, records }`; null if it is none. Its lengths count bytes. */
export function parsePublication(message) {
  let at = message.indexOf(10) + 1;
  const after = message.toString("latin1", 0, at - 1);
  const records = [];
  while (at > 0 && at < message.length) {
    const line = message.indexOf(10, at);
    const [position, field, length] = message.toString("utf8", at, line).split(" ");
    const end = line + 1 + Number(length);
    if (line < 0 || !(end > line) || message[end] !== 10) return null;
    records.push({ position, field, value: message.toString("utf8", line + 1, end) });
    at = end + 1;
  }
  return records.length ? { after, records } : null;
}

/** The records of a finished job. Lengths of chunks count characters (code points), not UTF-16 units. */
export function decodeSnapshot(snapshot) {
  if (snapshot[0] !== 1) throw new HistoryLost(`the snapshot is of version ${snapshot[0]}, this knows 1`);
  return JSON.parse(inflateSync(snapshot.subarray(1)).toString()).flatMap(([field, epoch, seq, ...rest]) => {
    if (rest.length === 1) {
      const position = field === "end" ? END : `${epoch}-${seq}`;
      return [{ position, field, value: rest[0] }];
    }
    const [lengths, characters] = [rest[0], [...rest[1]]];
    let at = 0;
    return lengths.map((length, number) => ({
      position: `${epoch}-${seq + number}`,
      field,
      value: characters.slice(at, (at += length)).join(""),
    }));
  });
}

/** What one reader has of a job's log: contiguous from its first record. */
export class Log {
  records = [];

  get top() {
    return this.records.at(-1)?.position ?? START;
  }

  get ended() {
    return this.top === END;
  }

  get job() {
    return JSON.parse(this.records[0].value);
  }

  has(position) {
    return this.records.some((record) => record.position === position);
  }

  /** Take records that go on where this log stands; false at the first that does not. */
  append(records) {
    return records.every((record) => {
      const goesOn = this.#goesOn(record);
      if (goesOn) this.records.push(record);
      return goesOn;
    });
  }

  /** Take the whole log as the server has it now. The number of records that stand from before; the rest are void. */
  replace(records) {
    const before = this.records;
    if (before.length && records.length && before[0].value !== records[0].value)
      throw new HistoryLost("another job has this id now");
    let same = 0;
    while (same < before.length && before[same].position === records[same]?.position) same += 1;
    // The server went back in time, and nobody has written since: the next attempt will say what stands.
    if (same === records.length) return before.length;
    const fresh = new Log();
    const whole = fresh.append(records);
    if (!whole || (same < before.length && records[same].field !== "attempt"))
      throw new HistoryLost(`records are missing after ${fresh.top}`);
    this.records = fresh.records;
    return same;
  }

  #goesOn({ position, field, value }) {
    if (field === "job") return this.top === START;
    if (this.top === START) return false;
    if (field === "end") return JSON.parse(value).last === this.top;
    if (field === "attempt") {
      const attempt = JSON.parse(value);
      return attempt.after === this.top && attempt.incarnation === this.job.incarnation;
    }
    const [epoch, seq] = this.top.split("-");
    return position === `${epoch}-${Number(seq) + 1}`;
  }
}

/** The job's answer: the chunks of run 0 that belong to the text of choice 0, without what a rewind took back. */
export class Answer {
  pieces = [];
  #open = [];

  clear() {
    this.pieces = [];
    this.#open = [];
  }

  add({ position, field, value }) {
    if (field === "chunk" && this.#answering) this.pieces.push({ text: value, position });
    if (field !== "delta" && field !== "rewind") return;
    const { run = 0, delta, to } = JSON.parse(value);
    if (run !== 0) return;
    if (field === "rewind") {
      // New arrays: who holds the old one can tell what it lost.
      this.pieces = this.pieces.filter((piece) => compare(piece.position, to) <= 0);
      this.#open = this.#open.filter((part) => compare(part.position, to) <= 0);
    } else if (delta.type === "open") this.#open.push({ position, ...delta });
  }

  /** A chunk belongs to the part that was opened last. */
  get #answering() {
    const { part = "text", choice = 0 } = this.#open.at(-1) ?? {};
    return part === "text" && choice === 0;
  }
}

/** Whether pieces begin with those that a reader holds. Nobody can tell for one that holds what the server lost. */
export function beginsWith(pieces, held) {
  if (pieces === held.pieces) return true;
  return held.known !== false && held.pieces.every((piece, number) => piece.position === pieces[number]?.position);
}

/** What a reader who comes back with a position holds; undefined: the log is not there again yet. */
export function heldAt(records, after) {
  const at = records.findLastIndex(({ position }) => position === after);
  if (at >= 0 || after === START) {
    const answer = new Answer();
    for (const record of records.slice(0, at + 1)) answer.add(record);
    return { pieces: answer.pieces, count: answer.pieces.length };
  }
  if (!records.some(({ position }) => epochOf(position) === epochOf(after)))
    throw new PositionLost(`this log has no position ${after}`);
  // The server lost that tail. Its writer may write it again; else the next attempt says what stands.
  const beyond = records.find(({ position }) => compare(position, after) > 0);
  if (beyond?.field === "end") throw new HistoryLost(`records are missing up to ${after}`);
  return beyond && { known: false, pieces: [], count: 0 };
}
