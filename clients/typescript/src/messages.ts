// The iterator form of a subscription.

import type { Message } from './gen/unibus/v1/message_pb.js';
import { ACK_TIMEOUT_MS, type Handler, STOP, type Subscription } from './subscription.js';
import { after, Changes, Deferred } from './time.js';

/**
 * The messages of a subscription, for `for await`. A message counts as processed when the program asks for the next one (U19). To
 * leave the loop ends the subscription; the message of that turn is then not acknowledged (U21). Unlike with a generator, `close` also
 * ends a loop that waits for a message.
 */
export class Messages implements AsyncIterableIterator<Message, undefined> {
  #subscription: Subscription | undefined;
  /** The message that came for the program. */
  #waiting: Message | undefined;
  /** The message that the program has. */
  #turn: Deferred<void> | undefined;
  #over: { error?: unknown } | undefined;
  #asked: Promise<unknown> = Promise.resolve();
  readonly #changes = new Changes();

  /** Made by `Room.messages`. The subscription is opened when the loop begins. */
  constructor(private readonly subscribe: (handler: Handler) => Subscription) {}

  [Symbol.asyncIterator](): this {
    return this;
  }

  /** The next message. Calls that do not wait for each other are answered one after the other. */
  next(): Promise<IteratorResult<Message, undefined>> {
    const result = this.#asked.then(() => this.#next());
    this.#asked = result.catch(() => {});
    return result;
  }

  async #next(): Promise<IteratorResult<Message, undefined>> {
    this.#turn?.resolve();
    this.#turn = undefined;
    if (this.#subscription === undefined && !this.#over) this.#begin();
    await this.#changes.until(() => this.#waiting !== undefined || this.#over !== undefined);
    const value = this.#waiting;
    this.#waiting = undefined;
    if (value) return { value, done: false };
    const { error } = this.#over ?? {};
    this.#over = {};
    if (error !== undefined) throw error;
    return { value: undefined, done: true };
  }

  /**
   * Ends the loop without another message (U27). A message that the program has counts as processed once it asks for the next one, and
   * is not waited for: so a loop may wait for `close` of its own messages.
   */
  async close(): Promise<void> {
    const closed = this.#close();
    if (!this.#turn) await closed;
  }

  /**
   * Closes with the client. The program may have left the loop without `return`: a turn that does not end in time is not waited for,
   * and its message is not acknowledged.
   */
  async closeWithin(ms = ACK_TIMEOUT_MS): Promise<void> {
    const timer = after(ms, () => this.#turn?.reject(STOP));
    await this.#close();
    clearTimeout(timer);
  }

  /** What `for await` calls when the program leaves the loop. */
  async return(): Promise<IteratorResult<Message, undefined>> {
    const closed = this.#close();
    this.#turn?.reject(STOP);
    await closed;
    return { value: undefined, done: true };
  }

  /** Closes the subscription at the end of an `await using` block. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  async #close(): Promise<void> {
    if (!this.#subscription) this.#over ??= {};
    await this.#subscription?.close().catch(() => {});
  }

  #begin(): void {
    const end = (how: { error?: unknown }) => {
      this.#over = how;
      this.#changes.announce();
    };
    this.#subscription = this.subscribe((message) => {
      this.#waiting = message;
      this.#turn = new Deferred();
      this.#changes.announce();
      return this.#turn.promise;
    });
    this.#subscription.ended.then(
      () => end({}),
      (error) => end({ error }),
    );
  }
}
