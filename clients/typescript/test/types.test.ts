// What the package promises to a program in types, through its exports.

import {
  type Client,
  type ConnectOptions,
  connect,
  type Message,
  type Messages,
  type Published,
  type Subscription,
  type SubscriptionEvent,
  type Timestamp,
  type UnibusError,
} from '@unibus/client';
import { connect as connectNode } from '@unibus/client/node';
import { connect as connectWeb, type ConnectOptions as WebOptions } from '@unibus/client/web';
import { expectTypeOf, test } from 'vitest';

test('both entries make the same client, each with its own options', () => {
  expectTypeOf(connect).returns.toEqualTypeOf<Client>();
  expectTypeOf(connectWeb).returns.toEqualTypeOf<Client>();
  expectTypeOf(connectNode).toEqualTypeOf<typeof connect>();
  expectTypeOf<ConnectOptions>().toHaveProperty('ca');
  expectTypeOf<WebOptions>().not.toHaveProperty('ca');
  expectTypeOf<WebOptions>().toHaveProperty('protocol');
});

test('sequences are bigint and times have nanoseconds', () => {
  expectTypeOf<Message['sequence']>().toEqualTypeOf<bigint>();
  expectTypeOf<Published['sequence']>().toEqualTypeOf<bigint>();
  expectTypeOf<Message['publishedAt']>().toEqualTypeOf<Timestamp | undefined>();
  expectTypeOf<Timestamp['nanos']>().toEqualTypeOf<number>();
  expectTypeOf<Timestamp['seconds']>().toEqualTypeOf<bigint>();
});

test('events are told apart by their type', () => {
  const event = {} as SubscriptionEvent;
  if (event.type === 'gap') {
    expectTypeOf(event.from).toEqualTypeOf<bigint>();
    expectTypeOf(event.reason).toEqualTypeOf<
      'UNSPECIFIED' | 'EXPIRED' | 'PURGED' | 'DELETED' | 'SLOW_READER' | 'DISCONNECTED'
    >();
  }
  if (event.type === 'disconnected') expectTypeOf(event.error).toEqualTypeOf<UnibusError>();
});

test('a subscription is a handle or an iterator', async () => {
  const client = connect('http://127.0.0.1:1');
  const room = client.room('r');
  expectTypeOf(room.subscribe).returns.toEqualTypeOf<Subscription>();
  expectTypeOf(room.messages).returns.toEqualTypeOf<Messages>();
  expectTypeOf<Messages>().toExtend<AsyncIterable<Message>>();
  expectTypeOf<Subscription>().toExtend<AsyncDisposable>();
  expectTypeOf<Client>().toExtend<AsyncDisposable>();
  // @ts-expect-error a number is no sequence
  room.subscribe.bind(room, { start: { afterSequence: 5 } });
  // @ts-expect-error an iterator has one message at a time
  room.messages.bind(room, { concurrency: 2 });
  // @ts-expect-error there is no such role
  room.addMember.bind(room, 'bob', 'admin');
  await client.close();
});
