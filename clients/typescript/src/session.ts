// Open subscriptions on a stream of the service: each has one of its own in Node, and all rooms share one in browsers.

import type { MessageInitShape } from '@bufbuild/protobuf';
import { durationMs } from '@bufbuild/protobuf/wkt';
import type { Caller } from './caller.js';
import { authorization, type Refusal } from './credentials.js';
import { UnibusError } from './error.js';
import type { ConsumeOpenSchema, ConsumeRequestSchema, ConsumeResponse } from './gen/unibus/v1/room_service_pb.js';
import { after, Changes, onAbort } from './time.js';
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

/** A room on a stream. */
interface OpenRoom {
  program: Listener;
  /** Until the first frame of the room: the frames of other rooms say nothing about it. */
  watchdog: Watchdog;
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
  });
  /** Undefined: the room was closed, and its `closed` frame has not come yet. */
  readonly #rooms = new Map<string, OpenRoom | undefined>();
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
    const send = (command: Command) => this.#commands.push({ roomId, command });
    const close = () => {
      room.watchdog.stop();
      if (this.#rooms.get(roomId) !== room) return;
      this.#rooms.set(roomId, undefined);
      send({ case: 'close', value: { roomId } });
      this.#rest();
    };
    const silent = (error: UnibusError) => {
      close();
      program.end(error, this.#token);
    };
    // the first frame of the stream comes first
    const room = { program, watchdog: new Watchdog(OPENING_MS + 1000, { silent }) };
    this.#rooms.set(roomId, room);
    send({ case: 'open', value: open });
    return { send, close };
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
      const interval = frame.case === 'opened' ? frame.value.heartbeatInterval : undefined;
      if (interval) this.#watchdog.heard(Math.max(SILENCE_MIN_MS, 2 * durationMs(interval)));
      const room = this.#rooms.get(roomId);
      room?.watchdog.stop();
      room?.program.frame(frame);
    }
  }

  #drop(roomId: string, error: UnibusError | undefined): void {
    const room = this.#rooms.get(roomId);
    this.#rooms.delete(roomId);
    this.#rest();
    room?.watchdog.stop();
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
