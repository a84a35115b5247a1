// Speaks to the service as a page can by hand: JSON over fetch, streams of the Connect protocol, server-sent events.

export interface Opened {
  resumed?: boolean;
}

export interface Message {
  sequence: string;
  payload?: string;
}

/** A frame of a subscription, or of a session, in JSON. */
export interface Frame {
  opened?: Opened;
  message?: Message;
  caughtUp?: object;
  heartbeat?: object;
  gap?: object;
  session?: { id: string };
  consume?: Frame & {
    roomId: string;
    closed?: { code?: number; message?: string };
    rejected?: object;
    acked?: { position: string };
  };
}

/**
 * An error that the service answered. In the Connect protocol the reason is in a detail; for server-sent events it is a field, and the
 * code is in capitals.
 */
export interface Refusal {
  code: string;
  message?: string;
  reason?: string;
  details?: { debug?: { reason?: string } }[];
}

/** The reason, from the closed list in docs/errors.md. */
export function reasonOf({ reason, details = [] }: Partial<Refusal>): string | undefined {
  return reason ?? details.map(({ debug }) => debug?.reason).find((found) => found !== undefined);
}

export interface Answer {
  status: number;
  body: Record<string, unknown> & Partial<Refusal>;
  requestId: string | null;
}

export class Refused extends Error {
  constructor(refusal: Refusal) {
    super(`${refusal.code.toLowerCase()} ${reasonOf(refusal)}`);
  }
}

function headers(type: string | undefined, token: string | undefined): Record<string, string> {
  return { ...(type && { 'content-type': type }), ...(token && { authorization: `Bearer ${token}` }) };
}

/** Makes a unary call in JSON. */
export async function call(
  service: string,
  method: string,
  request: object,
  token?: string,
): Promise<Answer> {
  const answer = await fetch(`${service}/unibus.v1.RoomService/${method}`, {
    method: 'POST',
    headers: headers('application/json', token),
    body: JSON.stringify(request),
  });
  return { status: answer.status, body: await answer.json(), requestId: answer.headers.get('x-request-id') };
}

/** The chunks of a body. */
async function* chunks(body: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  const reader = body.getReader();
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    yield value;
  }
}

async function bodyOf(answer: Response): Promise<ReadableStream<Uint8Array>> {
  if (!answer.ok) {
    const body = await answer.json();
    throw new Refused(body.error ?? body);
  }
  if (answer.body === null) throw new Error('the answer has no body');
  return answer.body;
}

/** Calls a method whose answer is a stream. */
export async function* stream(
  service: string,
  method: string,
  request: object,
  signal: AbortSignal,
  token?: string,
): AsyncGenerator<Frame> {
  const json = new TextEncoder().encode(JSON.stringify(request));
  const body = new Uint8Array(5 + json.length);
  new DataView(body.buffer).setUint32(1, json.length);
  body.set(json, 5);
  const answer = await fetch(`${service}/unibus.v1.RoomService/${method}`, {
    method: 'POST',
    headers: headers('application/connect+json', token),
    body,
    signal,
  });
  let received = new Uint8Array();
  for await (const chunk of chunks(await bodyOf(answer))) {
    const joined = new Uint8Array(received.length + chunk.length);
    joined.set(received);
    joined.set(chunk, received.length);
    received = joined;
    while (received.length >= 5) {
      const end = 5 + new DataView(received.buffer, received.byteOffset).getUint32(1);
      if (received.length < end) break;
      const frame = JSON.parse(new TextDecoder().decode(received.subarray(5, end)));
      const isLast = ((received[0] ?? 0) & 2) !== 0;
      received = received.subarray(end);
      if (!isLast) {
        yield frame;
        continue;
      }
      if (frame.error) throw new Refused(frame.error);
      return;
    }
  }
  throw new Error('the stream broke off');
}

/** Reads server-sent events with fetch. Each has its frame and its id, which is that of the last message. */
export async function* events(
  url: string,
  signal: AbortSignal,
  lastEventId?: string,
  token?: string,
): AsyncGenerator<{ frame: Frame; id: string | undefined }> {
  const answer = await fetch(url, {
    headers: { ...headers(undefined, token), ...(lastEventId && { 'last-event-id': lastEventId }) },
    signal,
  });
  const decoder = new TextDecoder();
  let text = '';
  let id: string | undefined;
  for await (const chunk of chunks(await bodyOf(answer))) {
    text += decoder.decode(chunk, { stream: true });
    for (;;) {
      const end = text.indexOf('\n\n');
      if (end < 0) break;
      const lines = text.slice(0, end).split('\n');
      text = text.slice(end + 2);
      const field = (name: string) =>
        lines.find((line) => line.startsWith(`${name}: `))?.slice(name.length + 2);
      id = field('id') ?? id;
      const data = field('data');
      if (data === undefined) continue;
      const frame = JSON.parse(data);
      if (field('event') === 'error') throw new Refused(frame.error);
      yield { frame, id };
    }
  }
  throw new Error('the stream broke off');
}
