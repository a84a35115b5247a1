import { type Client, createClient, type Interceptor } from '@connectrpc/connect';
import { createGrpcWebTransport } from '@connectrpc/connect-web';
import { signal } from '@preact/signals';
import { type Failure, failure, isAborted } from './errors';
import { RoomService } from './gen/unibus/v1/room_service_pb';
import { refused, token } from './session';

export type Rooms = Client<typeof RoomService>;

/** How long a call may take, but for subscriptions. */
const CALL_TIMEOUT = 10_000;

interface Settings {
  /** The origin of the gRPC port. */
  service: string;
  version: string;
}

export const settings = signal<Settings | undefined>(undefined);

/** Whether the last call had an answer. */
export const reachable = signal<'unknown' | 'yes' | 'no'>('unknown');

/** Rises when calls that failed should be made again: after a change of the token, and when the service is back. */
export const restarts = signal(0);

/** Whether a call ever had an answer. */
export const wasReached = signal(false);

let client: Rooms | undefined;

/** The client of the service. Waits for the settings of the console. */
async function rooms(): Promise<Rooms> {
  if (client) return client;
  const answer = await fetch('settings.json', { cache: 'no-store' });
  if (!answer.ok) throw new Error(`settings.json: ${answer.status}`);
  settings.value = (await answer.json()) as Settings;
  const transport = createGrpcWebTransport({
    baseUrl: settings.value.service,
    useBinaryFormat: true,
    interceptors: [authorize],
    // the token is the only credential that the console sends
    fetch: (input, init) => fetch(input, { ...init, credentials: 'omit', cache: 'no-store' }),
  });
  client = createClient(RoomService, transport);
  return client;
}

const authorize: Interceptor = (next) => (request) => {
  if (token.value) request.header.set('authorization', `Bearer ${token.value}`);
  return next(request);
};

/** Notes what an answer, or its absence, says about the service and the token. */
export function note(outcome: Failure | undefined): void {
  const isAnswer = outcome === undefined || outcome.reason !== '';
  if (!isAnswer && outcome.code === 'DEADLINE_EXCEEDED') return;
  const was = reachable.value;
  reachable.value = isAnswer ? 'yes' : 'no';
  if (isAnswer) wasReached.value = true;
  if (was === 'no' && isAnswer) restarts.value += 1;
  if (outcome?.code === 'UNAUTHENTICATED') {
    refused.value =
      outcome.reason === 'CREDENTIALS_EXPIRED' ? 'expired' : token.value ? 'invalid' : 'missing';
  } else if (isAnswer) {
    refused.value = undefined;
  }
}

export type Outcome<T> = { ok: true; value: T } | { ok: false; failure: Failure };

/** Makes a call. Never throws; an aborted call never completes. */
export async function call<T>(
  make: (rooms: Rooms, options: { timeoutMs: number; signal?: AbortSignal }) => Promise<T>,
  signal?: AbortSignal,
): Promise<Outcome<T>> {
  try {
    const value = await make(await rooms(), { timeoutMs: CALL_TIMEOUT, ...(signal && { signal }) });
    note(undefined);
    return { ok: true, value };
  } catch (thrown) {
    if (signal?.aborted || isAborted(thrown)) return new Promise(() => {});
    const found = failure(thrown);
    note(found);
    return { ok: false, failure: found };
  }
}

/** The client itself, for subscriptions. */
export { rooms as connected };
