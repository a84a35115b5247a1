// Notices that nothing comes any more (U16), and that this process stood still (U17).

import type { UnibusError } from './error.js';
import { timedOut } from './time.js';

const TICK_MS = 250;
// a tick that comes late counts for no more
const COUNTED_MS = 1000;
const LATE_MS = 2 * TICK_MS;
const PAUSE_MS = 5000;

/** What a watchdog does. */
export interface Alarms {
  /** Nothing came in time. */
  silent(error: UnibusError, ms: number): void;
  /** The process stood still: asks for a sign of life, which must come in 5 s. */
  paused?(): void;
  /** Whether nothing is awaited now. */
  idle?(): boolean;
  /** So much more time counts. */
  counted?(ms: number): void;
}

/**
 * Counts the time in which the program could have read something. After a pause of the process it begins to count again, and asks
 * whether the stream still works. In a page that is hidden every tick is late: then nothing may come between two ticks.
 */
export class Watchdog {
  readonly #timer: ReturnType<typeof setInterval>;
  #silentMs = 0;
  #limitMs: number;
  #asked = false;
  #late = false;
  #last: number;

  constructor(
    /** The limit, until `heard` gives another one. */
    private calmMs: number,
    private readonly alarms: Alarms,
    // a clock that goes on while the machine sleeps; when somebody sets it, the price is one ping
    private readonly clock: () => number = Date.now,
  ) {
    this.#limitMs = calmMs;
    this.#last = clock();
    this.#timer = setInterval(() => this.tick(), TICK_MS);
  }

  /** Something came. */
  heard(limitMs = this.calmMs): void {
    this.calmMs = limitMs;
    this.#limitMs = limitMs;
    this.#silentMs = 0;
    this.#asked = false;
  }

  /** Looks at the clock. */
  tick(): void {
    const now = this.clock();
    const passed = now - this.#last;
    this.#last = now;
    const paused = passed > PAUSE_MS || passed < 0;
    // after one late tick the program has yet to read what came meanwhile; if all are late, it had the time
    const stalled = passed > LATE_MS && !this.#late;
    this.#late = passed > LATE_MS;
    if (this.alarms.idle?.()) {
      this.heard();
    } else if (paused && !this.#asked) {
      this.#silentMs = 0;
      this.#limitMs = Math.min(this.calmMs, PAUSE_MS);
      this.#asked = true;
      this.alarms.paused?.();
    } else {
      const counted = Math.min(passed, paused ? passed : stalled ? TICK_MS : COUNTED_MS);
      this.#silentMs += counted;
      if (this.#silentMs <= this.#limitMs) {
        this.alarms.counted?.(counted);
        return;
      }
      this.stop();
      this.alarms.silent(timedOut(`nothing came for ${this.#limitMs} ms`), this.#limitMs);
    }
  }

  stop(): void {
    clearInterval(this.#timer);
  }
}
