// Waiting: back-off (U4), pauses and time limits that end with a signal.

import { UnibusError } from './error.js';

const FIRST_MS = 100;
const MOST_MS = 2000;

/** Spaces attempts: a random time between half and the whole of 100 ms * 2^n, at most 2 s, and never less than `RetryInfo` (U4). */
export class Backoff {
  #attempt = 0;

  constructor(private readonly random: () => number = Math.random) {}

  /** The pause before the next attempt. */
  next(error: UnibusError | undefined): number {
    const whole = Math.min(MOST_MS, FIRST_MS * 2 ** this.#attempt);
    this.#attempt = Math.min(this.#attempt + 1, 10);
    return Math.max(whole * (0.5 + this.random() / 2), error?.retryAfterMs ?? 0);
  }

  /** Begins from 100 ms again. */
  reset(): void {
    this.#attempt = 0;
  }
}

/** Resolves after a time. Rejects with the reason of the signal when it is aborted first. */
export function sleep(ms: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    signal?.throwIfAborted();
    const stop = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener('abort', stop);
      resolve();
    }, ms);
    signal?.addEventListener('abort', stop, { once: true });
  });
}

/** Runs `work` with a signal that is aborted with any of `signals`. Leaves no listener at them behind, unlike AbortSignal.any. */
export async function linked<T>(
  signals: (AbortSignal | undefined)[],
  work: (signal: AbortSignal, abort: (reason: unknown) => void) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const undo: (() => void)[] = [];
  for (const signal of signals) {
    if (signal === undefined) continue;
    const abort = () => controller.abort(signal.reason);
    if (signal.aborted) abort();
    signal.addEventListener('abort', abort);
    undo.push(() => signal.removeEventListener('abort', abort));
  }
  try {
    return await work(controller.signal, (reason) => controller.abort(reason));
  } finally {
    for (const each of undo) each();
  }
}

/** Waits for a promise, but not longer than the signal allows. */
export function unless<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const stop = () => reject(signal.reason);
    if (signal.aborted) stop();
    signal.addEventListener('abort', stop, { once: true });
    promise.then(resolve, reject).finally(() => signal.removeEventListener('abort', stop));
  });
}

/** A time limit of the client itself: never a cancel (U3). */
export const timedOut = (message: string): UnibusError =>
  new UnibusError({ code: 'DEADLINE_EXCEEDED', message, outcomeClass: 'again' });

/** A promise with its ends. */
export class Deferred<T> {
  resolve!: (value: T | PromiseLike<T>) => void;
  reject!: (reason: unknown) => void;
  readonly promise: Promise<T> = new Promise((resolve, reject) => {
    this.resolve = resolve;
    this.reject = reject;
  });
}
