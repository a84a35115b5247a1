// How the frames of a subscription come: over a stream of its own (Node), or over a session that rooms share (browsers).

import type { MessageInitShape } from '@bufbuild/protobuf';
import type { Caller, Health } from './caller.js';
import type { Refusal } from './credentials.js';
import type { UnibusError } from './error.js';
import type { ConsumeOpenSchema, ConsumeRequestSchema, ConsumeResponse } from './gen/unibus/v1/room_service_pb.js';
import type { RunRound } from './publisher.js';

export type Open = MessageInitShape<typeof ConsumeOpenSchema>;
/** A command on `Consume`. */
export type Command = NonNullable<MessageInitShape<typeof ConsumeRequestSchema>['command']>;
/** A frame of one room. */
export type Frame = ConsumeResponse['frame'];

/** Gets what comes on a lane. */
export interface Listener {
  frame(frame: Frame): void;
  /** The lane has ended: with an error, or as the service was asked to. Nothing comes after it. */
  end(error: UnibusError | undefined, token: string | undefined): void;
}

/** The open subscription of one room. */
export interface Lane {
  send(command: Command): void;
  /** Ends the lane without waiting: what was sent is still carried out. The listener gets nothing more (U27). */
  close(): void;
}

/** Opens lanes, and publishes streams. */
export interface Wire {
  open(caller: Caller, roomId: string, open: Open, refusal: Refusal | undefined, listener: Listener): Lane;
  runRound: RunRound;
  health: Health;
  /** Drops all connections. */
  close(): void;
}

/** The longest silence before the frame `opened` (U16). */
export const OPENING_MS = 15_000;
/** How long a lane may take to end after its close. */
export const CLOSING_MS = 5000;
