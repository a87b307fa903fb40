// How fast, how long, how far off our clock is. Pure: whoever asks brings the time.

/** Tokens a second over the last moments. `add` what was counted, when it was counted. */
export class Rate {
  constructor(windowMs = 5000) {
    this.windowMs = windowMs;
    this.samples = [];
  }

  /** `total` counts up; a smaller one than before starts anew (another attempt). */
  add(total, nowMs) {
    const last = this.samples.at(-1);
    if (last !== undefined && total < last.total) this.samples = [];
    if (last !== undefined && last.at === nowMs && this.samples.length > 0) last.total = total;
    else this.samples.push({ at: nowMs, total });
    // One sample from before the window stays, or a slow poll would never have two.
    while (this.samples.length > 2 && this.samples[1].at <= nowMs - this.windowMs) this.samples.shift();
  }

  /** What happened until now does not count: it came all at once, because somebody came late. */
  reset() {
    this.samples = [];
  }

  /** Per second; null as long as nobody can tell. */
  value(nowMs) {
    if (this.samples.length < 2) return null;
    const first = this.samples[0];
    const last = this.samples.at(-1);
    const span = Math.max(last.at, Math.min(nowMs, last.at + this.windowMs)) - first.at;
    return span <= 0 ? null : ((last.total - first.total) * 1000) / span;
  }
}

/** The last so many values, for a small curve. */
export class History {
  constructor(length) {
    this.length = length;
    this.values = [];
  }

  add(value) {
    this.values.push(value);
    if (this.values.length > this.length) this.values.shift();
  }
}

/**
 * A curve in a box of a width and a height as an SVG path, the newest value at the right; "" where there are too few. It
 * fills the box from a third of its `slots` on.
 */
export function curve(values, width, height, slots) {
  if (values.length < 3) return "";
  // Some room above: what does not change is a line in the box, not its edge.
  const top = Math.max(...values, 1e-9) * 1.25;
  const step = width / (Math.max(values.length, Math.ceil(slots / 3)) - 1);
  const left = width - step * (values.length - 1);
  const points = values.map((value, at) => `${round(left + at * step)} ${round(height - (value / top) * height)}`);
  return `M${points.join("L")}`;
}

const round = (number) => Math.round(number * 100) / 100;

/**
 * The server's clock, as far as answers tell: `Date` has whole seconds, so each answer only gives bounds, and several
 * give narrow ones. Ours is taken for right as long as it lies within them.
 */
export class ServerClock {
  constructor() {
    this.low = -Infinity;
    this.high = Infinity;
  }

  /** An answer with this `Date` was asked for and had at these times of our clock. */
  heard(dateMs, askedMs, hadMs) {
    if (!Number.isFinite(dateMs)) return;
    // Servers make the header anew about once a second, so it may be that much older than the answer.
    const low = dateMs - hadMs;
    const high = dateMs + 2000 - askedMs;
    if (low > this.high || high < this.low) [this.low, this.high] = [low, high];
    else [this.low, this.high] = [Math.max(this.low, low), Math.min(this.high, high)];
  }

  now(ownMs) {
    return ownMs + Math.min(Math.max(0, this.low), this.high);
  }
}

/** How long to wait before asking again: longer after each failure, no two pages in step. */
export function backoff(failures, { first = 1000, most = 30000, random = Math.random } = {}) {
  const wait = Math.min(first * 2 ** Math.max(failures - 1, 0), most);
  return Math.round(wait * (0.75 + random() * 0.5));
}

/** "0.4 s", "12 s", "3 min 5 s", "2 h 10 min", "4 d 3 h". */
export function duration(ms) {
  if (ms === null || ms === undefined || !Number.isFinite(ms)) return "–";
  const seconds = Math.max(ms, 0) / 1000;
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  const whole = Math.round(seconds);
  if (whole < 60) return `${whole} s`;
  if (whole < 3600) return two(Math.floor(whole / 60), "min", whole % 60, "s");
  if (whole < 86400) return two(Math.floor(whole / 3600), "h", Math.floor((whole % 3600) / 60), "min");
  return two(Math.floor(whole / 86400), "d", Math.floor((whole % 86400) / 3600), "h");
}

const two = (a, first, b, second) => (b === 0 ? `${a} ${first}` : `${a} ${first} ${b} ${second}`);

/** "38", "4.2", "0": tokens a second. */
export function perSecond(value) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "–";
  return value >= 9.95 ? String(Math.round(value)) : value.toFixed(1).replace(/\.0$/, "");
}

/** "1,234". */
export function count(value) {
  return value === null || value === undefined ? "–" : value.toLocaleString("en-GB");
}
