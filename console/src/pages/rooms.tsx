import { useEffect, useMemo, useRef, useState } from 'preact/hooks';
import { bytes, count, day, milliseconds, rate } from '../format';
import type { Room } from '../gen/unibus/v1/room_pb';
import { readPages, useLoaded } from '../load';
import { Rate } from '../rates';
import { go, href } from '../router';
import { call, type Rooms, restarts } from '../service';
import { Bar, Empty, Loading, Problem, Sparkline } from '../ui/parts';
import { CreateRoomDialog } from './create-room';

/** The rooms that the list loads. */
const ROOMS_MAX = 10_000;
/** The rooms of a page of the list. Only the state of these is loaded. */
const PAGE = 50;
/** The calls for states at a time. */
const CALLS = 6;
const STATE_INTERVAL = 3000;

interface List {
  rooms: Room[];
  isWhole: boolean;
}

async function list(rooms: Rooms, options: { timeoutMs: number; signal?: AbortSignal }): Promise<List> {
  const { entries, isWhole } = await readPages(async (page) => {
    const found = await rooms.listRooms(page, options);
    return { entries: found.rooms, nextPageToken: found.nextPageToken };
  }, ROOMS_MAX);
  return { rooms: entries, isWhole };
}

/** Whether a room fits the words of a search: each word is in its id or in a label. */
export function fits(room: Room, search: string): boolean {
  const text = [room.roomId, ...Object.entries(room.labels).map(([name, value]) => `${name}=${value}`)]
    .join(' ')
    .toLowerCase();
  return search
    .toLowerCase()
    .split(/\s+/)
    .every((word) => text.includes(word));
}

interface RoomNow {
  room: Room;
  rate: Rate;
}

/** The state of these rooms, loaded again and again. */
function useStates(ids: string[]): Map<string, RoomNow> {
  const states = useRef(new Map<string, RoomNow>());
  const [, setRound] = useState(0);
  const of = ids.join('\n');
  const again = restarts.value;
  useEffect(() => {
    const stop = new AbortController();
    const load = async () => {
      const waiting = [...ids];
      const worker = async () => {
        for (let id = waiting.shift(); id !== undefined && !stop.signal.aborted; id = waiting.shift()) {
          const roomId = id;
          const outcome = await call((rooms, options) => rooms.getRoom({ roomId }, options), stop.signal);
          if (!outcome.ok) {
            // the next round tries again; without an answer the other calls would fail too
            if (outcome.failure.reason === '') return;
            continue;
          }
          const room = outcome.value.room;
          if (!room) continue;
          const growth = states.current.get(roomId)?.rate ?? new Rate();
          if (room.state) growth.add(room.state.lastSequence, Date.now());
          states.current.set(roomId, { room, rate: growth });
        }
      };
      await Promise.all(Array.from({ length: CALLS }, worker));
      if (!stop.signal.aborted) setRound((round) => round + 1);
    };
    const repeat = () => {
      if (!document.hidden) void load();
    };
    void load();
    const timer = setInterval(repeat, STATE_INTERVAL);
    return () => {
      stop.abort();
      clearInterval(timer);
    };
  }, [of, again]);
  return states.current;
}

export function RoomsPage() {
  const [search, setSearch] = useState('');
  const [page, setPage] = useState(0);
  const [isCreating, setCreating] = useState(false);
  const { value, failure, reload } = useLoaded(list, 'rooms', 15_000);
  const found = useMemo(() => (value?.rooms ?? []).filter((room) => fits(room, search)), [value, search]);
  const pages = Math.max(1, Math.ceil(found.length / PAGE));
  const shownPage = Math.min(page, pages - 1);
  const shown = found.slice(shownPage * PAGE, (shownPage + 1) * PAGE);
  const states = useStates(shown.filter((room) => room.persist).map((room) => room.roomId));
  return (
    <div class="page">
      <div class="toolbar">
        <h1>Rooms</h1>
        {value && (
          <span class="muted count">
            {search ? `${count(found.length)} of ${count(value.rooms.length)}` : count(value.rooms.length)}
          </span>
        )}
        <span class="search">
          <input
            type="search"
            data-search
            placeholder="Search ids and labels"
            aria-label="Search rooms"
            value={search}
            onInput={(event) => {
              setSearch(event.currentTarget.value);
              setPage(0);
            }}
            onKeyDown={(event) => {
              if (event.key === 'Enter' && shown[0]) go({ page: 'room', room: shown[0].roomId, tab: 'live' });
              if (event.key === 'Escape') setSearch('');
            }}
          />
        </span>
        <button type="button" class="primary" data-new onClick={() => setCreating(true)}>
          New room
        </button>
      </div>
      {failure && <Problem failure={failure} retry={reload} />}
      {!value && !failure && <Loading lines={6} />}
      {value && value.rooms.length === 0 && (
        <Empty title="There is no room yet">
          <p>You see the rooms of which you are a member. Create one, or ask an owner to add you.</p>
        </Empty>
      )}
      {value && value.rooms.length > 0 && found.length === 0 && (
        <Empty title="No room fits">
          <p>
            No id and no label contains <b>{search}</b>.
          </p>
        </Empty>
      )}
      {shown.length > 0 && <Table rooms={shown} states={states} />}
      {value && !value.isWhole && (
        <p class="muted">The list ends after {count(ROOMS_MAX)} rooms. Open a later one by its address.</p>
      )}
      {pages > 1 && (
        <div class="pager">
          <button type="button" disabled={shownPage === 0} onClick={() => setPage(shownPage - 1)}>
            ← Previous
          </button>
          <span class="muted">
            Page {shownPage + 1} of {pages}
          </span>
          <button type="button" disabled={shownPage === pages - 1} onClick={() => setPage(shownPage + 1)}>
            Next →
          </button>
        </div>
      )}
      {isCreating && (
        <CreateRoomDialog
          onClose={() => setCreating(false)}
          onCreated={(room) => go({ page: 'room', room, tab: 'live' })}
        />
      )}
    </div>
  );
}

function Table({ rooms, states }: { rooms: Room[]; states: Map<string, RoomNow> }) {
  return (
    <table class="list rooms">
      <thead>
        <tr>
          <th>Room</th>
          <th>Kind</th>
          <th class="number">Messages</th>
          <th class="number">Rate</th>
          <th class="trend" aria-label="Rate over time" />
          <th class="number">Storage</th>
          <th class="created">Created</th>
        </tr>
      </thead>
      <tbody>
        {rooms.map((room) => (
          <Row key={room.roomId} listed={room} now={states.get(room.roomId)} />
        ))}
      </tbody>
    </table>
  );
}

function Row({ listed, now }: { listed: Room; now: RoomNow | undefined }) {
  const room = now?.room ?? listed;
  const state = room.state;
  const bound = room.retention?.maxBytes ?? 0n;
  const share = state && bound > 0n ? Number(state.bytes) / Number(bound) : undefined;
  const perSecond = now?.rate.now;
  const labels = Object.entries(room.labels).sort();
  return (
    <tr>
      <td class="name">
        <a data-row href={href({ page: 'room', room: room.roomId, tab: 'live' })}>
          {room.roomId}
        </a>
        {labels.length > 0 && (
          <span class="labels">
            {labels.slice(0, 4).map(([name, value]) => (
              <span key={name} class="label">
                {value ? `${name}=${value}` : name}
              </span>
            ))}
            {labels.length > 4 && <span class="muted">+{labels.length - 4}</span>}
          </span>
        )}
      </td>
      <td class="kind">
        <span class={`pill ${room.persist ? 'persisted' : 'ephemeral'}`}>
          {room.persist ? 'Persisted' : 'Ephemeral'}
        </span>
      </td>
      <td class="number messages">{state ? count(state.messages) : room.persist ? '…' : '–'}</td>
      <td class="number rate">{perSecond === undefined ? (room.persist ? '…' : '–') : rate(perSecond)}</td>
      <td class="trend">{now && <Sparkline values={now.rate.values} label={`Rate of ${room.roomId}`} />}</td>
      <td class="number storage">
        {state ? bytes(state.bytes) : room.persist ? '…' : '–'}
        {share !== undefined && (
          <Bar
            share={share}
            tone={share > 0.95 ? 'warning' : 'good'}
            label={`${bytes(state?.bytes ?? 0n)} of ${bytes(bound)}`}
          />
        )}
      </td>
      <td class="created muted">{room.createdAt ? day(milliseconds(room.createdAt)) : ''}</td>
    </tr>
  );
}
