// The connection of a client in Node, set up for streams that never end.

import type { ClientHttp2Session, ClientHttp2Stream, SecureClientSessionOptions } from 'node:http2';
import { Code, ConnectError } from '@connectrpc/connect';
import { Http2SessionManager } from '@connectrpc/connect-node';
import type { Connection } from './caller.js';

// a connection that is silent for 20 s must answer a ping in 10 s (U6); one that does not come about is given up soon, since the kernel
// would wait longer and longer between its attempts (U4)
const KEEPALIVE = { pingIntervalMs: 20_000, pingTimeoutMs: 10_000, connectTimeoutMs: 5000 };
// Node resets streams of a connection that has more than 10 MB under way, which one large message has
const SESSION_MB = 1024;
// what may be on its way to a stream, and to the connection: the 64 KiB of Node are 1 MB/s over 60 ms
const STREAM_WINDOW = 4 << 20;
const CONNECTION_WINDOW = 16 << 20;

/** Connects with the first request, and again after each break. */
export class NodeConnection extends Http2SessionManager implements Connection {
  readonly #tuned = new WeakSet<ClientHttp2Session>();
  #heardAt = Date.now();

  constructor(baseUrl: string, options: SecureClientSessionOptions) {
    const settings = { initialWindowSize: STREAM_WINDOW, enablePush: false, ...options.settings };
    super(baseUrl, KEEPALIVE, { maxSessionMemory: SESSION_MB, ...options, settings });
  }

  override async request(...all: Parameters<Http2SessionManager['request']>): Promise<ClientHttp2Stream> {
    const stream = await super.request(...all);
    const { session } = stream;
    if (session && !session.destroyed && !this.#tuned.has(session as ClientHttp2Session)) {
      session.setLocalWindowSize(CONNECTION_WINDOW);
      this.#tuned.add(session as ClientHttp2Session);
    }
    return stream;
  }

  heard(): void {
    this.#heardAt = Date.now();
  }

  /** A new attempt over a connection that is half open would be lost too. The clocks of the two sides differ a little. */
  silent(ms: number): void {
    if (Date.now() - this.#heardAt < 0.9 * ms) return;
    this.abort(new ConnectError('the connection was silent', Code.Unavailable));
  }

  close(): void {
    this.abort();
  }
}
