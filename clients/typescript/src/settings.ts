// What the client must know of a room to publish safely: asked once for each room (U12).

import { durationMs } from '@bufbuild/protobuf/wkt';
import type { Caller, CallOptions } from './caller.js';
import type { UnibusError } from './error.js';

/** Whether messages are stored, and how long the room remembers their ids. */
export interface Settings {
  persist: boolean;
  windowMs: number;
}

const DEFAULT_WINDOW_MS = 120_000;
const ROOMS_MAX = 10_000;

/** Remembers the settings of rooms. */
export class RoomSettings {
  readonly #known = new Map<string, Settings>();

  constructor(private readonly caller: Caller) {}

  async get(roomId: string, options?: CallOptions): Promise<Settings> {
    const known = this.#known.get(roomId);
    if (known) return known;
    const answer = await this.caller.call((stub, attempt) => stub.getRoom({ roomId }, attempt), options);
    const { persist = false, dedupeWindow } = answer?.room ?? {};
    const settings = { persist, windowMs: dedupeWindow ? durationMs(dedupeWindow) : DEFAULT_WINDOW_MS };
    const [oldest] = this.#known.keys();
    if (this.#known.size >= ROOMS_MAX && oldest !== undefined) this.#known.delete(oldest);
    this.#known.set(roomId, settings);
    return settings;
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
}
