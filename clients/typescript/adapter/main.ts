// The adapter for the conformance suite: requests and answers as lines of JSON. UNIBUS_TRANSPORT=web uses the client of browsers.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { setTimeout as sleep } from 'node:timers/promises';
import { durationMs } from '@bufbuild/protobuf/wkt';
import * as unibus from '@unibus/client';
import * as web from '@unibus/client/web';
import { importKey, open, seal } from '../examples/encryption.js';
import { decode, encode, type Fields, HandlerFailed } from './json.js';

const WEB = process.env.UNIBUS_TRANSPORT === 'web';
const publishers = new Map<string, unibus.Publisher>();
const subscriptions = new Map<string, { close(): Promise<void>; cancel(): void }>();
let client: unibus.Client | undefined;

const print = (line: object) => process.stdout.write(`${JSON.stringify(encode(line))}\n`);

function named<T>(things: Map<string, T>, name: string): T {
  const found = things.get(name);
  if (found === undefined) throw new Error(`there is no ${name}`);
  return found;
}

function connected(): unibus.Client {
  if (client === undefined) throw new Error('not connected');
  return client;
}
const room = (id: string) => connected().room(id);

function connect({ address, token, tokenFile, plaintextToken, attemptMs, totalMs, ca, cert, clientKey }: Fields) {
  const options = {
    token: tokenFile ? () => readFileSync(tokenFile, 'utf8') : token,
    allowPlaintextToken: plaintextToken,
    attemptTimeoutMs: attemptMs,
    totalTimeoutMs: totalMs,
    publishTimeoutMs: totalMs,
  };
  const file = (path: string | undefined) => (path ? readFileSync(path) : undefined);
  const tls = { ca: file(ca), cert: file(cert), key: file(clientKey) };
  client = WEB ? web.connect(address, options) : unibus.connect(address, { ...options, ...tls });
}

const roomOf = ({ roomId, persist, dedupeWindow, state }: unibus.RoomInfo) => ({
  room: roomId,
  persist,
  dedupeWindowMs: dedupeWindow ? durationMs(dedupeWindow) : 0,
  firstSequence: state?.firstSequence ?? 0n,
  lastSequence: state?.lastSequence ?? 0n,
  messages: state?.messages ?? 0n,
});

function subscribe({ sub, room: id, handlerMs, failAt, iterator, prefetch, ...rest }: Fields): void {
  const abort = new AbortController();
  const onEvent = (event: unibus.SubscriptionEvent) => print({ sub, event });
  const options = { ...rest, prefetchMessages: prefetch, signal: abort.signal, onEvent };
  const handle = async (message: unibus.Message) => {
    print({ sub, message });
    if (handlerMs) await sleep(handlerMs);
    if (`${message.sequence}` === failAt) throw new HandlerFailed(`the handler failed at ${failAt}`);
    print({ sub, done: message.sequence });
  };
  const follow = async (messages: unibus.Messages) => {
    for await (const message of messages) await handle(message);
  };
  const opened = iterator ? room(id).messages(options) : room(id).subscribe(options, handle);
  const ended = ('ended' in opened ? opened.ended : follow(opened)).then(
    () => print({ sub, ended: {} }),
    (error) => print({ sub, ended: { error } }),
  );
  const close = async () => {
    await opened.close().catch(() => {});
    await ended;
  };
  subscriptions.set(sub, { close, cancel: () => abort.abort() });
}

async function history({ room: id, max = Number.POSITIVE_INFINITY, ...options }: Fields) {
  const hash = createHash('sha256');
  let [count, first, last, ordered] = [0, 0n, 0n, true];
  for await (const { sequence, payload } of room(id).history(options)) {
    ordered &&= count === 0 || (options.direction === 'backwards' ? sequence < last : sequence > last);
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

const [LANGUAGE, LIBRARY] = WEB ? ['typescript-web', 'connect-web 2.3.0'] : ['typescript', 'connect-node 2.3.0'];
const ROLES = ['', 'reader', 'writer', 'owner'];

const ops: Record<string, (fields: Fields) => unknown> = {
  hello: () => ({ language: LANGUAGE, runtime: `Node ${process.version}`, library: LIBRARY }),
  connect,
  create_room: async ({ room: id, persist, dedupeWindowMs, maxMessages, maxAgeMs }) => {
    const retention = maxMessages || maxAgeMs ? decode({ maxMessages, maxAge: maxAgeMs }, {}) : undefined;
    const settings = decode({ dedupeWindow: dedupeWindowMs, retention }, {});
    return roomOf(await connected().createRoom({ id, persist, ...settings }));
  },
  get_room: async ({ room: id }) => roomOf(await room(id).get()),
  delete_room: ({ room: id }) => room(id).delete(),
  purge_room: ({ room: id, upTo }) => room(id).purge(decode({ upToSequence: upTo }, {})),
  delete_message: ({ room: id, sequence }) => room(id).deleteMessage(sequence),
  publish: ({ room: id, payload, ...options }) => room(id).publish(payload, options),
  publisher_open: ({ publisher, room: id, window }) => {
    publishers.set(publisher, room(id).publisher({ windowMessages: window }));
  },
  publisher_send: ({ publisher, payload, ...options }) => named(publishers, publisher).publish(payload, options),
  publisher_flush: ({ publisher }) => named(publishers, publisher).flush(),
  publisher_close: ({ publisher }) => named(publishers, publisher).close(),
  subscribe,
  unsubscribe: ({ sub }) => named(subscriptions, sub).close(),
  cancel: ({ sub }) => named(subscriptions, sub).cancel(),
  history,
  add_member: ({ room: id, member, role }) => room(id).addMember(member, role),
  remove_member: ({ room: id, member }) => room(id).removeMember(member),
  list_members: async ({ room: id }) => ({
    members: await all(room(id).members(), ({ memberId, role }) => ({ member: memberId, role: ROLES[role] })),
  }),
  seek: async ({ room: id, subscriber, start }) => ({ position: await room(id).seekSubscriber(subscriber, start) }),
  list_subscribers: async ({ room: id }) => ({ subscribers: await all(room(id).subscribers(), (each) => each) }),
  seal: async ({ key, room, sender, payload }) => ({ sealed: await seal(await importKey(key), room, sender, payload) }),
  open: async ({ key, room, sender, sealed }) => ({ payload: await open(await importKey(key), room, sender, sealed) }),
  close: () => client?.close(),
};

async function serve(line: string): Promise<void> {
  const { id, op, ...fields } = JSON.parse(line);
  try {
    const perform = ops[op];
    if (perform === undefined) throw new Error(`no op ${op}`);
    // the key of a connection is a path
    const { key: clientKey, ...rest } = fields;
    const ok = await perform(decode(op === 'connect' ? { ...rest, clientKey } : fields));
    print({ id, ok: ok ?? {} });
  } catch (error) {
    print({ id, error });
  }
}

const requests = createInterface({ input: process.stdin });
requests.on('line', (line) => void serve(line));
requests.on('close', async () => {
  await client?.close();
  process.exit(0);
});
