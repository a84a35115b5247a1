import { bytes, rate, seconds, short } from './format';
import { perSecond, quantile, type Snapshot, sum, type Where } from './metrics';

/** One line of a chart. */
export interface Line {
  name: string;
  metric: string;
  kind: 'rate' | 'value' | 'quantile';
  where?: Where;
  /** The share of a quantile. */
  share?: number;
}

export interface ChartSpec {
  title: string;
  format: (value: number) => string;
  isBytes?: boolean;
  lines: readonly Line[];
}

const quantiles = (metric: string, where: Where = {}): Line[] =>
  [0.5, 0.99].map((share) => ({ name: `p${share * 100}`, metric, kind: 'quantile', share, where }));

const CALLS = 'grpc_server_handled_total';
/** The calls for which somebody waits, and not a stream that stays open. */
const UNARY: Where = { grpc_type: 'unary', grpc_service: /RoomService/ };
/** The statuses that are not the fault of the caller. */
const FAULTS = /^(Unknown|DeadlineExceeded|ResourceExhausted|Unavailable|Internal|DataLoss|Unimplemented)$/;

/** The charts of the health page. A chart whose metric is missing says so. */
export const CHARTS: readonly ChartSpec[] = [
  {
    title: 'Messages',
    format: rate,
    lines: [
      { name: 'published', metric: 'unibus_published_messages_total', kind: 'rate' },
      { name: 'delivered', metric: 'unibus_delivered_messages_total', kind: 'rate' },
    ],
  },
  {
    title: 'Bytes',
    format: (value) => `${bytes(value)}/s`,
    isBytes: true,
    lines: [
      { name: 'published', metric: 'unibus_published_bytes_total', kind: 'rate' },
      { name: 'delivered', metric: 'unibus_delivered_bytes_total', kind: 'rate' },
    ],
  },
  {
    title: 'Calls',
    format: rate,
    lines: [
      { name: 'all', metric: CALLS, kind: 'rate' },
      { name: 'failed', metric: CALLS, kind: 'rate', where: { grpc_code: FAULTS } },
    ],
  },
  { title: 'Duration of calls', format: seconds, lines: quantiles('grpc_server_handling_seconds', UNARY) },
  { title: 'Store to delivery', format: seconds, lines: quantiles('unibus_delivery_delay_seconds') },
  { title: 'JetStream acknowledgement', format: seconds, lines: quantiles('unibus_jetstream_ack_seconds') },
  {
    title: 'Open now',
    format: short,
    lines: [
      { name: 'subscriptions', metric: 'unibus_open_subscriptions', kind: 'value' },
      { name: 'calls', metric: 'unibus_open_calls', kind: 'value' },
    ],
  },
  {
    title: 'Largest lag',
    format: short,
    lines: [{ name: 'messages', metric: 'unibus_subscription_lag_max_messages', kind: 'value' }],
  },
  {
    title: 'Memory',
    format: bytes,
    isBytes: true,
    lines: [{ name: 'resident', metric: 'process_resident_memory_bytes', kind: 'value' }],
  },
  {
    title: 'CPU cores',
    format: short,
    lines: [{ name: 'used', metric: 'process_cpu_seconds_total', kind: 'rate' }],
  },
];

/** The value of a line between two times. */
export function lineValue(line: Line, before: Snapshot | undefined, now: Snapshot): number | undefined {
  if (line.kind === 'value') return sum(now, line.metric, line.where);
  if (before === undefined) return undefined;
  if (line.kind === 'rate') return perSecond(before, now, line.metric, line.where);
  return quantile(before, now, line.metric, line.share ?? 0.5, line.where);
}

/** The metrics of a chart that a process does not have. */
export function missingOf(spec: ChartSpec, now: Snapshot): string[] {
  const names = spec.lines.map(({ metric, kind }) => (kind === 'quantile' ? `${metric}_bucket` : metric));
  return [...new Set(names)].filter((name) => !now.metrics.has(name));
}
