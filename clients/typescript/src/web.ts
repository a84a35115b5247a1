// The entry for browsers: the Connect protocol or gRPC-Web over fetch. All rooms of a client share one session. It works in Node too.

import { createConnectTransport, createGrpcWebTransport } from '@connectrpc/connect-web';
import { batchMailer, sessionLink } from './browser.js';
import { Client, type ClientOptions } from './client.js';
import { checkedOrigin } from './credentials.js';

export * from './api.js';

/** Options of a client in a browser. */
export interface ConnectOptions extends ClientOptions {
  /** `connect`, the default, or `grpc-web`. */
  protocol?: 'connect' | 'grpc-web' | undefined;
  /** Used in place of the global fetch, for example to send a client certificate with `credentials: 'include'`. */
  fetch?: typeof globalThis.fetch | undefined;
}

/** Makes a client of the service at an address such as `https://unibus.example.com:50051`. It connects with the first call. */
export function connect(address: string, options: ConnectOptions = {}): Client {
  const { protocol = 'connect', fetch } = options;
  const baseUrl = checkedOrigin(address, options.token, options.allowPlaintextToken);
  const transportOptions = { baseUrl, useBinaryFormat: true, ...(fetch && { fetch }) };
  const transport =
    protocol === 'grpc-web' ? createGrpcWebTransport(transportOptions) : createConnectTransport(transportOptions);
  // a browser keeps its connections to itself
  const connection = { heard() {}, silent() {}, close() {} };
  return new Client(transport, { link: sessionLink, mailer: batchMailer, connection }, options);
}
