import { useState } from 'preact/hooks';
import type { Failure } from '../errors';
import type { StartAt } from '../feed';
import { ago, count, milliseconds } from '../format';
import type { Room } from '../gen/unibus/v1/room_pb';
import type { Subscriber } from '../gen/unibus/v1/subscription_pb';
import { readPages, useLoaded } from '../load';
import { call, type Rooms } from '../service';
import { Confirm, Dialog } from '../ui/dialog';
import { Bar, Empty, Loading, Problem, toast } from '../ui/parts';

const INTERVAL = 2000;
/** The subscribers that are loaded. */
const SUBSCRIBERS_MAX = 10_000;

async function list(
  rooms: Rooms,
  roomId: string,
  options: { timeoutMs: number; signal?: AbortSignal },
): Promise<Subscriber[]> {
  const { entries } = await readPages(async (page) => {
    const { subscribers, nextPageToken } = await rooms.listSubscribers({ roomId, ...page }, options);
    return { entries: subscribers, nextPageToken };
  }, SUBSCRIBERS_MAX);
  return entries;
}

/** The subscribers with the largest lag first. */
export function byLag(subscribers: readonly Subscriber[]): Subscriber[] {
  return [...subscribers].sort((a, b) =>
    a.lag === b.lag ? a.consumer.localeCompare(b.consumer) : a.lag < b.lag ? 1 : -1,
  );
}

export function SubscribersTab({ room }: { room: Room }) {
  const { value, failure, reload } = useLoaded(
    (rooms, options) => list(rooms, room.roomId, options),
    room.roomId,
    INTERVAL,
  );
  const [moving, setMoving] = useState<Subscriber | undefined>(undefined);
  const [deleting, setDeleting] = useState<Subscriber | undefined>(undefined);
  if (!room.persist) {
    return (
      <Empty title="An ephemeral room has no durable subscribers">
        <p>Nothing is stored, so there is no position to keep.</p>
      </Empty>
    );
  }
  const shown = byLag(value ?? []).slice(0, 500);
  const largest = Number(shown[0]?.lag ?? 0n);
  return (
    <div class="subscribers">
      <div class="toolbar">
        <span class="muted count">
          {value && `${count(value.length)} durable ${value.length === 1 ? 'subscriber' : 'subscribers'}`}
          {value && value.length > 0 && `, ${count(value.filter(({ open }) => open).length)} open`}
        </span>
      </div>
      {failure && <Problem failure={failure} retry={reload} />}
      {!value && !failure && <Loading lines={4} />}
      {value?.length === 0 && (
        <Empty title="There is no durable subscriber">
          <p>A program makes one when it subscribes under a name. Readers and writers see only their own.</p>
        </Empty>
      )}
      {shown.length > 0 && (
        <table class="list cards">
          <thead>
            <tr>
              <th>Subscriber</th>
              <th>State</th>
              <th class="number">Position</th>
              <th class="lag">Lag</th>
              <th>Active</th>
              <th aria-label="Actions" />
            </tr>
          </thead>
          <tbody>
            {shown.map((subscriber) => (
              <Row
                key={subscriber.consumer}
                subscriber={subscriber}
                largest={largest}
                onMove={setMoving}
                onDelete={setDeleting}
              />
            ))}
          </tbody>
        </table>
      )}
      {moving && (
        <SeekDialog room={room} subscriber={moving} onClose={() => setMoving(undefined)} onMoved={reload} />
      )}
      {deleting && (
        <Confirm
          title={`Delete ${deleting.subscriber}?`}
          action="Delete subscriber"
          onClose={() => setDeleting(undefined)}
          onConfirm={async () => {
            const request = { roomId: room.roomId, subscriber: deleting.subscriber };
            const outcome = await call((rooms, options) => rooms.deleteSubscriber(request, options));
            toast(outcome.ok ? 'Deleted' : outcome.failure.message, outcome.ok ? 'good' : 'danger');
            if (outcome.ok) reload();
            return outcome.ok;
          }}
        >
          <p>
            Its position is lost, and its open subscription ends. Under the same name it starts as a new
            subscriber.
          </p>
        </Confirm>
      )}
    </div>
  );
}

interface RowProps {
  subscriber: Subscriber;
  largest: number;
  onMove: (subscriber: Subscriber) => void;
  onDelete: (subscriber: Subscriber) => void;
}

function Row({ subscriber, largest, onMove, onDelete }: RowProps) {
  const { subscriber: name, consumer, lag, open, lastActiveAt, position } = subscriber;
  return (
    <tr>
      <td class="name" title={`NATS consumer ${consumer}`}>
        {name}
      </td>
      <td>
        <span class={`status ${open ? 'good' : 'idle'}`}>
          <i />
          {open ? 'Open' : 'Closed'}
        </span>
      </td>
      <td class="number position">{count(position)}</td>
      <td class="lag">
        <span class="lag-cell">
          <span class="number">{count(lag)}</span>
          <Bar
            share={largest > 0 ? Number(lag) / largest : 0}
            tone={open || lag === 0n ? 'good' : 'warning'}
            label={`${count(lag)} messages after its position`}
          />
        </span>
      </td>
      <td class="muted active">{lastActiveAt ? ago(milliseconds(lastActiveAt), Date.now()) : 'unknown'}</td>
      <td class="actions">
        <button type="button" data-row onClick={() => onMove(subscriber)}>
          Move
        </button>
        <button type="button" class="danger quiet" onClick={() => onDelete(subscriber)}>
          Delete
        </button>
      </td>
    </tr>
  );
}

interface SeekProps {
  room: Room;
  subscriber: Subscriber;
  onClose: () => void;
  onMoved: () => void;
}

function SeekDialog({ room, subscriber, onClose, onMoved }: SeekProps) {
  const [place, setPlace] = useState<'new' | 'all' | 'sequence'>('new');
  const [sequence, setSequence] = useState(`${subscriber.position}`);
  const [failure, setFailure] = useState<Failure | undefined>(undefined);
  const submit = async (event: Event) => {
    event.preventDefault();
    const at: StartAt =
      place === 'sequence'
        ? { case: 'afterSequence', value: BigInt(/^\d+$/.test(sequence) ? sequence : '0') }
        : place === 'all'
          ? { case: 'all', value: {} }
          : { case: 'new', value: {} };
    const request = { roomId: room.roomId, subscriber: subscriber.subscriber, position: { at } };
    const outcome = await call((rooms, options) => rooms.seekSubscriber(request, options));
    if (!outcome.ok) return setFailure(outcome.failure);
    toast(`${subscriber.subscriber} continues after ${count(outcome.value.position)}`);
    onMoved();
    onClose();
  };
  return (
    <Dialog title={`Move ${subscriber.subscriber}`} onClose={onClose}>
      <form onSubmit={submit}>
        <fieldset class="choices">
          <legend>Continue</legend>
          <label>
            <input type="radio" name="place" checked={place === 'new'} onChange={() => setPlace('new')} />
            <span>
              <b>At the end</b> It skips what it has not processed.
            </span>
          </label>
          <label>
            <input type="radio" name="place" checked={place === 'all'} onChange={() => setPlace('all')} />
            <span>
              <b>At the oldest message</b> It gets all stored messages again.
            </span>
          </label>
          <label>
            <input
              type="radio"
              name="place"
              checked={place === 'sequence'}
              onChange={() => setPlace('sequence')}
            />
            <span>
              <b>After a sequence</b>
              <input
                inputMode="numeric"
                pattern="\d+"
                aria-label="Sequence"
                value={sequence}
                onFocus={() => setPlace('sequence')}
                onInput={(event) => setSequence(event.currentTarget.value)}
              />
            </span>
          </label>
        </fieldset>
        {failure && <Problem failure={failure} />}
        <footer>
          <button type="button" onClick={onClose}>
            Cancel
          </button>
          <button type="submit" class="primary">
            Move subscriber
          </button>
        </footer>
      </form>
    </Dialog>
  );
}
