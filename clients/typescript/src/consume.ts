// The wire of Node: gRPC over HTTP/2, with one Consume stream for each subscription and one PublishStream for each publisher.

import { durationMs } from '@bufbuild/protobuf/wkt';
import type { Caller } from './caller.js';
import { authorization, type Refusal } from './credentials.js';
import { UnibusError } from './error.js';
import { PublishAcks } from './gen/unibus/v1/room_service_pb.js';
import type { Round } from './publisher.js';
import { Deferred, unless } from './time.js';
import { Watchdog } from './watchdog.js';
import { CLOSING_MS, type Command, type Lane, type Listener, OPENING_MS, type Open } from './wire.js';

/** Commands that wait until the stream takes them. */
class Commands {
  readonly #waiting: { command: Command }[] = [];
  #change = new Deferred<void>();
  #ended = false;

  push(command: Command): void {
    this.#waiting.push({ command });
    this.#change.resolve();
  }

  /** Half-closes the stream after the last command. */
  end(): void {
    this.#ended = true;
    this.#change.resolve();
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<{ command: Command }> {
    for (;;) {
      const next = this.#waiting.shift();
      if (next) {
        yield next;
      } else {
        if (this.#ended) return;
        this.#change = new Deferred();
        await this.#change.promise;
      }
    }
  }
}

/** One Consume stream with one room. */
export class ConsumeLane implements Lane {
  readonly #commands = new Commands();
  readonly #abort = new AbortController();
  readonly #watchdog = new Watchdog(OPENING_MS, {
    silent: (error, ms) => {
      this.caller.health.silent(ms);
      this.#abort.abort(error);
    },
    paused: () => this.send({ case: 'ping', value: { nonce: 1n } }),
  });
  #listener: Listener | undefined;
  #token: string | undefined;
  #closing: ReturnType<typeof setTimeout> | undefined;

  constructor(
    private readonly caller: Caller,
    private readonly roomId: string,
    open: Open,
    refusal: Refusal | undefined,
    listener: Listener,
  ) {
    this.#listener = listener;
    this.send({ case: 'open', value: open });
    void this.#run(refusal);
  }

  send(command: Command): void {
    this.#commands.push(command);
  }

  close(): void {
    this.#listener = undefined;
    this.send({ case: 'close', value: { roomId: this.roomId } });
    this.#commands.end();
    this.#closing = setTimeout(() => this.#abort.abort(), CLOSING_MS);
  }

  async #run(refusal: Refusal | undefined): Promise<void> {
    const { signal } = this.#abort;
    try {
      this.#token = await unless(this.caller.credentials.token(refusal), signal);
      const options = { headers: authorization(this.#token), signal };
      for await (const { frame } of this.caller.stub.consume(this.#commands, options)) {
        this.caller.health.heard();
        this.#watchdog.heard(
          frame.case === 'opened' && frame.value.heartbeatInterval
            ? 2 * durationMs(frame.value.heartbeatInterval)
            : undefined,
        );
        if (frame.case === 'closed') {
          this.#end(frame.value.code === 0 ? undefined : UnibusError.fromStatus(frame.value));
          this.#commands.end();
        } else if (frame.case !== 'pong') {
          this.#listener?.frame(frame);
        }
      }
      this.#end(new UnibusError({ code: 'UNAVAILABLE', message: 'the stream ended without a status' }));
    } catch (thrown) {
      this.#end(UnibusError.from(signal.aborted ? signal.reason : thrown));
    } finally {
      this.#watchdog.stop();
      this.#commands.end();
      clearTimeout(this.#closing);
    }
  }

  #end(error: UnibusError | undefined): void {
    const listener = this.#listener;
    this.#listener = undefined;
    listener?.end(error, this.#token);
  }
}

/** Publishes over one PublishStream. */
export async function publishStream({ stub }: Caller, round: Round): Promise<void> {
  async function* requests() {
    for (let entry = await round.next(); entry; entry = await round.next()) {
      const { correlationId, message } = entry;
      yield { correlationId, publish: message, acks: PublishAcks.EACH };
    }
  }
  const options = { headers: round.headers, signal: round.signal };
  for await (const { correlationId, outcome } of stub.publishStream(requests(), options)) {
    if (outcome.case !== 'through') round.answer(correlationId, outcome);
  }
}
