// `node --test`: the console's arithmetic, without a page.
import assert from "node:assert/strict";
import { test } from "node:test";

const { END, START, Cursor, attemptStarted, compare, parse, recordsWritten } = await import(`${process.env.CONSOLE}/positions.js`);

test("positions are compared by epoch, then by number, however long they are", () => {
  const ordered = [START, "0-1", "0-2", "0-10", "9-9", "10-0", "1795357050672850-9", "1795357050672850-10", "1795357050672851-0", END];
  for (const [a, first] of ordered.entries()) {
    for (const [b, second] of ordered.entries()) assert.equal(Math.sign(compare(first, second)), Math.sign(a - b));
  }
});

test("two numbers that JavaScript cannot tell apart are two positions", () => {
  assert.ok(compare("18446744073709551614-0", "18446744073709551615-0") < 0);
});

test("what is no position is not taken for one", () => {
  for (const wrong of ["", "1", "-", "1-", "-1", "01-1", "1-1-1", "a-b", " 1-1", null, undefined]) assert.equal(parse(wrong), null);
});

test("an attempt's position tells when it began and how much it has written", () => {
  assert.equal(attemptStarted("1795357050672850-7"), 1795357050672);
  assert.equal(recordsWritten("1795357050672850-7"), 7);
  for (const untold of ["0-1", END, ""]) assert.equal(recordsWritten(untold), null);
});

test("a record that was cut off in the middle is taken again, one that was whole is not", () => {
  const cursor = new Cursor();
  assert.ok(cursor.take("5-1", "5-1"));
  assert.ok(cursor.take("5-2", null), "the first event of a record of two");
  assert.equal(cursor.after, "5-1", "a reader resumes before a record that it has in part");
  assert.ok(cursor.take("5-2", null), "again, after the cut");
  assert.ok(cursor.take("5-2", "5-2"));
  assert.equal(cursor.after, "5-2");
  assert.ok(!cursor.take("5-2", "5-2"));
  assert.ok(!cursor.take("5-1", "5-1"));
  assert.ok(cursor.take(END, END));
  assert.ok(cursor.ended);
});
