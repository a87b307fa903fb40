// Long text in blocks, so that what comes is laid out without what is there. Pure.

/** A block is closed at the first line end behind so many characters ... */
const FULL = 4000;
/** ... and at the latest here, whatever it holds. */
const MOST = 16000;

/** How many characters of `text` go into a block that has `held` characters, and whether that closes it. */
export function room(held, text) {
  const from = Math.max(FULL - held, 0);
  const line = text.indexOf("\n", Math.max(from - 1, 0));
  if (line >= 0 && held + line + 1 <= MOST) return { take: line + 1, full: true };
  if (held + text.length < MOST) return { take: text.length, full: false };
  let take = Math.max(MOST - held, 0);
  // Between the halves of a surrogate pair is no place to cut.
  if (take > 0 && take < text.length && isHigh(text.charCodeAt(take - 1))) take -= 1;
  return { take, full: true };
}

const isHigh = (code) => code >= 0xd800 && code <= 0xdbff;
