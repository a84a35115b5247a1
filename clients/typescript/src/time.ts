// Waiting: back-off (U4), pauses and time limits that end with a signal.

import { UnibusError } from './error.js';

const FIRST_MS = 100;
const MOST_MS = 2000;
/** The longest time that a timer of JavaScript takes. A timer with more fires at once. */
const TIMER_MAX_MS = 2 ** 31 - 1;

/** A time for the library, which neither takes an infinite one nor can send more than eight digits of it. */
export const libraryMs = (ms: number): number | undefined => (ms < 1e8 ? Math.ceil(ms) : undefined);

/** Calls back after a time, which may be infinite. */
export const after = (ms: number, callback: () => void): ReturnType<typeof setTimeout> =>
  setTimeout(callback, Math.min(ms, TIMER_MAX_MS));

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

const listening = new WeakMap<AbortSignal, Set<() => void>>();

/**
 * Calls back when the signal is aborted, until the returned function is called. Only one listener is ever at the signal: a thousand
 * calls with one signal leave nothing behind, and Node does not warn.
 */
export function onAbort(signal: AbortSignal, callback: () => void): () => void {
  let callbacks = listening.get(signal);
  if (callbacks === undefined) {
    const added = new Set<() => void>();
    listening.set(signal, added);
    signal.addEventListener('abort', () => {
      for (const each of [...added]) each();
    });
    callbacks = added;
  }
  if (signal.aborted) callback();
  else callbacks.add(callback);
  return () => callbacks.delete(callback);
}

/** Waits for a promise, but not longer than the signal allows. Then it rejects with the reason of the signal. */
export function unless<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const undo = onAbort(signal, () => reject(signal.reason));
    promise.then(resolve, reject).finally(undo);
  });
}

/** Resolves after a time. Rejects with the reason of the signal when it is aborted first. */
export async function sleep(ms: number, signal: AbortSignal): Promise<void> {
  const passed = new Deferred<void>();
  const timer = after(ms, passed.resolve);
  try {
    await unless(passed.promise, signal);
  } finally {
    clearTimeout(timer);
  }
}

/** Runs `work` with a signal that is aborted with any of `signals`. */
export async function linked<T>(
  signals: (AbortSignal | undefined)[],
  work: (signal: AbortSignal, abort: (reason: unknown) => void) => Promise<T>,
): Promise<T> {
  const controller = new AbortController();
  const undo = signals.flatMap((signal) => (signal ? [onAbort(signal, () => controller.abort(signal.reason))] : []));
  try {
    return await work(controller.signal, (reason) => controller.abort(reason));
  } finally {
    for (const each of undo) each();
  }
}

/** Runs `work` for at most a time, then rejects with `error`. Does not wait for work that does not end with its signal. */
export function limited<T>(
  ms: number,
  error: UnibusError,
  signal: AbortSignal,
  work: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  return linked([signal], async (either, abort) => {
    const timer = after(ms, () => abort(error));
    try {
      return await unless(work(either), either);
    } finally {
      clearTimeout(timer);
    }
  });
}

/** A time limit of the client itself: never a cancel (U3). */
export const timedOut = (message: string): UnibusError => new UnibusError({ code: 'DEADLINE_EXCEEDED', message });

/** A promise with its ends. */
export class Deferred<T> {
  resolve!: (value: T | PromiseLike<T>) => void;
  reject!: (reason: unknown) => void;
  readonly promise: Promise<T> = new Promise((resolve, reject) => {
    this.resolve = resolve;
    this.reject = reject;
  });
}

/** Wakes what waits for a condition. */
export class Changes {
  #next = new Deferred<void>();

  /** Something has changed: conditions are looked at again. */
  announce(): void {
    this.#next.resolve();
    this.#next = new Deferred();
  }

  /** Waits until the condition holds. Rejects with the reason of the signal when it is aborted first. */
  async until(condition: () => boolean, signal?: AbortSignal): Promise<void> {
    while (!condition()) await (signal ? unless(this.#next.promise, signal) : this.#next.promise);
  }
}
