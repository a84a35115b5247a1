// A subscription that goes on for ever (U15 to U27).

import { type Timestamp, timestampFromDate } from '@bufbuild/protobuf/wkt';
import { type Caller, checkRequest } from './caller.js';
import { type Refusal, refusalOf } from './credentials.js';
import { Credit } from './credit.js';
import { invalid, UnibusError } from './error.js';
import type { Message } from './gen/unibus/v1/message_pb.js';
import {
  ConsumeCommand,
  type ConsumeRejected,
  RoomService,
  SubscribeRequestSchema,
} from './gen/unibus/v1/room_service_pb.js';
import { GapReason, type Opened } from './gen/unibus/v1/subscription_pb.js';
import { atLeastOne, uint64 } from './numbers.js';
import { Position, type StartInit, type Watermark } from './position.js';
import type { Frame, Lane, Sessions } from './session.js';
import type { RoomSettings } from './settings.js';
import { after, Backoff, Changes, Deferred, limited, linked, onAbort, sleep, timedOut } from './time.js';

/**
 * Where a subscription starts: `all` stored messages, only `new` ones, after a sequence or the cursor of a message, at a time, or with
 * the newest messages. A durable subscriber uses it once, when it is new.
 */
export type StartAt =
  | 'all'
  | 'new'
  | { afterSequence: bigint }
  | { afterCursor: string }
  | { since: Timestamp | Date }
  | { last: bigint };

/** Something that a subscription reports beside messages, in order with them (U25). */
export type SubscriptionEvent =
  /** The messages after this sequence follow. */
  | { type: 'opened'; position: bigint; resumed: boolean }
  /** Everything that was stored when the subscription opened has come. */
  | { type: 'caught_up'; position: bigint }
  /** Messages that will not come. In an ephemeral room the sequences are 0, and `dropped` counts the messages if that is known. */
  | { type: 'gap'; from: bigint; to: bigint; reason: keyof typeof GapReason; dropped: bigint }
  /** Somebody moved the durable subscriber: the messages after this sequence follow (U22). */
  | { type: 'moved'; position: bigint }
  /** The log of the room is another one now: its messages follow from the first (U26). */
  | { type: 'recreated' }
  /** The next attempt begins after the pause. */
  | { type: 'disconnected'; error: UnibusError; pauseMs: number };

/** Options of a subscription. */
export interface SubscribeOptions {
  /** The name of a durable subscriber: the service keeps its position (U18). */
  subscriber?: string | undefined;
  start?: StartAt | undefined;
  /** Ends the subscription when everything that was stored when it opened has come. */
  untilCaughtUp?: boolean | undefined;
  /** How many handlers run at once: 1 (U23). */
  concurrency?: number | undefined;
  /** How many messages are read ahead: 256 (U24). */
  prefetchMessages?: number | undefined;
  /** How many bytes of payloads are read ahead: 4 MiB. */
  prefetchBytes?: number | undefined;
  /** After so many messages an acknowledgement is sent: 100 (U20). */
  ackMessages?: number | undefined;
  /** After so long an acknowledgement is sent: 200 ms. */
  ackIntervalMs?: number | undefined;
  /** How long the end waits for the last acknowledgement: 5 s. */
  ackTimeoutMs?: number | undefined;
  /** Gets the events (U25). If it throws, the subscription ends as if a handler had thrown. */
  onEvent?: ((event: SubscriptionEvent) => void) | undefined;
  /** Cancels the subscription: it ends with the reason of the signal, and waits for nothing (U3). */
  signal?: AbortSignal | undefined;
}

/** Processes a message. The message counts as processed when the handler has returned or its promise is fulfilled (U19). */
export type Handler = (message: Message) => unknown;

/** How long the end waits for the last acknowledgement (U20). */
export const ACK_TIMEOUT_MS = 5000;

/** Thrown by a handler to end the subscription without an error. */
export const STOP = Symbol('stop');

export function startOf(start: StartAt | undefined): StartInit {
  if (start === undefined) return {};
  if (start === 'all') return { at: { case: 'all', value: {} } };
  if (start === 'new') return { at: { case: 'new', value: {} } };
  if ('afterSequence' in start)
    return { at: { case: 'afterSequence', value: uint64('start.afterSequence', start.afterSequence) } };
  if ('afterCursor' in start) return { at: { case: 'afterCursor', value: start.afterCursor } };
  if ('last' in start) return { at: { case: 'last', value: uint64('start.last', start.last) } };
  return { at: { case: 'since', value: timeOf(start.since) } };
}

/** A time of the program, with all its digits (U29). */
export function timeOf(time: Timestamp | Date): Timestamp {
  if (!(time instanceof Date)) return time;
  if (Number.isNaN(time.getTime())) throw invalid('time', 'a Date is no time');
  return timestampFromDate(time);
}

/** What waits for the program. A message of an earlier log or position must not count for a later one. */
type Item = { message: Message; processed: Watermark } | { event: SubscriptionEvent };

/** Why a subscription ends. */
interface Outcome {
  error?: unknown;
  /** The messages that wait are given to the handler first. */
  drain?: boolean;
}

/** How one attempt ended. */
interface Ended {
  error: UnibusError | undefined;
  token: string | undefined;
}

/** After so long an open subscription was a success, even without a message (U15). */
const SUCCESS_MS = 10_000;

/** An open subscription. */
export class Subscription {
  /**
   * Fulfilled when the subscription was closed, or caught up with `untilCaughtUp`. Rejected with what ended it: a final outcome, what
   * the handler threw (U21), or the reason of the signal.
   */
  readonly ended: Promise<void>;

  readonly #position: Position;
  readonly #credit: Credit;
  readonly #concurrency: number;
  readonly #backoff = new Backoff();
  readonly #queue: Item[] = [];
  readonly #outcome = new Deferred<Outcome>();
  readonly #stop = new AbortController();
  /** A handler has failed. */
  #failure: { error: unknown } | undefined;
  #running = 0;
  #lane: Lane | undefined;
  #openSince: number | undefined;
  #endAttempt: (ended: Ended) => void = () => {};
  #persisted = true;
  #acknowledged = 0;
  /** The last acknowledgement was refused for good. */
  #refused = false;
  #ackTimer: ReturnType<typeof setTimeout> | undefined;
  readonly #changes = new Changes();

  /** Made by `Room.subscribe`. */
  constructor(
    readonly roomId: string,
    private readonly caller: Caller,
    private readonly sessions: Sessions,
    private readonly settings: RoomSettings,
    private readonly options: SubscribeOptions,
    private readonly handler: Handler,
    onEnded: () => void,
  ) {
    const { concurrency = 1, prefetchMessages = 256, prefetchBytes = 4 << 20 } = options;
    atLeastOne({ concurrency, prefetchMessages, prefetchBytes });
    this.#concurrency = concurrency;
    this.#credit = new Credit(prefetchMessages, prefetchBytes);
    const start = startOf(options.start);
    const { subscriber = '' } = options;
    checkRequest(SubscribeRequestSchema, { roomId, subscriber, start });
    this.#position = new Position(!!subscriber, start);
    this.ended = linked([options.signal, caller.closed], (cancelled) => this.#run(cancelled)).finally(onEnded);
  }

  /**
   * Ends the subscription in order: begins no more handlers, waits for those that run, acknowledges, and ends the stream (U27). Rejects
   * as `ended` does.
   */
  close(): Promise<void> {
    this.#outcome.resolve({});
    this.#queue.length = 0;
    this.#changes.announce();
    return this.ended;
  }

  /** Closes the subscription at the end of an `await using` block. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Runs until it ends, or until the program cancels it: then nothing is waited for. */
  async #run(cancelled: AbortSignal): Promise<void> {
    onAbort(cancelled, () => {
      this.#outcome.resolve({});
      this.#changes.announce();
    });
    if (!cancelled.aborted) this.#follow().then(this.#outcome.resolve, (error) => this.#outcome.resolve({ error }));

    const outcome = await this.#outcome.promise;
    this.#stop.abort();
    if (!outcome.drain) this.#queue.length = 0;
    const finished = () => this.#running === 0 && (this.#queue.length === 0 || this.#failure !== undefined);
    await this.#changes.until(() => cancelled.aborted || finished());
    await this.#flush(cancelled);
    clearTimeout(this.#ackTimer);
    this.#queue.length = 0;
    this.#lane?.close();
    cancelled.throwIfAborted();
    const { error } = this.#failure ?? outcome;
    if (error !== undefined && error !== STOP) throw error;
  }

  /** Subscribes again and again (U15). */
  async #follow(): Promise<Outcome> {
    let refusal: Refusal | undefined;
    for (;;) {
      const { error, token } = await this.#attempt(refusal);
      if (this.#stop.signal.aborted) return {};
      if (error === undefined && this.options.untilCaughtUp) return { drain: true };
      const problem = error ?? new UnibusError({ code: 'UNAVAILABLE', message: 'the subscription was closed' });
      const pauseMs = this.#backoff.next(problem);
      if (this.#position.recreated(problem)) {
        this.settings.forget(this.roomId);
        this.#report({ type: 'recreated' });
      } else if (problem.outcomeClass === 'final') {
        // messages that wait come again to a durable subscriber, and to nobody otherwise
        return { error: problem, drain: !this.options.subscriber };
      } else {
        this.#report({ type: 'disconnected', error: problem, pauseMs });
      }
      refusal = refusalOf(problem, token);
      await sleep(pauseMs, this.#stop.signal).catch(() => {});
    }
  }

  async #attempt(refusal: Refusal | undefined): Promise<Ended> {
    const { subscriber = '', untilCaughtUp = false } = this.options;
    const { roomId } = this;
    try {
      // a room that had a sequence has a log
      if (this.#position.resuming && !subscriber && this.#position.seen === 0n) {
        this.#persisted = (await this.settings.get(roomId, { signal: this.#stop.signal })).persist;
      }
    } catch (thrown) {
      return { error: UnibusError.from(thrown), token: undefined };
    }
    if (this.#stop.signal.aborted) return { error: undefined, token: undefined };
    const start = this.#position.start(this.#persisted);
    const { messages: creditMessages, bytes: creditBytes } = this.#credit.open();
    const open = { subscribe: { roomId, subscriber, start, untilCaughtUp }, creditMessages, creditBytes };
    const ended = new Deferred<Ended>();
    this.#endAttempt = ended.resolve;
    this.#lane = this.sessions.open(roomId, open, refusal, {
      frame: (frame) => this.#frame(frame),
      end: (error, token) => ended.resolve({ error, token }),
    });
    const outcome = await ended.promise;
    if (this.#openSince !== undefined && performance.now() - this.#openSince >= SUCCESS_MS) this.#backoff.reset();
    this.#openSince = undefined;
    this.#lane = undefined;
    this.#changes.announce();
    return outcome;
  }

  #frame(frame: Frame): void {
    switch (frame.case) {
      case 'opened':
        this.#opened(frame.value);
        break;
      case 'message':
        this.#received(frame.value);
        break;
      case 'caughtUp':
        this.#position.saw(frame.value.position);
        this.#report({ type: 'caught_up', position: frame.value.position });
        break;
      case 'heartbeat':
        this.#position.saw(frame.value.position);
        break;
      case 'gap': {
        const missing = this.#position.gap(frame.value);
        const reason = GapReason[frame.value.reason] as keyof typeof GapReason;
        if (missing) this.#report({ type: 'gap', ...missing, reason, dropped: frame.value.dropped });
        break;
      }
      case 'acked':
        this.#position.acked(frame.value.position);
        this.#changes.announce();
        break;
      case 'rejected':
        this.#rejected(frame.value);
    }
  }

  #opened(opened: Opened): void {
    const { position, resumed } = opened;
    const first = this.#openSince === undefined;
    const lost = !this.#persisted && this.#position.resuming;
    const moved = this.#position.opened(opened, first);
    if (first) {
      this.#openSince = performance.now();
      this.#report({ type: 'opened', position, resumed });
      if (lost) this.#report({ type: 'gap', from: 0n, to: 0n, reason: 'DISCONNECTED', dropped: 0n });
    }
    if (moved) {
      this.#forgetWaiting();
      this.#report({ type: 'moved', position });
    }
    // the last acknowledgement may be lost
    this.#acknowledge();
    this.#changes.announce();
  }

  #received(message: Message): void {
    const size = message.payload.length;
    this.#backoff.reset();
    if (this.#stop.signal.aborted) return;
    if (this.#position.message(message)) {
      this.#credit.hold(size);
      this.#queue.push({ message, processed: this.#position.processed });
      this.#pump();
    } else {
      this.#credit.skip(size);
    }
    this.#giveCredit();
  }

  /** The subscriber was moved: what waits comes again, or shall not come. */
  #forgetWaiting(): void {
    for (const item of this.#queue.splice(0)) {
      if ('event' in item) this.#queue.push(item);
      else this.#credit.release(item.message.payload.length);
    }
    this.#giveCredit();
  }

  #giveCredit(): void {
    if (this.#openSince === undefined) return;
    const more = this.#credit.more();
    if (more) this.#lane?.send({ case: 'credit', value: { roomId: this.roomId, ...more } });
  }

  #report(event: SubscriptionEvent): void {
    if (this.#stop.signal.aborted) return;
    this.#queue.push({ event });
    this.#pump();
  }

  /** Gives what waits to the program, in order, while fewer handlers run than may (U23). */
  #pump(): void {
    while (this.#running < this.#concurrency && !this.#failure) {
      const item = this.#queue.shift();
      if (item === undefined) return;
      if ('message' in item) void this.#handle(item.message, item.processed);
      else this.#tell(item.event);
    }
  }

  #tell(event: SubscriptionEvent): void {
    try {
      this.options.onEvent?.(event);
    } catch (error) {
      this.#fail(error);
    }
  }

  async #handle(message: Message, processed: Watermark): Promise<void> {
    const finished = processed.begin(message);
    this.#running += 1;
    try {
      await this.handler(message);
      finished();
      if (processed === this.#position.processed) this.#scheduleAcknowledgement();
    } catch (error) {
      this.#fail(error);
    }
    this.#running -= 1;
    this.#credit.release(message.payload.length);
    this.#giveCredit();
    this.#pump();
    this.#changes.announce();
  }

  #fail(error: unknown): void {
    this.#failure ??= { error };
    this.#outcome.resolve({ error });
  }

  #scheduleAcknowledgement(): void {
    if (this.#position.toAcknowledge === undefined) return;
    const { ackMessages = 100, ackIntervalMs = 200 } = this.options;
    if (this.#position.processed.count - this.#acknowledged >= ackMessages) this.#acknowledge();
    else this.#ackTimer ??= after(ackIntervalMs, () => this.#acknowledge());
  }

  /** Acknowledges what is processed (U19). */
  #acknowledge(): void {
    clearTimeout(this.#ackTimer);
    this.#ackTimer = undefined;
    this.#acknowledged = this.#position.processed.count;
    const value = this.#acknowledgement();
    // before `opened` the generation is not known, and what is processed is acknowledged then
    this.#refused = false;
    if (value && this.#openSince !== undefined) this.#lane?.send({ case: 'ack', value });
  }

  #acknowledgement() {
    const sequence = this.#position.toAcknowledge;
    if (sequence === undefined) return undefined;
    const { generation } = this.#position;
    const ack = { roomId: this.roomId, subscriber: this.options.subscriber ?? '', sequence };
    return generation === 0n ? ack : { ...ack, generation };
  }

  #rejected({ command, error: status }: ConsumeRejected): void {
    const error = status ? UnibusError.fromStatus(status) : undefined;
    if (command === ConsumeCommand.OPEN) {
      this.#lane?.close();
      this.#endAttempt({ error: error?.with({ outcomeClass: 'again' }), token: undefined });
    } else if (command === ConsumeCommand.ACK && error?.outcomeClass === 'again') {
      clearTimeout(this.#ackTimer);
      this.#ackTimer = after(this.#backoff.next(error), () => this.#acknowledge());
    } else if (command === ConsumeCommand.ACK) {
      this.#refused = true;
      this.#changes.announce();
      if (error?.reason === 'TAKEN_OVER') this.#outcome.resolve({ error });
    }
    // after other refusals the frame `closed` follows
  }

  /** Waits until the last acknowledgement is confirmed, by a call if the stream is gone (U20). Without it the messages come again. */
  async #flush(cancelled: AbortSignal): Promise<void> {
    const { ackTimeoutMs = ACK_TIMEOUT_MS } = this.options;
    this.#acknowledge();
    const confirmed = async (limit: AbortSignal) => {
      for (let request = this.#acknowledgement(); request; request = this.#acknowledgement()) {
        const lane = this.#lane;
        if (lane) {
          const answered = () => this.#refused || this.#acknowledgement() === undefined;
          await this.#changes.until(() => answered() || this.#lane !== lane, limit);
          if (this.#refused) return;
        } else {
          const { method } = RoomService;
          const { position } = await this.caller.call(method.acknowledge, request, { signal: limit });
          this.#position.acked(position);
        }
      }
    };
    // the time is up, or the service refuses
    await limited(ackTimeoutMs, timedOut('no confirmation'), cancelled, confirmed).catch(() => {});
  }
}
