import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test, vi } from 'vitest';
import { UnibusError } from '../src/error.js';
import type { Message } from '../src/gen/unibus/v1/message_pb.js';
import { ConsumeCommand } from '../src/gen/unibus/v1/room_service_pb.js';
import type { SubscribeOptions, SubscriptionEvent } from '../src/subscription.js';
import { Deferred } from '../src/time.js';
import { Code, closed, type Fake, fake, refusal, status, WIRES } from './support/service.js';

const HOURS_MS = 3_600_000;

/** Follows the room `r`, and keeps what came. Handlers wait for `gate`. */
function follow(service: Fake, options: SubscribeOptions = {}, client = service.client()) {
  const gate = new Deferred<void>();
  const begun: number[] = [];
  const events: SubscriptionEvent[] = [];
  const onEvent = (event: SubscriptionEvent) => void events.push(event);
  const handler = async ({ sequence }: Message) => {
    begun.push(Number(sequence));
    await gate.promise;
  };
  const subscription = client.room('r').subscribe({ onEvent, ackIntervalMs: 10, ...options }, handler);
  const end = subscription.ended.then(
    () => 'closed',
    (error) => error,
  );
  const types = () => events.map(({ type }) => type);
  return { subscription, gate, begun, events, types, end };
}

/** The stream of the opening with this number. In a session it can be the same one. */
async function opening(service: Fake, number: number) {
  return vi.waitFor(() => {
    expect(service.streams.flatMap((each) => each.of('open')).length).toBeGreaterThanOrEqual(number);
    return service.streams.at(-1) as (typeof service.streams)[number];
  }, 5000);
}

describe.each(WIRES)('over the wire of %s', (wire) => {
  test('messages of an old log that wait are not acknowledged in the new one', async () => {
    // Goal: U19, U26. Method: the room is created again while two messages of the old log wait; then all handlers return.
    const service = await fake(wire);
    const { subscription, gate, begun, types } = follow(service, { subscriber: 's' });
    const old = await opening(service, 1);
    old.opened(50n);
    old.messages(51n, 53n);
    await vi.waitFor(() => expect(begun).toEqual([51]));
    old.send(closed(Code.Aborted, 'ROOM_RECREATED'));
    const stream = await opening(service, 2);
    stream.opened(0n, { generation: 2n });
    await sleep(50);
    gate.resolve();
    await vi.waitFor(() => expect(types().slice(-2)).toEqual(['recreated', 'opened']));
    expect(begun).toEqual([51, 52, 53]);
    await sleep(50);
    const acks = () => stream.of('ack').filter(({ value }) => value.generation === 2n);
    expect(acks()).toEqual([]);
    stream.messages(1n, 2n);
    await vi.waitFor(() => expect(acks().at(-1)?.value.sequence).toBe(2n));
    stream.send({ case: 'acked', value: { position: 2n } });
    await subscription.close();
  });

  test('a late confirmation from before a move confirms nothing after it', async () => {
    // Goal: U20, U22. Method: the subscriber is moved back while an acknowledgement is under way; then the subscription is closed.
    const service = await fake(wire);
    const { subscription, gate, begun } = follow(service, { subscriber: 's' });
    gate.resolve();
    const stream = await opening(service, 1);
    stream.opened(50n);
    stream.messages(51n, 51n);
    await vi.waitFor(() => expect(stream.of('ack').at(-1)?.value.sequence).toBe(51n));
    stream.opened(0n, { resumed: true });
    stream.send({ case: 'acked', value: { position: 51n } });
    stream.messages(1n, 2n);
    await vi.waitFor(() => expect(begun).toEqual([51, 1, 2]));
    const close = subscription.close();
    await vi.waitFor(() => expect(stream.of('ack').at(-1)?.value.sequence).toBe(2n));
    stream.send({ case: 'acked', value: { position: 2n } });
    await close;
  });

  test('a durable subscriber that was deleted resumes after what it has processed, and notices a new log', async () => {
    // Goal: U22. Method: two of three messages are processed, the stream breaks; then the cursor is one of an earlier log.
    const service = await fake(wire);
    const { gate, begun, types } = follow(service, { subscriber: 's', start: 'new', concurrency: 2 });
    const first = await opening(service, 1);
    first.opened(0n);
    first.messages(1n, 2n);
    gate.resolve();
    await vi.waitFor(() => expect(first.of('ack').at(-1)?.value.sequence).toBe(2n));
    first.end(refusal(Code.Unavailable, 'DRAINING', { retryMs: 1 }));
    const second = await opening(service, 2);
    const start = (stream: typeof first) => stream.of('open').at(-1)?.value.subscribe?.start?.at;
    expect(start(second)).toEqual({ case: 'afterCursor', value: 'cursor-2' });
    second.opened(2n, { resumed: false, generation: 2n });
    second.messages(3n, 3n);
    await vi.waitFor(() => expect(begun).toEqual([1, 2, 3]));
    expect(types()).not.toContain('moved');
    second.end(refusal(Code.Unavailable, 'DRAINING', { retryMs: 1 }));
    const third = await opening(service, 3);
    third.send(closed(Code.FailedPrecondition, 'CURSOR_EXPIRED'));
    const fourth = await opening(service, 4);
    expect(start(fourth)?.case).toBe('all');
    expect(types()).toContain('recreated');
  });

  test.each([
    { subscriber: undefined, given: [1, 2, 3] },
    { subscriber: 's', given: [1] },
  ])('after a final outcome the subscriber $subscriber gets $given', async ({ subscriber, given }) => {
    // Goal: U25: the end comes in order with the messages, unless another program has taken over. Method: two messages wait.
    const service = await fake(wire);
    const { gate, begun, end } = follow(service, { subscriber });
    const stream = await opening(service, 1);
    stream.opened(0n);
    stream.messages(1n, 3n);
    stream.send(closed(Code.PermissionDenied, 'PERMISSION_DENIED'));
    await sleep(100);
    gate.resolve();
    expect(await end).toMatchObject({ reason: 'PERMISSION_DENIED' });
    expect(begun).toEqual(given);
  });

  test('close begins no more handlers, also when the stream has ended', async () => {
    // Goal: U27. Method: the subscription has caught up while two messages wait.
    const service = await fake(wire);
    const { subscription, gate, begun, end } = follow(service, { untilCaughtUp: true });
    const stream = await opening(service, 1);
    stream.opened(0n);
    stream.messages(1n, 3n);
    stream.send({ case: 'closed', value: { code: 0 } });
    await sleep(100);
    const close = subscription.close();
    gate.resolve();
    await close;
    expect(await end).toBe('closed');
    expect(begun).toEqual([1]);
  });

  test('close ends a subscription in every state, also twice', async () => {
    // Goal: U27. Method: closes while the token function hangs, before `opened`, in the pause, and afterwards.
    const service = await fake(wire);
    const hangs = service.client({ token: () => new Promise(() => {}), allowPlaintextToken: true });
    for (const client of [hangs, service.client()]) {
      const { subscription, end } = follow(service, { subscriber: 's' }, client);
      await sleep(50);
      await Promise.all([subscription.close(), subscription.close()]);
      expect(await end).toBe('closed');
    }
    const { subscription, end, types } = follow(service, {}, service.client());
    (await opening(service, 2)).end(refusal(Code.Unavailable, 'DRAINING', { retryMs: HOURS_MS }));
    await vi.waitFor(() => expect(types()).toEqual(['disconnected']));
    await subscription.close();
    expect(await end).toBe('closed');
  });

  test('a cancel ends a subscription that waits for its last acknowledgement', async () => {
    // Goal: U3. Method: no acknowledgement is confirmed; the program closes, and cancels.
    const service = await fake(wire, { acknowledge: () => new Promise(() => {}) });
    const controller = new AbortController();
    const { subscription, gate, begun, end } = follow(service, { subscriber: 's', signal: controller.signal });
    gate.resolve();
    const stream = await opening(service, 1);
    stream.opened(0n);
    stream.messages(1n, 1n);
    await vi.waitFor(() => expect(begun).toEqual([1]));
    stream.end(refusal(Code.Unavailable, 'DRAINING', { retryMs: HOURS_MS }));
    await sleep(100);
    subscription.close().catch(() => {});
    await vi.waitFor(() => expect(service.calls.acknowledge).toBe(1));
    controller.abort(new Error('enough'));
    const begin = performance.now();
    expect(await end).toMatchObject({ message: 'enough' });
    expect(performance.now() - begin).toBeLessThan(1000);
  });

  test('a pause longer than a timer takes is no pause of nothing', async () => {
    // Goal: U4. Method: the service asks for 30 days, which is more than 2^31 ms.
    const service = await fake(wire);
    const { events } = follow(service);
    (await opening(service, 1)).send(closed(Code.Unavailable, 'DRAINING', { retryMs: 30 * 24 * HOURS_MS }));
    await vi.waitFor(() => expect(events).toHaveLength(1));
    await sleep(300);
    expect(events).toHaveLength(1);
  });

  test('the shortest heartbeat of the service is no silence', async () => {
    // Goal: U16. Method: heartbeats each 100 ms, which the service allows.
    const service = await fake(wire);
    const { types } = follow(service);
    const stream = await opening(service, 1);
    stream.opened(0n, { heartbeatMs: 100 });
    for (let n = 0; n < 12; n += 1) {
      await sleep(100);
      stream.send({ case: 'heartbeat', value: { position: 0n } });
    }
    expect(types()).toEqual(['opened']);
  });

  test('an error that an observer of events throws ends the subscription', async () => {
    const service = await fake(wire);
    const onEvent = () => {
      throw new Error('observer');
    };
    const { end } = follow(service, { onEvent });
    (await opening(service, 1)).opened(0n);
    expect(await end).toMatchObject({ message: 'observer' });
  });

  test.each([{ concurrency: 1.5 }, { prefetchMessages: 0 }, { prefetchBytes: 2.5 }, { prefetchBytes: Number.NaN }])(
    'bounds are whole numbers: %o',
    async (options) => {
      const service = await fake(wire);
      expect(() => follow(service, options)).toThrow(/whole number/);
    },
  );

  test('a handler that runs while its client is closed may still publish', async () => {
    // Goal: U27. Method: the handler of the first message waits until the client is being closed, and then publishes in two ways.
    const service = await fake(wire, {
      publish: () => ({ sequence: 1n }),
      async *publishStream(requests) {
        for await (const { correlationId } of requests)
          yield { correlationId, outcome: { case: 'result' as const, value: { sequence: 2n } } };
      },
      publishBatch: () => ({ results: [{ outcome: { case: 'result' as const, value: { sequence: 2n } } }] }),
    });
    const client = service.client();
    const publisher = client.room('r').publisher();
    const closing = new Deferred<void>();
    const published: bigint[] = [];
    const subscription = client.room('r').subscribe({}, async () => {
      await closing.promise;
      published.push((await client.room('r').publish('x')).sequence, (await publisher.publish('y')).sequence);
    });
    const stream = await opening(service, 1);
    stream.opened(0n);
    stream.messages(1n, 1n);
    await sleep(50);
    const closed = client.close();
    closing.resolve();
    await closed;
    await subscription.ended;
    expect(published).toEqual([1n, 2n]);
    await expect(publisher.publish('z')).rejects.toMatchObject({ name: 'AbortError' });
    await expect(client.room('r').get()).rejects.toMatchObject({ name: 'AbortError' });
    await client.close();
  });

  test('a loop may close its own messages', async () => {
    // Goal: U27. Method: the loop waits for `close` in a turn, and then asks for the next message.
    const service = await fake(wire);
    const messages = service.client().room('r').messages({ subscriber: 's', ackIntervalMs: 10 });
    const got: bigint[] = [];
    const loop = (async () => {
      for await (const { sequence } of messages) {
        got.push(sequence);
        await messages.close();
      }
    })();
    const stream = await opening(service, 1);
    stream.opened(0n);
    stream.messages(1n, 2n);
    await vi.waitFor(() => expect(stream.of('ack').at(-1)?.value.sequence).toBe(1n));
    stream.send({ case: 'acked', value: { position: 1n } });
    await loop;
    expect(got).toEqual([1n]);
  });

  test('a loop that was left without a word does not hold back the close of the client', async () => {
    // Goal: U27. Method: the program asks for one message, and never for the next one.
    const service = await fake(wire);
    const client = service.client();
    const messages = client.room('r').messages({ ackTimeoutMs: 100 });
    const first = messages.next();
    const stream = await opening(service, 1);
    stream.opened(0n);
    stream.messages(1n, 2n);
    expect((await first).value?.sequence).toBe(1n);
    await client.close();
    expect(await messages.next()).toEqual({ value: undefined, done: true });
  });

  test('what is opened while the client is closed ends', async () => {
    // Goal: U27. Method: a handler that runs meanwhile opens a subscription, a publisher and a loop.
    const service = await fake(wire);
    const client = service.client();
    const closing = new Deferred<void>();
    const late: Promise<unknown>[] = [];
    client.room('r').subscribe({}, async () => {
      await closing.promise;
      const { end } = follow(service, {}, client);
      late.push(end, client.room('s').messages().next(), client.room('s').publisher().publish('x'));
    });
    const stream = await opening(service, 1);
    stream.opened(0n);
    stream.messages(1n, 1n);
    await sleep(50);
    const closed = client.close();
    closing.resolve();
    await closed;
    const ends = await Promise.allSettled(late);
    expect(ends).toHaveLength(3);
    await client.close();
  });

  test('an acknowledgement that is refused for good is not waited for', async () => {
    // Goal: U20, U27. Method: the subscriber is deleted while the subscription is closed.
    const service = await fake(wire);
    const { subscription, gate, begun, end } = follow(service, { subscriber: 's', ackIntervalMs: HOURS_MS });
    gate.resolve();
    const stream = await opening(service, 1);
    stream.opened(0n);
    stream.messages(1n, 1n);
    await vi.waitFor(() => expect(begun).toEqual([1]));
    const begin = performance.now();
    const close = subscription.close();
    await vi.waitFor(() => expect(stream.of('ack')).toHaveLength(1));
    const error = status(Code.NotFound, 'SUBSCRIBER_NOT_FOUND');
    stream.send({ case: 'rejected', value: { command: ConsumeCommand.ACK, sequence: 1n, error } });
    await close;
    expect(await end).toBe('closed');
    expect(performance.now() - begin).toBeLessThan(3000);
  });

  test('a start that cannot be sent is a mistake of the program', async () => {
    const client = (await fake(wire)).client();
    const start = { since: new Date(Number.NaN) };
    expect(() => client.room('r').subscribe({ start }, () => {})).toThrow(/no time/);
    const wrong = { since: { seconds: 'x', nanos: 0 } } as unknown as { since: Date };
    expect(() => client.room('r').subscribe({ start: wrong }, () => {})).toThrow(UnibusError);
  });

  test('a program may ask for several messages at once', async () => {
    // Goal: U19. Method: three calls of `next` before the first message.
    const service = await fake(wire);
    const messages = service.client().room('r').messages();
    const all = Promise.all([messages.next(), messages.next(), messages.next()]);
    const stream = await opening(service, 1);
    stream.opened(0n);
    stream.messages(1n, 3n);
    expect((await all).map(({ value }) => value?.sequence)).toEqual([1n, 2n, 3n]);
    await messages.return();
  });
});

test('a token function that hangs costs no other stream its connection', async () => {
  // Goal: U8, U6. Method: one stream is open and silent; a second one waits for its token until its time is up.
  const service = await fake('node');
  let hang = false;
  const token = () => (hang ? new Promise<string>(() => {}) : 'token');
  const client = service.client({ token, allowPlaintextToken: true, attemptTimeoutMs: 300 });
  const one = follow(service, {}, client);
  (await opening(service, 1)).opened(0n);
  await vi.waitFor(() => expect(one.types()).toEqual(['opened']));
  hang = true;
  const other = follow(service, {}, client);
  await vi.waitFor(() => expect(other.types()).toContain('disconnected'), 3000);
  expect(one.types()).toEqual(['opened']);
  hang = false;
  (await opening(service, 2)).opened(0n);
  await vi.waitFor(() => expect(other.types()).toContain('opened'), 3000);
});
