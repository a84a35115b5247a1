// How much the service may send: so that a slow handler holds back its own subscription alone (U24). No I/O.

/** Credit for the service. */
export interface Grant {
  messages: number;
  bytes: bigint;
}

/** Counts what the service may still send, and what waits for a handler or is with one. */
export class Credit {
  #held = 0;
  #heldBytes = 0;
  #given = 0;
  #givenBytes = 0;

  constructor(
    private readonly messages: number,
    private readonly bytes: number,
  ) {}

  /** The credit of a new stream. At least 1, since 0 means no bound. */
  open(): Grant {
    this.#given = Math.max(1, this.messages - this.#held);
    this.#givenBytes = Math.max(1, this.bytes - this.#heldBytes);
    return { messages: this.#given, bytes: BigInt(this.#givenBytes) };
  }

  /** A message came. */
  received(size: number): void {
    this.#given -= 1;
    this.#givenBytes -= size;
  }

  /** The message waits for its handler. */
  hold(size: number): void {
    this.#held += 1;
    this.#heldBytes += size;
  }

  /** The handler of the message has returned. */
  release(size: number): void {
    this.#held -= 1;
    this.#heldBytes -= size;
  }

  /** More credit, if it is worth a command: half of the whole, or all credit is used up. */
  more(): Grant | undefined {
    const messages = Math.max(0, this.messages - this.#held - this.#given);
    const bytes = Math.max(0, this.bytes - this.#heldBytes - this.#givenBytes);
    const worth = messages >= this.messages / 2 || bytes >= this.bytes / 2;
    const stuck = (this.#given <= 0 && messages > 0) || (this.#givenBytes <= 0 && bytes > 0);
    if (!worth && !stuck) return undefined;
    this.#given += messages;
    this.#givenBytes += bytes;
    return { messages, bytes: BigInt(bytes) };
  }
}
