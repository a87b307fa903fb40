// One job's events over an EventSource, through every cut: the browser comes back with the id of the last event it has;
// where it gives up (an error instead of a stream, a token that is over), a new one starts at that position.

import { compare, Cursor } from "./positions.js";
import { backoff } from "./rates.js";

/** A stream that is this far behind what the gateway says has died without a word. */
const PATIENCE_MS = 5000;

export class Feed {
  /**
   * `on.event(event)`, `on.end(record)`, `on.state(state, problem)` with connecting, live, cut, ended or lost (for good);
   * `on.reconnected()` when a stream that was cut goes on.
   */
  constructor(api, jobId, on) {
    [this.api, this.jobId, this.on] = [api, jobId, on];
    this.cursor = new Cursor();
    this.source = null;
    this.timer = null;
    this.failures = 0;
    this.state = "";
    this.closed = false;
    this.behindSince = null;
  }

  open() {
    this.#tell("connecting");
    void this.#connect();
  }

  close() {
    this.closed = true;
    clearTimeout(this.timer);
    this.source?.close();
  }

  /** Try at once, if it is waiting to: the network is back. */
  hurry() {
    if (this.closed || this.state !== "cut") return;
    this.#again(0);
  }

  /** The gateway says that the job's log has come so far. */
  heardOf(position, nowMs) {
    if (this.closed || this.state !== "live" || compare(position, this.cursor.after) <= 0) {
      this.behindSince = null;
      return;
    }
    if (this.behindSince?.at !== this.cursor.after) this.behindSince = { at: this.cursor.after, ms: nowMs };
    if (nowMs - this.behindSince.ms < PATIENCE_MS) return;
    this.behindSince = null;
    this.#tell("cut");
    this.#again(0);
  }

  #tell(state, problem = null) {
    const before = this.state;
    this.state = state;
    this.on.state(state, problem);
    if (before === "cut" && state === "live") this.on.reconnected();
  }

  async #connect() {
    let url;
    try {
      url = await this.api.events(this.jobId, this.cursor.after);
    } catch (problem) {
      this.#failed(problem);
      return;
    }
    if (this.closed) return;
    const source = new EventSource(url);
    this.source = source;
    source.addEventListener("open", () => {
      this.failures = 0;
      this.#tell("live");
    });
    source.addEventListener("message", (message) => this.#take(message));
    source.addEventListener("end", (message) => this.#take(message));
    source.addEventListener("error", () => {
      if (this.closed || source !== this.source) return;
      if (this.state !== "cut") this.#tell("cut");
      if (source.readyState === EventSource.CLOSED) void this.#askWhy();
    });
  }

  #take(message) {
    const said = JSON.parse(message.data);
    const isEnd = message.type === "end";
    const position = isEnd ? message.lastEventId : said.position;
    // An event without an id shows the id of the last one that had one.
    const id = message.lastEventId === position ? position : null;
    if (!this.cursor.take(position, id)) return;
    if (!isEnd) {
      this.on.event(said);
      return;
    }
    this.close();
    this.#tell("ended");
    this.on.end(said);
  }

  /** An EventSource does not say why it was refused. */
  async #askWhy() {
    try {
      await this.api.job(this.jobId);
      this.api.dropToken(this.jobId);
      this.#failed(null);
    } catch (problem) {
      this.#failed(problem);
    }
  }

  #failed(problem) {
    if (this.closed) return;
    if ([401, 403, 404, 410].includes(problem?.status)) {
      this.close();
      this.#tell("lost", problem);
      return;
    }
    this.failures += 1;
    this.#tell("cut", problem);
    this.#again(backoff(this.failures, { first: 500, most: 10000 }));
  }

  #again(ms) {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
    this.timer = setTimeout(() => void this.#connect(), ms);
  }
}
