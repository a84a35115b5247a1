import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import type { Failure } from '../src/errors';
import { BYTES_MAX, Feed, ITEMS_MAX } from '../src/feed';
import { SubscribeResponseSchema } from '../src/gen/unibus/v1/room_service_pb';
import { GapReason } from '../src/gen/unibus/v1/subscription_pb';

type Frame = NonNullable<MessageInitShape<typeof SubscribeResponseSchema>['frame']>;
const response = (frame: Frame) => create(SubscribeResponseSchema, { frame });
const opened = (position = 0n) =>
  response({ case: 'opened', value: { position, heartbeatInterval: { seconds: 15n } } });
const caughtUp = (position: bigint) => response({ case: 'caughtUp', value: { position } });
const message = (sequence: bigint, payload = new Uint8Array(3)) =>
  response({ case: 'message', value: { sequence, payload, cursor: sequence ? `c${sequence}` : '' } });
const gap = (fromSequence: bigint, toSequence: bigint, reason: GapReason, dropped = 0n) =>
  response({ case: 'gap', value: { fromSequence, toSequence, reason, dropped } });

function failure(reason: string, more: Partial<Failure> = {}): Failure {
  return { code: '', reason, message: '', fields: [], retryAfter: undefined, metadata: {}, ...more };
}

const sequences = (feed: Feed) =>
  feed.items.map((item) => (item.kind === 'message' ? Number(item.message.sequence) : 'note'));

test('a feed begins with the newest messages and resumes after the last one', () => {
  const feed = new Feed(true);
  expect(feed.start()).toEqual({ case: 'last', value: 50n });
  feed.frame(opened(10n));
  expect(feed.status).toEqual({ kind: 'catching-up' });
  expect(feed.heartbeat).toBe(15_000);
  feed.frame(message(11n));
  feed.frame(caughtUp(11n));
  expect(feed.status).toEqual({ kind: 'live' });
  expect(feed.start()).toEqual({ case: 'afterCursor', value: 'c11' });
});

test('a feed that saw no message resumes after its position', () => {
  const feed = new Feed(true);
  feed.frame(opened(10n));
  feed.frame(caughtUp(12n));
  expect(feed.start()).toEqual({ case: 'afterSequence', value: 12n });
});

test('no message is shown twice', () => {
  const feed = new Feed(true);
  for (const sequence of [1n, 2n, 2n, 1n, 3n]) feed.frame(message(sequence));
  feed.ended(undefined, 0, 0);
  feed.frame(opened(1n));
  feed.frame(message(3n));
  feed.frame(message(4n));
  expect(sequences(feed)).toEqual([1, 2, 3, 4]);
});

test('a subscription that ends is opened again, later each time, until a frame comes', () => {
  const feed = new Feed(true);
  const delays = Array.from({ length: 8 }, () => feed.ended(failure('NATS_UNAVAILABLE'), 1000, 0.999_999));
  expect(delays.map((next) => next.kind === 'again' && Math.round(next.delay))).toEqual([
    250, 500, 1000, 2000, 4000, 5000, 5000, 5000,
  ]);
  expect(feed.status).toMatchObject({ kind: 'waiting', attempt: 8 });
  feed.frame(opened());
  expect(feed.ended(undefined, 0, 0)).toEqual({ kind: 'again', delay: 125 });
  expect(feed.ended(failure('RATE_LIMITED', { retryAfter: 3000 }), 0, 0)).toEqual({
    kind: 'again',
    delay: 3000,
  });
});

test('a feed stops where another attempt would end in the same way', () => {
  for (const reason of ['ROOM_NOT_FOUND', 'PERMISSION_DENIED', 'UNAUTHENTICATED', 'CREDENTIALS_EXPIRED']) {
    const feed = new Feed(true);
    feed.frame(message(7n));
    expect(feed.ended(failure(reason), 0, 0)).toEqual({ kind: 'stop' });
    expect(feed.status).toMatchObject({ kind: 'ended' });
    // with another token it goes on where it was
    expect(feed.start()).toEqual({ case: 'afterCursor', value: 'c7' });
  }
});

test('a new log of the room is followed from its newest messages', () => {
  for (const reason of ['ROOM_RECREATED', 'CURSOR_EXPIRED', 'POSITION_AFTER_END']) {
    const feed = new Feed(true);
    feed.frame(message(7n));
    expect(feed.ended(failure(reason), 0, 0).kind).toBe('again');
    expect(feed.start()).toEqual({ case: 'last', value: 50n });
    feed.frame(message(1n));
    expect(sequences(feed)).toEqual([7, 'note', 1]);
  }
});

test('a gap is told once', () => {
  const feed = new Feed(true);
  feed.frame(message(1n));
  feed.frame(gap(2n, 5n, GapReason.DELETED));
  feed.frame(gap(2n, 5n, GapReason.DELETED));
  feed.frame(gap(6n, 6n, GapReason.PURGED));
  const notes = feed.items.flatMap((item) => (item.kind === 'note' ? [item.text] : []));
  expect(notes).toEqual(['Messages 2 to 5 were deleted.', 'Message 6 was purged.']);
  expect(feed.start()).toEqual({ case: 'afterSequence', value: 6n });
});

test('an ephemeral room tells what may be missing', () => {
  const feed = new Feed(false);
  expect(feed.start().case).toBe('new');
  feed.frame(opened());
  expect(feed.status).toEqual({ kind: 'live' });
  feed.frame(message(0n));
  feed.frame(gap(0n, 0n, GapReason.SLOW_READER, 3n));
  feed.ended(undefined, 0, 0);
  feed.frame(opened());
  feed.frame(message(0n));
  expect(sequences(feed)).toEqual([0, 'note', 'note', 0]);
});

test('a feed keeps a bounded number of messages and bytes', () => {
  const feed = new Feed(true);
  for (let sequence = 1; sequence <= ITEMS_MAX + 20; sequence += 1) feed.frame(message(BigInt(sequence)));
  expect([feed.items.length, feed.dropped, feed.received]).toEqual([ITEMS_MAX, 20, ITEMS_MAX + 20]);
  const large = new Feed(true);
  for (let sequence = 1n; sequence <= 20n; sequence += 1n)
    large.frame(message(sequence, new Uint8Array(BYTES_MAX / 8)));
  expect(large.items.length).toBe(8);
  large.frame(message(21n, new Uint8Array(BYTES_MAX + 1)));
  expect(large.items.length).toBe(1);
});
