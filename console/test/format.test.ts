import { expect, test } from 'vitest';
import * as format from '../src/format';

test('sizes have three digits and a unit', () => {
  for (const [given, expected] of [
    [0, '0 B'],
    [999, '999 B'],
    [1024, '1.00 KiB'],
    [1536, '1.50 KiB'],
    [10_240, '10.0 KiB'],
    [1024 * 1024 * 900, '900 MiB'],
    [2n ** 63n, '8192 PiB'],
  ] as const) {
    expect(format.bytes(given)).toBe(expected);
  }
});

test('numbers of 64 bits stay exact', () => {
  expect(format.count(18_446_744_073_709_551_615n)).toBe('18,446,744,073,709,551,615');
});

test('numbers for charts are short', () => {
  for (const [given, expected] of [
    [0, '0'],
    [0.004, '<0.01'],
    [0.25, '0.25'],
    [0.5, '0.5'],
    [3, '3'],
    [9.96, '10'],
    [99.5, '100'],
    [1234, '1.2k'],
    [12_345, '12k'],
    [999_600, '1M'],
    [2_500_000_000, '2.5G'],
    [Number.NaN, '–'],
  ] as const) {
    expect(format.short(given)).toBe(expected);
  }
  expect(format.seconds(0.00025)).toBe('250 µs');
  expect(format.seconds(0.0125)).toBe('13 ms');
});

test('durations are written as they are typed', () => {
  for (const text of ['7d', '1h30m', '500ms', '1d2h3m4s5ms']) {
    const milliseconds = format.parseDuration(text) ?? 0;
    const seconds = BigInt(Math.floor(milliseconds / 1000));
    const nanos = (milliseconds % 1000) * 1e6;
    expect(format.duration({ $typeName: 'google.protobuf.Duration', seconds, nanos })).toBe(text);
  }
  for (const text of ['', '7', 'd', '1x', '-1s', '1.5h', '1h 30'])
    expect(format.parseDuration(text)).toBeUndefined();
});

test('sizes are parsed', () => {
  for (const [text, expected] of [
    ['1048576', 1_048_576n],
    ['10 MiB', 10_485_760n],
    ['1.5k', 1536n],
    ['2GB', 2n * 1024n ** 3n],
    ['7 B', 7n],
  ] as const) {
    expect(format.parseBytes(text)).toBe(expected);
  }
  for (const text of ['', 'x', '-1', '1 XB', '1 MiBs']) expect(format.parseBytes(text)).toBeUndefined();
});

test('times are told from now', () => {
  const now = 1_000_000_000;
  const passed = [0, 1900, 45_000, 61_000, 7_300_000, 200_000_000].map((before) =>
    format.ago(now - before, now),
  );
  expect(passed).toEqual(['now', 'now', '45 s ago', '1 min ago', '2 h ago', '2 d ago']);
});
