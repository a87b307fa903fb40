import assert from "node:assert/strict";
import { test } from "node:test";

const { Rate, ServerClock, backoff, curve, duration, perSecond } = await import(`${process.env.CONSOLE}/rates.js`);

test("a rate is what came within the window, by the time that it took", () => {
  const rate = new Rate(4000);
  assert.equal(rate.value(0), null);
  for (let second = 0; second <= 20; second += 1) rate.add(second * 30, second * 1000);
  assert.equal(rate.value(20000), 30);
  for (let second = 21; second <= 30; second += 1) rate.add(600, second * 1000);
  assert.equal(rate.value(30000), 0);
});

test("a rate falls while nothing new is heard", () => {
  const rate = new Rate(4000);
  rate.add(0, 0);
  rate.add(100, 1000);
  assert.equal(rate.value(1000), 100);
  assert.equal(rate.value(4000), 25);
});

test("a count that goes back starts anew and is never a negative rate", () => {
  const rate = new Rate(4000);
  rate.add(1000, 0);
  rate.add(10, 1000);
  assert.equal(rate.value(1000), null);
  rate.add(20, 2000);
  assert.equal(rate.value(2000), 10);
});

test("the server's clock is ours unless its answers say otherwise", () => {
  const clock = new ServerClock();
  clock.heard(NaN, 0, 1);
  assert.equal(clock.now(1000), 1000);
  clock.heard(5000, 5400, 5450);
  assert.equal(clock.now(6000), 6000, "a header of whole seconds, up to a second old, is no reason to doubt");
});

test("a clock that is an hour off is put right to within two seconds, and ever better", () => {
  const clock = new ServerClock();
  const off = 3600_000;
  const own = [100, 1350, 2700, 3050, 4999];
  let before = Infinity;
  for (const at of own) {
    clock.heard(Math.floor((at + off) / 1000) * 1000, at, at + 20);
    const wrong = Math.abs(clock.now(at) - (at + off));
    assert.ok(wrong <= 2000);
    assert.ok(clock.high - clock.low <= before);
    before = clock.high - clock.low;
  }
  clock.heard(10_000, 10_000, 10_010);
  assert.ok(Math.abs(clock.now(0)) <= 2000, "a clock that was set is believed");
});

test("waiting grows with failures, to a limit, and no two wait alike", () => {
  const waits = (random) => [1, 2, 3, 10].map((failures) => backoff(failures, { first: 1000, most: 30000, random: () => random }));
  assert.deepEqual(waits(0.5), [1000, 2000, 4000, 30000]);
  assert.deepEqual(waits(0), [750, 1500, 3000, 22500]);
});

test("durations are said for people", () => {
  const said = { 0: "0.0 s", 420: "0.4 s", 9949: "9.9 s", 9950: "10 s", 12300: "12 s", 59999: "1 min", 185000: "3 min 5 s", 7800000: "2 h 10 min", 360000000: "4 d 4 h" };
  for (const [ms, words] of Object.entries(said)) assert.equal(duration(Number(ms)), words);
  for (const none of [null, undefined, NaN, Infinity]) assert.equal(duration(none), "–");
  assert.equal(duration(-5), "0.0 s");
  assert.deepEqual([0, 4.24, 4, 41.6, null].map(perSecond), ["0", "4.2", "4", "42", "–"]);
});

test("a curve stays in its box", () => {
  assert.equal(curve([1, 2], 10, 10, 9), "");
  const numbers = curve([0, 5, 10, 0], 60, 20, 40).slice(1).split("L").map((point) => point.split(" ").map(Number));
  assert.deepEqual(numbers.map(([, y]) => y), [20, 12, 4, 20]);
  assert.equal(numbers.at(-1)[0], 60);
  for (const [x] of numbers) assert.ok(x >= 0 && x <= 60);
});
