// The script of the page. It keeps each subscription under a name, with all frames that came, for the tests to read.

import { toJson } from '@bufbuild/protobuf';
import { createClient } from '@connectrpc/connect';
import { createConnectTransport, createGrpcWebTransport } from '@connectrpc/connect-web';
import { RoomService, SubscribeResponseSchema } from './gen/unibus/v1/room_service_pb';
import { call, events, type Frame, stream } from './wire';

/** How a page follows rooms. */
export type Way = 'subscribe' | 'events' | 'source' | 'session' | 'connect' | 'grpc-web';

export interface Wish {
  service: string;
  way: Way;
  /** One room, or for a session several. */
  rooms: string[];
  token?: string;
  /** Begins again after each break, behind what came. */
  resume?: boolean;
  /** Commands for the beginning of a session, in place of an `open` of each room. */
  commands?: object[];
}

/** A subscription, or a session. */
class Feed {
  readonly frames: { at: number; frame: Frame }[] = [];
  /** Why it broke off, each time. */
  readonly breaks: string[] = [];
  /** How often an EventSource gave up. */
  closed = 0;
  /** Why it ended for good. */
  end: string | undefined;
  readonly #stop = new AbortController();
  /** The last sequence of each room. */
  readonly #last = new Map<string, string>();
  #lastEventId: string | undefined;

  constructor(readonly wish: Wish) {
    if (wish.way === 'source') this.#listen();
    else void this.#run();
  }

  stop(): void {
    this.#stop.abort();
  }

  #take(frame: Frame): void {
    this.frames.push({ at: Date.now(), frame });
    const room = frame.consume?.roomId ?? this.wish.rooms[0] ?? '';
    const message = frame.message ?? frame.consume?.message;
    if (message) this.#last.set(room, message.sequence);
  }

  async #run(): Promise<void> {
    for (;;) {
      try {
        for await (const frame of this.#open()) this.#take(frame);
        this.end = 'done';
        return;
      } catch (error) {
        if (this.#stop.signal.aborted) this.end = 'stopped';
        else this.breaks.push(error instanceof Error ? error.message : `${error}`);
        if (this.#stop.signal.aborted || !this.wish.resume) {
          this.end ??= this.breaks.at(-1);
          return;
        }
        await new Promise((done) => setTimeout(done, 200));
      }
    }
  }

  #request(roomId: string): object {
    return { roomId, start: { afterSequence: this.#last.get(roomId) ?? '0' } };
  }

  async *#open(): AsyncGenerator<Frame> {
    const { service, way, rooms, token, commands } = this.wish;
    const room = rooms[0] ?? '';
    const { signal } = this.#stop;
    switch (way) {
      case 'subscribe':
        return yield* stream(service, 'Subscribe', this.#request(room), signal, token);
      case 'session': {
        const opens = rooms.map((roomId) => ({ open: { subscribe: this.#request(roomId) } }));
        return yield* stream(service, 'OpenSession', { commands: commands ?? opens }, signal, token);
      }
      case 'events':
        for await (const { frame, id } of events(
          eventsUrl(service, room),
          signal,
          this.#lastEventId,
          token,
        )) {
          this.#lastEventId = id;
          yield frame;
        }
        return;
      default: {
        const start = { at: { case: 'afterSequence', value: BigInt(this.#last.get(room) ?? '0') } } as const;
        for await (const response of client(service, way).subscribe({ roomId: room, start }, { signal })) {
          yield toJson(SubscribeResponseSchema, response) as Frame;
        }
      }
    }
  }

  /** An EventSource begins again by itself after a lost connection, but not after another answer, such as that of a proxy. */
  #listen(): void {
    const after = this.#lastEventId === undefined ? '' : `?after=${encodeURIComponent(this.#lastEventId)}`;
    const source = new EventSource(eventsUrl(this.wish.service, this.wish.rooms[0] ?? '') + after);
    this.#stop.signal.addEventListener('abort', () => {
      source.close();
      this.end = 'stopped';
    });
    source.onmessage = ({ data, lastEventId }) => {
      this.#lastEventId = lastEventId;
      this.#take(JSON.parse(data));
    };
    for (const name of ['opened', 'caught_up', 'heartbeat', 'gap']) {
      source.addEventListener(name, ({ data }) => this.#take(JSON.parse(data)));
    }
    source.addEventListener('error', (event) => {
      this.breaks.push(event instanceof MessageEvent ? event.data : 'no connection');
      if (source.readyState !== EventSource.CLOSED) return;
      this.closed += 1;
      if (this.wish.resume) setTimeout(() => this.#listen(), 200);
      else this.end = 'closed';
    });
  }
}

const eventsUrl = (service: string, room: string) => `${service}/v1/rooms/${room}/events`;

/** A generated client. */
function client(service: string, way: Way) {
  const options = { baseUrl: service };
  return createClient(
    RoomService,
    way === 'grpc-web' ? createGrpcWebTransport(options) : createConnectTransport(options),
  );
}

const feeds = new Map<string, Feed>();

const tools = {
  call,
  follow: (name: string, wish: Wish) => void feeds.set(name, new Feed(wish)),
  /** The frames of a feed after the first `from`, and its state. */
  read(name: string, from: number) {
    const feed = feeds.get(name);
    if (feed === undefined) throw new Error(`no feed ${name}`);
    return { frames: feed.frames.slice(from), breaks: feed.breaks, closed: feed.closed, end: feed.end };
  },
  stop: (name: string) => feeds.get(name)?.stop(),
  /** Publishes with a generated client. Returns the sequence. */
  async publish(service: string, way: Way, roomId: string, text: string): Promise<string> {
    const { sequence } = await client(service, way).publish({
      roomId,
      payload: new TextEncoder().encode(text),
    });
    return `${sequence}`;
  },
};

export type Tools = typeof tools;

declare global {
  interface Window {
    tools: Tools;
  }
}

window.tools = tools;
