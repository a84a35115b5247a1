// Where a subscription stands: what comes next, what came already, what is processed. No I/O (U18, U19, U22, U26).

import type { MessageInitShape } from '@bufbuild/protobuf';
import type { UnibusError } from './error.js';
import type { Message } from './gen/unibus/v1/message_pb.js';
import type { Gap, Opened, StartSchema } from './gen/unibus/v1/subscription_pb.js';

export type StartInit = MessageInitShape<typeof StartSchema>;

/** The place of a message in the log. */
export type Place = Pick<Message, 'sequence' | 'cursor'>;

/** The messages whose handlers run, and the sequence up to which every handler has returned (U19). */
export class Watermark {
  /** How many messages are processed up to there. */
  count = 0;
  readonly #begun: { message: Place; done: boolean }[] = [];

  constructor(
    public value = 0n,
    /** The place of `value` in its log. */
    public cursor = '',
  ) {}

  /** A handler begins. Handlers begin in order. Returns what to call when the handler has returned. */
  begin(message: Place): () => void {
    const entry = { message, done: false };
    this.#begun.push(entry);
    return () => {
      entry.done = true;
      for (let first = this.#begun[0]; first?.done; first = this.#begun[0]) {
        this.value = first.message.sequence;
        this.cursor = first.message.cursor;
        this.count += 1;
        this.#begun.shift();
      }
    };
  }
}

/** The missing range of a gap that was not reported yet. */
export interface Missing {
  from: bigint;
  to: bigint;
}

export class Position {
  /** Up to here everything came or was reported as a gap. */
  seen = 0n;
  /** The service has confirmed this acknowledgement. */
  confirmed = 0n;
  /** The handlers since the position moved last. */
  processed = new Watermark();
  /** The number of the subscription. 0: it has none. */
  generation = 0n;
  #cursor = '';
  #opened = false;
  /** The last start was a cursor, which the service takes only for the log that it knows. */
  #sameLog = false;
  #start: StartInit;

  constructor(
    private readonly durable: boolean,
    start: StartInit,
  ) {
    this.#start = start;
  }

  /** Whether the room was open already, so that opening it again is a resumption. */
  get resuming(): boolean {
    return this.#opened;
  }

  /** Where to start. A durable subscriber that exists ignores it: it matters if the subscriber was deleted, or the log (U18, U22). */
  start(persisted: boolean): StartInit {
    this.#sameLog = false;
    if (!this.#opened || !persisted) return this.#start;
    const cursor = this.durable ? this.processed.cursor : this.#cursor;
    this.#sameLog = cursor !== '';
    if (cursor) return { at: { case: 'afterCursor', value: cursor } };
    // without a cursor, nothing shows that a subscriber that is new again has the log of before
    return this.durable ? this.#start : { at: { case: 'afterSequence', value: this.seen } };
  }

  /** The frame `opened`. Returns whether somebody moved the subscriber (U22). */
  opened({ position, resumed, generation, cursor }: Opened, first: boolean): boolean {
    const again = this.#opened;
    this.#opened = true;
    this.generation = generation;
    // the sequences of a subscriber that is new again may be those of a new log
    const moved = this.durable && again && (!first || position < this.confirmed || (!resumed && !this.#sameLog));
    if (moved || !again) this.#begin(position, cursor);
    if (this.durable && position > this.confirmed) this.confirmed = position;
    this.saw(position);
    return moved;
  }

  /** Whether the message is new: the service sends again what was not acknowledged (U22). */
  message({ sequence, cursor }: Place): boolean {
    if (sequence !== 0n && sequence <= this.seen) return false;
    this.saw(sequence);
    if (cursor) this.#cursor = cursor;
    return true;
  }

  /** The part of a gap that was not reported yet (U18). */
  gap({ fromSequence, toSequence }: Gap): Missing | undefined {
    if (toSequence === 0n) return { from: 0n, to: 0n };
    if (toSequence <= this.seen) return undefined;
    const from = fromSequence > this.seen ? fromSequence : this.seen + 1n;
    this.saw(toSequence);
    return { from, to: toSequence };
  }

  /** Up to here everything came, or will not come. */
  saw(sequence: bigint): void {
    if (sequence > this.seen) this.seen = sequence;
  }

  acked(position: bigint): void {
    if (position > this.confirmed) this.confirmed = position;
  }

  /** The acknowledgement that the service needs. */
  get toAcknowledge(): bigint | undefined {
    const { value } = this.processed;
    return this.durable && value > this.confirmed ? value : undefined;
  }

  /** Whether the error says that the log is another one now (U26). If so, the next start is its beginning. */
  recreated({ reason }: UnibusError): boolean {
    const lost = reason === 'CURSOR_EXPIRED' || reason === 'POSITION_AFTER_END';
    if (reason !== 'ROOM_RECREATED' && !(lost && this.#opened)) return false;
    this.#opened = false;
    this.#start = { at: { case: 'all', value: {} } };
    this.#begin(0n);
    return true;
  }

  #begin(position: bigint, cursor = ''): void {
    this.seen = position;
    this.confirmed = position;
    this.#cursor = cursor;
    this.processed = new Watermark(position, cursor);
  }
}
