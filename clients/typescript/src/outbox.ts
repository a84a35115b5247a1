// The messages of a publisher that have no answer yet, in their order. No I/O (U13, U14).

import type { UnibusError } from './error.js';
import type { Outgoing, Published } from './publish.js';
import { Deferred } from './time.js';

/** A message without an answer. */
export class Entry {
  readonly future = new Deferred<Published>();
  /** When its first attempt began. */
  begun: number | undefined;
  /** Whether an attempt may have stored it. */
  unknown = false;
  /** Whether it got another id because its room is another one now. */
  renamed = false;
  /** Bytes of the payload, and of headers with what each costs. */
  readonly size: number;

  constructor(
    readonly correlationId: bigint,
    readonly message: Outgoing,
    /** Whether the client makes the id of the message. */
    readonly ownId: boolean,
  ) {
    const headers = Object.entries(message.headers);
    this.size = headers.reduce((sum, [name, value]) => sum + name.length + value.length + 64, message.payload.length);
  }

  /** Whether it may be sent again after this error: with an id always, without one only if nothing was done (U11, U12). */
  repeatable(error: UnibusError): boolean {
    if (this.message.messageId) return error.outcomeUnknown || error.outcomeClass !== 'final';
    return !this.unknown && !error.outcomeUnknown && error.outcomeClass !== 'final';
  }

  fail(error: UnibusError): void {
    this.future.reject(error.with({ outcomeUnknown: this.unknown, messageId: this.message.messageId }));
  }
}

/** How much may be sent and unanswered. */
export interface Window {
  messages: number;
  bytes: number;
}

/** The messages that were sent, and after them those that wait, each in their order. */
export class Outbox {
  readonly #sent = new Map<bigint, Entry>();
  #unsent: Entry[] = [];
  /** The place of the first that waits: to take it out would move all others. */
  #first = 0;
  #sentBytes = 0;
  #bytes = 0;
  #lastId = 0n;

  constructor(readonly window: Window) {}

  get size(): number {
    return this.#sent.size + this.#unsent.length - this.#first;
  }

  /** Those that were sent and have no answer. */
  get sent(): Entry[] {
    return [...this.#sent.values()];
  }

  get unsent(): Entry[] {
    return this.#unsent.slice(this.#first);
  }

  /** Whether every message was sent, so that answers alone are missing. */
  get allSent(): boolean {
    return this.#first === this.#unsent.length;
  }

  /** Whether no answer is missing. */
  get idle(): boolean {
    return this.#sent.size === 0;
  }

  /** Whether the window would take one more. */
  get hasRoom(): boolean {
    return this.size < this.window.messages && this.#bytes < this.window.bytes;
  }

  add(message: Outgoing): Entry {
    this.#lastId += 1n;
    const entry = new Entry(this.#lastId, message, !message.messageId);
    this.#unsent.push(entry);
    this.#bytes += entry.size;
    return entry;
  }

  /** The next entry to send, if the window has room for it. One message may be larger than the window. */
  take(now = performance.now()): Entry | undefined {
    const entry = this.#unsent[this.#first];
    if (entry === undefined || this.#sent.size >= this.window.messages) return undefined;
    if (this.#sent.size > 0 && this.#sentBytes + entry.size > this.window.bytes) return undefined;
    entry.begun ??= now;
    this.#shift();
    this.#sent.set(entry.correlationId, entry);
    this.#sentBytes += entry.size;
    return entry;
  }

  /** The entry that was sent under this id. */
  find(correlationId: bigint): Entry | undefined {
    return this.#sent.get(correlationId);
  }

  /** Takes an entry out: it is answered. */
  remove(entry: Entry): void {
    if (this.#sent.delete(entry.correlationId)) this.#sentBytes -= entry.size;
    else if (entry === this.#unsent[this.#first]) this.#shift();
    else this.#unsent.splice(this.#unsent.indexOf(entry, this.#first), 1);
    this.#bytes -= entry.size;
  }

  /** The stream is gone: everything that has no answer is sent again, in its order, before later messages. */
  rewind(): void {
    this.#unsent = [...this.sent, ...this.unsent];
    this.#first = 0;
    this.#sent.clear();
    this.#sentBytes = 0;
  }

  /** An attempt of what the window has room for begins, whether or not it comes as far as a stream. */
  begin(now = performance.now()): void {
    for (const entry of this.unsent.slice(0, this.window.messages)) entry.begun ??= now;
  }

  #shift(): void {
    this.#first += 1;
    if (2 * this.#first < this.#unsent.length) return;
    this.#unsent = this.unsent;
    this.#first = 0;
  }
}
