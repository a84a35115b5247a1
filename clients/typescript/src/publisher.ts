// Many messages without waiting for each (U13, U14).

import type { Caller } from './caller.js';
import { authorization, type Refusal, refusalOf } from './credentials.js';
import { closedReason, UnibusError } from './error.js';
import type { PublishOutcome } from './gen/unibus/v1/room_service_pb.js';
import { atLeastOne } from './numbers.js';
import { type Entry, Outbox } from './outbox.js';
import { type MessageOptions, type Published, publishedOf, randomId, requestOf } from './publish.js';
import { DEFAULT_WINDOW_MS, type RoomSettings, type Settings } from './settings.js';
import { after, Backoff, Changes, linked, sleep, timedOut } from './time.js';
import { Watchdog } from './watchdog.js';

/** How long the service may take to end a stream that is no longer needed. */
const ENDING_MS = 1000;
/** What the library of the service reports for a message that is larger than it reads. */
const TOO_LARGE: readonly string[] = ['RESOURCE_EXHAUSTED', 'OUT_OF_RANGE'];

/** Options of a publisher. */
export interface PublisherOptions {
  /** The largest number of messages that are sent and unanswered: 1024. */
  windowMessages?: number | undefined;
  /** The most bytes of payloads that are sent and unanswered: 4 MiB. */
  windowBytes?: number | undefined;
}

/** The outcome of one message. */
export type Outcome = PublishOutcome['outcome'];

/** One stream or one batch of a publisher, as the wire sees it. */
export interface Round {
  readonly roomId: string;
  readonly headers: Record<string, string>;
  readonly signal: AbortSignal;
  /** The next message to send. Waits for one. Undefined: send no more, and read the answers that are missing. */
  next(): Promise<Entry | undefined>;
  /** The next message to send, if there is one now. */
  take(): Entry | undefined;
  answer(correlationId: bigint, outcome: Outcome): void;
}

/** How messages reach the service. */
export interface Mailer {
  /** The most bytes that a round takes. */
  bytesMax: number;
  /** Sends messages until there are no more or the stream breaks. */
  runRound(caller: Caller, round: Round): Promise<void>;
}

/** Publishes to one room in the order in which `publish` is called, without waiting for each message. Close it at the end. */
export class Publisher {
  readonly #outbox: Outbox;
  readonly #backoff = new Backoff();
  readonly #stop = new AbortController();
  readonly #running: Promise<void>;
  readonly #changes = new Changes();
  #closing = false;
  #known: Settings = { persist: true, windowMs: DEFAULT_WINDOW_MS };
  /** An answer has shown that `#known` is wrong. */
  #outdated = false;
  /** The last failure of a stream, and when the next one begins. */
  #failed: { error: UnibusError; next: number } | undefined;

  /** Made by `Room.publisher`. */
  constructor(
    readonly roomId: string,
    private readonly caller: Caller,
    private readonly settings: RoomSettings,
    private readonly mailer: Mailer,
    { windowMessages = 1024, windowBytes = 4 << 20 }: PublisherOptions,
    private readonly onClosed: () => void,
  ) {
    atLeastOne({ windowMessages, windowBytes });
    this.#outbox = new Outbox({ messages: windowMessages, bytes: Math.min(windowBytes, mailer.bytesMax) });
    this.#running = linked([this.#stop.signal, caller.closed], (signal) => this.#run(signal));
  }

  /**
   * Gives a message to the publisher. Resolves when it is stored. Rejects if it is refused, or if its outcome stays unknown (U11);
   * other messages go on. Wait for `ready` before the next call to bound the memory.
   */
  async publish(payload: Uint8Array | string, options: MessageOptions = {}): Promise<Published> {
    if (this.#closing) throw closedReason('publisher');
    const entry = this.#outbox.add(requestOf(this.roomId, payload, options));
    const { error, next } = this.#failed ?? {};
    if (error && next && this.#late(entry, next)) this.#fail(entry, error);
    this.#changes.announce();
    return entry.future.promise;
  }

  /** Resolves when fewer messages and bytes are unanswered than the window allows. */
  get ready(): Promise<void> {
    return this.#changes.until(() => this.#outbox.hasRoom);
  }

  /** Resolves when every message that was given so far is answered, with whatever outcome (U14). */
  async flush(): Promise<void> {
    const all = [...this.#outbox.sent, ...this.#outbox.unsent];
    await Promise.allSettled(all.map(({ future }) => future.promise));
  }

  /** Flushes and ends the publisher. Messages that are unanswered after the time fail with an unknown outcome (U14). */
  async close({ timeoutMs = this.caller.limits.totalMs }: { timeoutMs?: number } = {}): Promise<void> {
    this.#closing = true;
    this.#changes.announce();
    const timer = after(timeoutMs, () => this.#stop.abort(timedOut('the publisher was closed')));
    await this.#running;
    clearTimeout(timer);
    this.onClosed();
  }

  /** Closes the publisher at the end of an `await using` block. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }

  /** Runs rounds until the publisher is closed. */
  async #run(stop: AbortSignal): Promise<void> {
    let refusal: Refusal | undefined;
    try {
      for (;;) {
        await this.#changes.until(() => this.#outbox.size > 0 || this.#closing, stop);
        if (this.#outbox.size === 0) return;
        refusal = await this.#round(stop, refusal);
      }
    } catch {
      // only the end of the time or of the client comes here
      const error = UnibusError.from(stop.reason);
      for (const entry of this.#outbox.sent) entry.unknown = true;
      this.#outbox.rewind();
      for (const entry of this.#outbox.unsent) this.#fail(entry, error);
    } finally {
      this.#closing = true;
    }
  }

  /** One stream and what follows it: failures of messages whose time is up, and the pause before the next stream. */
  async #round(stop: AbortSignal, refusal: Refusal | undefined): Promise<Refusal | undefined> {
    let token: string | undefined;
    let problem: UnibusError | undefined;
    this.#outbox.begin();
    this.#outdated = false;
    try {
      this.#known = await this.settings.get(this.roomId, { signal: stop });
      token = await this.caller.token(refusal, stop);
      problem = await linked([stop], (signal, abort) => this.#stream(token, signal, abort));
    } catch (thrown) {
      stop.throwIfAborted();
      problem = UnibusError.from(thrown);
    }
    if (problem === undefined) return undefined;
    const pause = this.#backoff.next(problem);
    this.#failed = { error: problem, next: performance.now() + pause };
    this.#afterStream(problem, this.#failed.next);
    const answered = () => this.#closing && this.#outbox.size === 0;
    await linked([stop], (signal, abort) =>
      Promise.race([sleep(pause, signal), this.#changes.until(answered, signal)]).finally(() => abort(undefined)),
    );
    return refusalOf(problem, token);
  }

  /** Runs one stream. Returns the error of a message that must be sent again. */
  async #stream(
    token: string | undefined,
    signal: AbortSignal,
    abort: (reason: unknown) => void,
  ): Promise<UnibusError | undefined> {
    let problem: UnibusError | undefined;
    // one attempt of a message ends when no answer came for so long
    const watchdog = new Watchdog(this.caller.limits.attemptMs, {
      idle: () => this.#outbox.idle,
      silent: (error, ms) => {
        this.caller.connection.silent(ms);
        abort(error);
      },
    });
    const take = (): Entry | undefined => {
      const entry = problem || this.#outdated || signal.aborted ? undefined : this.#takeInTime();
      if (entry === undefined) return undefined;
      // a message that may be stored keeps its id
      if (entry.ownId && !entry.unknown)
        entry.message.messageId = this.#known.persist ? entry.message.messageId || randomId() : '';
      return entry;
    };
    const over = () => problem !== undefined || this.#outdated || (this.#closing && this.#outbox.allSent);
    const unneeded = this.#changes.until(() => over() && this.#outbox.idle, signal);
    try {
      const round = this.mailer.runRound(this.caller, {
        roomId: this.roomId,
        headers: authorization(token),
        signal,
        take,
        next: async () => {
          let entry: Entry | undefined;
          await this.#changes.until(() => {
            entry = take();
            return entry !== undefined || over();
          }, signal);
          return entry;
        },
        answer: (correlationId, outcome) => {
          watchdog.heard();
          this.caller.connection.heard();
          const error = this.#answer(correlationId, outcome);
          // another token is needed, whatever else is wrong
          if (problem?.outcomeClass !== 'new_token') problem = error ?? problem;
          this.#changes.announce();
        },
      });
      await Promise.race([round, unneeded.then(() => sleep(ENDING_MS, signal))]);
    } catch (thrown) {
      throw signal.aborted ? signal.reason : thrown;
    } finally {
      watchdog.stop();
      // the library may still wait for the next request of this stream: it must not take a message of the next one
      abort(closedReason('stream'));
    }
    if (problem || this.#outbox.idle) return problem;
    return new UnibusError({ code: 'UNAVAILABLE', message: 'the stream ended without an answer to each message' });
  }

  /** Settles the future of an answered message. Returns the error if the message must be sent again. */
  #answer(correlationId: bigint, outcome: Outcome): UnibusError | undefined {
    const entry = this.#outbox.find(correlationId);
    if (entry === undefined) return undefined;
    if (outcome.case === 'result') {
      const { messageId } = entry.message;
      this.#backoff.reset();
      this.#failed = undefined;
      this.#outbox.remove(entry);
      entry.future.resolve(publishedOf(outcome.value, messageId));
      // a room without ids stored the message, so it was created again as another kind of room
      if (!messageId && outcome.value.sequence) {
        this.settings.forget(this.roomId);
        this.#outdated = true;
      }
    }
    if (outcome.case !== 'error') return undefined;
    const error = UnibusError.fromStatus(outcome.value);
    const refusedId = this.settings.learn(this.roomId, error);
    this.#outdated ||= !this.settings.knows(this.roomId);
    if (refusedId && entry.ownId && !entry.unknown && !entry.renamed) {
      entry.renamed = true;
      return error.with({ outcomeClass: 'again' });
    }
    return this.#again(entry, error) ? error : undefined;
  }

  /** Whether a message that was sent is sent again after this error. Otherwise it fails. */
  #again(entry: Entry, error: UnibusError): boolean {
    const again = entry.repeatable(error);
    entry.unknown ||= error.outcomeUnknown;
    if (!again) this.#fail(entry, error);
    return again;
  }

  /** Fails messages that must not be sent again. The others go first on the next stream. */
  #afterStream(error: UnibusError, next: number): void {
    this.settings.learn(this.roomId, error);
    const { idle, sent, unsent } = this.#outbox;
    // if nothing could be sent, every message has the same outcome
    const hopeless = idle && error.outcomeClass === 'final';
    for (const entry of unsent) if (hopeless || this.#late(entry, next)) this.#fail(entry, error);
    // of several messages the largest is too large, and the stream of the others broke
    const tooLarge = sent.length > 1 && error.reason === '' && TOO_LARGE.includes(error.code);
    const largest = Math.max(...sent.map(({ size }) => size));
    const broken = error.with({ outcomeClass: 'again', outcomeUnknown: true });
    for (const entry of sent) {
      const own = tooLarge && entry.size < largest ? broken : error;
      const again = this.#again(entry, own);
      if (again && this.#late(entry, next)) this.#fail(entry, own);
    }
    this.#outbox.rewind();
  }

  /** Whether the time of a message does not allow another attempt then (U11). Each has one whole attempt. */
  #late(entry: Entry, next: number): boolean {
    const { attemptMs, publishMs = Number.POSITIVE_INFINITY } = this.caller.limits;
    const safeMs = this.#known.windowMs - attemptMs;
    const lastBegin = Math.min(entry.unknown ? safeMs : Math.max(safeMs, attemptMs), publishMs);
    return next - (entry.begun ?? performance.now()) > lastBegin;
  }

  /** The next message to send. The time of those before it was up meanwhile, for example while the token did not come. */
  #takeInTime(): Entry | undefined {
    for (let entry = this.#outbox.take(); entry; entry = this.#outbox.take()) {
      if (!this.#late(entry, performance.now())) return entry;
      this.#fail(entry, this.#failed?.error ?? timedOut('the time of the message is up'));
    }
    return undefined;
  }

  #fail(entry: Entry, error: UnibusError): void {
    this.#outbox.remove(entry);
    entry.fail(error);
    this.#changes.announce();
  }
}
