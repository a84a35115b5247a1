import { create } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { Credit } from '../src/credit.js';
import { UnibusError } from '../src/error.js';
import { MessageSchema } from '../src/gen/unibus/v1/message_pb.js';
import { GapSchema, OpenedSchema } from '../src/gen/unibus/v1/subscription_pb.js';
import { Position, Watermark } from '../src/position.js';

const ALL = { at: { case: 'all', value: {} } } as const;
const opened = (position: bigint, resumed = true) => create(OpenedSchema, { position, resumed, generation: 1n });
const message = (sequence: bigint) => create(MessageSchema, { sequence, cursor: sequence ? `c${sequence}` : '' });
const gap = (fromSequence: bigint, toSequence: bigint) => create(GapSchema, { fromSequence, toSequence });
const reason = (reason: string) => new UnibusError({ code: 'ABORTED', message: '', reason });

/** Delivers the messages from one to another; returns those that are new. */
function deliver(position: Position, from: bigint, to: bigint): bigint[] {
  const given: bigint[] = [];
  for (let at = from; at <= to; at += 1n) if (position.message(message(at))) given.push(at);
  return given;
}

test.each([
  { returns: [1, 2, 3], values: [1, 2, 3] },
  { returns: [3, 2, 1], values: [0, 0, 3] },
  { returns: [2, 1, 3], values: [0, 2, 3] },
  { returns: [2, 3], values: [0, 0] },
])('the watermark waits for the first handler that runs: $returns', ({ returns, values }) => {
  // Goal: U19. Method: three handlers return in each order; the last of them never does.
  const watermark = new Watermark();
  const done = [1n, 2n, 3n].map((sequence) => watermark.begin(message(sequence)));
  const seen = returns.map((at) => {
    done[at - 1]?.();
    return Number(watermark.value);
  });
  expect(seen).toEqual(values);
});

test('a subscription without a name resumes after its last cursor, and before the first message after the position', () => {
  // Goal: U18. Method: the start after each step.
  const position = new Position(false, ALL);
  expect(position.start(true)).toEqual(ALL);
  position.opened(opened(4n, false), true);
  expect(position.start(true)).toEqual({ at: { case: 'afterSequence', value: 4n } });
  position.saw(6n);
  expect(position.start(true)).toEqual({ at: { case: 'afterSequence', value: 6n } });
  position.message(message(7n));
  expect(position.start(true)).toEqual({ at: { case: 'afterCursor', value: 'c7' } });
  expect(position.toAcknowledge).toBeUndefined();
});

test.each([true, false])('before the first message it resumes after the cursor of opened: durable %s', (durable) => {
  // Goal: U18, U22. Method: the frame has a cursor, which says of which log it is; then the log is another one.
  const position = new Position(durable, { at: { case: 'new', value: {} } });
  position.opened(create(OpenedSchema, { position: 5n, cursor: 'c5' }), true);
  position.saw(8n);
  expect(position.start(true)).toEqual({ at: { case: 'afterCursor', value: 'c5' } });
  expect(position.recreated(reason('CURSOR_EXPIRED'))).toBe(true);
  expect(position.start(true)).toEqual(ALL);
});

test('an ephemeral room has no place to resume, and each of its messages is new', () => {
  const position = new Position(false, {});
  position.opened(opened(0n, false), true);
  expect(position.message(message(0n)) && position.message(message(0n))).toBe(true);
  expect(position.start(false)).toEqual({});
  expect(position.gap(gap(0n, 0n))).toEqual({ from: 0n, to: 0n });
});

test('what comes again after a reconnection is not delivered again', () => {
  // Goal: U22. Method: five messages, of which two are acknowledged; the service begins again after them.
  const position = new Position(true, ALL);
  expect(position.opened(opened(0n, false), true)).toBe(false);
  expect(deliver(position, 1n, 5n)).toEqual([1n, 2n, 3n, 4n, 5n]);
  position.acked(2n);
  expect(position.opened(opened(2n), true)).toBe(false);
  expect(deliver(position, 3n, 7n)).toEqual([6n, 7n]);
});

test.each([
  { how: 'the position lies before the confirmed acknowledgement', at: opened(1n), first: true },
  { how: 'it comes again without a reconnection', at: opened(1n), first: false },
  { how: 'the subscriber is a new one', at: opened(0n, false), first: true },
])('the subscriber was moved when $how', ({ at, first }) => {
  // Goal: U22. Method: such a frame after five messages; a handler that began before it must not acknowledge.
  const position = new Position(true, ALL);
  position.opened(opened(0n, false), true);
  deliver(position, 1n, 5n);
  const old = position.processed.begin(message(5n));
  position.acked(2n);
  expect(position.opened(at, first)).toBe(true);
  old();
  expect(position.toAcknowledge).toBeUndefined();
  expect(deliver(position, at.position + 1n, 3n)).toContain(2n);
  position.processed.begin(message(at.position + 1n))();
  expect(position.toAcknowledge).toBe(at.position + 1n);
});

test('a durable subscriber that processed nothing begins where a new one begins', () => {
  // Goal: U22. Method: it stood at 50, and is a new one of a log that may be another.
  const position = new Position(true, ALL);
  position.opened(opened(50n), true);
  deliver(position, 51n, 52n);
  expect(position.start(true)).toEqual(ALL);
  expect(position.opened(opened(0n, false), true)).toBe(true);
  expect(deliver(position, 1n, 2n)).toEqual([1n, 2n]);
});

test('a part of a gap is reported once', () => {
  // Goal: U18. Method: gaps that overlap with what came.
  const position = new Position(true, ALL);
  position.opened(opened(0n, false), true);
  expect(position.gap(gap(1n, 3n))).toEqual({ from: 1n, to: 3n });
  deliver(position, 4n, 5n);
  position.opened(opened(0n), true);
  expect(position.gap(gap(1n, 5n))).toBeUndefined();
  expect(position.gap(gap(1n, 8n))).toEqual({ from: 6n, to: 8n });
});

test.each([
  { why: 'ROOM_RECREATED', first: true, resumed: true },
  { why: 'CURSOR_EXPIRED', first: false, resumed: true },
  { why: 'POSITION_AFTER_END', first: false, resumed: true },
  { why: 'ROOM_NOT_FOUND', first: false, resumed: false },
])('after $why the new log comes from its beginning, if it was open', ({ why, first, resumed }) => {
  // Goal: U26. Method: the reason before the first opening and after it.
  const position = new Position(false, { at: { case: 'afterCursor', value: 'x' } });
  expect(position.recreated(reason(why))).toBe(first);
  position.opened(opened(5n, false), true);
  deliver(position, 6n, 9n);
  expect(position.recreated(reason(why))).toBe(resumed);
  if (!resumed) return;
  expect(position.start(true)).toEqual(ALL);
  position.opened(opened(0n, false), true);
  expect(deliver(position, 1n, 2n)).toEqual([1n, 2n]);
});

test('the service never has more credit than there is room', () => {
  // Goal: U24. Method: a random run of arrivals, returns of handlers and new streams.
  let seed = 7;
  const random = (below: number) => {
    seed = (seed * 1103515245 + 12345) % 2147483648;
    return seed % below;
  };
  const credit = new Credit(8, 1000);
  let given = credit.open().messages;
  const held: number[] = [];
  for (let step = 0; step < 2000; step += 1) {
    const what = random(10);
    if (what < 6 && given > 0) {
      const size = random(300);
      given -= 1;
      credit.hold(size);
      held.push(size);
    } else if (what < 9 && held.length > 0) {
      credit.release(held.shift() ?? 0);
    } else if (what === 9) {
      given = credit.open().messages;
    }
    const more = credit.more();
    given += more?.messages ?? 0;
    expect(given + held.length).toBeLessThanOrEqual(9); // a new stream gets at least 1
    if (held.length === 0) expect(given).toBeGreaterThan(0);
  }
});
