import { useState } from 'preact/hooks';
import { clock } from '../format';

export interface Series {
  name: string;
  /** One value for each time; nothing where it is unknown. */
  values: readonly (number | undefined)[];
}

interface ChartProps {
  title: string;
  series: readonly Series[];
  times: readonly number[];
  format: (value: number) => string;
  /** Whether the axis counts bytes, whose round numbers are multiples of powers of 1024. */
  isBytes?: boolean;
  /** What is shown in the place of the lines. */
  missing?: string | undefined;
}

const [WIDTH, HEIGHT] = [372, 132];
const [LEFT, RIGHT, TOP, BOTTOM] = [62, 6, 8, 20];

/** A round number that is at least the value, for the top of an axis. */
export function niceTop(value: number, isBytes = false): number {
  if (!(value > 0)) return 1;
  if (isBytes && value > 1000) return 1024 * niceTop(value / 1024, true);
  const power = 10 ** Math.floor(Math.log10(value));
  const factor = [1, 2, 2.5, 5, 10].find((step) => step * power >= value * 0.999) ?? 10;
  return factor * power;
}

/** The parts of a line between unknown values, as paths. */
export function paths(
  values: readonly (number | undefined)[],
  x: (at: number) => number,
  y: (value: number) => number,
): string[] {
  const parts: string[] = [];
  let part = '';
  values.forEach((value, at) => {
    if (value === undefined) {
      if (part) parts.push(part);
      part = '';
    } else {
      part += `${part ? 'L' : 'M'}${x(at).toFixed(1)} ${y(value).toFixed(1)}`;
    }
  });
  if (part) parts.push(part);
  return parts;
}

/** Lines over time. */
export function Chart({ title, series, times, format, isBytes, missing }: ChartProps) {
  const [pointed, setPointed] = useState<number | undefined>(undefined);
  const all = series.flatMap(({ values }) => values.filter((value) => value !== undefined));
  const top = niceTop(Math.max(0, ...all), isBytes);
  const x = (at: number) => LEFT + (at / Math.max(times.length - 1, 1)) * (WIDTH - LEFT - RIGHT);
  const y = (value: number) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - TOP - BOTTOM);
  const at = Math.min(pointed ?? times.length - 1, times.length - 1);
  const point = (event: PointerEvent) => {
    const box = (event.currentTarget as SVGElement).getBoundingClientRect();
    const share = ((event.clientX - box.left) / box.width) * WIDTH;
    const nearest = Math.round(((share - LEFT) / (WIDTH - LEFT - RIGHT)) * (times.length - 1));
    setPointed(Math.max(0, Math.min(times.length - 1, nearest)));
  };
  return (
    <figure class="chart">
      <figcaption>
        <span class="title">{title}</span>
        {missing === undefined && (
          <span class="legend">
            {series.map(({ name, values }, index) => {
              const value = values[at];
              return (
                <span key={name} class={`series-${index}`}>
                  <i />
                  {name} <b>{value === undefined ? '–' : format(value)}</b>
                </span>
              );
            })}
          </span>
        )}
      </figcaption>
      {missing !== undefined ? (
        <p class="muted missing">{missing}</p>
      ) : (
        <svg
          viewBox={`0 0 ${WIDTH} ${HEIGHT}`}
          role="img"
          aria-label={`${title}: ${series.map(({ name, values }) => `${name} ${format(values.at(-1) ?? 0)}`).join(', ')}`}
          onPointerMove={point}
          onPointerLeave={() => setPointed(undefined)}
        >
          {[0, 0.5, 1].map((share) => (
            <g key={share} class="grid">
              <line x1={LEFT} x2={WIDTH - RIGHT} y1={y(share * top)} y2={y(share * top)} />
              <text x={LEFT - 6} y={y(share * top) + 3.5} text-anchor="end">
                {format(share * top)}
              </text>
            </g>
          ))}
          {series.map(({ name, values }, index) => (
            <g key={name} class={`series-${index}`}>
              {paths(values, x, y).map((path) => (
                <path key={path.slice(0, 12)} d={path} />
              ))}
            </g>
          ))}
          {times.length > 1 && (
            <g class="axis">
              <text x={LEFT} y={HEIGHT - 4}>
                {clock(times[0] ?? 0).slice(0, 8)}
              </text>
              <text x={WIDTH - RIGHT} y={HEIGHT - 4} text-anchor="end">
                {clock(times.at(-1) ?? 0).slice(0, 8)}
              </text>
            </g>
          )}
          {pointed !== undefined && (
            <g class="pointer">
              <line x1={x(at)} x2={x(at)} y1={TOP} y2={HEIGHT - BOTTOM} />
              <text
                x={Math.max(LEFT + 28, Math.min(WIDTH - RIGHT - 28, x(at)))}
                y={TOP + 3}
                text-anchor="middle"
              >
                {clock(times[at] ?? 0).slice(0, 8)}
              </text>
            </g>
          )}
        </svg>
      )}
    </figure>
  );
}
