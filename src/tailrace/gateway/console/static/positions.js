// Positions of records, "<epoch>-<seq>", as strings: the last one does not fit a JavaScript number.

export const START = "0-0";
export const END = "18446744073709551615-18446744073709551615";

/** Epoch and sequence number as strings of digits; null if it is no position. */
export function parse(position) {
  const match = /^(0|[1-9]\d{0,19})-(0|[1-9]\d{0,19})$/.exec(position ?? "");
  return match === null ? null : { epoch: match[1], seq: match[2] };
}

/** Negative if a stands before b, positive if behind it, 0 if it is the same. */
export function compare(a, b) {
  const [first, second] = [parse(a) ?? parse(START), parse(b) ?? parse(START)];
  return digits(first.epoch, second.epoch) || digits(first.seq, second.seq);
}

// Without leading zeros the longer number is the greater one.
function digits(a, b) {
  if (a.length !== b.length) return a.length - b.length;
  return a < b ? -1 : a > b ? 1 : 0;
}

/**
 * When the attempt that a position belongs to began, in milliseconds of the server's clock: epochs are microseconds of it.
 * Null before the first attempt and at the end.
 */
export function attemptStarted(position) {
  const parsed = parse(position);
  if (parsed === null || parsed.epoch.length < 16 || position === END) return null;
  return Math.floor(Number(parsed.epoch) / 1000);
}

/** How many records the attempt of a position has written by then; null where nothing can be told from it. */
export function recordsWritten(position) {
  return attemptStarted(position) === null ? null : Number(parse(position).seq);
}

/**
 * What a reader has taken, and what it takes next. Only a record's last event has an id, so whoever was cut off in the
 * middle of a record gets its events once more: `take` says which are new.
 */
export class Cursor {
  constructor(after = START) {
    /** To resume from. */
    this.after = after;
  }

  get ended() {
    return this.after === END;
  }

  /** Whether an event of this position was not taken before. `id` is the event's own, null if it has none. */
  take(position, id) {
    if (compare(position, this.after) <= 0) return false;
    if (id !== null) this.after = id;
    return true;
  }
}
