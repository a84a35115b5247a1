// The stored messages of a room, page by page (U28).

import type { MessageInitShape } from '@bufbuild/protobuf';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type { Caller, CallOptions } from './caller.js';
import { invalid } from './error.js';
import type { Message } from './gen/unibus/v1/message_pb.js';
import { type HistoryRequestSchema, RoomService } from './gen/unibus/v1/room_service_pb.js';
import { uint64 } from './numbers.js';
import { timeOf } from './subscription.js';

/** Which messages to read: all, within the bounds that are given. */
export interface HistoryOptions extends CallOptions {
  /** `forwards`, the default, yields the oldest first, `backwards` the newest. */
  direction?: 'forwards' | 'backwards';
  /** Only messages after this sequence. */
  afterSequence?: bigint;
  /** Forwards from the message after the one with this cursor. */
  afterCursor?: string;
  /** Only messages before this sequence. */
  beforeSequence?: bigint;
  /** Backwards from the message before the one with this cursor. */
  beforeCursor?: string;
  /** Only messages that were stored at this time or later. */
  startTime?: Timestamp | Date;
  /** Only messages that were stored before this time. */
  endTime?: Timestamp | Date;
  /** How many messages one call asks for: 200. */
  pageSize?: number;
}

type Anchor = NonNullable<MessageInitShape<typeof HistoryRequestSchema>['anchor']>;

/** Yields each message once, whatever is stored or purged between two pages. Ends at the end of the log (U28). */
export async function* history(caller: Caller, roomId: string, options: HistoryOptions): AsyncGenerator<Message, void> {
  const { direction = 'forwards', pageSize = 200, afterSequence, afterCursor, beforeSequence, beforeCursor } = options;
  const forwards = direction === 'forwards';
  if (forwards && beforeCursor !== undefined) throw invalid('beforeCursor', 'beforeCursor reads backwards');
  if (!forwards && afterCursor !== undefined) throw invalid('afterCursor', 'afterCursor reads forwards');
  const start = options.startTime && timeOf(options.startTime);
  const end = options.endTime && timeOf(options.endTime);
  const page = (anchor: Anchor, limit = pageSize) =>
    caller.call(RoomService.method.history, { roomId, limit, anchor }, options);
  const early = ({ sequence, publishedAt }: Message) =>
    (afterSequence !== undefined && sequence <= afterSequence) || (start && publishedAt && before(publishedAt, start));
  const late = ({ sequence, publishedAt }: Message) =>
    (beforeSequence !== undefined && sequence >= beforeSequence) || (end && publishedAt && !before(publishedAt, end));

  let anchor = forwards ? firstForwards(options, start) : firstBackwards(options);
  if (!forwards && anchor.case === undefined && end) {
    // the place of a time is before the first message at or after it
    const { messages } = await page({ case: 'timeRange', value: { start: end } }, 1);
    if (messages[0]) anchor = { case: 'beforeSequence', value: messages[0].sequence };
  }
  for (;;) {
    const { messages, hasNewer, hasOlder, newerCursor, olderCursor } = await page(anchor);
    for (const message of forwards ? messages : messages.reverse()) {
      if (forwards ? late(message) : early(message)) return;
      if (!early(message) && !late(message)) yield message;
    }
    if (!(forwards ? hasNewer : hasOlder)) return;
    // `messages` is in the order of reading now
    const last = messages.at(-1)?.sequence;
    if (last !== undefined && (forwards ? last + 1n === beforeSequence : last - 1n === afterSequence)) return;
    anchor = forwards ? { case: 'afterCursor', value: newerCursor } : { case: 'beforeCursor', value: olderCursor };
  }
}

function firstForwards({ afterSequence, afterCursor }: HistoryOptions, start: Timestamp | undefined): Anchor {
  if (afterCursor !== undefined) return { case: 'afterCursor', value: afterCursor };
  if (afterSequence !== undefined) return { case: 'afterSequence', value: uint64('afterSequence', afterSequence) };
  return start ? { case: 'timeRange', value: { start } } : { case: 'afterSequence', value: 0n };
}

function firstBackwards({ beforeSequence, beforeCursor }: HistoryOptions): Anchor {
  if (beforeCursor !== undefined) return { case: 'beforeCursor', value: beforeCursor };
  if (beforeSequence !== undefined) return { case: 'beforeSequence', value: uint64('beforeSequence', beforeSequence) };
  return { case: undefined };
}

const before = (one: Timestamp, other: Timestamp): boolean =>
  one.seconds < other.seconds || (one.seconds === other.seconds && one.nanos < other.nanos);
