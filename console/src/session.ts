import { computed, signal } from '@preact/signals';

const KEY = 'unibus.token';

/** The bearer token. It is kept for this tab only, until the tab is closed. */
export const token = signal(read());

function read(): string {
  try {
    return globalThis.sessionStorage?.getItem(KEY) ?? '';
  } catch {
    return '';
  }
}

export function signIn(given: string): void {
  const bare = given.trim().replace(/^bearer\s+/i, '');
  try {
    if (bare) sessionStorage.setItem(KEY, bare);
    else sessionStorage.removeItem(KEY);
  } catch {
    // without storage the token lives as long as the page
  }
  refused.value = undefined;
  token.value = bare;
}

export interface Identity {
  subject: string;
  /** When the token expires, in milliseconds since 1970. */
  expires: number | undefined;
}

/** What a token says about its holder. The service alone verifies it. */
export function identityOf(given: string): Identity | undefined {
  const part = given.split('.')[1];
  if (part === undefined) return undefined;
  try {
    const bytes = Uint8Array.from(atob(part.replace(/-/g, '+').replace(/_/g, '/')), (char) =>
      char.charCodeAt(0),
    );
    const claims: unknown = JSON.parse(new TextDecoder().decode(bytes));
    if (typeof claims !== 'object' || claims === null) return undefined;
    const { sub, exp } = claims as Record<string, unknown>;
    return {
      subject: typeof sub === 'string' ? sub : '',
      expires: typeof exp === 'number' ? exp * 1000 : undefined,
    };
  } catch {
    return undefined;
  }
}

export const identity = computed(() => identityOf(token.value));

/** Why the service refused the token, or that it asks for one. */
export const refused = signal<'missing' | 'invalid' | 'expired' | undefined>(undefined);
