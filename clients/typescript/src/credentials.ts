// Tokens: asked for before each attempt, and kept away from plaintext connections (U5, U8).

import { invalid, UnibusError } from './error.js';

/** A token, or a function that the client calls for each attempt of each call (U8). An empty token is a mistake. */
export type TokenSource = string | (() => string | Promise<string>);

/** A token that was refused, and how. */
export interface Refusal {
  token: string | undefined;
  error: UnibusError;
}

export class Credentials {
  readonly #source: () => unknown;

  constructor(source: TokenSource | undefined) {
    if (typeof source === 'string') checked(source);
    this.#source = typeof source === 'function' ? source : () => source;
  }

  /** The token for the next attempt. Fails with the refusal, as final, if it is the token that was just refused. */
  async token(refusal?: Refusal): Promise<string | undefined> {
    let token: string | undefined;
    try {
      token = checked(await this.#source());
    } catch (cause) {
      const message = `the token function failed: ${cause}`;
      throw new UnibusError({ code: 'UNAVAILABLE', message, outcomeUnknown: false }, cause);
    }
    if (refusal && refusal.token === token) throw refusal.error.with({ outcomeClass: 'final' });
    return token;
  }
}

/** Without the white space around it, such as the end of the line in a file. The message must not show the token. */
function checked(token: unknown): string | undefined {
  if (token === undefined) return undefined;
  if (typeof token !== 'string') throw invalid('token', 'the token is no string');
  if (!/^[\x21-\x7e]+$/.test(token.trim()))
    throw invalid('token', 'the token is empty, or has characters that no header can have');
  return token.trim();
}

/** The refusal that the next attempt must avoid, if the error is one. */
export const refusalOf = (error: UnibusError, token: string | undefined): Refusal | undefined =>
  error.outcomeClass === 'new_token' ? { token, error } : undefined;

/** The header of a call. */
export const authorization = (token: string | undefined): Record<string, string> =>
  token ? { authorization: `Bearer ${token}` } : {};

const LOOPBACK = /^(localhost|127(\.\d{1,3}){3}|\[::1\])$/;

/** The origin of an address. Refuses to send a token where others can read it, before anything is sent (U5). */
export function checkedOrigin(address: string, token: TokenSource | undefined, allowPlaintextToken = false): string {
  let url: URL;
  try {
    url = new URL(address);
  } catch {
    throw invalid('address', `${address} is not an address such as https://unibus.example.com:50051`);
  }
  const { protocol, hostname, origin, pathname, search, hash, username } = url;
  if (protocol !== 'https:' && protocol !== 'http:')
    throw invalid('address', `${address} begins neither with https:// nor http://`);
  if (pathname !== '/' || search || hash || username)
    throw invalid('address', `an address has only a host and a port, as ${protocol}//${url.host} has`);
  if (protocol === 'https:' || token === undefined || (allowPlaintextToken && LOOPBACK.test(hostname))) return origin;
  throw invalid(
    'token',
    allowPlaintextToken
      ? `a token is sent without TLS only to this machine, not to ${hostname}`
      : 'a token is sent without TLS only with allowPlaintextToken, to this machine',
  );
}
