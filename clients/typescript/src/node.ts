// The entry for Node: gRPC over HTTP/2.

import type { SecureClientSessionOptions } from 'node:http2';
import { Code, ConnectError } from '@connectrpc/connect';
import { createGrpcTransport, Http2SessionManager } from '@connectrpc/connect-node';
import { Client, type ClientOptions } from './client.js';
import { ConsumeLane, publishStream } from './consume.js';
import { checkedOrigin } from './credentials.js';

export * from './api.js';

/** Options of a client in Node. */
export interface ConnectOptions extends ClientOptions {
  /** Certificates in PEM that are trusted in place of those of Node (U5). */
  ca?: string | Buffer | undefined;
  /** The client certificate in PEM (U5). */
  cert?: string | Buffer | undefined;
  /** The private key of the client certificate in PEM. */
  key?: string | Buffer | undefined;
  /** Other options of TLS and HTTP/2. */
  http2?: SecureClientSessionOptions | undefined;
  /** The largest message that is read: 16 MiB (U7). */
  receiveLimitBytes?: number | undefined;
}

// a connection that is silent for 20 s must answer a ping in 10 s (U6); one that does not come about is given up soon, since the kernel
// would wait longer and longer between its attempts (U4)
const KEEPALIVE = { pingIntervalMs: 20_000, pingTimeoutMs: 10_000, connectTimeoutMs: 5000 };

// Node resets streams of a connection that has more than 10 MB under way, which one large message has
const SESSION_MB = 1024;

/** Makes a client of the service at an address such as `https://unibus.example.com:50051`. It connects with the first call. */
export function connect(address: string, options: ConnectOptions = {}): Client {
  const { ca, cert, key, http2, receiveLimitBytes = 16 << 20 } = options;
  const baseUrl = checkedOrigin(address, options.token, options.allowPlaintextToken);
  const tls = Object.fromEntries(Object.entries({ ca, cert, key }).filter(([, value]) => value !== undefined));
  const sessionManager = new Http2SessionManager(baseUrl, KEEPALIVE, {
    maxSessionMemory: SESSION_MB,
    ...http2,
    ...tls,
  });
  let heardAt = Date.now();
  const transport = createGrpcTransport({ baseUrl, sessionManager, readMaxBytes: receiveLimitBytes });
  return new Client(
    transport,
    {
      open: (...all) => new ConsumeLane(...all),
      runRound: publishStream,
      health: {
        heard() {
          heardAt = Date.now();
        },
        // a new attempt over a connection that is half open would be lost too; the clocks of the two sides differ a little
        silent(ms) {
          if (Date.now() - heardAt >= 0.9 * ms)
            sessionManager.abort(new ConnectError('the connection was silent', Code.Unavailable));
        },
      },
      close: () => sessionManager.abort(),
    },
    options,
  );
}
