import { useEffect, useState } from 'preact/hooks';
import { CHARTS, type ChartSpec, lineValue, missingOf } from '../charts';
import { useLoaded } from '../load';
import { parseMetrics, type Snapshot } from '../metrics';
import { reachable, settings } from '../service';
import { Chart } from '../ui/chart';

const INTERVAL = 2000;
/** The points of five minutes. */
const POINTS_MAX = 150;

/** The values of the charts. They outlive the page, so that they are there when a user comes back to it. */
const times: number[] = [];
const values = new Map<ChartSpec, (number | undefined)[][]>(
  CHARTS.map((spec) => [spec, spec.lines.map(() => [])]),
);
let last: Snapshot | undefined;

function add(at: number, now: Snapshot | undefined): void {
  times.push(at);
  if (times.length > POINTS_MAX) times.shift();
  for (const [spec, lines] of values) {
    spec.lines.forEach((line, index) => {
      const points = lines[index];
      points?.push(now && lineValue(line, last, now));
      if (points && points.length > POINTS_MAX) points.shift();
    });
  }
  last = now ?? last;
}

interface Health {
  /** Whether the instance is ready; nothing without an answer. */
  isReady: boolean | undefined;
  /** What the admin port said. */
  text: string;
  metrics: 'unknown' | 'there' | 'missing';
}

async function ask(path: string): Promise<{ status: number; text: string }> {
  try {
    const answer = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(5000) });
    return { status: answer.status, text: await answer.text() };
  } catch {
    return { status: 0, text: '' };
  }
}

async function look(): Promise<Health> {
  const [ready, metrics] = await Promise.all([ask('../readyz'), ask('../metrics')]);
  const at = Date.now();
  add(at, metrics.status === 200 ? { at, metrics: parseMetrics(metrics.text) } : undefined);
  return {
    isReady: ready.status === 0 ? undefined : ready.status === 200,
    text: ready.text.trim() || 'The admin port does not answer.',
    metrics: metrics.status === 200 ? 'there' : metrics.status === 404 ? 'missing' : 'unknown',
  };
}

function useHealth(): Health {
  const [health, setHealth] = useState<Health>({ isReady: undefined, text: '', metrics: 'unknown' });
  useEffect(() => {
    let isShown = true;
    let timer: ReturnType<typeof setTimeout> | undefined;
    const round = async () => {
      if (!document.hidden) {
        const found = await look();
        if (isShown) setHealth(found);
      }
      if (isShown) timer = setTimeout(round, INTERVAL);
    };
    void round();
    return () => {
      isShown = false;
      clearTimeout(timer);
    };
  }, []);
  return health;
}

export function HealthPage() {
  const { isReady, text, metrics } = useHealth();
  // a call tells whether calls are answered
  useLoaded((rooms, options) => rooms.listRooms({ pageSize: 1 }, options), 'health', 2 * INTERVAL);
  return (
    <div class="page health">
      <div class="toolbar">
        <h1>Health</h1>
      </div>
      <div class="tiles">
        <div
          class={`tile ${isReady === true ? 'good' : isReady === false || text ? 'danger' : ''}`}
          role="status"
        >
          <span class="tile-name">This instance</span>
          <b>{isReady === true ? 'Ready' : isReady === false ? 'Not ready' : text ? 'No answer' : '…'}</b>
          <span class="muted">{text === 'ok' ? 'NATS is connected' : text}</span>
        </div>
        <div class={`tile ${{ yes: 'good', no: 'danger', unknown: '' }[reachable.value]}`}>
          <span class="tile-name">Calls from this page</span>
          <b>{{ yes: 'Answered', no: 'No answer', unknown: '…' }[reachable.value]}</b>
          <span class="muted">{settings.value?.service ?? ''}</span>
        </div>
        <div class="tile">
          <span class="tile-name">Version</span>
          <b>{settings.value?.version ?? '…'}</b>
          <span class="muted">unibus</span>
        </div>
      </div>
      {metrics === 'missing' && last === undefined ? (
        <p class="muted">
          The admin port has no <code>/metrics</code>, so there are no charts.
        </p>
      ) : (
        <div class="charts">
          {CHARTS.map((spec) => {
            const missing = last ? missingOf(spec, last) : [];
            const series = spec.lines.map(({ name }, index) => ({
              name,
              values: values.get(spec)?.[index] ?? [],
            }));
            return (
              <Chart
                key={spec.title}
                title={spec.title}
                series={series}
                times={times}
                format={spec.format}
                isBytes={spec.isBytes ?? false}
                missing={missing.length > 0 ? `This service has no metric ${missing.join(', ')}.` : undefined}
              />
            );
          })}
        </div>
      )}
    </div>
  );
}
