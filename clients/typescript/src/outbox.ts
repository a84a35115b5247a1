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
    const outcomeUnknown = this.unknown || error.outcomeUnknown;
    this.future.reject(error.with({ outcomeUnknown, messageId: this.message.messageId }));
  }
}

/** How much may be sent and unanswered. */
export interface Window {
  messages: number;
  bytes: number;
}

/** Entries that were sent come first, then those that wait. */
export class Outbox {
  readonly #entries: Entry[] = [];
  #sent = 0;
  #sentBytes = 0;
  #bytes = 0;
  #lastId = 0n;

  constructor(readonly window: Window) {}

  get size(): number {
    return this.#entries.length;
  }

  /** How many were sent and have no answer. */
  get sent(): number {
    return this.#sent;
  }

  get unsent(): number {
    return this.#entries.length - this.#sent;
  }

  /** All, in their order. */
  get all(): readonly Entry[] {
    return this.#entries;
  }

  /** Whether the window would take one more. */
  get hasRoom(): boolean {
    return this.size < this.window.messages && this.#bytes < this.window.bytes;
  }

  add(message: Outgoing): Entry {
    this.#lastId += 1n;
    const entry = new Entry(this.#lastId, message, !message.messageId);
    this.#entries.push(entry);
    this.#bytes += entry.size;
    return entry;
  }

  /** The next entry to send, if the window has room for it. One message may be larger than the window. */
  take(): Entry | undefined {
    const entry = this.#entries[this.#sent];
    if (entry === undefined || this.#sent >= this.window.messages) return undefined;
    if (this.#sent > 0 && this.#sentBytes + entry.size > this.window.bytes) return undefined;
    this.#sent += 1;
    this.#sentBytes += entry.size;
    return entry;
  }

  /** The entry that was sent under this id. */
  find(correlationId: bigint): Entry | undefined {
    return this.#entries.find((entry, at) => at < this.#sent && entry.correlationId === correlationId);
  }

  /** Takes an entry out: it is answered. */
  remove(entry: Entry): void {
    const at = this.#entries.indexOf(entry);
    if (at < 0) return;
    this.#entries.splice(at, 1);
    this.#bytes -= entry.size;
    if (at >= this.#sent) return;
    this.#sent -= 1;
    this.#sentBytes -= entry.size;
  }

  /** The stream is gone: everything that has no answer is sent again, in its order, before later messages. */
  rewind(): void {
    this.#sent = 0;
    this.#sentBytes = 0;
  }
}
