// One message at a time: with an id of its own, so that an attempt can be repeated (U11, U12).

import { type Duration, durationFromMs, type Timestamp } from '@bufbuild/protobuf/wkt';
import type { Caller, CallOptions } from './caller.js';
import { invalid, UnibusError } from './error.js';
import type { Durability } from './gen/unibus/v1/message_pb.js';
import { type PublishResponse, RoomService } from './gen/unibus/v1/room_service_pb.js';
import { uint64 } from './numbers.js';
import type { RoomSettings } from './settings.js';

/** What a program says about a message beside its payload. */
export interface MessageOptions {
  headers?: Record<string, string>;
  /** The id under which the room stores the message once. Without one the client makes 128 random bits (U11). */
  messageId?: string;
  /** Stores the message only if this is the last sequence of the room. */
  expectedLastSequence?: bigint;
  /** The lifetime of the message, in whole seconds. The room must allow it. */
  ttlMs?: number;
}

/** A message that is stored, or in an ephemeral room sent. */
export interface Published {
  /** The sequence of the message, 0 in an ephemeral room. */
  sequence: bigint;
  /** The room had the message already, from an earlier attempt or an earlier message of the same id. */
  duplicate: boolean;
  /** The id of the message. Empty in an ephemeral room. */
  messageId: string;
  publishedAt: Timestamp | undefined;
  durability: Durability;
}

/** A message on its way. */
export interface Outgoing {
  roomId: string;
  payload: Uint8Array;
  headers: Record<string, string>;
  messageId: string;
  expectedLastSequence?: bigint;
  ttl?: Duration;
}

/** Copied, so that the program may use its buffer again. */
function bytes(payload: Uint8Array | string): Uint8Array {
  if (typeof payload === 'string') return new TextEncoder().encode(payload);
  if (payload instanceof Uint8Array) return new Uint8Array(payload);
  throw invalid('payload', 'a payload is a Uint8Array or a string');
}

/** A request without an id that the client made. */
export function requestOf(roomId: string, payload: Uint8Array | string, options: MessageOptions): Outgoing {
  const { headers = {}, messageId = '', expectedLastSequence, ttlMs } = options;
  if (!Object.values({ ...headers, messageId }).every((each) => typeof each === 'string'))
    throw invalid('headers', 'headers and messageId are strings');
  if (ttlMs !== undefined && !Number.isSafeInteger(ttlMs)) throw invalid('ttlMs', 'ttlMs is a whole number');
  const request: Outgoing = { roomId, payload: bytes(payload), headers: { ...headers }, messageId };
  if (expectedLastSequence !== undefined)
    request.expectedLastSequence = uint64('expectedLastSequence', expectedLastSequence);
  if (ttlMs !== undefined) request.ttl = durationFromMs(ttlMs);
  return request;
}

/** 128 random bits. */
export function randomId(): string {
  const bits = crypto.getRandomValues(new Uint8Array(16));
  return Array.from(bits, (byte) => byte.toString(16).padStart(2, '0')).join('');
}

export const publishedOf = (answer: PublishResponse, messageId: string): Published => {
  const { sequence, duplicate, publishedAt, durability } = answer;
  return { sequence, duplicate, messageId, publishedAt, durability };
};

/** Publishes one message, and repeats what may not have reached the room. */
export async function publish(
  caller: Caller,
  settings: RoomSettings,
  message: Outgoing,
  { signal, timeoutMs = Number.POSITIVE_INFINITY }: CallOptions,
): Promise<Published> {
  const { roomId } = message;
  const begun = performance.now();
  const options = () => ({ signal, timeoutMs: timeoutMs - (performance.now() - begun) });
  for (let stale = false; ; ) {
    const { persist, windowMs } = await settings.get(roomId, options());
    const messageId = message.messageId || (persist ? randomId() : '');
    const { attemptMs, totalMs, publishMs = Number.POSITIVE_INFINITY } = caller.limits;
    const policy = messageId
      ? {
          totalMs: Math.min(Math.max(windowMs, attemptMs), publishMs),
          lastBeginMs: windowMs - attemptMs,
          evenIfUnknown: true,
        }
      : { totalMs: Math.min(totalMs, publishMs), unlessUnknown: true };
    try {
      const send = { ...message, messageId };
      const answer = await caller.call(RoomService.method.publish, send, options(), policy);
      // a room without ids stored the message, so it was created again as another kind of room
      if (!messageId && answer.sequence) settings.forget(roomId);
      return publishedOf(answer, messageId);
    } catch (thrown) {
      if (!(thrown instanceof UnibusError)) throw thrown;
      const refusedId = settings.learn(roomId, thrown);
      if (!refusedId || message.messageId || stale || thrown.outcomeUnknown) throw thrown.with({ messageId });
      stale = true;
    }
  }
}
