import { useCallback, useEffect, useRef, useState } from 'preact/hooks';
import type { Failure } from './errors';
import { call, type Outcome, type Rooms, restarts } from './service';
import { token } from './session';

/** How long a call that failed waits at most before it is made again, in milliseconds. */
const RETRY_INTERVAL = 2000;

export interface Loaded<T> {
  /** The newest value. It stays while a later call fails. */
  value: T | undefined;
  failure: Failure | undefined;
  reload: () => void;
}

type Make<T> = (rooms: Rooms, options: { timeoutMs: number; signal?: AbortSignal }) => Promise<T>;

/** The part of a list that one call returns. */
interface Page<T> {
  entries: T[];
  nextPageToken: string;
}

/** Reads a list page by page until its end, or until it has `max` entries. */
export async function readPages<T>(
  read: (page: { pageSize: number; pageToken: string }) => Promise<Page<T>>,
  max = Number.POSITIVE_INFINITY,
): Promise<{ entries: T[]; isWhole: boolean }> {
  const entries: T[] = [];
  let pageToken = '';
  do {
    const page = await read({ pageSize: 1000, pageToken });
    entries.push(...page.entries);
    pageToken = page.nextPageToken;
  } while (pageToken && entries.length < max);
  return { entries, isWhole: pageToken === '' };
}

/** Waits; less if the page is shown again, because nothing is loaded while it is hidden. */
function sleep(delay: number, stop: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const end = () => {
      if (document.hidden && !stop.aborted) return;
      clearTimeout(timer);
      document.removeEventListener('visibilitychange', end);
      stop.removeEventListener('abort', end);
      resolve();
    };
    const timer = setTimeout(end, delay);
    document.addEventListener('visibilitychange', end);
    stop.addEventListener('abort', end);
  });
}

/** Calls again and again until `stop`. */
export async function poll<T>(
  make: Make<T>,
  every: number,
  stop: AbortSignal,
  found: (outcome: Outcome<T>) => void,
): Promise<void> {
  while (!stop.aborted) {
    const outcome = await call(make, stop);
    found(outcome);
    await sleep(outcome.ok ? every : Math.min(every, RETRY_INTERVAL), stop);
  }
}

/** Loads a value when `of` changes, when the token changes, when the service is back, and every so many milliseconds. */
export function useLoaded<T>(make: Make<T>, of: string, every?: number): Loaded<T> {
  const [state, setState] = useState<{ of: string; value?: T; failure?: Failure | undefined }>({ of });
  const [round, setRound] = useState(0);
  const current = useRef(make);
  current.current = make;
  const again = `${restarts.value} ${token.value}`;
  useEffect(() => {
    const stop = new AbortController();
    const found = (outcome: Outcome<T>) => {
      if (stop.signal.aborted) return;
      setState((before) => {
        const kept = before.of === of ? before : { of };
        return outcome.ok ? { of, value: outcome.value } : { ...kept, failure: outcome.failure };
      });
    };
    const once: Make<T> = (rooms, options) => current.current(rooms, options);
    if (every === undefined) void call(once, stop.signal).then(found);
    else void poll(once, every, stop.signal, found);
    return () => stop.abort();
  }, [of, every, again, round]);
  const reload = useCallback(() => setRound((before) => before + 1), []);
  const isCurrent = state.of === of;
  return {
    value: isCurrent ? state.value : undefined,
    failure: isCurrent ? state.failure : undefined,
    reload,
  };
}
