// The entry for Node: gRPC over HTTP/2.

import { X509Certificate } from 'node:crypto';
import type { SecureClientSessionOptions } from 'node:http2';
import { createSecureContext, type SecureContextOptions } from 'node:tls';
import { createGrpcTransport } from '@connectrpc/connect-node';
import { Client, type ClientOptions } from './client.js';
import { NodeConnection } from './connection.js';
import { consumeLink, streamMailer } from './consume.js';
import { checkedOrigin } from './credentials.js';
import { invalid } from './error.js';

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

/** Makes a client of the service at an address such as `https://unibus.example.com:50051`. It connects with the first call. */
export function connect(address: string, options: ConnectOptions = {}): Client {
  const { ca, cert, key, http2, receiveLimitBytes = 16 << 20 } = options;
  const baseUrl = checkedOrigin(address, options.token, options.allowPlaintextToken);
  const tls = Object.fromEntries(Object.entries({ ca, cert, key }).filter(([, value]) => value !== undefined));
  checkTls({ ...http2, ...tls }, ca);
  const connection = new NodeConnection(baseUrl, { ...http2, ...tls });
  const transport = createGrpcTransport({ baseUrl, sessionManager: connection, readMaxBytes: receiveLimitBytes });
  return new Client(transport, { link: consumeLink, mailer: streamMailer, connection }, options);
}

/** A mistake in the certificates would look like a service that is not there. Node ignores what is no certificate in `ca`. */
function checkTls(options: SecureContextOptions, ca: string | Buffer | undefined): void {
  try {
    createSecureContext(options);
  } catch (cause) {
    throw invalid('cert', `the certificates or the key cannot be read: ${cause}`);
  }
  try {
    if (ca !== undefined) new X509Certificate(ca);
  } catch (cause) {
    throw invalid('ca', `ca has no certificate: ${cause}`);
  }
}
