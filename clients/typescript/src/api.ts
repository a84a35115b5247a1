// What both entries export.

export { durationFromMs, type Timestamp, timestampDate, timestampFromDate } from '@bufbuild/protobuf/wkt';
export type { CallOptions } from './caller.js';
export { Client, type ClientOptions, type NewRoom } from './client.js';
export type { TokenSource } from './credentials.js';
export { type OutcomeClass, type StatusCode, UnibusError } from './error.js';
export { Durability, type Message } from './gen/unibus/v1/message_pb.js';
export type { Retention, Room as RoomInfo, RoomState } from './gen/unibus/v1/room_pb.js';
export { type Member, Role } from './gen/unibus/v1/room_service_pb.js';
export type { Subscriber } from './gen/unibus/v1/subscription_pb.js';
export type { HistoryOptions } from './history.js';
export type { Messages } from './messages.js';
export type { MessageOptions, Published } from './publish.js';
export type { Publisher, PublisherOptions } from './publisher.js';
export type { RoleName, Room, RoomChanges } from './room.js';
export type { Handler, StartAt, SubscribeOptions, Subscription, SubscriptionEvent } from './subscription.js';
