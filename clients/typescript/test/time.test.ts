import { expect, test, vi } from 'vitest';
import { UnibusError } from '../src/error.js';
import { Backoff, linked, onAbort, sleep, unless } from '../src/time.js';
import { Watchdog } from '../src/watchdog.js';

const error = (retryAfterMs?: number) => new UnibusError({ code: 'UNAVAILABLE', message: '', retryAfterMs });

test.each([
  { random: 0, pauses: [50, 100, 200, 400, 800, 1000, 1000] },
  { random: 1, pauses: [100, 200, 400, 800, 1600, 2000, 2000] },
])('pauses grow to at most 2 s: $random', ({ random, pauses }) => {
  // Goal: U4. Method: the smallest and the greatest pauses, and those after a reset.
  const backoff = new Backoff(() => random);
  expect(pauses.map(() => backoff.next(undefined))).toEqual(pauses);
  backoff.reset();
  expect(backoff.next(undefined)).toBe(pauses[0]);
});

test('no pause is shorter than RetryInfo', () => {
  const backoff = new Backoff(() => 1);
  expect(backoff.next(error(5000))).toBe(5000);
  expect(backoff.next(error(50))).toBe(200);
});

test('a signal takes one listener, whatever waits for it', async () => {
  // Goal: calls leave nothing at the signal of the program. Method: counts the listeners.
  const controller = new AbortController();
  const added = vi.spyOn(controller.signal, 'addEventListener');
  for (let n = 0; n < 100; n += 1) {
    await linked([controller.signal], (signal) => unless(Promise.resolve(n), signal));
    await sleep(0, controller.signal);
  }
  expect(added).toHaveBeenCalledTimes(1);
  const late = sleep(10_000, controller.signal);
  let called = 0;
  const undo = onAbort(controller.signal, () => {
    called += 1;
  });
  undo();
  controller.abort('enough');
  await expect(late).rejects.toBe('enough');
  await expect(sleep(1, controller.signal)).rejects.toBe('enough');
  expect(called).toBe(0);
});

function watched(limitMs: number, idle = () => false) {
  let now = 0;
  const happened: string[] = [];
  const alarms = {
    silent: (_: Error, ms: number) => happened.push(`silent ${ms}`),
    paused: () => happened.push('paused'),
    idle,
  };
  const watchdog = new Watchdog(limitMs, alarms, () => now);
  const pass = (ms: number, times = 1) => {
    for (let n = 0; n < times; n += 1) {
      now += ms;
      watchdog.tick();
    }
  };
  watchdog.stop(); // the test makes the ticks
  return { watchdog, pass, happened };
}

test('silence is noticed after the limit, and the limit of the service replaces the first', () => {
  // Goal: U16. Method: a clock of the test.
  const { watchdog, pass, happened } = watched(15_000);
  pass(250, 60);
  expect(happened).toEqual([]);
  watchdog.heard(4000);
  pass(250, 16);
  expect(happened).toEqual([]);
  pass(250);
  expect(happened).toEqual(['silent 4000']);
});

test('a pause of the process counts for nothing, and asks for a sign of life in 5 s', () => {
  // Goal: U17. Method: the clock jumps by a minute.
  const { watchdog, pass, happened } = watched(30_000);
  pass(250, 40);
  pass(60_000);
  expect(happened).toEqual(['paused']);
  pass(250, 20);
  expect(happened).toEqual(['paused']);
  pass(250);
  expect(happened).toEqual(['paused', 'silent 5000']);
  watchdog.heard();
  pass(250, 100);
  expect(happened).toHaveLength(2);
});

test('in a page that is hidden, whose ticks are a minute apart, silence is noticed', () => {
  // Goal: U16. Method: a ping is answered; the next one is not.
  const { watchdog, pass, happened } = watched(30_000);
  pass(60_000);
  watchdog.heard();
  pass(60_000);
  expect(happened).toEqual(['paused', 'paused']);
  pass(60_000);
  expect(happened).toEqual(['paused', 'paused', 'silent 5000']);
});

test('a tick that comes late counts for no more than a second', () => {
  // Goal: time in which the program does not read does not count. Method: ticks that are 4 s apart.
  const { pass, happened } = watched(10_000);
  pass(4000, 10);
  expect(happened).toEqual([]);
  pass(4000);
  expect(happened).toEqual(['silent 10000']);
});

test('a stall that is no pause is no silence', () => {
  // Goal: U16. Method: frames come each 500 ms; the process stalls for 3 s, and reads after the tick that follows.
  const { watchdog, pass, happened } = watched(1000);
  pass(250, 2);
  pass(3000);
  watchdog.heard();
  pass(250, 4);
  expect(happened).toEqual([]);
  pass(250);
  expect(happened).toEqual(['silent 1000']);
});

test('nothing is noticed while nothing is awaited', () => {
  const { pass, happened } = watched(1000, () => true);
  pass(500, 100);
  expect(happened).toEqual([]);
});
