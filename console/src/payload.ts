export const ENCODINGS = ['auto', 'text', 'hex', 'base64'] as const;
export type Encoding = (typeof ENCODINGS)[number];

/** Control characters that text does not have: all but tab, line feed and carriage return. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: it looks for them
const CONTROL = /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f-\u009f]/;

/** The payload as text, or nothing if it is not text. `cut` allows an incomplete character at the end. */
export function asText(payload: Uint8Array, cut = false): string | undefined {
  try {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(payload, { stream: cut });
    return CONTROL.test(text) ? undefined : text;
  } catch {
    return undefined;
  }
}

function hex(payload: Uint8Array): string {
  return Array.from(payload, (byte) => byte.toString(16).padStart(2, '0')).join(' ');
}

function base64(payload: Uint8Array): string {
  let binary = '';
  for (let at = 0; at < payload.length; at += 0x8000) {
    binary += String.fromCharCode(...payload.subarray(at, at + 0x8000));
  }
  return btoa(binary);
}

export interface Shown {
  encoding: Exclude<Encoding, 'auto'>;
  text: string;
}

/** The payload as people read it. `auto` shows text where the payload is text, and hex elsewhere. */
export function show(payload: Uint8Array, encoding: Encoding, cut = false): Shown {
  if (encoding === 'base64') return { encoding, text: base64(payload) };
  if (encoding === 'hex') return { encoding, text: hex(payload) };
  const text = asText(payload, cut);
  if (encoding === 'auto' && text === undefined) return { encoding: 'hex', text: hex(payload) };
  return { encoding: 'text', text: text ?? new TextDecoder().decode(payload) };
}

/** The beginning of a payload on one line. */
export function preview(payload: Uint8Array, encoding: Encoding, bytesMax = 240): Shown {
  const isCut = payload.length > bytesMax;
  // whole groups of base64
  const part = isCut ? payload.subarray(0, bytesMax - (bytesMax % 3)) : payload;
  const shown = show(part, encoding, isCut);
  const line = shown.text.replace(/\s+/g, ' ');
  return { encoding: shown.encoding, text: isCut ? `${line}…` : line };
}

/** The bytes that were typed, or what is wrong with them. */
export function parsePayload(typed: string, encoding: Exclude<Encoding, 'auto'>): Uint8Array | string {
  if (encoding === 'text') return new TextEncoder().encode(typed);
  const compact = typed.replace(/\s+/g, '');
  if (encoding === 'hex') {
    if (!/^([0-9a-f]{2})*$/i.test(compact)) return 'Hex has two digits (0-9, a-f) for each byte.';
    return Uint8Array.from(compact.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
  }
  try {
    // also the URL-safe alphabet
    return Uint8Array.from(atob(compact.replace(/-/g, '+').replace(/_/g, '/')), (char) => char.charCodeAt(0));
  } catch {
    return 'This is not base64.';
  }
}
