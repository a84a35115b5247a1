// The wire of browsers: the rooms of a client share a session, and a publisher sends batches. It works wherever fetch does.

import { durationMs } from '@bufbuild/protobuf/wkt';
import type { Caller } from './caller.js';
import { authorization, type Refusal } from './credentials.js';
import { UnibusError } from './error.js';
import type { ConsumeResponse } from './gen/unibus/v1/room_service_pb.js';
import type { Entry } from './outbox.js';
import type { Round } from './publisher.js';
import { unless } from './time.js';
import { Watchdog } from './watchdog.js';
import { type Command, type Lane, type Listener, OPENING_MS, type Open } from './wire.js';

const ROOMS_MAX = 1000;
const COMMANDS_MAX = 256;
/** How long a session without rooms stays open for the next one. */
const LINGER_MS = 1000;

interface Given {
  roomId: string;
  command: Command;
}

/** One OpenSession stream with many rooms. */
class Session {
  readonly #abort = new AbortController();
  readonly #watchdog = new Watchdog(OPENING_MS, {
    silent: (error) => this.#abort.abort(error),
    paused: () => this.#give({ roomId: '', command: { case: 'ping', value: { nonce: 1n } } }),
  });
  /** Undefined: the room was closed, and its `closed` frame has not come yet. */
  readonly #rooms = new Map<string, Listener | undefined>();
  #waiting: Given[] = [];
  #token: string | undefined;
  #id: string | undefined;
  #number = 0n;
  #sending = false;
  #leaving = false;
  #linger: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly caller: Caller,
    refusal: Refusal | undefined,
    private readonly onEnd: (session: Session) => void,
  ) {
    void this.#run(refusal);
  }

  takes(roomId: string): boolean {
    return !this.#leaving && !this.#rooms.has(roomId) && this.#rooms.size < ROOMS_MAX;
  }

  open(roomId: string, open: Open, program: Listener): Lane {
    clearTimeout(this.#linger);
    const close = () => {
      watchdog.stop();
      if (this.#rooms.get(roomId) !== listener) return;
      this.#rooms.set(roomId, undefined);
      this.#give({ roomId, command: { case: 'close', value: { roomId } } });
    };
    // frames of other rooms say nothing about the first frame of this one; the session comes first
    const watchdog = new Watchdog(OPENING_MS + 1000, {
      silent: (error) => {
        close();
        program.end(error, this.#token);
      },
    });
    const listener: Listener = {
      frame: (frame) => {
        watchdog.stop();
        program.frame(frame);
      },
      end: (error, token) => {
        watchdog.stop();
        program.end(error, token);
      },
    };
    this.#rooms.set(roomId, listener);
    this.#give({ roomId, command: { case: 'open', value: open } });
    return { send: (command) => this.#give({ roomId, command }), close };
  }

  end(): void {
    this.#leaving = true;
    this.#abort.abort();
  }

  async #run(refusal: Refusal | undefined): Promise<void> {
    const { signal } = this.#abort;
    const { stub, credentials } = this.caller;
    let first: Given[] = [];
    try {
      this.#token = await unless(credentials.token(refusal), signal);
      const options = { headers: authorization(this.#token), signal };
      first = this.#waiting.splice(0, COMMANDS_MAX);
      for await (const { frame } of stub.openSession({ commands: first }, options)) {
        this.#watchdog.heard();
        if (frame.case === 'session') {
          this.#id = frame.value.id;
          void this.#send();
        } else if (frame.case === 'consume') {
          this.#dispatch(frame.value);
        }
      }
      this.#endAll(new UnibusError({ code: 'UNAVAILABLE', message: 'the session ended without a status' }));
    } catch (thrown) {
      const error = UnibusError.from(signal.aborted ? signal.reason : thrown);
      this.#endAll(this.#blame(error, first) ? error.with({ outcomeClass: 'again' }) : error);
    } finally {
      this.#watchdog.stop();
    }
  }

  #dispatch({ roomId, frame }: ConsumeResponse): void {
    const listener = this.#rooms.get(roomId);
    if (frame.case === 'closed') {
      const error = frame.value.code === 0 ? undefined : UnibusError.fromStatus(frame.value);
      // these end all rooms, and then the session
      if (error?.reason === 'DRAINING' || error?.outcomeClass === 'new_token') this.#leaving = true;
      this.#drop(roomId, error);
    } else if (frame.case !== 'pong') {
      const interval = frame.case === 'opened' ? frame.value.heartbeatInterval : undefined;
      if (interval) this.#watchdog.heard(2 * durationMs(interval));
      listener?.frame(frame);
    }
  }

  #drop(roomId: string, error: UnibusError | undefined): void {
    const listener = this.#rooms.get(roomId);
    this.#rooms.delete(roomId);
    if (this.#rooms.size === 0) this.#linger = setTimeout(() => this.end(), LINGER_MS);
    listener?.end(error, this.#token);
  }

  #endAll(error: UnibusError): void {
    this.#leaving = true;
    this.#abort.abort(error);
    this.onEnd(this);
    for (const roomId of [...this.#rooms.keys()]) this.#drop(roomId, error);
    clearTimeout(this.#linger);
  }

  #give(given: Given): void {
    this.#waiting.push(given);
    void this.#send();
  }

  /** Sends commands in numbered calls, one at a time. A call is repeated under its number until its outcome is known. */
  async #send(): Promise<void> {
    const id = this.#id;
    if (id === undefined || this.#sending) return;
    this.#sending = true;
    try {
      while (this.#waiting.length > 0) {
        const commands = this.#waiting.splice(0, COMMANDS_MAX);
        await this.#command(id, commands);
      }
    } catch (thrown) {
      // without its commands a session is of no use: its rooms are opened again in another one
      this.#abort.abort(UnibusError.from(thrown).with({ outcomeClass: 'again' }));
    } finally {
      this.#sending = false;
    }
  }

  async #command(sessionId: string, commands: Given[]): Promise<void> {
    const { caller } = this;
    const request = { sessionId, number: this.#number + 1n, commands };
    try {
      const { signal } = this.#abort;
      await caller.call((stub, attempt) => stub.sessionCommand(request, attempt), { signal });
      this.#number += 1n;
    } catch (thrown) {
      const room = this.#blame(UnibusError.from(thrown), commands);
      if (room === undefined) throw thrown;
      const others = commands.filter(({ roomId }) => roomId !== room);
      if (others.length > 0) await this.#command(sessionId, others);
    }
  }

  /** A call with a wrong command takes none. Ends only the room of the wrong one, and returns it. */
  #blame(error: UnibusError, commands: Given[]): string | undefined {
    if (error.reason !== 'INVALID_FIELD') return undefined;
    const at = error.fields[0]?.match(/^commands\[(\d+)\]\.(.*)$/);
    const roomId = commands[Number(at?.[1])]?.roomId;
    if (roomId) this.#drop(roomId, error.with({ fields: [at?.[2] ?? ''] }));
    return roomId;
  }
}

/** The sessions of a client. One is enough, unless a room is subscribed twice or there are more than 1000. */
export class Sessions {
  readonly #sessions = new Set<Session>();

  open(caller: Caller, roomId: string, open: Open, refusal: Refusal | undefined, listener: Listener): Lane {
    let session = [...this.#sessions].find((each) => each.takes(roomId));
    if (session === undefined) {
      session = new Session(caller, refusal, (ended) => this.#sessions.delete(ended));
      this.#sessions.add(session);
    }
    return session.open(roomId, open, listener);
  }

  close(): void {
    for (const session of this.#sessions) session.end();
  }
}

/** Publishes what waits in one batch. Browsers cannot send a stream. */
export async function publishBatch({ stub, limits }: Caller, round: Round): Promise<void> {
  const first = await round.next();
  if (first === undefined) return;
  const entries: Entry[] = [first];
  while (entries.length < 1000) {
    const entry = round.take();
    if (entry === undefined) break;
    entries.push(entry);
  }
  const messages = entries.map(({ message: { roomId: _, ...message } }) => message);
  const options = { headers: round.headers, signal: round.signal, timeoutMs: limits.attemptMs };
  const { results } = await stub.publishBatch({ roomId: round.roomId, messages }, options);
  for (const [at, { outcome }] of results.entries()) {
    const entry = entries[at];
    if (entry) round.answer(entry.correlationId, outcome);
  }
}
