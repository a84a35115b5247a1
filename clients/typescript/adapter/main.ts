// The adapter for the conformance suite: requests and answers as lines of JSON. UNIBUS_TRANSPORT=web uses the client of browsers.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { fromJson, toJson } from '@bufbuild/protobuf';
import { durationMs, TimestampSchema } from '@bufbuild/protobuf/wkt';
import * as unibus from '@unibus/client';
import * as web from '@unibus/client/web';
import { importKey, open, seal } from '../examples/encryption.js';

/** A request. The fields are those of its op. */
// biome-ignore lint/suspicious/noExplicitAny: the suite sends what its ops need
type Fields = Record<string, any>;

const WEB = process.env.UNIBUS_TRANSPORT === 'web';
const publishers = new Map<string, unibus.Publisher>();
const subscriptions = new Map<string, { close(): Promise<void>; cancel(): void }>();
let client: unibus.Client | undefined;

const print = (line: object) => process.stdout.write(`${JSON.stringify(line, bigints)}\n`);
const bigints = (_: string, value: unknown) => (typeof value === 'bigint' ? `${value}` : value);
const bytes = (base64: string) => Uint8Array.from(Buffer.from(base64, 'base64'));
const base64 = (payload: Uint8Array) => Buffer.from(payload).toString('base64');
const time = (text: string) => fromJson(TimestampSchema, text);
/** Without the fields that are undefined. */
const given = (fields: Fields) => Object.fromEntries(Object.entries(fields).filter(([, value]) => value != null));
const to = <T, U>(value: T | undefined | null, convert: (value: T) => U) =>
  value == null ? undefined : convert(value);

class HandlerFailed extends Error {}

function errorOf(thrown: unknown): Fields {
  const message = thrown instanceof Error ? thrown.message : `${thrown}`;
  const plain = {
    reason: '',
    class: 'final',
    outcome_unknown: false,
    cancelled: false,
    metadata: {},
    fields: [],
    message,
  };
  if (thrown instanceof unibus.UnibusError) {
    const { code, reason, outcomeClass, outcomeUnknown, metadata, fields } = thrown;
    return { ...plain, code, reason, class: outcomeClass, outcome_unknown: outcomeUnknown, metadata, fields };
  }
  if (thrown instanceof Error && thrown.name === 'AbortError') return { ...plain, code: 'CANCELLED', cancelled: true };
  return { ...plain, code: thrown instanceof HandlerFailed ? 'HANDLER' : 'ADAPTER' };
}

function connected(): unibus.Client {
  if (client === undefined) throw new Error('not connected');
  return client;
}
const room = (fields: Fields) => connected().room(fields.room);
function named<T>(map: Map<string, T>, name: string): T {
  const found = map.get(name);
  if (found === undefined) throw new Error(`there is no ${name}`);
  return found;
}

function connect({ address, token, token_file, attempt_ms, total_ms, ...fields }: Fields) {
  const options = {
    token: token_file ? () => readFileSync(token_file, 'utf8') : token,
    allowPlaintextToken: fields.plaintext_token,
    attemptTimeoutMs: attempt_ms,
    totalTimeoutMs: total_ms,
    publishTimeoutMs: total_ms,
  };
  const [ca, cert, key] = [fields.ca, fields.cert, fields.key].map((path) => to(path, (path) => readFileSync(path)));
  client = WEB ? web.connect(address, options) : unibus.connect(address, { ...options, ca, cert, key });
}

const published = ({ sequence, duplicate, messageId }: unibus.Published) => ({
  sequence,
  duplicate,
  message_id: messageId,
});

const roomOf = ({ roomId, persist, dedupeWindow, state }: unibus.RoomInfo) => ({
  room: roomId,
  persist,
  dedupe_window_ms: dedupeWindow ? durationMs(dedupeWindow) : 0,
  first_sequence: state?.firstSequence ?? 0n,
  last_sequence: state?.lastSequence ?? 0n,
  messages: state?.messages ?? 0n,
});

function startOf(start: Fields | undefined): unibus.StartAt | undefined {
  if (!start) return undefined;
  if (start.all) return 'all';
  if (start.new) return 'new';
  if (start.after_sequence !== undefined) return { afterSequence: BigInt(start.after_sequence) };
  if (start.after_cursor !== undefined) return { afterCursor: start.after_cursor };
  return start.since === undefined ? { last: BigInt(start.last) } : { since: time(start.since) };
}

const messageOf = ({ sequence, payload, headers, messageId, sender, cursor, publishedAt }: unibus.Message) => {
  const published_at = publishedAt && toJson(TimestampSchema, publishedAt);
  return { sequence, payload: base64(payload), headers, message_id: messageId, sender, cursor, published_at };
};

function eventOf(event: unibus.SubscriptionEvent): Fields {
  if (event.type !== 'disconnected') return event;
  return { type: event.type, error: errorOf(event.error), pause_ms: event.pauseMs };
}

function subscribe(fields: Fields): void {
  const { sub, subscriber, concurrency, handler_ms = 0, fail_at, until_caught_up, prefetch } = fields;
  const abort = new AbortController();
  const options = {
    subscriber,
    start: startOf(fields.start),
    untilCaughtUp: until_caught_up,
    concurrency,
    prefetchMessages: prefetch,
    signal: abort.signal,
    onEvent: (event: unibus.SubscriptionEvent) => print({ sub, event: eventOf(event) }),
  };
  const handle = async (message: unibus.Message) => {
    print({ sub, message: messageOf(message) });
    if (handler_ms > 0) await sleep(handler_ms);
    if (`${message.sequence}` === fail_at) throw new HandlerFailed(`the handler failed at ${fail_at}`);
    print({ sub, done: message.sequence });
  };
  const follow = async (messages: unibus.Messages) => {
    for await (const message of messages) await handle(message);
  };
  const opened = fields.iterator ? room(fields).messages(options) : room(fields).subscribe(options, handle);
  const ended = ('ended' in opened ? opened.ended : follow(opened)).then(
    () => print({ sub, ended: {} }),
    (error) => print({ sub, ended: { error: errorOf(error) } }),
  );
  const close = async () => {
    await opened.close().catch(() => {});
    await ended;
  };
  subscriptions.set(sub, { close, cancel: () => abort.abort() });
}

async function history({ direction, page_size, max = Number.POSITIVE_INFINITY, ...fields }: Fields) {
  const options: unibus.HistoryOptions = given({
    direction,
    pageSize: page_size,
    afterSequence: to(fields.after_sequence, BigInt),
    beforeSequence: to(fields.before_sequence, BigInt),
    startTime: to(fields.start_time, time),
    endTime: to(fields.end_time, time),
  });
  const hash = createHash('sha256');
  let [count, first, last, ordered] = [0, 0n, 0n, true];
  for await (const { sequence, payload } of room(fields).history(options)) {
    ordered &&= count === 0 || (direction === 'backwards' ? sequence < last : sequence > last);
    if (count === 0) first = sequence;
    last = sequence;
    hash.update(`${sequence}\n`).update(payload);
    if (++count >= max) break;
  }
  return { count, first, last, ordered, digest: hash.digest('hex') };
}

async function all<T, U>(items: AsyncIterable<T>, convert: (item: T) => U): Promise<U[]> {
  const found: U[] = [];
  for await (const item of items) found.push(convert(item));
  return found;
}

const HELLO = WEB ? ['typescript-web', 'connect-web 2.3.0'] : ['typescript', 'connect-node 2.3.0'];

const ops: Record<string, (fields: Fields) => unknown> = {
  hello: () => ({ language: HELLO[0], runtime: `Node ${process.version}`, library: HELLO[1] }),
  connect,
  create_room: async ({ room: id, persist, dedupe_window_ms, max_messages, max_age_ms }) => {
    const dedupeWindow = to(dedupe_window_ms, unibus.durationFromMs);
    const bounds = given({
      maxMessages: to(max_messages, BigInt),
      maxAge: to(max_age_ms, unibus.durationFromMs),
    });
    const retention = Object.keys(bounds).length > 0 ? bounds : undefined;
    return roomOf(await connected().createRoom({ id, persist, ...given({ dedupeWindow, retention }) }));
  },
  get_room: async (fields) => roomOf(await room(fields).get()),
  delete_room: (fields) => room(fields).delete(),
  purge_room: (fields) => room(fields).purge(given({ upToSequence: to(fields.up_to, BigInt) })),
  delete_message: (fields) => room(fields).deleteMessage(BigInt(fields.sequence)),
  publish: async ({ payload, headers, message_id: messageId, timeout_ms: timeoutMs, ...fields }) => {
    const expectedLastSequence = to(fields.expected_last_sequence, BigInt);
    const options = given({ headers, messageId, timeoutMs, expectedLastSequence });
    return published(await room(fields).publish(bytes(payload), options));
  },
  publisher_open: (fields) =>
    void publishers.set(fields.publisher, room(fields).publisher({ windowMessages: fields.window })),
  publisher_send: async ({ publisher, payload, message_id: messageId }) =>
    published(await named(publishers, publisher).publish(bytes(payload), given({ messageId }))),
  publisher_flush: ({ publisher }) => named(publishers, publisher).flush(),
  publisher_close: ({ publisher }) => named(publishers, publisher).close(),
  subscribe,
  unsubscribe: ({ sub }) => named(subscriptions, sub).close(),
  cancel: ({ sub }) => named(subscriptions, sub).cancel(),
  history,
  add_member: (fields) => room(fields).addMember(fields.member, fields.role),
  remove_member: (fields) => room(fields).removeMember(fields.member),
  list_members: async (fields) => {
    const roles = ['', 'reader', 'writer', 'owner'];
    return {
      members: await all(room(fields).members(), ({ memberId, role }) => ({
        member: memberId,
        role: roles[role],
      })),
    };
  },
  seek: async (fields) => ({
    position: await room(fields).seekSubscriber(fields.subscriber, startOf(fields.start) ?? 'all'),
  }),
  list_subscribers: async (fields) => {
    const subscribers = await all(room(fields).subscribers(), ({ subscriber, position, lag, open }) => ({
      subscriber,
      position,
      lag,
      open,
    }));
    return { subscribers };
  },
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

const requests = createInterface({ input: process.stdin });
requests.on('line', (line) => void serve(line));
requests.on('close', async () => {
  await client?.close();
  process.exit(0);
});
