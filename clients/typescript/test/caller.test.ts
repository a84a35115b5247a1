import { type AddressInfo, createServer } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import { describe, expect, test, vi } from 'vitest';
import { MessageSchema } from '../src/gen/unibus/v1/message_pb.js';
import { connect } from '../src/node.js';
import { connect as connectWeb } from '../src/web.js';
import { Code, fake, refusal, WIRES } from './support/service.js';

async function all<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = [];
  for await (const item of items) found.push(item);
  return found;
}

describe.each(WIRES)('over the wire of %s', (wire) => {
  test('a request that cannot be encoded fails at once', async () => {
    // Goal: a mistake of the program is no broken connection. Method: numbers and payloads of wrong kinds.
    const service = await fake(wire);
    const client = service.client();
    const wrong = { code: 'INVALID_ARGUMENT', outcomeClass: 'final', outcomeUnknown: false };
    await expect(all(client.room('r').history({ pageSize: 2.5 }))).rejects.toMatchObject(wrong);
    await expect(client.createRoom({ replicas: 1.5 })).rejects.toMatchObject(wrong);
    await expect(client.room('r').publish({} as string)).rejects.toMatchObject(wrong);
    await expect(client.room('r').addMember('bob', 'admin' as 'owner')).rejects.toMatchObject(wrong);
    await expect(all(client.room('r').history({ beforeCursor: 'x' }))).rejects.toMatchObject(wrong);
    expect(service.calls).toEqual({});
  });

  test('a value that the program did not find does not purge everything', async () => {
    const service = await fake(wire, { purgeRoom: () => ({}) });
    const room = service.client().room('r');
    const found: { sequence: bigint }[] = [];
    const options = { upToSequence: found[0]?.sequence } as { upToSequence: bigint };
    await expect(room.purge(options)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT' });
    expect(service.calls.purgeRoom).toBeUndefined();
    await room.purge();
    expect(service.calls.purgeRoom).toBe(1);
  });

  test('what is gone after an unknown outcome was removed, and is an error otherwise', async () => {
    // Goal: U10. Method: the first attempt has no known outcome, the second finds nothing.
    let unknown = true;
    const service = await fake(wire, {
      deleteMessage: () => {
        const first = unknown;
        unknown = false;
        throw first
          ? refusal(Code.DeadlineExceeded, 'TIMEOUT', { retryMs: 1 })
          : refusal(Code.NotFound, 'MESSAGE_NOT_FOUND');
      },
    });
    const room = service.client().room('r');
    await room.deleteMessage(1n);
    await expect(room.deleteMessage(1n)).rejects.toMatchObject({ reason: 'MESSAGE_NOT_FOUND' });
  });

  test('the last error tells more than an attempt that was cut short', async () => {
    // Goal: U9. Method: the first attempt is refused for a moment; the second one has 100 ms and no answer.
    const service = await fake(wire, {
      getRoom: () => {
        if (service.calls.getRoom === 1) throw refusal(Code.Unavailable, 'NATS_UNAVAILABLE', { retryMs: 200 });
        return new Promise(() => {});
      },
    });
    const get = service.client().room('r').get({ timeoutMs: 400 });
    await expect(get).rejects.toMatchObject({ reason: 'NATS_UNAVAILABLE', outcomeUnknown: true });
  });

  test('a final outcome ends a publish, also after an unknown one', async () => {
    // Goal: U11. Method: the first attempt has an unknown outcome, the second is refused.
    const service = await fake(wire, {
      publish: () => {
        throw service.calls.publish === 1
          ? refusal(Code.DeadlineExceeded, 'OUTCOME_UNKNOWN', { retryMs: 1 })
          : refusal(Code.PermissionDenied, 'PERMISSION_DENIED');
      },
    });
    const error = await service
      .client()
      .room('r')
      .publish('x', { messageId: 'mine' })
      .catch((error) => error);
    expect(error).toMatchObject({ reason: 'PERMISSION_DENIED', outcomeUnknown: true, messageId: 'mine' });
    expect(service.calls.publish).toBe(2);
  });

  test.each(['', ' \n'])('an empty token "%s" is not left out', async (token) => {
    // Goal: U8. Method: a function that returns such a token, and a fixed one.
    const service = await fake(wire);
    const client = service.client({ token: () => token, allowPlaintextToken: true, totalTimeoutMs: 300 });
    await expect(client.room('r').get()).rejects.toMatchObject({ outcomeClass: 'again', outcomeUnknown: false });
    expect(() => service.client({ token, allowPlaintextToken: true })).toThrow(/empty/);
    expect(service.calls).toEqual({});
  });

  test('the last error tells more than a token that did not come in what was left', async () => {
    // Goal: U9. Method: the first attempt is refused for a moment; then the token function hangs.
    const getRoom = () => Promise.reject(refusal(Code.Unavailable, 'NATS_UNAVAILABLE', { retryMs: 200 }));
    const service = await fake(wire, { getRoom });
    const token = () => (service.calls.getRoom ? new Promise<string>(() => {}) : 'token');
    const get = service.client({ token, allowPlaintextToken: true }).room('r').get({ timeoutMs: 400 });
    await expect(get).rejects.toMatchObject({ reason: 'NATS_UNAVAILABLE', outcomeUnknown: false });
  });

  test('a token that no header can have is not sent, and not shown', async () => {
    // Goal: U8. Method: a function that returns such a token, and a fixed one.
    const service = await fake(wire);
    const options = { allowPlaintextToken: true, totalTimeoutMs: 300 };
    const client = service.client({ ...options, token: () => 'secret\nvalue' });
    const error = await client
      .room('r')
      .get()
      .catch((error) => error);
    expect(error).toMatchObject({ outcomeClass: 'again', outcomeUnknown: false });
    expect(`${error} ${error.cause}`).not.toContain('secret');
    expect(() => service.client({ ...options, token: 'secret\nvalue' })).toThrow(/no header/);
  });

  test.each([Number.POSITIVE_INFINITY, 3e9])('a very long time is no time of nothing: %s', async (ms) => {
    // Goal: U9. Method: a time that no timer takes, for calls and for a publisher.
    const value = { sequence: 1n };
    const service = await fake(wire, {
      async *publishStream(requests) {
        for await (const { correlationId } of requests) yield { correlationId, outcome: { case: 'result', value } };
      },
      publishBatch: async () => {
        await sleep(50);
        return { results: [{ outcome: { case: 'result', value } }] };
      },
    });
    const room = service.client({ attemptTimeoutMs: ms, totalTimeoutMs: ms, publishTimeoutMs: ms }).room('r');
    expect(await room.get({ timeoutMs: ms })).toMatchObject({ persist: true });
    const publisher = room.publisher();
    expect(await publisher.publish('x')).toMatchObject(value);
    await publisher.close();
  });

  test('a setting of a room that cannot change is not ignored', async () => {
    const service = await fake(wire);
    const room = service.client().room('r');
    const wrong = { persist: false, replicas: 3 } as { replicas: number };
    await expect(room.update(wrong)).rejects.toMatchObject({ code: 'INVALID_ARGUMENT', fields: ['persist'] });
    expect(service.calls).toEqual({});
  });

  test('the text of an error says why there is no connection', async () => {
    // Goal: U9. Method: nobody listens at the port any more.
    const server = createServer();
    await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
    const address = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
    await new Promise((done) => server.close(done));
    const client = wire === 'node' ? connect(address) : connectWeb(address);
    const error = await client
      .room('r')
      .get({ timeoutMs: 300 })
      .catch((error) => error);
    expect(error).toMatchObject({ outcomeClass: 'again', message: expect.stringContaining('ECONNREFUSED') });
    await client.close();
  });

  test.each([
    { options: { afterSequence: 2n, beforeSequence: 6n }, is: [3, 4, 5], pages: 2 },
    { options: { beforeSequence: 3n }, is: [1, 2], pages: 1 },
    { options: { direction: 'backwards', afterSequence: 7n } as const, is: [9, 8], pages: 1 },
    { options: { direction: 'backwards', afterSequence: 2n, beforeSequence: 6n } as const, is: [5, 4, 3], pages: 2 },
  ])('history keeps to the bounds in both directions: %o', async ({ options, is, pages }) => {
    // Goal: U28. Method: a log of nine messages in pages of two.
    const log = Array.from({ length: 9 }, (_, at) => BigInt(at + 1));
    const service = await fake(wire, {
      history({ anchor }) {
        const at = anchor.case?.endsWith('Cursor') ? BigInt(`${anchor.value}`) : (anchor.value as bigint | undefined);
        const back = anchor.case === undefined || anchor.case.startsWith('before');
        const page = back
          ? log.filter((each) => at === undefined || each < at).slice(-2)
          : log.filter((each) => each > (at ?? 0n)).slice(0, 2);
        return {
          messages: page.map((sequence) => create(MessageSchema, { sequence })),
          hasOlder: (page[0] ?? 1n) > 1n,
          hasNewer: (page.at(-1) ?? 9n) < 9n,
          olderCursor: `${page[0]}`,
          newerCursor: `${page.at(-1)}`,
        };
      },
    });
    const messages = await all(service.client().room('r').history(options));
    expect(messages.map(({ sequence }) => Number(sequence))).toEqual(is);
    expect(service.calls.history).toBe(pages);
  });
});

test('a short time of the program says nothing of the connection', async () => {
  // Goal: U6. Method: an open subscription hears nothing; a call with 100 ms has no answer in time.
  const service = await fake('node', { getRoom: () => new Promise(() => {}) });
  const client = service.client();
  const events: string[] = [];
  client.room('r').subscribe({ onEvent: ({ type }) => events.push(type) }, () => {});
  (await service.stream(0)).opened(0n);
  await vi.waitFor(() => expect(events).toEqual(['opened']));
  const heard = vi.spyOn(Date, 'now').mockImplementation(() => performance.timeOrigin + performance.now() + 60_000);
  const begun = client.room('r').get({ timeoutMs: 100 });
  await expect(begun).rejects.toMatchObject({ code: 'DEADLINE_EXCEEDED' });
  heard.mockRestore();
  expect(events).toEqual(['opened']);
  expect(service.streams).toHaveLength(1);
});

test.each(['https://example.com/unibus', 'https://user:pass@example.com', 'https://example.com?x=1'])(
  'an address has nothing but a host and a port: %s',
  (address) => {
    expect(() => connect(address)).toThrow(/only a host and a port/);
  },
);

test.each(['ca', 'cert', 'key'])('%s that cannot be read is reported at once', (what) => {
  expect(() => connect('https://127.0.0.1:1', { [what]: 'no PEM' })).toThrow(/ca has no certificate|cannot be read/);
});
