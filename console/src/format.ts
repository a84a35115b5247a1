import type { Duration, Timestamp } from '@bufbuild/protobuf/wkt';

const UNITS = ['B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB'];

/** A size in bytes, with three digits at most before the unit. */
export function bytes(count: bigint | number): string {
  let size = Number(count);
  let unit = 0;
  while (size >= 1000 && unit < UNITS.length - 1) {
    size /= 1024;
    unit += 1;
  }
  const digits = unit === 0 || size >= 100 ? 0 : size >= 10 ? 1 : 2;
  return `${size.toFixed(digits)} ${UNITS[unit]}`;
}

const WHOLE = new Intl.NumberFormat('en');

/** A whole number with thousands separators. */
export function count(value: bigint | number): string {
  return WHOLE.format(value);
}

/** A number for a chart or a rate: short, at most three digits before its unit. */
export function short(value: number): string {
  if (!Number.isFinite(value)) return '–';
  const size = Math.abs(value);
  if (size === 0) return '0';
  if (size < 0.01) return '<0.01';
  if (size < 10) return value.toFixed(size < 1 ? 2 : 1).replace(/\.?0+$/, '');
  if (size < 1000) return value.toFixed(0);
  const [unit, factor] = size < 999_500 ? ['k', 1e3] : size < 999_500_000 ? ['M', 1e6] : ['G', 1e9];
  const scaled = value / Number(factor);
  return `${scaled.toFixed(Math.abs(scaled) < 10 ? 1 : 0).replace(/\.0$/, '')}${unit}`;
}

export function rate(perSecond: number): string {
  return `${short(perSecond)}/s`;
}

/** A time in seconds, for charts. */
export function seconds(value: number): string {
  if (value === 0) return '0';
  if (value < 0.001) return `${short(value * 1e6)} µs`;
  if (value < 1) return `${short(value * 1e3)} ms`;
  return `${short(value)} s`;
}

export function milliseconds(timestamp: Timestamp): number {
  return Number(timestamp.seconds) * 1000 + timestamp.nanos / 1e6;
}

const pad = (value: number, digits = 2) => String(value).padStart(digits, '0');

/** The time of a day in this time zone, to the millisecond. */
export function clock(at: number): string {
  const date = new Date(at);
  return `${pad(date.getHours())}:${pad(date.getMinutes())}:${pad(date.getSeconds())}.${pad(date.getMilliseconds(), 3)}`;
}

export function day(at: number): string {
  const date = new Date(at);
  return `${date.getFullYear()}-${pad(date.getMonth() + 1)}-${pad(date.getDate())}`;
}

export function dateTime(at: number): string {
  return `${day(at)} ${clock(at)}`;
}

/** The time of a day, or a day and a time if the day is another one. */
export function moment(at: number, now: number): string {
  return day(at) === day(now) ? clock(at) : `${day(at).slice(5)} ${clock(at).slice(0, 8)}`;
}

/** How long ago, in the largest unit. */
export function ago(at: number, now: number): string {
  const passed = Math.max(0, now - at) / 1000;
  if (passed < 2) return 'now';
  for (const [unit, length] of [
    ['d', 86400],
    ['h', 3600],
    ['min', 60],
  ] as const) {
    if (passed >= length) return `${Math.floor(passed / length)} ${unit} ago`;
  }
  return `${Math.floor(passed)} s ago`;
}

const DURATIONS: readonly (readonly [string, number])[] = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['m', 60_000],
  ['s', 1000],
  ['ms', 1],
];

/** A duration as the flags of the service write it: `1d12h`. */
export function duration(value: Duration): string {
  let rest = Number(value.seconds) * 1000 + Math.round(value.nanos / 1e6);
  let text = '';
  for (const [unit, length] of DURATIONS) {
    const whole = Math.floor(rest / length);
    if (whole > 0) text += `${whole}${unit}`;
    rest -= whole * length;
  }
  return text || '0s';
}

/** The milliseconds of a duration such as `7d`, `1h30m` or `500ms`; nothing if it is not one. */
export function parseDuration(typed: string): number | undefined {
  const text = typed.trim().toLowerCase().replace(/\s+/g, '');
  if (!/^(\d+(d|h|ms|m|s))+$/.test(text)) return undefined;
  let total = 0;
  for (const [, digits, unit] of text.matchAll(/(\d+)(d|h|ms|m|s)/g)) {
    const length = DURATIONS.find(([name]) => name === unit)?.[1] ?? 0;
    total += Number(digits) * length;
  }
  return total;
}

/** The bytes of a size such as `10 MiB`, `500k` or `1048576`; nothing if it is not one. */
export function parseBytes(typed: string): bigint | undefined {
  const found = /^(\d+(?:\.\d+)?)\s*(?:([kmgt])(?:i?b)?|b)?$/i.exec(typed.trim());
  if (!found) return undefined;
  const power = ' kmgt'.indexOf((found[2] ?? ' ').toLowerCase());
  return BigInt(Math.round(Number(found[1]) * 1024 ** power));
}
