// The adapter for the conformance suite: requests and answers as lines of JSON. UNIBUS_TRANSPORT=web uses the client of browsers.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { fromJson, toJson } from '@bufbuild/protobuf';
import { type Timestamp, TimestampSchema } from '@bufbuild/protobuf/wkt';
import {
  type Client,
  connect,
  durationFromMs,
  type HistoryOptions,
  type Message,
  type Published,
  type Publisher,
  Role,
  type RoleName,
  type RoomInfo,
  type StartAt,
  type Subscriber,
  type SubscriptionEvent,
  UnibusError,
} from '@unibus/client';
import { connect as connectWeb } from '@unibus/client/web';
import { importKey, open, seal } from '../examples/encryption.js';

/** A request. The fields are those of its op. */
// biome-ignore lint/suspicious/noExplicitAny: the suite sends what its ops need
type Fields = Record<string, any>;
interface Running {
  close(): Promise<void>;
  cancel(): void;
}

const WEB = process.env.UNIBUS_TRANSPORT === 'web';
const publishers = new Map<string, Publisher>();
const subscriptions = new Map<string, Running>();
let client: Client | undefined;

const print = (line: object) => process.stdout.write(`${JSON.stringify(line, bigints)}\n`);
const bigints = (_: string, value: unknown) => (typeof value === 'bigint' ? `${value}` : value);
const bytes = (base64: string) => Uint8Array.from(Buffer.from(base64 ?? '', 'base64'));
const base64 = (payload: Uint8Array) => Buffer.from(payload).toString('base64');
const time = (text: string): Timestamp => fromJson(TimestampSchema, text);
const text = (at: Timestamp | undefined) => (at ? toJson(TimestampSchema, at) : '');
const sleep = (ms: number) => new Promise((done) => setTimeout(done, ms));
const given = <T, U>(value: T | undefined | null, to: (value: T) => U): U | undefined =>
  value === undefined || value === null ? undefined : to(value);

class HandlerFailed extends Error {}

function errorOf(thrown: unknown) {
  const plain = {
    reason: '',
    class: 'final',
    outcome_unknown: false,
    cancelled: false,
    metadata: {},
    fields: [],
  };
  const message = thrown instanceof Error ? thrown.message : `${thrown}`;
  if (thrown instanceof UnibusError) {
    const { code, reason, outcomeClass, outcomeUnknown, metadata, fields } = thrown;
    return {
      ...plain,
      code,
      reason,
      class: outcomeClass,
      outcome_unknown: outcomeUnknown,
      message,
      metadata,
      fields,
    };
  }
  const cancelled = thrown instanceof Error && thrown.name === 'AbortError';
  if (cancelled) return { ...plain, code: 'CANCELLED', cancelled, message };
  return { ...plain, code: thrown instanceof HandlerFailed ? 'HANDLER' : 'ADAPTER', message };
}

const connected = (): Client => {
  if (client === undefined) throw new Error('not connected');
  return client;
};
const room = ({ room }: Fields) => connected().room(room);
const publisher = ({ publisher }: Fields): Publisher => {
  const found = publishers.get(publisher);
  if (found === undefined) throw new Error(`no publisher ${publisher}`);
  return found;
};
const running = ({ sub }: Fields): Running => {
  const found = subscriptions.get(sub);
  if (found === undefined) throw new Error(`no subscription ${sub}`);
  return found;
};

const published = ({ sequence, duplicate, messageId }: Published) => ({
  sequence,
  duplicate,
  message_id: messageId,
});

const roomOf = ({ roomId, persist, dedupeWindow, state }: RoomInfo) => ({
  room: roomId,
  persist,
  dedupe_window_ms: dedupeWindow ? Number(dedupeWindow.seconds) * 1000 + dedupeWindow.nanos / 1e6 : 0,
  first_sequence: state?.firstSequence ?? 0n,
  last_sequence: state?.lastSequence ?? 0n,
  messages: state?.messages ?? 0n,
});

function startOf(start: Fields | undefined): StartAt | undefined {
  if (!start) return undefined;
  if (start.all) return 'all';
  if (start.new) return 'new';
  if (start.after_sequence !== undefined) return { afterSequence: BigInt(start.after_sequence) };
  if (start.after_cursor !== undefined) return { afterCursor: start.after_cursor };
  if (start.since !== undefined) return { since: time(start.since) };
  return { last: BigInt(start.last) };
}

const subscriberOf = ({ subscriber, position, lag, open }: Subscriber) => ({
  subscriber,
  position,
  lag,
  open,
});

const messageOf = (message: Message) => ({
  sequence: message.sequence,
  payload: base64(message.payload),
  headers: message.headers,
  message_id: message.messageId,
  sender: message.sender,
  cursor: message.cursor,
  published_at: text(message.publishedAt),
});

function eventOf(event: SubscriptionEvent) {
  if (event.type !== 'disconnected') return event;
  return { type: event.type, error: errorOf(event.error), pause_ms: event.pauseMs };
}

function subscribe(fields: Fields) {
  const {
    sub,
    subscriber,
    concurrency,
    handler_ms = 0,
    fail_at,
    iterator,
    until_caught_up,
    prefetch,
  } = fields;
  const cancel = new AbortController();
  const options = {
    subscriber,
    start: startOf(fields.start),
    untilCaughtUp: until_caught_up,
    concurrency,
    prefetchMessages: prefetch,
    signal: cancel.signal,
    onEvent: (event: SubscriptionEvent) => print({ sub, event: eventOf(event) }),
  };
  const handle = async (message: Message) => {
    print({ sub, message: messageOf(message) });
    if (handler_ms > 0) await sleep(handler_ms);
    if (`${message.sequence}` === fail_at) throw new HandlerFailed(`the handler failed at ${fail_at}`);
    print({ sub, done: message.sequence });
  };
  let close: () => Promise<unknown>;
  let ended: Promise<void>;
  if (iterator) {
    const messages = room(fields).messages(options);
    close = () => messages.close();
    ended = (async () => {
      for await (const message of messages) await handle(message);
    })();
  } else {
    const subscription = room(fields).subscribe(options, handle);
    close = () => subscription.close();
    ended = subscription.ended;
  }
  const over = ended.then(
    () => print({ sub, ended: {} }),
    (error) => print({ sub, ended: { error: errorOf(error) } }),
  );
  const orderly = async () => {
    await close().catch(() => {});
    await over;
  };
  subscriptions.set(sub, { close: orderly, cancel: () => cancel.abort() });
  return {};
}

async function readHistory(fields: Fields) {
  const { direction, page_size: pageSize, max = Number.POSITIVE_INFINITY } = fields;
  const places = {
    direction,
    pageSize,
    afterSequence: given(fields.after_sequence, BigInt),
    beforeSequence: given(fields.before_sequence, BigInt),
    startTime: given(fields.start_time, time),
    endTime: given(fields.end_time, time),
  };
  const options = Object.fromEntries(Object.entries(places).filter(([, value]) => value !== undefined));
  const hash = createHash('sha256');
  let count = 0;
  let [first, last, ordered] = [0n, 0n, true];
  for await (const { sequence, payload } of room(fields).history(options as HistoryOptions)) {
    if (count > 0 && !(direction === 'backwards' ? sequence < last : sequence > last)) ordered = false;
    if (count === 0) first = sequence;
    last = sequence;
    count += 1;
    hash.update(`${sequence}\n`).update(payload);
    if (count >= max) break;
  }
  return { count, first, last, ordered, digest: hash.digest('hex') };
}

function connectTo(fields: Fields) {
  const { address, token_file, attempt_ms: attemptTimeoutMs, total_ms: totalTimeoutMs } = fields;
  const options = {
    token: token_file ? () => readFileSync(token_file, 'utf8') : fields.token,
    allowPlaintextToken: fields.plaintext_token,
    attemptTimeoutMs,
    totalTimeoutMs,
    publishTimeoutMs: totalTimeoutMs,
  };
  const file = (path: string | undefined) => given(path, (path) => readFileSync(path));
  client = WEB
    ? connectWeb(address, options)
    : connect(address, { ...options, ca: file(fields.ca), cert: file(fields.cert), key: file(fields.key) });
  return {};
}

async function all<T, U>(items: AsyncIterable<T>, to: (item: T) => U): Promise<U[]> {
  const found: U[] = [];
  for await (const item of items) found.push(to(item));
  return found;
}

const ops: Record<string, (fields: Fields) => unknown> = {
  hello: () => ({
    language: WEB ? 'typescript-web' : 'typescript',
    runtime: `Node ${process.version}`,
    library: WEB ? 'connect-web 2.3.0' : 'connect-node 2.3.0',
  }),
  connect: connectTo,
  create_room: async ({ room: id, persist, dedupe_window_ms, max_messages, max_age_ms }) => {
    const dedupeWindow = given(dedupe_window_ms, durationFromMs);
    const maxAge = given(max_age_ms, durationFromMs);
    const maxMessages = given(max_messages, BigInt) ?? 0n;
    const bounds = maxAge || maxMessages ? { retention: { maxMessages, ...(maxAge && { maxAge }) } } : {};
    return roomOf(
      await connected().createRoom({ id, persist, ...bounds, ...(dedupeWindow && { dedupeWindow }) }),
    );
  },
  get_room: async (fields) => roomOf(await room(fields).get()),
  delete_room: (fields) => room(fields).delete(),
  purge_room: (fields) =>
    room(fields).purge(fields.up_to === undefined ? {} : { upToSequence: BigInt(fields.up_to) }),
  delete_message: (fields) => room(fields).deleteMessage(BigInt(fields.sequence)),
  publish: async (fields) => {
    const { payload, headers, message_id: messageId, timeout_ms: timeoutMs } = fields;
    const expectedLastSequence = given(fields.expected_last_sequence, BigInt);
    const options = {
      headers,
      messageId,
      timeoutMs,
      ...(expectedLastSequence !== undefined && { expectedLastSequence }),
    };
    return published(await room(fields).publish(bytes(payload), options));
  },
  publisher_open: (fields) => {
    publishers.set(fields.publisher, room(fields).publisher({ windowMessages: fields.window }));
    return {};
  },
  publisher_send: async (fields) =>
    published(await publisher(fields).publish(bytes(fields.payload), { messageId: fields.message_id })),
  publisher_flush: (fields) => publisher(fields).flush(),
  publisher_close: (fields) => publisher(fields).close(),
  subscribe,
  unsubscribe: (fields) => running(fields).close(),
  cancel: (fields) => running(fields).cancel(),
  history: readHistory,
  add_member: (fields) => room(fields).addMember(fields.member, fields.role as RoleName),
  remove_member: (fields) => room(fields).removeMember(fields.member),
  list_members: async (fields) => ({
    members: await all(room(fields).members(), ({ memberId, role }) => ({
      member: memberId,
      role: (Role[role] ?? '').toLowerCase(),
    })),
  }),
  seek: async (fields) => ({
    position: await room(fields).seekSubscriber(fields.subscriber, startOf(fields.start) ?? 'all'),
  }),
  list_subscribers: async (fields) => ({ subscribers: await all(room(fields).subscribers(), subscriberOf) }),
  seal: async ({ key, room, sender, payload }) => ({
    sealed: base64(await seal(await importKey(bytes(key)), room, sender, bytes(payload))),
  }),
  open: async ({ key, room, sender, sealed }) => ({
    payload: base64(await open(await importKey(bytes(key)), room, sender, bytes(sealed))),
  }),
  close: () => client?.close(),
};

async function serve(line: string): Promise<void> {
  const { id, op, ...fields } = JSON.parse(line);
  try {
    const perform = ops[op];
    if (perform === undefined) throw new Error(`no op ${op}`);
    print({ id, ok: (await perform(fields)) ?? {} });
  } catch (thrown) {
    print({ id, error: errorOf(thrown) });
  }
}

createInterface({ input: process.stdin })
  .on('line', (line) => void serve(line))
  .on('close', async () => {
    await client?.close();
    process.exit(0);
  });
