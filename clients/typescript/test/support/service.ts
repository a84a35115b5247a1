// A service that does what a test says, at a socket of its own: for both wires of the client.

import { createServer as createHttp1 } from 'node:http';
import { createServer as createHttp2, type ServerHttp2Session } from 'node:http2';
import type { AddressInfo } from 'node:net';
import { create, type MessageInitShape } from '@bufbuild/protobuf';
import { anyPack, durationFromMs } from '@bufbuild/protobuf/wkt';
import { Code, ConnectError, type ServiceImpl } from '@connectrpc/connect';
import { connectNodeAdapter } from '@connectrpc/connect-node';
import { onTestFinished, vi } from 'vitest';
import type { Client, ClientOptions } from '../../src/client.js';
import { BadRequestSchema, ErrorInfoSchema, RetryInfoSchema } from '../../src/gen/google/rpc/error_details_pb.js';
import { StatusSchema } from '../../src/gen/google/rpc/status_pb.js';
import {
  type ConsumeRequest,
  type ConsumeResponseSchema,
  RoomService,
} from '../../src/gen/unibus/v1/room_service_pb.js';
import { connect } from '../../src/node.js';
import { connect as connectWeb } from '../../src/web.js';

export const WIRES = ['node', 'web'] as const;
export type WireName = (typeof WIRES)[number];

type FrameInit = NonNullable<MessageInitShape<typeof ConsumeResponseSchema>['frame']>;

/** A status of the service, with its details. */
export function status(code: Code, reason: string, { retryMs, field }: { retryMs?: number; field?: string } = {}) {
  const details = [anyPack(ErrorInfoSchema, create(ErrorInfoSchema, { domain: 'unibus.v1', reason }))];
  if (retryMs !== undefined)
    details.push(anyPack(RetryInfoSchema, create(RetryInfoSchema, { retryDelay: durationFromMs(retryMs) })));
  if (field !== undefined)
    details.push(anyPack(BadRequestSchema, create(BadRequestSchema, { fieldViolations: [{ field }] })));
  return create(StatusSchema, { code, message: reason, details });
}

/** The same as an error of a call. */
export function refusal(...all: Parameters<typeof status>): ConnectError {
  const { code, message, details } = status(...all);
  const error = new ConnectError(message, code);
  error.details = details.map(({ typeUrl, value }) => ({ type: typeUrl.split('/')[1] ?? '', value }));
  return error;
}

/** An open stream of subscriptions, as the service sees it. */
export class Stream {
  readonly commands: ConsumeRequest['command'][] = [];
  readonly #frames: { roomId: string; frame: FrameInit }[] = [];
  #end: { error?: ConnectError } | undefined;
  #wake = () => {};

  send(frame: FrameInit, roomId = 'r'): void {
    this.#frames.push({ roomId, frame });
    this.#wake();
  }

  opened(position: bigint, { resumed = false, generation = 1n, roomId = 'r', heartbeatMs = 15_000 } = {}): void {
    const heartbeatInterval = durationFromMs(heartbeatMs);
    this.send({ case: 'opened', value: { position, resumed, generation, heartbeatInterval } }, roomId);
  }

  messages(from: bigint, to: bigint, roomId = 'r'): void {
    for (let sequence = from; sequence <= to; sequence += 1n)
      this.send({ case: 'message', value: { sequence, cursor: `cursor-${sequence}` } }, roomId);
  }

  end(error?: ConnectError): void {
    this.#end = error ? { error } : {};
    this.#wake();
  }

  of<C extends ConsumeRequest['command']['case']>(what: C) {
    return this.commands.filter((each): each is Extract<typeof each, { case: C }> => each.case === what);
  }

  async *frames(signal: AbortSignal) {
    signal.addEventListener('abort', () => this.#wake());
    for (;;) {
      for (let next = this.#frames.shift(); next; next = this.#frames.shift()) yield next;
      if (this.#end?.error) throw this.#end.error;
      if (this.#end || signal.aborted) return;
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }
}

/** What the tests see of the service. */
export interface Fake {
  url: string;
  /** The streams of subscriptions, in the order in which they came. */
  streams: Stream[];
  /** The calls of each method. */
  calls: Record<string, number>;
  stream(at: number): Promise<Stream>;
  client(options?: ClientOptions): Client;
}

/** Starts a service. Methods that the test does not give answer with nothing. Everything ends with the test. */
export async function fake(wire: WireName, methods: Partial<ServiceImpl<typeof RoomService>> = {}): Promise<Fake> {
  const streams: Stream[] = [];
  const calls: Record<string, number> = {};
  const byId = new Map<string, Stream>();
  const implementation: Partial<ServiceImpl<typeof RoomService>> = {
    getRoom: ({ roomId }) => ({ room: { roomId, persist: true } }),
    async *consume(requests, { signal }) {
      const stream = new Stream();
      streams.push(stream);
      void (async () => {
        for await (const { command } of requests) stream.commands.push(command);
        stream.end();
      })().catch(() => {});
      yield* stream.frames(signal);
    },
    async *openSession({ commands }, { signal }) {
      const stream = new Stream();
      streams.push(stream);
      stream.commands.push(...commands.map(({ command }) => command));
      const id = `session-${streams.length}`;
      byId.set(id, stream);
      yield { frame: { case: 'session' as const, value: { id } } };
      for await (const value of stream.frames(signal)) yield { frame: { case: 'consume' as const, value } };
    },
    sessionCommand({ sessionId, commands }) {
      byId.get(sessionId)?.commands.push(...commands.map(({ command }) => command));
      return {};
    },
    ...methods,
  };
  const handler = connectNodeAdapter({
    routes: ({ service }) => service(RoomService, implementation),
    interceptors: [
      (next) => (request) => {
        calls[request.method.localName] = (calls[request.method.localName] ?? 0) + 1;
        return next(request);
      },
    ],
  });
  const sessions = new Set<ServerHttp2Session>();
  const http2 = createHttp2(handler);
  http2.on('session', (session) => sessions.add(session));
  const http1 = createHttp1(handler);
  const server = wire === 'node' ? http2 : http1;
  await new Promise<void>((done) => server.listen(0, '127.0.0.1', done));
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  onTestFinished(() => {
    for (const session of sessions) session.destroy();
    http1.closeAllConnections();
    server.close();
  });
  return {
    url,
    streams,
    calls,
    stream: async (at) => vi.waitFor(() => streams[at] ?? Promise.reject(new Error(`no stream ${at}`)), 5000),
    client(options = {}) {
      const client = wire === 'node' ? connect(url, options) : connectWeb(url, options);
      onTestFinished(() => client.close());
      return client;
    },
  };
}

/** A status as the frame that closes a room. */
export const closed = (...all: Parameters<typeof status>): FrameInit => ({ case: 'closed', value: status(...all) });

export { Code, ConnectError };
