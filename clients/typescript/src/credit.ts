// How much the service may send: so that a slow handler holds back its own subscription alone (U24). No I/O.

/** Credit for the service. */
export interface Grant {
  messages: number;
  bytes: bigint;
}

/** Counts what waits for a handler or is with one. The service may send the rest. */
export class Credit {
  #held = 0;
  #heldBytes = 0;
  /** What the stream has sent, and may send again. */
  #back = 0;
  #backBytes = 0;

  constructor(
    private readonly messages: number,
    private readonly bytes: number,
  ) {}

  /** The credit of a new stream. At least 1, since 0 means no bound. */
  open(): Grant {
    this.#back = 0;
    this.#backBytes = 0;
    const bytes = BigInt(Math.max(1, this.bytes - this.#heldBytes));
    return { messages: Math.max(1, this.messages - this.#held), bytes };
  }

  /** A message came, and waits for its handler. */
  hold(size: number): void {
    this.#held += 1;
    this.#heldBytes += size;
  }

  /** The handler of a message has returned. */
  release(size: number): void {
    this.#held -= 1;
    this.#heldBytes -= size;
    this.skip(size);
  }

  /** A message came that no handler gets. */
  skip(size: number): void {
    this.#back += 1;
    this.#backBytes += size;
  }

  /** More credit, if it is worth a command: half of the whole. */
  more(): Grant | undefined {
    if (2 * this.#back < this.messages && 2 * this.#backBytes < this.bytes) return undefined;
    const grant = { messages: this.#back, bytes: BigInt(this.#backBytes) };
    this.#back = 0;
    this.#backBytes = 0;
    return grant;
  }
}
