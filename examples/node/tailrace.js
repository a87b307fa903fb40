// Jobs of tailrace with the plain `redis` package: submit, stream, cancel. docs/wire.md tells the protocol.

import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { RESP_TYPES } from "redis";
import * as wire from "./wire.js";

const script = (name) => readFileSync(new URL(`../../docs/wire/${name}.lua`, import.meta.url), "utf8");
const SUBMIT = script("submit");
const SEAL = script("seal");

const PAGE = 1000;
/** A publication may be lost, and a lost last one leaves no hole: so often a quiet log is looked at. */
const QUIET_MS = 2000;
/** More unread publications than that are dropped: reading the log costs less. */
const INBOX = 1000;

/**
 * Store and queue a job; its id. `request` has the fields of v1.request.schema.json: the same id with the same request is
 * the same job. Throws JobConflict, QueueFull.
 */
export async function submit(client, request, { job = randomBytes(16).toString("hex"), namespace, capacity = 0 } = {}) {
  const names = wire.keys(job, namespace);
  const digest = wire.digest(request);
  const { delay_s = 0, deadline_s = 3600, retention_s = 86_400 } = request;
  const { api, model, task, max_attempts, on_restart, metadata, tags } = request;
  const record = {
    ...{ wire: 1, views: 1, digest, incarnation: randomBytes(8).toString("hex"), retention_ms: retention_s * 1000 },
    ...{ api, model, task, max_attempts, on_restart, metadata, tags },
  };
  const [answer] = await client.eval(SUBMIT, {
    keys: [names.log, names.request, names.queue, names.payload, names.wake, names.open],
    arguments: [
      `{"digest":"${digest}","request":${wire.canonical(request)}}`,
      JSON.stringify(record),
      digest,
      ...[delay_s * 1000, deadline_s * 1000, wire.GRACE_MS, retention_s * 1000].map((ms) => String(Math.round(ms))),
      names.queued,
      '{"t":null,"f":"tailrace","a":[],"k":{},"et":0}',
      String(capacity),
      job,
      "10000",
    ],
  });
  if (answer === "conflict") throw new wire.JobConflict(`another request has the id ${job}`);
  if (answer === "full") throw new wire.QueueFull("the queue is full");
  return job;
}

/** Cancel a job: durable at once, whatever state it is in. The status that it has ended with, which may be another. */
export async function cancel(client, job, { namespace } = {}) {
  const names = wire.keys(job, namespace);
  const [answer, last, value] = await client.eval(SEAL, {
    keys: [names.log, names.request],
    arguments: [names.live, "", "", '{"status":"cancelled"}', job, "0"],
  });
  if (answer === "gone") throw new wire.JobNotFound(job);
  if (!value) return JSON.parse((await readSnapshot(client, names)).at(-1).value).status;
  if (answer === "ok") await tellWorker(client, names, job, last);
  return JSON.parse(value).status;
}

/** A hint that makes it fast: a worker that misses it finds the log sealed at its next append. */
async function tellWorker(client, names, job, last) {
  const attempt = `${last.split("-")[0]}-0`;
  for (const { message } of await client.xRange(names.log, attempt, attempt))
    await client.publish(names.worker(JSON.parse(message.attempt).worker), `cancel ${job}`);
}

/**
 * The answer as it comes, from just after `after`: `{ text, position }`. `{ rewound: true, text, position }` says that what
 * was shown is void: `text` stands instead, from the beginning. Returns the fields of the end record.
 *
 * Throws JobEnded if the job failed, was cancelled or expired; JobNotFound, PositionLost, HistoryLost.
 */
export async function* stream(client, job, { after = wire.START, namespace } = {}) {
  const answer = new wire.Answer();
  let held; // the pieces that our caller has
  let end;
  for await (const { records, fresh, wentBack } of follow(client, job, { namespace })) {
    if (wentBack) answer.clear();
    for (const record of wentBack ? records : fresh) answer.add(record);
    held ??= wire.heldAt(records, after);
    if (held === undefined) continue;
    const { pieces } = answer;
    if (wire.beginsWith(pieces, held)) yield* pieces.slice(held.count);
    else yield { rewound: true, text: pieces.map(({ text }) => text).join(""), position: records.at(-1).position };
    held = { pieces, count: pieces.length };
    end = records.at(-1);
  }
  const fields = JSON.parse(end.value);
  if (fields.status !== "completed" && fields.status !== "incomplete") throw new wire.JobEnded(fields);
  return fields;
}

/** The log as it grows, to its end: all records, the fresh ones of them, and whether earlier ones are gone. */
export async function* follow(client, job, { namespace } = {}) {
  const names = wire.keys(job, namespace);
  const log = new wire.Log();
  const inbox = [];
  let wake = () => {};
  // Subscribe, then read, then take what comes: nothing can fall in between.
  const subscriber = client.duplicate();
  subscriber.on("error", () => {}); // it connects again by itself, and the quiet look finds what was missed
  await subscriber.connect();
  try {
    await subscriber.subscribe(
      names.live,
      (message) => {
        if (inbox.length >= INBOX) inbox.splice(0, INBOX, null);
        else inbox.push(message);
        wake();
      },
      true,
    );
    let taken = 0;
    let stands = await catchUp(client, names, log);
    for (;;) {
      const fresh = log.records.slice(stands);
      if (fresh.length) yield { records: log.records, fresh, wentBack: stands < taken };
      if (log.ended) return;
      taken = stands = log.records.length;
      if (!inbox.length) {
        await new Promise((resolve) => {
          const quiet = setTimeout(resolve, QUIET_MS);
          wake = () => resolve(clearTimeout(quiet));
        });
      }
      const messages = inbox.splice(0);
      if (!messages.length) await checkDeadline(client, log);
      if (!messages.length || !messages.every((message) => takeLive(log, message)))
        stands = await catchUp(client, names, log, taken);
    }
  } finally {
    subscriber.destroy();
  }
}

/** Take a publication; false if the log has to be read instead. */
function takeLive(log, message) {
  const publication = message && wire.parsePublication(message);
  if (!publication) return false;
  const { after, records } = publication;
  return after === log.top ? log.append(records) : log.has(records.at(-1).position);
}

/** Take what the log has beyond what we have. How many of the first `taken` records still stand. */
async function catchUp(client, names, log, taken = 0) {
  while (log.records.length) {
    const page = await readPage(client, names, log.top);
    if (!log.append(page)) break;
    if (log.ended) return taken;
    if (page.length === PAGE) continue;
    const [top] = await client.xRevRange(names.log, "+", "-", { COUNT: 1 });
    if (top?.id === log.top) return taken;
    break;
  }
  return Math.min(taken, log.replace(await readWhole(client, names)));
}

async function readPage(client, names, after) {
  const page = await client.xRange(names.log, after === wire.START ? "-" : `(${after}`, "+", { COUNT: PAGE });
  return page.map(({ id, message }) => {
    const [[field, value]] = Object.entries(message);
    return { position: id, field, value };
  });
}

async function readWhole(client, names) {
  const records = [];
  for (;;) {
    const page = await readPage(client, names, records.at(-1)?.position ?? wire.START);
    records.push(...page);
    if (page.length < PAGE || records.at(-1).position === wire.END) break;
  }
  return records.length ? records : readSnapshot(client, names);
}

/** After the end the records move into a snapshot, and an empty log stays behind. */
async function readSnapshot(client, names) {
  const snapshot = await client.withTypeMapping({ [RESP_TYPES.BLOB_STRING]: Buffer }).get(names.snapshot);
  if (snapshot) return wire.decodeSnapshot(snapshot);
  // A consumer's access list keeps requests from it: to it, a lost snapshot is a job not found.
  if (await client.exists(names.request).catch(() => 0)) throw new wire.HistoryLost("the server has evicted the snapshot");
  throw new wire.JobNotFound(names.log);
}

/** Workers end a job whose time is over. If nobody does: it is over all the same. */
async function checkDeadline(client, log) {
  const [seconds] = await client.sendCommand(["TIME"]);
  if (Number(seconds) * 1000 > log.job.deadline + wire.GRACE_MS) throw new wire.JobEnded({ status: "expired" });
}
