import { signal } from '@preact/signals';
import type { ComponentChildren } from 'preact';
import type { Failure } from '../errors';
import { reachable } from '../service';

/** A message of the service, in which names stand in backticks. */
function Prose({ text }: { text: string }) {
  return <>{text.split('`').map((part, at) => (at % 2 === 1 ? <code key={at}>{part}</code> : part))}</>;
}

/** A failed call. */
export function Problem({ failure, retry }: { failure: Failure; retry?: () => void }) {
  // the banner of the page says it already
  if (failure.code === 'UNAUTHENTICATED') return null;
  return (
    <div class="problem" role="alert">
      <p>
        <Prose text={failure.message} />
        {failure.reason !== '' && <code class="reason">{failure.reason}</code>}
      </p>
      {failure.fields.length > 0 && (
        <ul>
          {failure.fields.map(({ field, problem }) => (
            <li key={field}>
              <code>{field}</code> <Prose text={problem} />
            </li>
          ))}
        </ul>
      )}
      {failure.reason === '' && reachable.value === 'no' && (
        <p class="muted">The page tries again by itself.</p>
      )}
      {retry && (
        <button type="button" onClick={retry}>
          Try again
        </button>
      )}
    </div>
  );
}

/** A place without content, and what to do about it. */
export function Empty({ title, children }: { title: string; children?: ComponentChildren }) {
  return (
    <div class="empty">
      <h2>{title}</h2>
      {children}
    </div>
  );
}

/** Grey lines in the place of content that is being loaded. */
export function Loading({ lines = 5 }: { lines?: number }) {
  return (
    <div class="loading" role="status" aria-label="Loading">
      {Array.from({ length: lines }, (_, line) => (
        <div key={line} class="skeleton" />
      ))}
    </div>
  );
}

/** A share of a whole as a bar. */
export function Bar({
  share,
  label,
  tone,
}: {
  share: number;
  label: string;
  tone?: 'good' | 'warning' | 'danger';
}) {
  const percent = Math.max(0, Math.min(100, share * 100));
  return (
    <span class={`bar ${tone ?? ''}`} role="img" aria-label={label} title={label}>
      <span style={{ width: `${percent}%` }} />
    </span>
  );
}

interface ToastLine {
  key: number;
  text: string;
  tone: 'good' | 'danger';
}

const lines = signal<ToastLine[]>([]);
let last = 0;

/** Shows a line for a few seconds. */
export function toast(text: string, tone: ToastLine['tone'] = 'good'): void {
  last += 1;
  const key = last;
  lines.value = [...lines.value.slice(-2), { key, text, tone }];
  setTimeout(() => {
    lines.value = lines.value.filter((line) => line.key !== key);
  }, 4000);
}

export function Toasts() {
  return (
    <div class="toasts" role="status" aria-live="polite">
      {lines.value.map(({ key, text, tone }) => (
        <div key={key} class={`toast ${tone}`}>
          {text}
        </div>
      ))}
    </div>
  );
}

/** Rates of the last minutes as a small line. */
export function Sparkline({ values, label }: { values: readonly number[]; label: string }) {
  const [width, height] = [72, 20];
  const top = Math.max(...values, 1e-9);
  const step = width / Math.max(values.length - 1, 1);
  const points = values.map(
    (value, at) => `${(at * step).toFixed(1)},${(height - 1 - (value / top) * (height - 3)).toFixed(1)}`,
  );
  return (
    <svg
      class={`sparkline ${values.some((value) => value > 0) ? '' : 'idle'}`}
      viewBox={`0 0 ${width} ${height}`}
      role="img"
      aria-label={label}
    >
      {values.length > 1 && <polyline points={points.join(' ')} />}
    </svg>
  );
}
