import { effect } from '@preact/signals';
import { type Failure, failure } from './errors';
import type { Feed } from './feed';
import { connected, note, restarts } from './service';
import { token } from './session';

/** How long the first frame of a subscription may take. */
const OPEN_TIMEOUT = 10_000;

/** Keeps a subscription to the room open until `stop`, and calls `changed` after each change of the feed. */
export async function follow(
  feed: Feed,
  room: string,
  stop: AbortSignal,
  changed: () => void,
): Promise<void> {
  while (!stop.aborted) {
    feed.connecting();
    changed();
    const found = await subscribe(feed, room, stop, changed);
    if (stop.aborted) return;
    const next = feed.ended(found, Date.now(), Math.random());
    changed();
    await (next.kind === 'again' ? pause(next.delay, stop) : untilToken(stop));
  }
}

/** One subscription, until it ends; returns why. */
async function subscribe(
  feed: Feed,
  room: string,
  stop: AbortSignal,
  changed: () => void,
): Promise<Failure | undefined> {
  const silence = new AbortController();
  let timer: ReturnType<typeof setTimeout> | undefined;
  const expectFrame = (within: number) => {
    clearTimeout(timer);
    timer = setTimeout(() => silence.abort(), within);
  };
  try {
    const rooms = await connected();
    expectFrame(OPEN_TIMEOUT);
    const request = { roomId: room, start: { at: feed.start() } };
    let isFirst = true;
    for await (const frame of rooms.subscribe(request, { signal: AbortSignal.any([stop, silence.signal]) })) {
      if (isFirst) note(undefined);
      isFirst = false;
      feed.frame(frame);
      expectFrame(2 * feed.heartbeat);
      changed();
    }
    return undefined;
  } catch (thrown) {
    if (stop.aborted) return undefined;
    const found = failure(thrown);
    note(found);
    return found;
  } finally {
    clearTimeout(timer);
  }
}

/** Waits for the delay, but not longer than until the service or the network is back. */
function pause(delay: number, stop: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const seen = restarts.peek();
    const unfollow = effect(() => {
      if (restarts.value !== seen) end();
    });
    const timer = setTimeout(end, delay);
    addEventListener('online', end);
    stop.addEventListener('abort', end);
    function end() {
      clearTimeout(timer);
      removeEventListener('online', end);
      stop.removeEventListener('abort', end);
      queueMicrotask(() => unfollow());
      resolve();
    }
  });
}

/** Waits for another token. */
function untilToken(stop: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const seen = token.peek();
    const unfollow = effect(() => {
      if (token.value !== seen) end();
    });
    stop.addEventListener('abort', end);
    function end() {
      stop.removeEventListener('abort', end);
      queueMicrotask(() => unfollow());
      resolve();
    }
  });
}
