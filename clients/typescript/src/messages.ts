// The iterator form of a subscription.

import type { Message } from './gen/unibus/v1/message_pb.js';
import { type Handler, STOP, type Subscription } from './subscription.js';
import { Deferred } from './time.js';

/**
 * The messages of a subscription, for `for await`. A message counts as processed when the program asks for the next one (U19). To
 * leave the loop ends the subscription; the message of that turn is then not acknowledged (U21). Unlike with a generator, `close` also
 * ends a loop that waits for a message.
 */
export class Messages implements AsyncIterableIterator<Message, undefined> {
  #subscription: Subscription | undefined;
  #waiting: Message | undefined;
  #processed: Deferred<void> | undefined;
  #over: { error?: unknown } | undefined;
  #wake = new Deferred<void>();

  /** Made by `Room.messages`. The subscription is opened when the loop begins. */
  constructor(private readonly subscribe: (handler: Handler) => Subscription) {}

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Message, undefined>> {
    this.#processed?.resolve();
    if (this.#subscription === undefined && !this.#over) this.#begin();
    while (!this.#waiting && !this.#over) {
      this.#wake = new Deferred();
      await this.#wake.promise;
    }
    const value = this.#waiting;
    this.#waiting = undefined;
    if (value) return { value, done: false };
    const { error } = this.#over ?? {};
    this.#over = {};
    if (error !== undefined) throw error;
    return { value: undefined, done: true };
  }

  /** Ends the loop without another message, once the program asks for the next one (U27). */
  async close(): Promise<void> {
    this.#over ??= this.#subscription ? undefined : {};
    await this.#subscription?.close().catch(() => {});
  }

  /** What `for await` calls when the program leaves the loop. */
  async return(): Promise<IteratorResult<Message, undefined>> {
    const closed = this.close();
    this.#processed?.reject(STOP);
    await closed;
    return { value: undefined, done: true };
  }

  /** Closes the subscription at the end of an `await using` block. */
  async [Symbol.asyncDispose](): Promise<void> {
    await this.return();
  }

  #begin(): void {
    this.#subscription = this.subscribe((message) => {
      this.#waiting = message;
      this.#processed = new Deferred();
      this.#wake.resolve();
      return this.#processed.promise;
    });
    this.#subscription.ended.then(
      () => this.#end({}),
      (error) => this.#end({ error }),
    );
  }

  #end(how: { error?: unknown }): void {
    this.#over = how;
    this.#wake.resolve();
  }
}
