import { setTimeout as sleep } from 'node:timers/promises';
import { create } from '@bufbuild/protobuf';
import { describe, expect, test, vi } from 'vitest';
import {
  type PublishBatchRequest,
  PublishOutcomeSchema,
  type PublishRequest,
} from '../src/gen/unibus/v1/room_service_pb.js';
import { Code, fake, refusal, status, WIRES, type WireName } from './support/service.js';

type Sent = Pick<PublishRequest, 'payload' | 'messageId'>;

/** A service that answers each message of a publisher as `answer` says: with a sequence or a status. */
async function mailbox(wire: WireName, answer: (message: Sent) => Promise<bigint | ReturnType<typeof status>>) {
  const batches: number[] = [];
  const outcomeOf = async (message: Sent) => {
    const value = await answer(message);
    if (typeof value === 'bigint') return { case: 'result' as const, value: { sequence: value } };
    return { case: 'error' as const, value };
  };
  const service = await fake(wire, {
    async *publishStream(requests) {
      for await (const { correlationId, publish } of requests)
        if (publish) yield { correlationId, outcome: await outcomeOf(publish) };
    },
    async publishBatch({ messages }: PublishBatchRequest) {
      batches.push(messages.reduce((sum, { payload }) => sum + payload.length, 0));
      const results = [];
      for (const message of messages) results.push(create(PublishOutcomeSchema, { outcome: await outcomeOf(message) }));
      return { results };
    },
  });
  return { service, batches };
}

const text = ({ payload }: Sent) => new TextDecoder().decode(payload);

describe.each(WIRES)('over the wire of %s', (wire) => {
  test('a refused message fails alone, and so does what is no payload', async () => {
    // Goal: U13. Method: one of five messages is refused, and two are no bytes.
    const { service } = await mailbox(wire, async (message) =>
      text(message) === 'bad' ? status(Code.InvalidArgument, 'PAYLOAD_TOO_LARGE') : 1n,
    );
    const publisher = service.client().room('r').publisher();
    const payloads = ['one', 'bad', 5 as unknown as string, '', undefined as unknown as string, 'two'];
    const all = await Promise.allSettled(payloads.map((payload) => publisher.publish(payload)));
    const shown = all.map((each) => (each.status === 'rejected' ? each.reason.reason || each.reason.code : 'stored'));
    expect(shown).toEqual(['stored', 'PAYLOAD_TOO_LARGE', 'INVALID_ARGUMENT', 'stored', 'INVALID_ARGUMENT', 'stored']);
    await publisher.close();
  });

  test('a program may use its buffer again', async () => {
    // Goal: what is published is what was given. Method: the buffer changes before the messages are sent.
    const sent: string[] = [];
    const { service } = await mailbox(wire, async (message) => BigInt(sent.push(text(message))));
    const publisher = service.client().room('r').publisher();
    const buffer = Buffer.from('0');
    const all = [1, 2, 3].map((digit) => {
      buffer.write(`${digit}`);
      return publisher.publish(buffer);
    });
    await Promise.all(all);
    expect(sent).toEqual(['1', '2', '3']);
    await publisher.close();
  });

  test('without a limit of time, close waits for the answers', async () => {
    // Goal: U14. Method: a client whose calls have no limit; the answer takes a moment.
    const { service } = await mailbox(wire, async () => {
      await sleep(200);
      return 1n;
    });
    const client = service.client({ totalTimeoutMs: Number.POSITIVE_INFINITY });
    const publisher = client.room('r').publisher();
    const message = publisher.publish('x');
    await publisher.close();
    expect(await message).toMatchObject({ sequence: 1n });
  });

  test('a token function that hangs once does not stop the publisher', async () => {
    // Goal: U8. Method: the second token, which is that of the stream, never comes.
    const { service } = await mailbox(wire, async () => 1n);
    let tokens = 0;
    const token = () => (++tokens === 2 ? new Promise<string>(() => {}) : 'token');
    const client = service.client({ token, allowPlaintextToken: true, attemptTimeoutMs: 300 });
    const publisher = client.room('r').publisher();
    expect(await publisher.publish('x')).toMatchObject({ sequence: 1n });
    expect(tokens).toBe(3);
    await publisher.close();
  });

  test.each([
    { tokens: ['one', 'one', 'two'], stored: true },
    { tokens: ['one', 'one', 'one'], stored: false },
  ])('a publisher whose token is refused asks for another one: $tokens', async ({ tokens, stored }) => {
    // Goal: U8, U13. Method: GetRoom takes any token, the stream takes the last one alone; the function gives them in turn.
    const service = await fake(wire, {
      async *publishStream(requests, { requestHeader }) {
        check(requestHeader);
        for await (const { correlationId } of requests)
          yield { correlationId, outcome: { case: 'result' as const, value: { sequence: 1n } } };
      },
      publishBatch(_, { requestHeader }) {
        check(requestHeader);
        return { results: [{ outcome: { case: 'result' as const, value: { sequence: 1n } } }] };
      },
    });
    const check = (headers: Headers) => {
      if (headers.get('authorization') !== 'Bearer two') throw refusal(Code.Unauthenticated, 'CREDENTIALS_EXPIRED');
    };
    let asked = 0;
    const client = service.client({ token: () => tokens[asked++] ?? 'one', allowPlaintextToken: true });
    const publisher = client.room('r').publisher();
    const outcome = await publisher.publish('x').catch((error) => error);
    if (stored) expect(outcome).toMatchObject({ sequence: 1n });
    else expect(outcome).toMatchObject({ reason: 'CREDENTIALS_EXPIRED', outcomeClass: 'final', outcomeUnknown: false });
    await publisher.close();
  });

  test('a message that never comes to a stream fails in time, and is not stored', async () => {
    // Goal: U11, U13. Method: the service is not there.
    const { service } = await mailbox(wire, async () => 1n);
    const getRoom = () => Promise.reject(refusal(Code.Unavailable, 'NATS_UNAVAILABLE', { retryMs: 1 }));
    const dead = await fake(wire, { getRoom });
    expect(service.url).not.toBe(dead.url);
    const client = dead.client({ totalTimeoutMs: 200, publishTimeoutMs: 500 });
    const publisher = client.room('r').publisher();
    const error = await publisher.publish('x').catch((error) => error);
    expect(error).toMatchObject({ reason: 'NATS_UNAVAILABLE', outcomeUnknown: false });
    await publisher.close();
  });

  test('a message that may be stored keeps its id when the room changes its kind', async () => {
    // Goal: U12. Method: the outcome of the first attempt is unknown; then the room is ephemeral.
    const ids: string[] = [];
    let persist = true;
    const service = await fake(wire, {
      getRoom: () => ({ room: { persist } }),
      // biome-ignore lint/correctness/useYield: the stream breaks
      async *publishStream(requests) {
        for await (const { publish } of requests) {
          ids.push(publish?.messageId ?? '');
          throw fail();
        }
      },
      publishBatch({ messages }) {
        ids.push(messages[0]?.messageId ?? '');
        throw fail();
      },
    });
    const fail = () => {
      const known = ids.length > 1;
      persist = false;
      return known
        ? refusal(Code.FailedPrecondition, 'ROOM_NOT_PERSISTED')
        : refusal(Code.DeadlineExceeded, 'OUTCOME_UNKNOWN', { retryMs: 1 });
    };
    const client = service.client();
    const publisher = client.room('r').publisher();
    const error = await publisher.publish('x').catch((error) => error);
    expect(error).toMatchObject({ outcomeUnknown: true, messageId: ids[0] });
    expect(new Set(ids)).toHaveLength(1);
    await publisher.close();
  });

  test.each([{ windowMessages: 0 }, { windowBytes: Number.NaN }])('a window is a whole number: %o', async (options) => {
    const service = await fake(wire);
    expect(() => service.client().room('r').publisher(options)).toThrow(/whole number/);
  });

  test('a hundred publishes at once ask once for the room', async () => {
    // Goal: U12. Method: counts the calls of GetRoom.
    const service = await fake(wire, { publish: () => ({ sequence: 1n }) });
    const room = service.client().room('r');
    await Promise.all(Array.from({ length: 100 }, (_, at) => room.publish(`${at}`)));
    expect(service.calls).toMatchObject({ getRoom: 1, publish: 100 });
  });
});

test('a batch has at most 4 MiB, whatever the window is', async () => {
  // Goal: the service takes 8 MiB at once. Method: sixteen messages of 1 MiB, and a window for all of them.
  const { service, batches } = await mailbox('web', async () => 1n);
  const publisher = service
    .client()
    .room('r')
    .publisher({ windowBytes: 64 << 20 });
  await Promise.all(Array.from({ length: 16 }, () => publisher.publish(new Uint8Array(1 << 20))));
  expect(batches.reduce((sum, size) => sum + size, 0)).toBe(16 << 20);
  for (const size of batches) expect(size).toBeLessThanOrEqual(4 << 20);
  await publisher.close();
});

test('publishing while the settings are unknown keeps to the time of the program', async () => {
  // Goal: U9. Method: GetRoom hangs; one publish has a time, another one has none.
  const service = await fake('node', { getRoom: () => new Promise(() => {}), publish: () => ({ sequence: 1n }) });
  const room = service.client({ attemptTimeoutMs: 1000, totalTimeoutMs: 1000 }).room('r');
  const long = room.publish('x').catch((error) => error);
  const begun = performance.now();
  const error = await room.publish('x', { timeoutMs: 200 }).catch((error) => error);
  expect(error).toMatchObject({ code: 'DEADLINE_EXCEEDED', outcomeUnknown: false });
  expect(performance.now() - begun).toBeLessThan(900);
  expect(await long).toMatchObject({ code: 'DEADLINE_EXCEEDED', outcomeUnknown: false });
  await vi.waitFor(() => expect(service.calls.publish).toBeUndefined());
});
