// Open subscriptions on a stream of the service: each has one of its own in Node, and all rooms share one in browsers.

import type { MessageInitShape } from '@bufbuild/protobuf';
import { durationMs } from '@bufbuild/protobuf/wkt';
import type { Caller } from './caller.js';
import { authorization, type Refusal } from './credentials.js';
import { UnibusError } from './error.js';
import {
  ConsumeCommand,
  type ConsumeOpenSchema,
  type ConsumeRequestSchema,
  type ConsumeResponse,
} from './gen/unibus/v1/room_service_pb.js';
import { after, Changes, onAbort, timedOut } from './time.js';
import { Watchdog } from './watchdog.js';

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

/** A command and its room. */
export interface Given {
  roomId: string;
  command: Command;
}

/** Commands that wait until the stream takes them. */
export class Commands {
  readonly #waiting: Given[] = [];
  readonly #changes = new Changes();
  #ended = false;

  push(given: Given): void {
    this.#waiting.push(given);
    this.#changes.announce();
  }

  /** No more commands follow. */
  end(): void {
    this.#ended = true;
    this.#changes.announce();
  }

  /** The next commands, at most so many. Waits for the first. None: no more follow. */
  async next(most: number, signal?: AbortSignal): Promise<Given[]> {
    await this.#changes.until(() => this.#waiting.length > 0 || this.#ended, signal);
    return this.#waiting.splice(0, most);
  }
}

/** What a link needs to run a stream. */
export interface Run {
  caller: Caller;
  commands: Commands;
  headers: Record<string, string>;
  signal: AbortSignal;
  /** Ends the stream. */
  abort(error: UnibusError): void;
  /** Ends one room. */
  drop(roomId: string, error: UnibusError): void;
}

/** How streams reach the service. */
export interface Link {
  /** How many rooms share a stream. */
  roomsMax: number;
  /** How long a stream whose rooms are closed stays open for the next one. 0: no other room follows. */
  lingerMs: number;
  run(run: Run): AsyncIterable<ConsumeResponse>;
}

/** A shorter silence says nothing: this process may be busy. */
const SILENCE_MIN_MS = 1000;
/** The longest silence before the frame `opened` (U16). */
const OPENING_MS = 15_000;
/** How long the service may take to confirm that rooms are closed. */
const CLOSING_MS = 5000;

/** A room on a stream. The frames of other rooms say nothing about it (U16). */
interface OpenRoom {
  program: Listener;
  /** How long no frame of the room came, of the time that counts, and how long that may last. */
  silentMs: number;
  limitMs: number;
  /** Another one with each frame `opened`. */
  life: object;
  close(): void;
}

/** An acknowledgement without an answer. */
interface Sent {
  sequence: bigint;
  life: object;
}

/** One stream with its rooms. */
class Session {
  readonly #commands = new Commands();
  readonly #abort = new AbortController();
  readonly #watchdog = new Watchdog(OPENING_MS, {
    idle: () => !this.#begun,
    silent: (error, ms) => {
      this.caller.connection.silent(ms);
      this.#abort.abort(error);
    },
    paused: () => this.#commands.push({ roomId: '', command: { case: 'ping', value: { nonce: 1n } } }),
    counted: (ms) => this.#watchRooms(ms),
  });
  /** Undefined: the room was closed, and its `closed` frame has not come yet. */
  readonly #rooms = new Map<string, OpenRoom | undefined>();
  /** By room, in their order. An answer can come when the room is closed, or open again. */
  readonly #acks = new Map<string, Sent[]>();
  #begun = false;
  #token: string | undefined;
  #leaving = false;
  #linger: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly caller: Caller,
    private readonly link: Link,
    refusal: Refusal | undefined,
    private readonly onEnd: (session: Session) => void,
  ) {
    void this.#run(refusal);
  }

  takes(roomId: string): boolean {
    return !this.#leaving && !this.#rooms.has(roomId) && this.#rooms.size < this.link.roomsMax;
  }

  open(roomId: string, open: Open, program: Listener): Lane {
    clearTimeout(this.#linger);
    const close = () => {
      if (this.#rooms.get(roomId) !== room) return;
      this.#rooms.set(roomId, undefined);
      this.#commands.push({ roomId, command: { case: 'close', value: { roomId } } });
      this.#rest();
    };
    const send = (command: Command) => {
      if (command.case === 'ack')
        this.#awaitAnswer(roomId, { sequence: command.value.sequence ?? 0n, life: room.life });
      this.#commands.push({ roomId, command });
    };
    // the first frame of the stream comes first
    const room: OpenRoom = { program, silentMs: 0, limitMs: OPENING_MS + 1000, life: {}, close };
    this.#rooms.set(roomId, room);
    send({ case: 'open', value: open });
    return { send, close };
  }

  /** One timer of the stream serves all rooms. */
  #watchRooms(ms: number): void {
    for (const room of [...this.#rooms.values()]) {
      if (room === undefined) continue;
      room.silentMs += ms;
      if (room.silentMs <= room.limitMs) continue;
      room.close();
      room.program.end(timedOut(`nothing came for ${room.limitMs} ms`), this.#token);
    }
  }

  #awaitAnswer(roomId: string, sent: Sent): void {
    const waiting = this.#acks.get(roomId);
    if (waiting) waiting.push(sent);
    else this.#acks.set(roomId, [sent]);
  }

  /** Notes what a frame answers. Whether that is of an earlier subscription of the room, or from before a move. */
  #late(roomId: string, frame: Frame, life: object | undefined): boolean {
    const waiting = this.#acks.get(roomId);
    const [first] = waiting ?? [];
    if (waiting === undefined || first === undefined) return false;
    let owner = first;
    let answered = 0;
    if (frame.case === 'acked') {
      // one confirmation can answer several
      const { position } = frame.value;
      while (waiting[answered]?.life === first.life && (waiting[answered]?.sequence ?? 0n) <= position) answered += 1;
    } else if (frame.case === 'rejected' && frame.value.command === ConsumeCommand.ACK) {
      const { sequence } = frame.value;
      answered = waiting.findIndex((each) => each.sequence === sequence) + 1;
      owner = waiting[answered - 1] ?? first;
    }
    if (answered === 0) return false;
    waiting.splice(0, answered);
    if (waiting.length === 0) this.#acks.delete(roomId);
    return owner.life !== life;
  }

  async #run(refusal: Refusal | undefined): Promise<void> {
    const { signal } = this.#abort;
    const { caller } = this;
    const abort = (error: unknown) => this.#abort.abort(error);
    const undo = onAbort(caller.closed, () => abort(caller.closed.reason));
    try {
      this.#token = await caller.token(refusal, signal);
      this.#begun = true;
      const headers = authorization(this.#token);
      const drop = (roomId: string, error: UnibusError) => this.#drop(roomId, error);
      const responses = this.link.run({ caller, commands: this.#commands, headers, signal, abort, drop });
      for await (const response of responses) {
        caller.connection.heard();
        this.#watchdog.heard();
        this.#dispatch(response);
      }
      this.#endAll(new UnibusError({ code: 'UNAVAILABLE', message: 'the stream ended without a status' }));
    } catch (thrown) {
      this.#endAll(UnibusError.from(signal.aborted ? signal.reason : thrown));
    } finally {
      undo();
      this.#watchdog.stop();
    }
  }

  #dispatch({ roomId, frame }: ConsumeResponse): void {
    if (frame.case === 'closed') {
      const error = frame.value.code === 0 ? undefined : UnibusError.fromStatus(frame.value);
      // these end all rooms, and then the stream
      if (error?.reason === 'DRAINING' || error?.outcomeClass === 'new_token') this.#leaving = true;
      this.#drop(roomId, error);
    } else if (frame.case !== 'pong') {
      const room = this.#rooms.get(roomId);
      const late = this.#late(roomId, frame, room?.life);
      if (room === undefined) return;
      room.silentMs = 0;
      if (frame.case === 'opened') {
        const { heartbeatInterval } = frame.value;
        room.life = {};
        room.limitMs = heartbeatInterval ? Math.max(SILENCE_MIN_MS, 2 * durationMs(heartbeatInterval)) : OPENING_MS;
        this.#watchdog.heard(room.limitMs);
      }
      if (!late) room.program.frame(frame);
    }
  }

  #drop(roomId: string, error: UnibusError | undefined): void {
    const room = this.#rooms.get(roomId);
    this.#rooms.delete(roomId);
    this.#rest();
    room?.program.end(error, this.#token);
  }

  /** Without an open room the stream ends soon: at once if no other room can follow. */
  #rest(): void {
    if ([...this.#rooms.values()].some((room) => room !== undefined)) return;
    if (this.link.lingerMs === 0) {
      this.#leaving = true;
      this.#commands.end();
    }
    clearTimeout(this.#linger);
    const ms = this.#rooms.size === 0 && this.link.lingerMs > 0 ? this.link.lingerMs : CLOSING_MS;
    this.#linger = after(ms, () => {
      this.#leaving = true;
      this.#abort.abort();
    });
  }

  #endAll(error: UnibusError): void {
    this.#leaving = true;
    this.#commands.end();
    this.#abort.abort(error);
    this.onEnd(this);
    for (const roomId of [...this.#rooms.keys()]) this.#drop(roomId, error);
    clearTimeout(this.#linger);
  }
}

/** The streams of a client. Where rooms share one, it is enough unless a room is subscribed twice. */
export class Sessions {
  readonly #sessions = new Set<Session>();

  constructor(
    private readonly caller: Caller,
    private readonly link: Link,
  ) {}

  open(roomId: string, open: Open, refusal: Refusal | undefined, listener: Listener): Lane {
    const shared = this.link.roomsMax > 1 ? [...this.#sessions].find((each) => each.takes(roomId)) : undefined;
    const session = shared ?? new Session(this.caller, this.link, refusal, (ended) => this.#sessions.delete(ended));
    this.#sessions.add(session);
    return session.open(roomId, open, listener);
  }
}
