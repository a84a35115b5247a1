import { expect, test } from 'vitest';
import { asText, parsePayload, preview, show } from '../src/payload';

const bytes = (...values: number[]) => Uint8Array.from(values);
const utf8 = (text: string) => new TextEncoder().encode(text);

test('text is UTF-8 without control characters', () => {
  expect(asText(utf8('héllo\n\tworld 🦀'))).toBe('héllo\n\tworld 🦀');
  for (const payload of [bytes(0xff), bytes(0xc3), bytes(0), bytes(0x1b, 0x5b), utf8('\u0085')]) {
    expect(asText(payload)).toBeUndefined();
  }
});

test('a payload is shown in the chosen encoding, and automatically as text or hex', () => {
  const payload = bytes(0xfb, 0xff, 0xfe);
  expect(show(payload, 'base64')).toEqual({ encoding: 'base64', text: '+//+' });
  expect(show(payload, 'hex')).toEqual({ encoding: 'hex', text: 'fb ff fe' });
  expect(show(payload, 'auto')).toEqual({ encoding: 'hex', text: 'fb ff fe' });
  expect(show(utf8('hi'), 'auto')).toEqual({ encoding: 'text', text: 'hi' });
  expect(show(payload, 'text').text).toContain('\ufffd');
});

test('base64 of a large payload is whole', () => {
  const payload = Uint8Array.from({ length: 100_000 }, (_, at) => at % 251);
  const back = parsePayload(show(payload, 'base64').text, 'base64');
  expect(back.length === payload.length && payload.every((byte, at) => byte === back[at])).toBe(true);
});

test('a preview is one line, and may cut a character in two', () => {
  expect(preview(utf8('a\n  b'), 'auto').text).toBe('a b');
  const long = preview(utf8('é'.repeat(500)), 'auto', 241);
  expect(long.encoding).toBe('text');
  expect(long.text.endsWith('é…')).toBe(true);
});

test('what is typed is parsed, or explained', () => {
  expect(parsePayload('hé', 'text')).toEqual(utf8('hé'));
  expect(parsePayload('FB ff\nfe', 'hex')).toEqual(bytes(0xfb, 0xff, 0xfe));
  expect(parsePayload('-__-', 'base64')).toEqual(bytes(0xfb, 0xff, 0xfe));
  expect(parsePayload('', 'hex')).toEqual(bytes());
  for (const [typed, encoding] of [
    ['f', 'hex'],
    ['zz', 'hex'],
    ['a', 'base64'],
    ['%%%%', 'base64'],
  ] as const) {
    expect(parsePayload(typed, encoding)).toBeTypeOf('string');
  }
});
