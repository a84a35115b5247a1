// Sessions of browsers: many rooms on one stream.

import { setTimeout as sleep } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import { ConsumeCommand, type SessionCommandRequest } from '../src/gen/unibus/v1/room_service_pb.js';
import type { SubscriptionEvent } from '../src/subscription.js';
import { Code, closed, type Fake, fake, refusal, status } from './support/service.js';

/** Follows rooms. Returns their events and ends. */
function follow(service: Fake, rooms: string[], client = service.client()) {
  return rooms.map((room) => {
    const events: SubscriptionEvent[] = [];
    const onEvent = (event: SubscriptionEvent) => void events.push(event);
    const subscription = client.room(room).subscribe({ onEvent }, () => {});
    const end = subscription.ended.then(
      () => 'closed',
      (error) => error,
    );
    return { room, subscription, events, end };
  });
}

const names = (count: number) => Array.from({ length: count }, (_, at) => `room-${at}`);
const opens = (service: Fake) =>
  service.streams.flatMap((each) => each.of('open').map(({ value }) => value.subscribe?.roomId));

test.each(['', 'a b'])('a wrong room "%s" ends its own subscription alone', async (wrong) => {
  // Goal: U1. Method: the service refuses every call with a command for that room, in OpenSession and in SessionCommand.
  const check = ({ commands }: { commands: SessionCommandRequest['commands'] }) => {
    const roomOf = ({ command }: (typeof commands)[number]) =>
      command.case === 'open' ? command.value.subscribe?.roomId : undefined;
    const at = commands.findIndex((each) => roomOf(each) === wrong);
    const field = `commands[${at}].open.subscribe.room_id`;
    if (at >= 0) throw refusal(Code.InvalidArgument, 'INVALID_FIELD', { field });
  };
  const service = await fake('web', {
    async *openSession(request, { signal }) {
      check(request);
      yield { frame: { case: 'session' as const, value: { id: 'x' } } };
      for (const { command } of request.commands) {
        const roomId = command.case === 'open' ? (command.value.subscribe?.roomId ?? '') : '';
        yield { frame: { case: 'consume' as const, value: { roomId, frame: { case: 'opened' as const, value: {} } } } };
      }
      await new Promise((resolve) => signal.addEventListener('abort', resolve));
    },
    sessionCommand(request) {
      check(request);
      return {};
    },
  });
  const client = service.client();
  const [bad, one, two] = follow(service, [wrong, 'one', 'two'], client);
  expect(await bad?.end).toMatchObject({ reason: 'INVALID_FIELD', fields: ['open.subscribe.room_id'] });
  await vi.waitFor(() => expect(one?.events.map(({ type }) => type)).toEqual(['opened']));
  const [late] = follow(service, [wrong], client);
  expect(await late?.end).toMatchObject({ reason: 'INVALID_FIELD', fields: ['open.subscribe.room_id'] });
  expect([one, two].map((each) => each?.events.map(({ type }) => type))).toEqual([['opened'], ['opened']]);
});

test('six hundred rooms share one session, in calls of at most 256 commands with numbers without a hole', async () => {
  // Goal: the bounds of the contract. Method: all rooms are opened at once, and closed at once.
  const calls: SessionCommandRequest[] = [];
  const service = await fake('web', {
    sessionCommand(request) {
      calls.push(request);
      return {};
    },
  });
  const rooms = follow(service, names(600));
  const given = (what: string) =>
    opens(service).filter(() => what === 'open').length +
    calls.flatMap(({ commands }) => commands).filter(({ command }) => command.case === what).length;
  await vi.waitFor(() => expect(given('open')).toBe(600), 5000);
  await Promise.all(rooms.map(({ subscription }) => subscription.close()));
  await vi.waitFor(() => expect(given('close')).toBe(600), 5000);
  expect(service.streams).toHaveLength(1);
  expect(calls.map(({ number }) => Number(number))).toEqual(calls.map((_, at) => at + 1));
  for (const { commands } of calls) expect(commands.length).toBeLessThanOrEqual(256);
});

test('a call of which the outcome is unknown is repeated under its number', async () => {
  // Goal: no command is lost or carried out twice. Method: the first attempt of each call has no answer.
  const calls: { number: bigint; rooms: string[] }[] = [];
  const service = await fake('web', {
    sessionCommand({ number, commands }) {
      const rooms = commands.map(({ command }) => (command.case === 'open' ? command.value.subscribe?.roomId : ''));
      calls.push({ number, rooms: rooms.map((room) => room ?? '') });
      const first = calls.filter((each) => each.number === number).length === 1;
      if (first) throw refusal(Code.DeadlineExceeded, 'TIMEOUT', { retryMs: 1 });
      return {};
    },
  });
  const client = service.client();
  for (const room of names(4)) {
    follow(service, [room], client);
    await sleep(300);
  }
  expect(service.streams).toHaveLength(1);
  expect(calls.map(({ number }) => number)).toEqual([1n, 1n, 2n, 2n, 3n, 3n]);
  expect(calls.map(({ rooms }) => rooms.join())).toEqual(['room-1', 'room-1', 'room-2', 'room-2', 'room-3', 'room-3']);
});

test('when the session is lost, all its rooms go on in one other session', async () => {
  // Goal: U15. Method: a command is answered with SESSION_NOT_FOUND.
  let lost = false;
  const service = await fake('web', {
    sessionCommand() {
      const now = lost;
      lost = false;
      if (now) throw refusal(Code.NotFound, 'SESSION_NOT_FOUND');
      return {};
    },
  });
  const client = service.client();
  const rooms = follow(service, names(20), client);
  const first = await service.stream(0);
  for (const { room } of rooms) first.opened(0n, { roomId: room });
  await vi.waitFor(() => expect(rooms.every(({ events }) => events.length === 1)).toBe(true));
  lost = true;
  follow(service, ['late'], client);
  await service.stream(1);
  await vi.waitFor(() => expect(rooms.every(({ events }) => events.length === 2)).toBe(true));
  await sleep(300);
  for (const { events } of rooms) expect(events.map(({ type }) => type)).toEqual(['opened', 'disconnected']);
  expect(service.streams).toHaveLength(2);
});

test('one new token is asked for when all rooms of a session lose theirs', async () => {
  // Goal: U8. Method: the service closes all rooms and the session with CREDENTIALS_EXPIRED.
  const service = await fake('web');
  let token = 1;
  const client = service.client({ token: () => `token-${token}`, allowPlaintextToken: true });
  const rooms = follow(service, names(10), client);
  const first = await service.stream(0);
  for (const { room } of rooms) first.opened(0n, { roomId: room });
  await vi.waitFor(() => expect(rooms.every(({ events }) => events.length === 1)).toBe(true));
  token = 2;
  for (const { room } of rooms) first.send(closed(Code.Unauthenticated, 'CREDENTIALS_EXPIRED'), room);
  first.end(refusal(Code.Unauthenticated, 'CREDENTIALS_EXPIRED'));
  const second = await service.stream(1);
  await vi.waitFor(() => expect(second.of('open')).toHaveLength(10));
  for (const { room } of rooms) second.opened(0n, { roomId: room });
  await vi.waitFor(() => expect(rooms.every(({ events }) => events.length === 3)).toBe(true));
  expect(service.streams).toHaveLength(2);
  second.end(refusal(Code.Unauthenticated, 'CREDENTIALS_EXPIRED'));
  for (const { end } of rooms) expect(await end).toMatchObject({ outcomeClass: 'final' });
});

test('a room whose end is never confirmed does not keep its session open', async () => {
  // Goal: no leak. Method: the service does not answer `close`; the client follows nothing else.
  const ended = vi.fn();
  const service = await fake('web', {
    async *openSession(_, { signal }) {
      signal.addEventListener('abort', ended);
      yield { frame: { case: 'session' as const, value: { id: 'x' } } };
      const value = { roomId: 'one', frame: { case: 'opened' as const, value: {} } };
      yield { frame: { case: 'consume' as const, value } };
      await new Promise((resolve) => signal.addEventListener('abort', resolve));
    },
  });
  const [one] = follow(service, ['one']);
  await vi.waitFor(() => expect(one?.events).toHaveLength(1));
  await one?.subscription.close();
  await vi.waitFor(() => expect(ended).toHaveBeenCalled(), 6000);
}, 10_000);

test('a room that is subscribed twice takes a second session, and a slow one holds back no other', async () => {
  // Goal: U24. Method: the handler of one subscription never returns; the others get a hundred messages each.
  const service = await fake('web');
  const client = service.client();
  const counts = [0, 0, 0];
  const stuck = client
    .room('r')
    .subscribe({ signal: AbortSignal.timeout(3000) }, () => new Promise(() => {}))
    .ended.catch(() => 'cancelled');
  for (const [at, room] of ['r', 'one', 'two'].entries())
    client.room(room).subscribe({}, () => {
      counts[at] = (counts[at] ?? 0) + 1;
    });
  const [first, second] = [await service.stream(0), await service.stream(1)];
  for (const room of ['r', 'one', 'two']) {
    first.opened(0n, { roomId: room });
    first.messages(1n, 100n, room);
  }
  second.opened(0n);
  second.messages(1n, 100n);
  await vi.waitFor(() => expect(counts).toEqual([100, 100, 100]));
  expect(await stuck).toBe('cancelled');
});

test('a room that gets no frames is noticed while another one of the session gets them', async () => {
  // Goal: U16. Method: heartbeats each 500 ms for one of two rooms.
  const service = await fake('web');
  const [one, two] = follow(service, ['one', 'two']);
  const stream = await service.stream(0);
  for (const roomId of ['one', 'two']) stream.opened(0n, { roomId, heartbeatMs: 500 });
  for (let n = 0; n < 5; n += 1) {
    await sleep(400);
    stream.send({ case: 'heartbeat', value: { position: 0n } }, 'one');
  }
  const [, gone] = two?.events ?? [];
  expect(gone).toMatchObject({ type: 'disconnected', error: { code: 'DEADLINE_EXCEEDED', outcomeClass: 'again' } });
  expect(one?.events.map(({ type }) => type)).toEqual(['opened']);
  const again = await service.stream(1);
  again.opened(0n, { roomId: 'two' });
  await vi.waitFor(() => expect(two?.events.at(-1)?.type).toBe('opened'));
});

test.each([false, true])(
  'a late TAKEN_OVER of an earlier subscription does not end its successor: %s',
  async (acked) => {
    // Goal: U15, U20. Method: the room is closed and opened again in one session; then the first acknowledgement is refused, before
    // or after the successor has sent the same one.
    const service = await fake('web');
    const options = { subscriber: 's', ackIntervalMs: 10, ackTimeoutMs: 100 };
    const { ended } = service
      .client()
      .room('r')
      .subscribe(options, () => {});
    const end = ended.then(
      () => 'closed',
      (error) => error,
    );
    const stream = await service.stream(0);
    stream.opened(0n);
    stream.messages(1n, 1n);
    await vi.waitFor(() => expect(stream.of('ack')).toHaveLength(1));
    stream.send(closed(Code.Unavailable, 'NATS_UNAVAILABLE', { retryMs: 1 }));
    await vi.waitFor(() => expect(stream.of('open')).toHaveLength(2));
    const error = status(Code.Aborted, 'TAKEN_OVER');
    const refuse = () => stream.send({ case: 'rejected', value: { command: ConsumeCommand.ACK, sequence: 1n, error } });
    if (!acked) refuse();
    stream.opened(0n, { generation: 2n, resumed: true });
    await vi.waitFor(() => expect(stream.of('ack')).toHaveLength(2));
    if (acked) refuse();
    expect(await Promise.race([end, sleep(300)])).toBeUndefined();
    refuse();
    expect(await end).toMatchObject({ reason: 'TAKEN_OVER' });
  },
);
