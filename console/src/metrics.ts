/** One value of a metric. */
export interface Sample {
  labels: Record<string, string>;
  value: number;
}

/** The metrics of a process at one time. */
export interface Snapshot {
  /** In milliseconds since 1970. */
  at: number;
  metrics: Map<string, Sample[]>;
}

export type Where = Record<string, string | RegExp>;

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+([+-]?(?:\d\S*|\.\d\S*|Inf)|NaN)(?:\s|$)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;

function number(text: string): number {
  if (text === '+Inf') return Number.POSITIVE_INFINITY;
  if (text === '-Inf') return Number.NEGATIVE_INFINITY;
  return Number(text);
}

const ESCAPES: Record<string, string> = { n: '\n', '"': '"', '\\': '\\' };

/** Reads the text format of Prometheus, and that of OpenMetrics. */
export function parseMetrics(text: string): Map<string, Sample[]> {
  const metrics = new Map<string, Sample[]>();
  for (const line of text.split('\n')) {
    if (line.startsWith('#')) continue;
    const found = LINE.exec(line);
    const [, name, labels, value] = found ?? [];
    if (name === undefined || value === undefined) continue;
    const sample: Sample = { labels: {}, value: number(value) };
    for (const [, label, given] of (labels ?? '').matchAll(LABEL)) {
      if (label !== undefined)
        sample.labels[label] = (given ?? '').replace(/\\(.)/g, (_, char) => ESCAPES[char] ?? char);
    }
    const samples = metrics.get(name);
    if (samples) samples.push(sample);
    else metrics.set(name, [sample]);
  }
  return metrics;
}

function matches(sample: Sample, where: Where): boolean {
  return Object.entries(where).every(([label, wanted]) => {
    const found = sample.labels[label] ?? '';
    return typeof wanted === 'string' ? found === wanted : wanted.test(found);
  });
}

/** The sum over all series of a metric that match; nothing if the metric is not there. */
export function sum(snapshot: Snapshot, name: string, where: Where = {}): number | undefined {
  const samples = snapshot.metrics.get(name);
  return samples?.reduce((total, sample) => total + (matches(sample, where) ? sample.value : 0), 0);
}

/** How much a counter grew. After a restart of the process it grew from zero. */
function growth(before: number | undefined, after: number): number {
  return before === undefined || after < before ? after : after - before;
}

/** The growth of a counter per second between two times. */
export function perSecond(
  before: Snapshot,
  after: Snapshot,
  name: string,
  where: Where = {},
): number | undefined {
  const now = sum(after, name, where);
  const passed = (after.at - before.at) / 1000;
  if (now === undefined || passed <= 0) return undefined;
  return growth(sum(before, name, where), now) / passed;
}

/** The growth of each bucket of a histogram, by ascending bound. */
function buckets(
  before: Snapshot,
  after: Snapshot,
  name: string,
  where: Where,
): [bound: number, count: number][] {
  const byBound = (snapshot: Snapshot) => {
    const counts = new Map<number, number>();
    for (const sample of snapshot.metrics.get(`${name}_bucket`) ?? []) {
      if (!matches(sample, where)) continue;
      const bound = number(sample.labels.le ?? '');
      counts.set(bound, (counts.get(bound) ?? 0) + sample.value);
    }
    return counts;
  };
  const earlier = byBound(before);
  return [...byBound(after)]
    .map(([bound, count]): [number, number] => [bound, growth(earlier.get(bound), count)])
    .sort(([a], [b]) => a - b);
}

/** A quantile of what a histogram counted between two times; nothing if it counted nothing. */
export function quantile(
  before: Snapshot,
  after: Snapshot,
  name: string,
  share: number,
  where: Where = {},
): number | undefined {
  const counts = buckets(before, after, name, where);
  const total = counts.at(-1)?.[1] ?? 0;
  if (total <= 0) return undefined;
  const wanted = share * total;
  let [lower, below] = [0, 0];
  for (const [bound, count] of counts) {
    if (count >= wanted) {
      // beyond the last bound nothing is known
      if (bound === Number.POSITIVE_INFINITY) return lower;
      return count === below ? bound : lower + ((bound - lower) * (wanted - below)) / (count - below);
    }
    [lower, below] = [bound, count];
  }
  return lower;
}
