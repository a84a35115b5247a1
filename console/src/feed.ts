import type { MessageInitShape } from '@bufbuild/protobuf';
import type { Failure } from './errors';
import { count } from './format';
import type { Message } from './gen/unibus/v1/message_pb';
import type { SubscribeResponse } from './gen/unibus/v1/room_service_pb';
import { type Gap, GapReason, type StartSchema } from './gen/unibus/v1/subscription_pb';

/** Where a subscription starts. */
export type StartAt = NonNullable<MessageInitShape<typeof StartSchema>['at']>;

export type Item =
  | { kind: 'message'; key: number; message: Message; bytes: number }
  | { kind: 'note'; key: number; tone: 'plain' | 'warning'; text: string };

export type FeedStatus =
  | { kind: 'connecting' }
  | { kind: 'catching-up' }
  | { kind: 'live' }
  | { kind: 'waiting'; attempt: number; until: number; failure: Failure | undefined }
  | { kind: 'ended'; failure: Failure };

/** What to do after a subscription has ended: subscribe again after a delay, or not. */
export type Next = { kind: 'again'; delay: number } | { kind: 'stop' };

/** The newest messages that a feed begins with. */
export const BEGIN_WITH = 50n;
/** The messages and notes that a feed keeps. */
export const ITEMS_MAX = 500;
/** The payload bytes that a feed keeps, unless one message alone has more. */
export const BYTES_MAX = 16 * 1024 * 1024;

const FIRST_DELAY = 250;
const DELAY_MAX = 5000;

/** With these reasons another attempt would end in the same way. */
const FINAL = new Set([
  'ROOM_NOT_FOUND',
  'PERMISSION_DENIED',
  'UNAUTHENTICATED',
  'CREDENTIALS_EXPIRED',
  'INVALID_FIELD',
  'NOT_SUPPORTED',
]);
/** With these reasons the position of the feed has no meaning any more. */
const ANOTHER_LOG = new Set(['ROOM_RECREATED', 'CURSOR_EXPIRED', 'CURSOR_INVALID', 'POSITION_AFTER_END']);

const GAPS: Record<GapReason, string> = {
  [GapReason.UNSPECIFIED]: 'are missing',
  [GapReason.EXPIRED]: 'were removed by the retention of the room',
  [GapReason.PURGED]: 'were purged',
  [GapReason.DELETED]: 'were deleted',
  [GapReason.SLOW_READER]: 'were not sent, because this page reads too slowly',
  [GapReason.DISCONNECTED]: 'may be missing: the service lost its NATS connection',
};

/**
 * The messages of one room as they come, across subscriptions that end and begin again.
 *
 * It has no I/O and no clock: frames, endings and times are arguments.
 */
export class Feed {
  status: FeedStatus = { kind: 'connecting' };
  items: Item[] = [];
  /** The items that are no longer kept. */
  dropped = 0;
  /** Messages and payload bytes that came so far. */
  received = 0;
  receivedBytes = 0;
  /** A frame comes at least this often, in milliseconds. */
  heartbeat = 30_000;

  /** All messages up to this one came or will not come; nothing before the first frame. */
  #position: bigint | undefined;
  #cursor = '';
  #kept = 0;
  #key = 0;
  #attempt = 0;
  /** Whether an ephemeral room was without a subscription since its last frame. */
  #wasCut = false;
  readonly #isPersisted: boolean;

  constructor(isPersisted: boolean) {
    this.#isPersisted = isPersisted;
  }

  /** Where the next subscription starts. */
  start(): StartAt {
    if (!this.#isPersisted) return { case: 'new', value: {} };
    if (this.#cursor) return { case: 'afterCursor', value: this.#cursor };
    if (this.#position !== undefined) return { case: 'afterSequence', value: this.#position };
    return { case: 'last', value: BEGIN_WITH };
  }

  connecting(): void {
    this.status = { kind: 'connecting' };
  }

  frame({ frame }: SubscribeResponse): void {
    this.#attempt = 0;
    switch (frame.case) {
      case 'opened': {
        const interval = frame.value.heartbeatInterval;
        if (interval) this.heartbeat = Number(interval.seconds) * 1000 + interval.nanos / 1e6;
        if (this.#wasCut)
          this.#note(
            'warning',
            'Messages that were sent in the meantime are missing: the room is ephemeral.',
          );
        this.#wasCut = false;
        this.#position ??= frame.value.position;
        this.status = this.#isPersisted ? { kind: 'catching-up' } : { kind: 'live' };
        break;
      }
      case 'message':
        this.#message(frame.value);
        break;
      case 'caughtUp':
        this.#reach(frame.value.position);
        this.status = { kind: 'live' };
        break;
      case 'heartbeat':
        this.#reach(frame.value.position);
        break;
      case 'gap':
        this.#gap(frame.value);
        break;
    }
  }

  /** The subscription has ended. Without a failure the service ended it. `random` is at least 0 and less than 1. */
  ended(failure: Failure | undefined, now: number, random: number): Next {
    if (failure && ANOTHER_LOG.has(failure.reason)) {
      this.#position = undefined;
      this.#cursor = '';
      this.#note('warning', 'The log of the room was deleted and created again. Its newest messages follow.');
      this.status = { kind: 'connecting' };
      return { kind: 'again', delay: this.#delay(failure, random) };
    }
    if (failure && FINAL.has(failure.reason)) {
      this.status = { kind: 'ended', failure };
      return { kind: 'stop' };
    }
    this.#wasCut = !this.#isPersisted && this.#position !== undefined;
    const delay = this.#delay(failure, random);
    this.status = { kind: 'waiting', attempt: this.#attempt, until: now + delay, failure };
    return { kind: 'again', delay };
  }

  clear(): void {
    this.items = [];
    this.#kept = 0;
    this.dropped = 0;
  }

  #delay(failure: Failure | undefined, random: number): number {
    const delay = Math.min(DELAY_MAX, FIRST_DELAY * 2 ** this.#attempt);
    this.#attempt += 1;
    return Math.max(failure?.retryAfter ?? 0, delay * (0.5 + random / 2));
  }

  #message(message: Message): void {
    if (this.#isPersisted) {
      if (this.#position !== undefined && message.sequence <= this.#position) return;
      this.#position = message.sequence;
      this.#cursor = message.cursor;
    }
    this.received += 1;
    this.receivedBytes += message.payload.length;
    this.#add({ kind: 'message', key: this.#nextKey(), message, bytes: message.payload.length });
  }

  #gap({ fromSequence, toSequence, reason, dropped }: Gap): void {
    // a subscription that resumes may report a gap again
    if (this.#isPersisted && this.#position !== undefined && toSequence <= this.#position) return;
    const missing = this.#isPersisted ? toSequence - fromSequence + 1n : dropped;
    const range =
      fromSequence === toSequence ? count(fromSequence) : `${count(fromSequence)} to ${count(toSequence)}`;
    const what = this.#isPersisted
      ? `${missing === 1n ? 'Message' : 'Messages'} ${range}`
      : missing > 0n
        ? `${count(missing)} messages`
        : 'Messages';
    const text = `${what} ${GAPS[reason] ?? GAPS[GapReason.UNSPECIFIED]}.`;
    this.#note('warning', missing === 1n ? text.replace(' were ', ' was ').replace(' are ', ' is ') : text);
    this.#reach(toSequence);
  }

  #reach(position: bigint): void {
    if (!this.#isPersisted || (this.#position !== undefined && position <= this.#position)) return;
    this.#position = position;
    // the position lies after the message that the cursor names
    this.#cursor = '';
  }

  #note(tone: 'plain' | 'warning', text: string): void {
    this.#add({ kind: 'note', key: this.#nextKey(), tone, text });
  }

  #nextKey(): number {
    this.#key += 1;
    return this.#key;
  }

  #add(item: Item): void {
    this.items.push(item);
    this.#kept += item.kind === 'message' ? item.bytes : 0;
    let excess = 0;
    while (
      this.items.length - excess > ITEMS_MAX ||
      (this.#kept > BYTES_MAX && this.items.length - excess > 1)
    ) {
      const oldest = this.items[excess];
      if (oldest?.kind === 'message') this.#kept -= oldest.bytes;
      excess += 1;
    }
    if (excess > 0) {
      this.items.splice(0, excess);
      this.dropped += excess;
    }
  }
}
