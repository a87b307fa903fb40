import assert from "node:assert/strict";
import { beforeEach, mock, test } from "node:test";

const { Feed } = await import(`${process.env.CONSOLE}/feed.js`);

const END = "18446744073709551615-18446744073709551615";
let sources = [];

class FakeSource extends EventTarget {
  static CLOSED = 2;

  constructor(url) {
    super();
    [this.url, this.readyState] = [url, 1];
    sources.push(this);
  }

  close() {
    this.readyState = FakeSource.CLOSED;
  }

  open() {
    this.dispatchEvent(new Event("open"));
  }

  /** As a browser: an event without an id shows the last one. */
  send(position, { hasId = true, type = "message", data = { position } } = {}) {
    if (hasId) this.lastId = position;
    this.dispatchEvent(Object.assign(new Event(type), { data: JSON.stringify(data), lastEventId: this.lastId ?? "" }));
  }

  /** The browser comes back by itself, unless it was refused. */
  break(refused = false) {
    this.readyState = refused ? FakeSource.CLOSED : 0;
    this.dispatchEvent(new Event("error"));
  }
}

globalThis.EventSource = FakeSource;

function following(answers = {}) {
  const told = { states: [], events: [], ends: [], back: 0, dropped: 0 };
  const api = {
    events: async (id, after) => `${id}?after=${after}`,
    job: async () => answers.job?.() ?? {},
    dropToken: () => (told.dropped += 1),
  };
  const feed = new Feed(api, "mine", {
    event: (event) => told.events.push(event.position),
    end: (record) => told.ends.push(record.status),
    state: (state) => told.states.push(state),
    reconnected: () => (told.back += 1),
  });
  return { feed, told };
}

const settled = () => new Promise((resolve) => setImmediate(resolve));

/** Let timers of the feed run, and what they start. */
async function wait(ms) {
  mock.timers.tick(ms);
  await settled();
}

beforeEach(() => {
  sources = [];
  mock.timers.reset();
  mock.timers.enable({ apis: ["setTimeout"] });
});

test("events are passed on in order, until the end closes the stream", async () => {
  const { feed, told } = following();
  feed.open();
  await settled();
  assert.equal(sources[0].url, "mine?after=0-0");
  sources[0].open();
  sources[0].send("5-1");
  sources[0].send("5-2");
  sources[0].send(END, { type: "end", data: { status: "completed" } });
  assert.deepEqual(told.events, ["5-1", "5-2"]);
  assert.deepEqual(told.ends, ["completed"]);
  assert.deepEqual(told.states, ["connecting", "live", "ended"]);
  assert.equal(sources[0].readyState, FakeSource.CLOSED);
});

test("a browser that comes back by itself is left to do so, and repeats nothing", async () => {
  const { feed, told } = following();
  feed.open();
  await settled();
  sources[0].open();
  sources[0].send("5-1");
  sources[0].break();
  sources[0].break();
  sources[0].open();
  sources[0].send("5-1");
  sources[0].send("5-2");
  assert.deepEqual(told.events, ["5-1", "5-2"]);
  assert.deepEqual(told.states, ["connecting", "live", "cut", "live"]);
  assert.equal(told.back, 1);
  assert.equal(sources.length, 1);
});

test("where a browser gives up, a new stream starts at the last whole record, with a new token", async () => {
  const { feed, told } = following();
  feed.open();
  await settled();
  sources[0].open();
  sources[0].send("5-1");
  sources[0].send("5-2", { hasId: false });
  sources[0].break(true);
  await settled();
  assert.equal(told.dropped, 1);
  await wait(1000);
  assert.equal(sources[1].url, "mine?after=5-1");
  sources[1].open();
  sources[1].send("5-2", { hasId: false });
  sources[1].send("5-2");
  assert.deepEqual(told.events, ["5-1", "5-2", "5-2", "5-2"]);
});

test("what cannot be read any more is not asked for for ever", async () => {
  const { feed, told } = following({ job: () => Promise.reject(Object.assign(new Error("gone"), { status: 404 })) });
  feed.open();
  await settled();
  sources[0].break(true);
  await settled();
  await wait(60_000);
  assert.equal(told.states.at(-1), "lost");
  assert.equal(sources.length, 1);
});

test("a gateway that does not answer is asked again, ever more slowly, or at once when the network is back", async () => {
  const { feed, told } = following({ job: () => Promise.reject(Object.assign(new Error("no"), { status: 0 })) });
  feed.open();
  await settled();
  for (let round = 1; round <= 4; round += 1) {
    sources.at(-1).break(true);
    await settled();
    await wait(100);
    assert.equal(sources.length, round, "not at once");
    await wait(10_000);
    assert.equal(sources.length, round + 1);
  }
  sources.at(-1).break(true);
  await settled();
  feed.hurry();
  await wait(0);
  assert.equal(sources.length, 6);
  assert.equal(told.states.at(-1), "cut");
});

test("a stream that is silent while its job goes on is opened anew", async () => {
  const { feed } = following();
  feed.open();
  await settled();
  sources[0].open();
  sources[0].send("5-1");
  feed.heardOf("5-1", 0);
  feed.heardOf("5-1", 60_000);
  assert.equal(sources[0].readyState, 1, "nothing new is nothing amiss");
  feed.heardOf("5-9", 61_000);
  sources[0].send("5-2");
  feed.heardOf("5-9", 65_000);
  feed.heardOf("5-9", 69_000);
  assert.equal(sources[0].readyState, 1, "slow is not dead");
  feed.heardOf("5-9", 70_100);
  await wait(0);
  assert.equal(sources[0].readyState, FakeSource.CLOSED);
  assert.equal(sources[1].url, "mine?after=5-2");
});

test("a feed that is closed opens nothing more", async () => {
  const { feed, told } = following();
  feed.open();
  feed.close();
  await settled();
  assert.equal(sources.length, 0);
  feed.hurry();
  await wait(60_000);
  assert.equal(sources.length, 0);
  assert.deepEqual(told.states, ["connecting"]);
});
