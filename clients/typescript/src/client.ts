// A client of one service: what the entries for Node and for browsers have in common.

import type { MessageInitShape } from '@bufbuild/protobuf';
import type { Transport } from '@connectrpc/connect';
import { Caller, type CallOptions, type Connection } from './caller.js';
import { Credentials, type TokenSource } from './credentials.js';
import { closedReason } from './error.js';
import type { Room as RoomInfo } from './gen/unibus/v1/room_pb.js';
import { type CreateRoomRequestSchema, RoomService } from './gen/unibus/v1/room_service_pb.js';
import { pages } from './pages.js';
import { randomId } from './publish.js';
import type { Mailer } from './publisher.js';
import { Room, type Shared } from './room.js';
import { type Link, Sessions } from './session.js';
import { RoomSettings } from './settings.js';

const { method } = RoomService;

/** How a client reaches the service: what differs between Node and browsers, beside the transport of its calls. */
export interface Wire {
  link: Link;
  mailer: Mailer;
  connection: Connection;
}

/** Options of a client, in Node and in browsers. */
export interface ClientOptions {
  /** The token of each call, or a function that gives it (U8). */
  token?: TokenSource | undefined;
  /** Sends the token without TLS, to this machine only (U5). */
  allowPlaintextToken?: boolean | undefined;
  /** The time of one attempt of a call: 10 s (U9). */
  attemptTimeoutMs?: number | undefined;
  /** The time of all attempts of a call: 60 s (U9). */
  totalTimeoutMs?: number | undefined;
  /** The time of all attempts of a publish, if it is shorter than the room's `dedupeWindow` allows (U11). */
  publishTimeoutMs?: number | undefined;
}

/** Settings of a room that is created. */
export type NewRoom = Omit<MessageInitShape<typeof CreateRoomRequestSchema>, '$typeName' | '$unknown' | 'roomId'>;

/** A client of one service. Make one with `connect` and close it at the end. */
export class Client {
  readonly #shared: Shared;
  readonly #closed = new AbortController();

  /** Made by `connect`. */
  constructor(transport: Transport, { link, mailer, connection }: Wire, options: ClientOptions) {
    const { attemptTimeoutMs = 10_000, totalTimeoutMs = 60_000, publishTimeoutMs } = options;
    const limits = { attemptMs: attemptTimeoutMs, totalMs: totalTimeoutMs, publishMs: publishTimeoutMs };
    const credentials = new Credentials(options.token);
    const caller = new Caller(transport, credentials, limits, this.#closed.signal, connection);
    const sessions = new Sessions(caller, link);
    const settings = new RoomSettings(caller);
    this.#shared = { caller, sessions, mailer, settings, subscriptions: new Set(), publishers: new Set() };
  }

  /** A handle of a room, without asking the service. */
  room(id: string): Room {
    return new Room(id, this.#shared);
  }

  /** Creates a room. The same call again returns the room that exists. Without an id the client makes one (U10). */
  async createRoom({ id, ...settings }: NewRoom & { id?: string }, options?: CallOptions): Promise<RoomInfo> {
    const roomId = id || randomId();
    const request = { ...settings, roomId } as MessageInitShape<typeof CreateRoomRequestSchema>;
    const { room } = await this.#shared.caller.call(method.createRoom, request, options);
    this.#shared.settings.forget(roomId);
    return room as RoomInfo;
  }

  /** The rooms of which the caller is a member, by ascending id. */
  rooms(options?: CallOptions): AsyncGenerator<RoomInfo, void> {
    return pages(
      (pageToken) => this.#shared.caller.call(method.listRooms, { pageToken }, options),
      ({ rooms }) => rooms,
    );
  }

  /** Closes all subscriptions in order, then the publishers that their handlers may use, then the connection (U27). */
  async close(): Promise<void> {
    const { subscriptions, publishers } = this.#shared;
    await Promise.allSettled([...subscriptions].map((each) => each.close()));
    await Promise.allSettled([...publishers].map((each) => each.close()));
    this.#closed.abort(closedReason('client'));
    this.#shared.caller.connection.close();
  }

  /** Closes the client at the end of an `await using` block. */
  [Symbol.asyncDispose](): Promise<void> {
    return this.close();
  }
}
