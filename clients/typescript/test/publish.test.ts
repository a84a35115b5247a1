import { expect, test } from 'vitest';
import { Credentials, checkedOrigin, refusalOf } from '../src/credentials.js';
import { UnibusError } from '../src/error.js';
import { uint64 } from '../src/numbers.js';
import { Outbox } from '../src/outbox.js';
import { randomId, requestOf } from '../src/publish.js';

function filled(count: number, window = { messages: 3, bytes: 100 }, size = 1) {
  const outbox = new Outbox(window);
  for (let n = 0; n < count; n += 1) outbox.add(requestOf('r', new Uint8Array(size), { messageId: `m${n}` }));
  return outbox;
}

function takeAll(outbox: Outbox): string[] {
  const taken: string[] = [];
  for (let entry = outbox.take(); entry; entry = outbox.take()) taken.push(entry.message.messageId);
  return taken;
}

test('after a break everything without an answer goes again, in order, before later messages', () => {
  // Goal: U13. Method: the second of three is answered, then the stream breaks.
  const outbox = filled(5);
  expect(takeAll(outbox)).toEqual(['m0', 'm1', 'm2']);
  const second = outbox.find(2n);
  if (second) outbox.remove(second);
  expect(takeAll(outbox)).toEqual(['m3']);
  outbox.rewind();
  expect(takeAll(outbox)).toEqual(['m0', 'm2', 'm3']);
  expect([outbox.sent.length, outbox.unsent.length]).toEqual([3, 1]);
});

test('an answer to a message that is not under way is not believed', () => {
  const outbox = filled(2);
  expect(outbox.find(1n)).toBeUndefined();
  outbox.take();
  expect(outbox.find(1n)?.message.messageId).toBe('m0');
  expect(outbox.find(2n)).toBeUndefined();
});

test('messages that wait cost no time of those that are answered', () => {
  // Goal: no quadratic work. Method: 200,000 messages, answered in their order.
  const outbox = filled(200_000, { messages: 1024, bytes: 1 << 20 });
  const begun = performance.now();
  for (let entry = outbox.take(); entry; entry = outbox.take()) {
    const found = outbox.find(entry.correlationId);
    if (found) outbox.remove(found);
  }
  expect(outbox.size).toBe(0);
  expect(performance.now() - begun).toBeLessThan(2000);
});

test.each([
  { size: 40, taken: ['m0', 'm1'] },
  { size: 100, taken: ['m0'] },
  { size: 500, taken: ['m0'] },
  { size: 0, taken: ['m0', 'm1', 'm2'] },
])('the window bounds messages and bytes, and lets a large message go alone: $size', ({ size, taken }) => {
  const outbox = filled(5, { messages: 3, bytes: 100 }, size);
  expect(takeAll(outbox)).toEqual(taken);
});

test.each([
  { id: 'x', reason: 'NATS_UNAVAILABLE', retryAfterMs: 1, again: true },
  { id: 'x', reason: 'INTERNAL', again: true },
  { id: 'x', reason: '', again: true },
  { id: 'x', reason: 'ROOM_NOT_FOUND', again: false },
  { id: '', reason: 'NATS_UNAVAILABLE', retryAfterMs: 1, again: true },
  { id: '', reason: 'OUTCOME_UNKNOWN', retryAfterMs: 1, again: false },
  { id: '', reason: '', again: false },
])('with the id "$id" and the reason "$reason" it is $again to send again', ({ id, again, ...what }) => {
  // Goal: U11, U12. Method: a message with an id and one without.
  const entry = new Outbox({ messages: 1, bytes: 1 }).add(requestOf('r', 'x', { messageId: id }));
  expect(entry.repeatable(new UnibusError({ code: 'UNAVAILABLE', message: '', ...what }))).toBe(again);
});

test('an error keeps the id and what is unknown', async () => {
  const entry = new Outbox({ messages: 1, bytes: 1 }).add(requestOf('r', 'x', { messageId: 'id' }));
  entry.unknown = true;
  entry.fail(new UnibusError({ code: 'NOT_FOUND', message: '', reason: 'ROOM_NOT_FOUND' }));
  await expect(entry.future.promise).rejects.toMatchObject({ outcomeUnknown: true, messageId: 'id' });
});

test('ids have 128 bits', () => {
  const ids = new Set(Array.from({ length: 1000 }, randomId));
  expect(ids.size).toBe(1000);
  for (const id of ids) expect(id).toMatch(/^[0-9a-f]{32}$/);
});

test.each([
  { address: 'https://example.com:1/', token: 'x', is: 'https://example.com:1' },
  { address: 'http://example.com:1', is: 'http://example.com:1' },
  { address: 'http://127.0.0.1:1', token: 'x' },
  { address: 'http://127.0.0.1:1', token: 'x', allow: true, is: 'http://127.0.0.1:1' },
  { address: 'http://[::1]:1', token: 'x', allow: true, is: 'http://[::1]:1' },
  { address: 'http://localhost:1', token: 'x', allow: true, is: 'http://localhost:1' },
  { address: 'http://example.com:1', token: 'x', allow: true },
  { address: 'http://127.0.0.1.example.com', token: 'x', allow: true },
  { address: 'ftp://example.com' },
  { address: 'example.com:50051' },
  { address: '' },
])('a token goes over plaintext to this machine alone: $address $allow', ({ address, token, allow, is }) => {
  // Goal: U5. Method: each kind of address.
  if (is === undefined) expect(() => checkedOrigin(address, token, allow)).toThrow(UnibusError);
  else expect(checkedOrigin(address, token, allow)).toBe(is);
});

test('a token that was refused is final, another one is tried', async () => {
  // Goal: U8. Method: a function that gives one token twice.
  const tokens = ['a\n', 'a', 'b'];
  const credentials = new Credentials(() => tokens.shift() ?? '');
  const error = new UnibusError({ code: 'UNAUTHENTICATED', message: '', reason: 'CREDENTIALS_EXPIRED' });
  expect(await credentials.token()).toBe('a');
  await expect(credentials.token(refusalOf(error, 'a'))).rejects.toMatchObject({ outcomeClass: 'final' });
  expect(await credentials.token(refusalOf(error, 'a'))).toBe('b');
  expect(refusalOf(new UnibusError({ code: 'UNAVAILABLE', message: '' }), 'a')).toBeUndefined();
});

test('a token function that fails is tried again, and nothing was sent', async () => {
  const credentials = new Credentials(() => Promise.reject(new Error('down')));
  await expect(credentials.token()).rejects.toMatchObject({ outcomeClass: 'again', outcomeUnknown: false });
});

test.each([-1n, 2n ** 64n, 5 as unknown as bigint])('%s is no sequence', (value) => {
  // Goal: U29. Method: values that protobuf cannot encode.
  expect(() => uint64('sequence', value)).toThrow(UnibusError);
  expect(uint64('sequence', 2n ** 64n - 1n)).toBe(18446744073709551615n);
});
