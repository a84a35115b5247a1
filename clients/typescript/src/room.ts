// A room, as a program uses it.

import type { MessageInitShape } from '@bufbuild/protobuf';
import type { Caller, CallOptions } from './caller.js';
import { invalid } from './error.js';
import type { Message } from './gen/unibus/v1/message_pb.js';
import type { Room as RoomInfo, RoomSchema } from './gen/unibus/v1/room_pb.js';
import { type Member, type PurgeRoomRequestSchema, Role, RoomService } from './gen/unibus/v1/room_service_pb.js';
import type { Subscriber } from './gen/unibus/v1/subscription_pb.js';
import { type HistoryOptions, history } from './history.js';
import { Messages } from './messages.js';
import { uint64 } from './numbers.js';
import { pages } from './pages.js';
import { type MessageOptions, type Published, publish, requestOf } from './publish.js';
import { type Mailer, Publisher, type PublisherOptions } from './publisher.js';
import type { Sessions } from './session.js';
import type { RoomSettings } from './settings.js';
import { type Handler, type StartAt, type SubscribeOptions, Subscription, startOf } from './subscription.js';

/** What the rooms of a client share. */
export interface Shared {
  caller: Caller;
  sessions: Sessions;
  mailer: Mailer;
  settings: RoomSettings;
  /** What the client closes first (U27). */
  subscriptions: Set<{ close(): Promise<void> }>;
  publishers: Set<Publisher>;
}

/** What may change in a room. */
export type RoomChanges = Pick<MessageInitShape<typeof RoomSchema>, (typeof CHANGEABLE)[number]>;
const CHANGEABLE = ['labels', 'retention', 'dedupeWindow', 'replicas'] as const;

/** What a member may do: each role may also do what the roles before it may do. */
export type RoleName = 'reader' | 'writer' | 'owner';
const { method } = RoomService;
const ROLES: Record<RoleName, Role> = { reader: Role.READER, writer: Role.WRITER, owner: Role.OWNER };

/** A handle of a room. `Client.room` makes it without asking the service, so the room need not exist. */
export class Room {
  readonly #shared: Shared;

  /** Made by `Client.room`. */
  constructor(
    readonly id: string,
    shared: Shared,
  ) {
    this.#shared = shared;
  }

  /** The settings of the room, and what its log holds now. */
  async get(options?: CallOptions): Promise<RoomInfo> {
    const { room } = await this.#shared.caller.call(method.getRoom, { roomId: this.id }, options);
    return room as RoomInfo;
  }

  /** Changes labels, retention, `dedupeWindow` or replicas: the fields that are set, or those that `paths` names. */
  async update(changes: RoomChanges, options: CallOptions & { paths?: string[] } = {}): Promise<RoomInfo> {
    const { caller, settings } = this.#shared;
    const fixed = Object.keys(changes).find((each) => !CHANGEABLE.some((name) => name === each));
    if (fixed !== undefined) throw invalid(fixed, `${fixed} of a room cannot change`);
    const room = { ...changes, roomId: this.id } as MessageInitShape<typeof RoomSchema>;
    const request = options.paths ? { room, updateMask: { paths: options.paths } } : { room };
    const answer = await caller.call(method.updateRoom, request, options);
    settings.forget(this.id);
    return answer.room as RoomInfo;
  }

  /** Deletes the room with its messages, subscribers and members (U10). */
  async delete(options?: CallOptions): Promise<void> {
    const { caller, settings } = this.#shared;
    const policy = { goneReason: 'ROOM_NOT_FOUND' };
    await caller.call(method.deleteRoom, { roomId: this.id }, options, policy);
    settings.forget(this.id);
  }

  /**
   * Removes the messages up to `upToSequence`, or all. Without it the call is not repeated after an unknown outcome, since it would
   * remove later messages too (U10).
   */
  async purge(options: CallOptions & { upToSequence?: bigint } = {}): Promise<void> {
    const request: MessageInitShape<typeof PurgeRoomRequestSchema> = { roomId: this.id };
    // a value that the program did not find must not mean everything
    if ('upToSequence' in options) request.upToSequence = uint64('upToSequence', options.upToSequence);
    const policy = { unlessUnknown: request.upToSequence === undefined };
    await this.#shared.caller.call(method.purgeRoom, request, options, policy);
  }

  /** Erases one stored message (U10). */
  async deleteMessage(sequence: bigint, options?: CallOptions): Promise<void> {
    const request = { roomId: this.id, sequence: uint64('sequence', sequence) };
    const policy = { goneReason: 'MESSAGE_NOT_FOUND' };
    await this.#shared.caller.call(method.deleteMessage, request, options, policy);
  }

  /** Publishes a message: stored once, also when an attempt is repeated (U11). A text is sent in UTF-8. */
  async publish(payload: Uint8Array | string, options: MessageOptions & CallOptions = {}): Promise<Published> {
    const { caller, settings } = this.#shared;
    return publish(caller, settings, requestOf(this.id, payload, options), options);
  }

  /** Publishes without waiting for each message, in order (U13, U14). */
  publisher(options: PublisherOptions = {}): Publisher {
    const { caller, settings, mailer, publishers } = this.#shared;
    const publisher = new Publisher(this.id, caller, settings, mailer, options, () => publishers.delete(publisher));
    publishers.add(publisher);
    return publisher;
  }

  /** Calls the handler for each message, for ever (U15). Wait for `ended` of the subscription to learn why it ended. */
  subscribe(options: SubscribeOptions, handler: Handler): Subscription {
    const subscription = this.#subscribe(options, handler, () => subscription.close());
    return subscription;
  }

  #subscribe(options: SubscribeOptions, handler: Handler, close: () => Promise<void>): Subscription {
    const { caller, settings, sessions, subscriptions } = this.#shared;
    const open = { close };
    const onEnded = () => subscriptions.delete(open);
    const subscription = new Subscription(this.id, caller, sessions, settings, options, handler, onEnded);
    subscriptions.add(open);
    return subscription;
  }

  /** The messages of the room for `for await`, for ever (U15), one at a time. */
  messages(options: Omit<SubscribeOptions, 'concurrency'> = {}): Messages {
    const close = () => messages.closeWithin(options.ackTimeoutMs);
    const messages = new Messages((handler) => this.#subscribe({ ...options, concurrency: 1 }, handler, close));
    return messages;
  }

  /** The stored messages (U28). */
  history(options: HistoryOptions = {}): AsyncGenerator<Message, void> {
    return history(this.#shared.caller, this.id, options);
  }

  /** The members of the room, by ascending id. */
  members(options?: CallOptions): AsyncGenerator<Member, void> {
    return pages(
      (pageToken) => this.#shared.caller.call(method.listMembers, { roomId: this.id, pageToken }, options),
      ({ members }) => members,
    );
  }

  /** Adds a member, or changes its role. With `visibleFrom` the member reads no message before that sequence. */
  async addMember(
    memberId: string,
    role: RoleName,
    options: CallOptions & { visibleFrom?: bigint } = {},
  ): Promise<void> {
    const visibleFrom = uint64('visibleFrom', options.visibleFrom ?? 0n);
    const request = { roomId: this.id, memberId, role: ROLES[role], visibleFrom };
    if (request.role === undefined) throw invalid('role', `${role} is no role`);
    await this.#shared.caller.call(method.addMember, request, options);
  }

  /** Removes a member (U10). */
  async removeMember(memberId: string, options?: CallOptions): Promise<void> {
    const request = { roomId: this.id, memberId };
    const policy = { goneReason: 'MEMBER_NOT_FOUND' };
    await this.#shared.caller.call(method.removeMember, request, options, policy);
  }

  /** The durable subscribers of the room, with their positions and lags. */
  subscribers(options?: CallOptions): AsyncGenerator<Subscriber, void> {
    return pages(
      (pageToken) => this.#shared.caller.call(method.listSubscribers, { roomId: this.id, pageToken }, options),
      ({ subscribers }) => subscribers,
    );
  }

  /** Moves a durable subscriber, forwards or back. Returns its position. */
  async seekSubscriber(subscriber: string, to: StartAt, options?: CallOptions): Promise<bigint> {
    const request = { roomId: this.id, subscriber, position: startOf(to) };
    const answer = await this.#shared.caller.call(method.seekSubscriber, request, options);
    return answer.position;
  }

  /** Deletes a durable subscriber with its position (U10). */
  async deleteSubscriber(subscriber: string, options?: CallOptions): Promise<void> {
    const request = { roomId: this.id, subscriber };
    const policy = { goneReason: 'SUBSCRIBER_NOT_FOUND' };
    await this.#shared.caller.call(method.deleteSubscriber, request, options, policy);
  }
}
