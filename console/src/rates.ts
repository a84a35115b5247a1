/** The samples that a rate is kept for. */
const SAMPLES_MAX = 40;

/** The growth of a number, such as the last sequence of a room, as rates. */
export class Rate {
  #last: { value: bigint; at: number } | undefined;
  /** Growth per second between the last samples, oldest first. */
  readonly values: number[] = [];

  add(value: bigint, at: number): void {
    const before = this.#last;
    if (before !== undefined && at > before.at) {
      // a log that was created again begins at zero
      const growth = value < before.value ? value : value - before.value;
      this.values.push(Number(growth) / ((at - before.at) / 1000));
      if (this.values.length > SAMPLES_MAX) this.values.shift();
    }
    if (before === undefined || at > before.at) this.#last = { value, at };
  }

  get now(): number | undefined {
    return this.values.at(-1);
  }
}
