import { expect, test } from 'vitest';
import { CHARTS, lineValue, missingOf } from '../src/charts';
import { parseMetrics, perSecond, quantile, sum } from '../src/metrics';

const snapshot = (at: number, text: string) => ({ at, metrics: parseMetrics(text) });

test('the text format is read', () => {
  const metrics = parseMetrics(
    [
      '# HELP a_total Some help with {braces} and "quotes"',
      '# TYPE a_total counter',
      'a_total{method="Get",path="x\\"y\\\\z\\n",le="+Inf"} 3',
      'a_total{method="Set"} 4.5e2 1700000000000',
      'b 2',
      'c{} +Inf',
      'not a line',
      '# EOF',
    ].join('\n'),
  );
  expect(metrics.get('a_total')).toEqual([
    { labels: { method: 'Get', path: 'x"y\\z\n', le: '+Inf' }, value: 3 },
    { labels: { method: 'Set' }, value: 450 },
  ]);
  expect(metrics.get('b')).toEqual([{ labels: {}, value: 2 }]);
  expect(metrics.get('c')?.[0]?.value).toBe(Number.POSITIVE_INFINITY);
  expect(metrics.size).toBe(3);
});

test('series are added up, and chosen by their labels', () => {
  const now = snapshot(0, 'a{k="x"} 1\na{k="y"} 2\na{k="z"} 4');
  expect(sum(now, 'a')).toBe(7);
  expect(sum(now, 'a', { k: 'y' })).toBe(2);
  expect(sum(now, 'a', { k: /[xz]/ })).toBe(5);
  expect(sum(now, 'none')).toBeUndefined();
});

test('a rate is the growth of a counter, also after a restart of the process', () => {
  expect(perSecond(snapshot(0, 'a 10'), snapshot(2000, 'a 30'), 'a')).toBe(10);
  expect(perSecond(snapshot(0, 'a 10'), snapshot(2000, 'a 4'), 'a')).toBe(2);
  expect(perSecond(snapshot(0, ''), snapshot(1000, 'a 5'), 'a')).toBe(5);
  expect(perSecond(snapshot(0, 'a 1'), snapshot(0, 'a 2'), 'a')).toBeUndefined();
  expect(perSecond(snapshot(0, 'a 1'), snapshot(1000, ''), 'a')).toBeUndefined();
});

test('a quantile is that of the time between two snapshots', () => {
  const buckets = (a: number, b: number, c: number) =>
    `h_bucket{le="0.1"} ${a}\nh_bucket{le="0.5"} ${b}\nh_bucket{le="+Inf"} ${c}`;
  const before = snapshot(0, buckets(1000, 1000, 1000));
  expect(quantile(before, snapshot(1000, buckets(1050, 1100, 1100)), 'h', 0.5)).toBeCloseTo(0.1);
  expect(quantile(before, snapshot(1000, buckets(1000, 1100, 1100)), 'h', 0.5)).toBeCloseTo(0.3);
  expect(quantile(before, snapshot(1000, buckets(1000, 1000, 1100)), 'h', 0.5)).toBe(0.5);
  expect(quantile(before, before, 'h', 0.5)).toBeUndefined();
  expect(quantile(before, snapshot(1000, ''), 'h', 0.5)).toBeUndefined();
});

test('a chart says which metrics are missing, and has values where they are there', () => {
  const calls = CHARTS.find(({ title }) => title === 'Calls');
  const line = calls?.lines[1];
  if (!calls || !line) throw new Error('there is no such chart');
  const text = (ok: number, bad: number) =>
    `grpc_server_handled_total{grpc_code="OK"} ${ok}\ngrpc_server_handled_total{grpc_code="Unavailable"} ${bad}`;
  expect(missingOf(calls, snapshot(0, text(0, 0)))).toEqual([]);
  expect(missingOf(calls, snapshot(0, ''))).toEqual(['grpc_server_handled_total']);
  expect(lineValue(line, snapshot(0, text(1, 1)), snapshot(1000, text(9, 3)))).toBe(2);
  expect(lineValue(line, undefined, snapshot(1000, text(9, 3)))).toBeUndefined();
});
