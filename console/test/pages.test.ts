import { create } from '@bufbuild/protobuf';
import { expect, test } from 'vitest';
import { RoomSchema } from '../src/gen/unibus/v1/room_pb';
import { SubscriberSchema } from '../src/gen/unibus/v1/subscription_pb';
import { anchorOf } from '../src/pages/history';
import { parseHeaders } from '../src/pages/publish';
import { parseRetention, parseWindow, typedRetention } from '../src/pages/retention';
import { fits } from '../src/pages/rooms';
import { parseLabels } from '../src/pages/settings';
import { byLag } from '../src/pages/subscribers';
import { Rate } from '../src/rates';
import { identityOf } from '../src/session';
import { niceTop, paths } from '../src/ui/chart';

test('a search looks at ids and labels, word by word', () => {
  const room = create(RoomSchema, { roomId: 'Orders-EU', labels: { team: 'payments' } });
  for (const search of ['', 'orders', 'eu pay', 'TEAM=pay']) expect(fits(room, search)).toBe(true);
  for (const search of ['us', 'eu us', 'team=x']) expect(fits(room, search)).toBe(false);
});

test('a place in the history is a sequence or a time', () => {
  expect(anchorOf('')).toEqual({ case: undefined });
  expect(anchorOf('1,200')).toEqual({ case: 'afterSequence', value: 1199n });
  expect(anchorOf('18446744073709551615')).toEqual({ case: 'afterSequence', value: 18446744073709551614n });
  expect(anchorOf('2026-05-01T12:30:00Z')).toMatchObject({ case: 'timeRange' });
  for (const typed of ['yesterday 1', 'x', '-1', '1.5']) expect(anchorOf(typed)).toBeUndefined();
});

test('headers and labels are typed as lines', () => {
  expect(parseHeaders('a: 1\n\n b : x:y ')).toEqual({ a: '1', b: 'x:y' });
  expect(parseHeaders('a')).toBeTypeOf('string');
  expect(parseHeaders(': 1')).toBeTypeOf('string');
  expect(parseLabels('team=a=b\nplain\n\n')).toEqual({ team: 'a=b', plain: '' });
});

test('retention is typed as people write it', () => {
  const typed = { maxAge: '7d', maxBytes: '10 MiB', maxMessages: '5', maxMessageBytes: '' };
  const parsed = parseRetention(typed);
  if ('problems' in parsed) throw new Error('it is valid');
  const room = create(RoomSchema, { retention: parsed.value });
  expect(typedRetention(room.retention)).toEqual(typed);
  const wrong = parseRetention({ maxAge: 'soon', maxBytes: 'x', maxMessages: '-1', maxMessageBytes: '' });
  expect('problems' in wrong && Object.keys(wrong.problems)).toEqual(['maxAge', 'maxBytes', 'maxMessages']);
});

test('a dedupe window is typed as people write it, and may be left to the service', () => {
  expect(parseWindow(' ')).toEqual({ value: undefined });
  expect(parseWindow('1h 30m')).toEqual({ value: { seconds: 5400n, nanos: 0 } });
  expect('problem' in parseWindow('long')).toBe(true);
});

test('the subscriber that is furthest behind comes first', () => {
  const subscriber = (consumer: string, lag: bigint) => create(SubscriberSchema, { consumer, lag });
  const sorted = byLag([
    subscriber('b', 1n),
    subscriber('a', 1n),
    subscriber('c', 2n ** 60n),
    subscriber('d', 0n),
  ]);
  expect(sorted.map(({ consumer }) => consumer)).toEqual(['c', 'a', 'b', 'd']);
});

test('a rate is the growth of the last sequence', () => {
  const rate = new Rate();
  expect(rate.now).toBeUndefined();
  for (const [value, at] of [
    [100n, 0],
    [150n, 5000],
    [150n, 5000],
    [20n, 6000],
  ] as const) {
    rate.add(value, at);
  }
  expect(rate.values).toEqual([10, 20]);
});

test('a token says who its holder is, and garbage says nothing', () => {
  const token = (claims: string) => `x.${btoa(claims).replace(/=+$/, '').replace(/\+/g, '-')}.y`;
  expect(identityOf(token('{"sub":"ann","exp":10}'))).toEqual({ subject: 'ann', expires: 10_000 });
  expect(identityOf(token('{}'))).toEqual({ subject: '', expires: undefined });
  for (const given of ['', 'x', 'x.%.y', token('1'), token('{')]) expect(identityOf(given)).toBeUndefined();
});

test('the top of an axis is a round number', () => {
  expect([0, 0.03, 1, 1.1, 2.1, 2.6, 7, 1000].map((value) => niceTop(value))).toEqual([
    1, 0.05, 1, 2, 2.5, 5, 10, 1000,
  ]);
  expect(niceTop(30 * 1024 * 1024, true)).toBe(50 * 1024 * 1024);
});

test('a line has a hole where a value is unknown', () => {
  const drawn = paths(
    [1, 2, undefined, 3],
    (at) => at,
    (value) => value,
  );
  expect(drawn).toEqual(['M0.0 1.0L1.0 2.0', 'M3.0 3.0']);
});
