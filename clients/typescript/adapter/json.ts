// Between the JSON of the suite and the values of the package: 64-bit numbers are strings, bytes base64, times RFC 3339.

import { fromJson, isMessage, toJson } from '@bufbuild/protobuf';
import { TimestampSchema } from '@bufbuild/protobuf/wkt';
import { durationFromMs, type StartAt, UnibusError } from '@unibus/client';

/** A request. The fields are those of its op. */
// biome-ignore lint/suspicious/noExplicitAny: the suite sends what its ops need
export type Fields = Record<string, any>;

export class HandlerFailed extends Error {}

const bytes = (base64: string) => Uint8Array.from(Buffer.from(base64, 'base64'));
const time = (text: string) => fromJson(TimestampSchema, text);
const named = (names: string, convert: (value: never) => unknown) =>
  names.split(' ').map((name): [string, typeof convert] => [name, convert]);
const CONVERSIONS = Object.fromEntries([
  ...named('sequence afterSequence beforeSequence expectedLastSequence upTo last maxMessages', BigInt),
  ...named('maxAgeMs dedupeWindowMs', durationFromMs),
  ...named('since startTime endTime', time),
  ...named('payload sealed key', bytes),
  ...named('start', startOf),
]);

/** The fields of a request with the names and types of the package, without those that are null or undefined. */
export function decode(fields: Fields, conversions = CONVERSIONS): Fields {
  const given = Object.entries(fields).filter(([, value]) => value !== null && value !== undefined);
  return Object.fromEntries(
    given.map(([name, value]) => {
      const camel = name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase());
      const convert = conversions[camel];
      return [camel, convert ? convert(value as never) : value];
    }),
  );
}

function startOf(start: Fields): StartAt {
  if (start.all) return 'all';
  return start.new ? 'new' : (decode(start) as StartAt);
}

/** A value of the package in the JSON of the suite. The names in headers and metadata stay. */
export function encode(value: unknown, name = ''): unknown {
  if (typeof value === 'bigint') return `${value}`;
  if (value instanceof Error) return errorOf(value);
  if (value instanceof Uint8Array) return Buffer.from(value).toString('base64');
  if (isMessage(value, TimestampSchema)) return toJson(TimestampSchema, value);
  if (Array.isArray(value)) return value.map((each) => encode(each));
  if (typeof value !== 'object' || value === null || name === 'headers' || name === 'metadata') return value;
  const shown = Object.entries(value).filter(([name]) => !name.startsWith('$'));
  const snake = (name: string) => name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return Object.fromEntries(shown.map(([name, value]) => [snake(name), encode(value, name)]));
}

export function errorOf(thrown: unknown): Fields {
  const message = thrown instanceof Error ? thrown.message : `${thrown}`;
  const plain = { reason: '', class: 'final', outcome_unknown: false, cancelled: false, metadata: {}, fields: [] };
  if (thrown instanceof UnibusError) {
    const { code, reason, outcomeClass, outcomeUnknown, metadata, fields } = thrown;
    const told = { code, reason, class: outcomeClass, outcome_unknown: outcomeUnknown, metadata, fields };
    return { ...plain, ...told, message };
  }
  const cancelled = thrown instanceof Error && thrown.name === 'AbortError';
  if (cancelled) return { ...plain, code: 'CANCELLED', cancelled, message };
  return { ...plain, code: thrown instanceof HandlerFailed ? 'HANDLER' : 'ADAPTER', message };
}
