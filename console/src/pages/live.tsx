import { useEffect, useLayoutEffect, useRef, useState } from 'preact/hooks';
import { Feed, type FeedStatus, type Item } from '../feed';
import { follow } from '../follow';
import { bytes, count, rate } from '../format';
import type { Room } from '../gen/unibus/v1/room_pb';
import { EncodingChoice } from '../ui/encoding';
import { listClass, MessageRow } from '../ui/message';
import { Empty } from '../ui/parts';
import { PublishBox } from './publish';

/** The page is drawn this often at most, in milliseconds, however many messages come. */
const DRAW_INTERVAL = 100;
/** How near to its end, in pixels, a list follows what comes. */
const NEAR = 40;

/** A feed that runs while the component is shown, and the rate at which messages come. */
function useFeed(room: Room): { feed: Feed; perSecond: number } {
  const [feed] = useState(() => new Feed(room.persist));
  const [, draw] = useState(0);
  const [perSecond, setPerSecond] = useState(0);
  useEffect(() => {
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    void follow(feed, room.roomId, stop.signal, () => {
      timer ??= setTimeout(() => {
        timer = undefined;
        draw((round) => round + 1);
      }, DRAW_INTERVAL);
    });
    let before = 0;
    const measure = setInterval(() => {
      setPerSecond(feed.received - before);
      before = feed.received;
    }, 1000);
    return () => {
      stop.abort();
      clearTimeout(timer);
      clearInterval(measure);
    };
  }, []);
  return { feed, perSecond };
}

export function LiveTab({ room }: { room: Room }) {
  const { feed, perSecond } = useFeed(room);
  // what is shown while the list does not follow
  const [held, setHeld] = useState<{ items: Item[]; received: number } | undefined>(undefined);
  const box = useRef<HTMLDivElement>(null);
  const items = held?.items ?? feed.items;
  const isHeld = held !== undefined;

  // the list stays where it is while somebody reads a message
  const hold = () => {
    if (!isHeld) setHeld({ items: [...feed.items], received: feed.received });
  };
  // where the list was scrolled to, so that a reader who scrolls away is seen before the next message moves the list back
  const end = useRef(0);
  useLayoutEffect(() => {
    const list = box.current;
    if (!list || isHeld) return;
    const isLeft = list.scrollTop < Math.min(end.current, list.scrollHeight - list.clientHeight) - NEAR;
    if (isLeft) return hold();
    list.scrollTop = list.scrollHeight;
    end.current = list.scrollTop;
  });
  const followAgain = () => {
    end.current = 0;
    setHeld(undefined);
  };
  const scrolled = () => {
    const list = box.current;
    if (!list) return;
    const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < NEAR;
    if (isAtEnd && isHeld) followAgain();
    if (!isAtEnd) hold();
  };
  const waiting = held ? feed.received - held.received : 0;
  return (
    <div class="live">
      <div class="toolbar">
        <Status status={feed.status} />
        <span class="muted figures">
          {count(feed.received)} received · {bytes(feed.receivedBytes)} · {rate(perSecond)}
        </span>
        <span class="space" />
        <EncodingChoice />
        <button
          type="button"
          onClick={() => {
            feed.clear();
            followAgain();
          }}
        >
          Clear
        </button>
      </div>
      <div class="stream-box">
        <div class="stream" ref={box} onScroll={scrolled}>
          {feed.dropped > 0 && !isHeld && (
            <p class="muted dropped">{count(feed.dropped)} earlier lines are not shown here: see History.</p>
          )}
          {items.length === 0 && (
            <Empty title={feed.status.kind === 'live' ? 'Nothing yet' : 'Waiting for the room'}>
              <p>New messages appear here when they are published.</p>
            </Empty>
          )}
          <ol
            class={listClass(items.flatMap((item) => (item.kind === 'message' ? [item.message] : [])))}
            aria-label="Messages"
          >
            {items.map((item) =>
              item.kind === 'message' ? (
                <MessageRow key={item.key} message={item.message} onOpen={hold} />
              ) : (
                <li key={item.key} class={`note ${item.tone}`}>
                  {item.text}
                </li>
              ),
            )}
          </ol>
        </div>
        {isHeld && (
          <button type="button" class="newest" onClick={followAgain}>
            {waiting > 0 ? `${count(waiting)} new ↓` : 'Follow ↓'}
          </button>
        )}
      </div>
      <PublishBox room={room} />
    </div>
  );
}

/** What a status says to a person. */
export function statusText(status: FeedStatus): { tone: 'good' | 'busy' | 'danger'; text: string } {
  switch (status.kind) {
    case 'live':
      return { tone: 'good', text: 'Live' };
    case 'catching-up':
      return { tone: 'busy', text: 'Catching up' };
    case 'connecting':
      return { tone: 'busy', text: 'Connecting' };
    case 'waiting':
      return { tone: 'busy', text: 'Reconnecting' };
    case 'ended':
      switch (status.failure.reason) {
        case 'ROOM_NOT_FOUND':
          return { tone: 'danger', text: 'The room was deleted' };
        case 'PERMISSION_DENIED':
          return { tone: 'danger', text: 'You are no longer a member of this room' };
        case 'UNAUTHENTICATED':
        case 'CREDENTIALS_EXPIRED':
          return { tone: 'danger', text: 'Waiting for a token' };
        default:
          return { tone: 'danger', text: status.failure.message };
      }
  }
}

function Status({ status }: { status: FeedStatus }) {
  const { tone, text } = statusText(status);
  const cause = status.kind === 'waiting' ? status.failure?.message : undefined;
  return (
    <span class={`status ${tone}`} role="status" data-status={status.kind} title={cause}>
      <i />
      {text}
    </span>
  );
}
