// The stored messages of a room, page by page (U28).

import type { MessageInitShape } from '@bufbuild/protobuf';
import type { Timestamp } from '@bufbuild/protobuf/wkt';
import type { Caller, CallOptions } from './caller.js';
import type { Message } from './gen/unibus/v1/message_pb.js';
import type { HistoryRequestSchema, HistoryResponse } from './gen/unibus/v1/room_service_pb.js';
import { uint64 } from './numbers.js';
import { timeOf } from './subscription.js';

/** Which messages to read. Without a place: from the oldest forwards, from the newest backwards. */
export interface HistoryOptions extends CallOptions {
  /** `forwards`, the default, yields the oldest first, `backwards` the newest. */
  direction?: 'forwards' | 'backwards';
  /** Forwards from the message after this sequence. */
  afterSequence?: bigint;
  /** Forwards from the message after the one with this cursor. */
  afterCursor?: string;
  /** Backwards from the message before this sequence. */
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
  const { direction = 'forwards', pageSize = 200 } = options;
  const start = options.startTime && timeOf(options.startTime);
  const end = options.endTime && timeOf(options.endTime);
  const page = async (anchor: Anchor, limit = pageSize) =>
    (await caller.call(
      (stub, attempt) => stub.history({ roomId, limit, anchor }, attempt),
      options,
    )) as HistoryResponse;
  const forwards = direction === 'forwards';
  let anchor = forwards ? firstForwards(options, start) : firstBackwards(options);
  if (!forwards && anchor.case === undefined && end) {
    // the place of a time is before the first message at or after it
    const probe = await page({ case: 'timeRange', value: { start: end } }, 1);
    const [at] = probe.messages;
    if (at) anchor = { case: 'beforeSequence', value: at.sequence };
  }
  for (;;) {
    const { messages, hasNewer, hasOlder, newerCursor, olderCursor } = await page(anchor);
    for (const message of forwards ? messages : messages.reverse()) {
      const { publishedAt } = message;
      const early = start && publishedAt && before(publishedAt, start);
      const late = end && publishedAt && !before(publishedAt, end);
      if (forwards ? late : early) return;
      if (!early && !late) yield message;
    }
    if (!(forwards ? hasNewer : hasOlder)) return;
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
