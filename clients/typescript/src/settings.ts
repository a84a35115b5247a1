// What the client must know of a room to publish safely: asked once for each room (U12).

import { durationMs } from '@bufbuild/protobuf/wkt';
import type { Caller, CallOptions } from './caller.js';
import { UnibusError } from './error.js';
import { RoomService } from './gen/unibus/v1/room_service_pb.js';
import { unless } from './time.js';

/** Whether messages are stored, and how long the room remembers their ids. */
export interface Settings {
  persist: boolean;
  windowMs: number;
}

export const DEFAULT_WINDOW_MS = 120_000;
const ROOMS_MAX = 10_000;

/** Remembers the settings of rooms. */
export class RoomSettings {
  readonly #known = new Map<string, Settings>();
  readonly #asked = new Map<string, Promise<Settings>>();

  constructor(private readonly caller: Caller) {}

  /** The settings. One call asks for all that wait, except where the program bounds the time. */
  async get(roomId: string, { signal, timeoutMs = Number.POSITIVE_INFINITY }: CallOptions = {}): Promise<Settings> {
    const known = this.#known.get(roomId);
    if (known) return known;
    if (timeoutMs !== Number.POSITIVE_INFINITY) return this.#ask(roomId, { signal, timeoutMs });
    const asked = this.#asked.get(roomId);
    if (asked === undefined) return this.#share(roomId, this.#ask(roomId, {}), signal);
    const begun = performance.now();
    try {
      return await this.#share(roomId, asked, signal);
    } catch (thrown) {
      // the time of whoever asked is up, and not that of this one (U9)
      if (!(thrown instanceof UnibusError) || thrown.outcomeClass !== 'again') throw thrown;
      const leftMs = this.caller.limits.totalMs - (performance.now() - begun);
      if (leftMs <= 0) throw thrown;
      const next = this.#asked.get(roomId) ?? this.#ask(roomId, { timeoutMs: leftMs });
      return this.#share(roomId, next, signal);
    }
  }

  #share(roomId: string, asked: Promise<Settings>, signal: AbortSignal | undefined): Promise<Settings> {
    if (!this.#asked.has(roomId)) {
      this.#asked.set(roomId, asked);
      const forget = () => this.#asked.delete(roomId);
      asked.then(forget, forget);
    }
    return signal ? unless(asked, signal) : asked;
  }

  knows(roomId: string): boolean {
    return this.#known.has(roomId);
  }

  forget(roomId: string): void {
    this.#known.delete(roomId);
  }

  /** Forgets what an error shows to be wrong. Returns whether the message was refused only because of its id. */
  learn(roomId: string, { reason, fields }: UnibusError): boolean {
    const refusedId =
      reason === 'ROOM_NOT_PERSISTED' ||
      (reason === 'INVALID_FIELD' && fields.some((field) => field.endsWith('message_id')));
    if (refusedId || reason === 'ROOM_NOT_FOUND') this.forget(roomId);
    return refusedId;
  }

  /** An error says that nothing was published. */
  async #ask(roomId: string, options: CallOptions): Promise<Settings> {
    try {
      const { room } = await this.caller.call(RoomService.method.getRoom, { roomId }, options);
      const { persist = false, dedupeWindow } = room ?? {};
      const settings = { persist, windowMs: dedupeWindow ? durationMs(dedupeWindow) : DEFAULT_WINDOW_MS };
      const [oldest] = this.#known.keys();
      if (this.#known.size >= ROOMS_MAX && oldest !== undefined) this.#known.delete(oldest);
      this.#known.set(roomId, settings);
      return settings;
    } catch (thrown) {
      throw thrown instanceof UnibusError ? thrown.with({ outcomeUnknown: false }) : thrown;
    }
  }
}
