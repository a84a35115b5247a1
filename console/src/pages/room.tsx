import { useEffect, useRef } from 'preact/hooks';
import { bytes, count, rate } from '../format';
import type { Room } from '../gen/unibus/v1/room_pb';
import { useLoaded } from '../load';
import { Rate } from '../rates';
import { href, TABS, type Tab } from '../router';
import { Empty, Loading, Problem, Sparkline } from '../ui/parts';
import { HistoryTab } from './history';
import { LiveTab } from './live';
import { MembersTab } from './members';
import { SettingsTab } from './settings';
import { SubscribersTab } from './subscribers';

const STATE_INTERVAL = 2000;
const NAMES: Record<Tab, string> = {
  live: 'Live',
  history: 'History',
  subscribers: 'Subscribers',
  members: 'Members',
  settings: 'Settings',
};

export function RoomPage({ room: id, tab }: { room: string; tab: Tab }) {
  const { value, failure, reload } = useLoaded(
    (rooms, options) => rooms.getRoom({ roomId: id }, options),
    id,
    STATE_INTERVAL,
  );
  const growth = useRef(new Rate());
  const room = value?.room;
  useEffect(() => {
    if (room?.state) growth.current.add(room.state.lastSequence, Date.now());
  }, [room]);
  const isShown = room !== undefined;
  // on a small screen the tabs are wider than the page
  useEffect(() => {
    if (isShown)
      document
        .querySelector(`.tabs [data-tab=${tab}]`)
        ?.scrollIntoView({ block: 'nearest', inline: 'nearest' });
  }, [tab, isShown]);
  const isGone = failure?.reason === 'ROOM_NOT_FOUND';
  const isForbidden = failure?.reason === 'PERMISSION_DENIED';
  return (
    <div class={`page room is-${tab}`}>
      <div class="room-head">
        <h1>
          <a class="back" href={href({ page: 'rooms' })} aria-label="All rooms">
            ←
          </a>
          <span class="room-id">{id}</span>
          {room && (
            <span class={`pill ${room.persist ? 'persisted' : 'ephemeral'}`}>
              {room.persist ? 'Persisted' : 'Ephemeral'}
            </span>
          )}
        </h1>
        {room?.state && <Stats room={room} growth={growth.current} />}
      </div>
      {!room && (isGone || isForbidden) ? (
        <Empty title={isGone ? 'This room does not exist' : 'You are not a member of this room'}>
          <p>
            {isGone ? 'It may have been deleted.' : 'An owner of the room can add you.'}{' '}
            <a href={href({ page: 'rooms' })}>All rooms</a>
          </p>
        </Empty>
      ) : (
        <>
          <nav class="tabs" aria-label="Room">
            {TABS.map((name) => (
              <a
                key={name}
                data-tab={name}
                href={href({ page: 'room', room: id, tab: name })}
                aria-current={name === tab ? 'page' : undefined}
              >
                {NAMES[name]}
              </a>
            ))}
          </nav>
          {failure && failure.reason !== '' && <Problem failure={failure} />}
          {!room && failure && failure.reason === '' && <Problem failure={failure} retry={reload} />}
          {!room && !failure && <Loading />}
          {room && (
            <div class="tab">
              {tab === 'live' && <LiveTab room={room} />}
              {tab === 'history' && <HistoryTab room={room} />}
              {tab === 'subscribers' && <SubscribersTab room={room} />}
              {tab === 'members' && <MembersTab room={room} />}
              {tab === 'settings' && <SettingsTab room={room} changed={reload} />}
            </div>
          )}
        </>
      )}
    </div>
  );
}

function Stats({ room, growth }: { room: Room; growth: Rate }) {
  const state = room.state;
  if (!state) return null;
  return (
    <dl class="stats">
      <div>
        <dt>Messages</dt>
        <dd>{count(state.messages)}</dd>
      </div>
      <div>
        <dt>Sequences</dt>
        <dd>
          {state.messages === 0n ? '–' : `${count(state.firstSequence)} – ${count(state.lastSequence)}`}
        </dd>
      </div>
      <div>
        <dt>Storage</dt>
        <dd>
          {bytes(state.bytes)}
          {room.replicas > 1 && <span class="muted"> × {room.replicas}</span>}
        </dd>
      </div>
      <div>
        <dt>Rate</dt>
        <dd>
          {growth.now === undefined ? '…' : rate(growth.now)}{' '}
          <Sparkline values={growth.values} label="Rate" />
        </dd>
      </div>
    </dl>
  );
}
