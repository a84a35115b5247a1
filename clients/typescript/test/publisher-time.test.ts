// What the time of messages, of rooms and of the service means for a publisher.

import { setTimeout as sleep } from 'node:timers/promises';
import { durationFromMs } from '@bufbuild/protobuf/wkt';
import { describe, expect, test } from 'vitest';
import type { UnibusError } from '../src/error.js';
import type { PublishRequest } from '../src/gen/unibus/v1/room_service_pb.js';
import { Code, ConnectError, fake, status, WIRES, type WireName } from './support/service.js';

const HOURS_MS = 3_600_000;
type Sent = Pick<PublishRequest, 'payload' | 'messageId'>;
type Answer = bigint | ReturnType<typeof status>;
interface Given {
  persist?: boolean;
  windowMs?: number;
}

/** A room that answers the messages of a stream or a batch as `answer` says. What it throws ends the stream. */
async function room(wire: WireName, given: Given | (() => Given | Promise<Given>), answer: (message: Sent) => Answer) {
  const outcome = (message: Sent) => {
    const value = answer(message);
    return typeof value === 'bigint'
      ? { case: 'result' as const, value: { sequence: value } }
      : { case: 'error' as const, value };
  };
  return fake(wire, {
    async getRoom() {
      const { persist = true, windowMs = 120_000 } = await (typeof given === 'function' ? given() : given);
      return { room: { persist, dedupeWindow: durationFromMs(windowMs) } };
    },
    async *publishStream(requests) {
      for await (const { correlationId, publish } of requests)
        if (publish) yield { correlationId, outcome: outcome(publish) };
    },
    publishBatch: ({ messages }) => ({ results: messages.map((message) => ({ outcome: outcome(message) })) }),
  });
}

const failure = (promise: Promise<unknown>) =>
  promise.then(
    () => undefined,
    (error: UnibusError) => error,
  );

describe.each(WIRES)('over the wire of %s', (wire) => {
  test('a pause of hours holds back neither messages nor close', async () => {
    // Goal: U11, U14. Method: the service asks for hours; a message comes before, and one during the pause.
    const busy = status(Code.Unavailable, 'NATS_UNAVAILABLE', { retryMs: 10 * HOURS_MS });
    const publisher = (await room(wire, {}, () => busy)).client().room('r').publisher();
    const begun = performance.now();
    for (const payload of ['one', 'two'])
      expect(await failure(publisher.publish(payload))).toMatchObject({
        reason: 'NATS_UNAVAILABLE',
        outcomeUnknown: false,
      });
    await publisher.close();
    expect(performance.now() - begun).toBeLessThan(3000);
  });

  test('a message that came to no stream before close is not stored', async () => {
    // Goal: U11. Method: the settings of the room are never known.
    const publisher = (
      await room(
        wire,
        () => new Promise(() => {}),
        () => 1n,
      )
    )
      .client()
      .room('r')
      .publisher();
    const error = failure(publisher.publish('x'));
    await publisher.close({ timeoutMs: 100 });
    expect(await error).toMatchObject({ code: 'DEADLINE_EXCEEDED', outcomeUnknown: false });
  });

  test('a room that stores messages without ids is asked for again', async () => {
    // Goal: U12. Method: the room is persisted after the first answer.
    const ids: string[] = [];
    const service = await room(
      wire,
      () => ({ persist: ids.length > 0 }),
      ({ messageId }) => BigInt(ids.push(messageId)),
    );
    const publisher = service.client().room('r').publisher();
    await publisher.publish('one');
    await publisher.publish('two');
    expect(ids.map((id) => id.length)).toEqual([0, 32]);
    await publisher.close();
  });

  test('each message has one whole attempt, however short the window of the room is', async () => {
    // Goal: U11. Method: a window of 200 ms, attempts of 10 s; the token of the first stream is missing, and an answer takes 400 ms.
    const service = await room(wire, { windowMs: 200 }, () => 1n);
    let tokens = 0;
    const token = () => (++tokens === 2 ? Promise.reject(new Error('down')) : 'token');
    const publisher = service.client({ token, allowPlaintextToken: true }).room('r').publisher();
    expect(await publisher.publish('x')).toMatchObject({ sequence: 1n });
    await publisher.close();
    const slow = await fake(wire, {
      getRoom: () => ({ room: { persist: true, dedupeWindow: durationFromMs(200) } }),
      publish: async () => {
        await sleep(400);
        return { sequence: 2n };
      },
    });
    expect(await slow.client().room('r').publish('x')).toMatchObject({ sequence: 2n });
  });

  test('a message is not sent again when the room may have forgotten its id', async () => {
    // Goal: U11. Method: the first stream breaks; the token of the second one takes until after the last safe moment.
    let sent = 0;
    const service = await room(wire, { windowMs: 1000 }, () => {
      sent += 1;
      throw new ConnectError('cut', Code.Unavailable);
    });
    const token = async () => {
      if (sent > 0) await sleep(500);
      return 'token';
    };
    const options = { token, allowPlaintextToken: true, attemptTimeoutMs: 600 };
    const publisher = service.client(options).room('r').publisher();
    expect(await failure(publisher.publish('x'))).toMatchObject({ code: 'UNAVAILABLE', outcomeUnknown: true });
    expect(sent).toBe(1);
    await publisher.close();
  });

  test('a message that is larger than the service reads fails alone', async () => {
    // Goal: U13. Method: the library of the service ends the stream at the large one of three messages.
    const service = await room(wire, {}, ({ payload }) => {
      if (payload.length > 100) throw new ConnectError('too large', Code.OutOfRange);
      return 1n;
    });
    const publisher = service.client().room('r').publisher();
    const all = ['one', 'x'.repeat(101), 'two'].map((payload) => publisher.publish(payload));
    const codes = (await Promise.allSettled(all)).map((each) => each.status === 'rejected' && each.reason.code);
    expect(codes).toEqual([false, 'OUT_OF_RANGE', false]);
    await publisher.close();
  });

  test('a token that is refused within a stream is not used again', async () => {
    // Goal: U8. Method: the token expires for the first of two messages, and the second has another error; the function has no other.
    let sent = 0;
    const service = await room(wire, {}, () => {
      const first = ++sent % 2 === 1;
      return first
        ? status(Code.Unauthenticated, 'CREDENTIALS_EXPIRED')
        : status(Code.Unavailable, 'NATS_UNAVAILABLE', { retryMs: 1 });
    });
    const publisher = service
      .client({ token: () => 'token', allowPlaintextToken: true })
      .room('r')
      .publisher();
    const errors = await Promise.all(['one', 'two'].map((payload) => failure(publisher.publish(payload))));
    expect(errors.map((error) => error?.reason)).toEqual(['CREDENTIALS_EXPIRED', 'CREDENTIALS_EXPIRED']);
    expect(sent).toBe(2);
    await publisher.close();
  });

  test('a header that is no text is a mistake of its message alone', async () => {
    const publisher = (await room(wire, {}, () => 1n)).client().room('r').publisher();
    const headers = { size: 5 } as unknown as Record<string, string>;
    const wrong = { code: 'INVALID_ARGUMENT' };
    expect(await failure(publisher.publish('x', { headers }))).toMatchObject(wrong);
    expect(await failure(publisher.publish('x', { ttlMs: Number.NaN }))).toMatchObject(wrong);
    expect(await failure(publisher.publish('x', { messageId: 7 as unknown as string }))).toMatchObject(wrong);
    await publisher.ready;
    expect(await publisher.publish('y')).toMatchObject({ sequence: 1n });
    await publisher.close();
  });

  test('a publish that waited for the question of another one has its own time', async () => {
    // Goal: U9. Method: GetRoom has no answer until the time of the first publish is up.
    let asked = 0;
    const service = await fake(wire, {
      getRoom: () => (++asked === 1 ? new Promise(() => {}) : { room: { persist: true } }),
      publish: () => ({ sequence: 1n }),
    });
    const client = service.client({ attemptTimeoutMs: 600, totalTimeoutMs: 600 });
    const first = failure(client.room('r').publish('one'));
    await sleep(300);
    expect(await client.room('r').publish('two')).toMatchObject({ sequence: 1n });
    expect(await first).toMatchObject({ code: 'DEADLINE_EXCEEDED', outcomeUnknown: false });
  });
});

test('a stream that the service does not end does not hold back close', async () => {
  // Goal: U14. Method: the service answers, and then ignores the end of the requests.
  const service = await fake('node', {
    async *publishStream(requests) {
      for await (const { correlationId } of requests)
        yield { correlationId, outcome: { case: 'result' as const, value: { sequence: 1n } } };
      await new Promise(() => {});
    },
  });
  const publisher = service.client().room('r').publisher();
  await publisher.publish('x');
  const begun = performance.now();
  await publisher.close();
  expect(performance.now() - begun).toBeLessThan(3000);
});
