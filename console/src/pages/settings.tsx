import { useState } from 'preact/hooks';
import type { Failure } from '../errors';
import { count, dateTime, duration, milliseconds } from '../format';
import type { Room } from '../gen/unibus/v1/room_pb';
import { go } from '../router';
import { call } from '../service';
import { Confirm } from '../ui/dialog';
import { Problem, toast } from '../ui/parts';
import {
  parseRetention,
  parseWindow,
  ReplicasField,
  RetentionFields,
  typedRetention,
  WindowField,
} from './retention';

/** Labels that were typed as lines `name=value`. */
export function parseLabels(typed: string): Record<string, string> {
  const labels: Record<string, string> = {};
  for (const line of typed.split('\n').map((line) => line.trim())) {
    if (line === '') continue;
    const at = line.indexOf('=');
    if (at === -1) labels[line] = '';
    else labels[line.slice(0, at).trim()] = line.slice(at + 1).trim();
  }
  return labels;
}

function typedLabels(labels: Record<string, string>): string {
  return Object.entries(labels)
    .sort()
    .map(([name, value]) => (value ? `${name}=${value}` : name))
    .join('\n');
}

interface SettingsProps {
  room: Room;
  changed: () => void;
}

export function SettingsTab({ room, changed }: SettingsProps) {
  const [asking, setAsking] = useState<'purge' | 'delete' | undefined>(undefined);
  return (
    <div class="settings">
      <SettingsForm key={room.roomId} room={room} changed={changed} />
      <div class="side">
        <section>
          <h2>About this room</h2>
          <dl class="facts">
            <dt>NATS subject</dt>
            <dd>
              <code>{room.subject}</code>
            </dd>
            {room.stream && (
              <>
                <dt>NATS stream</dt>
                <dd>
                  <code>{room.stream}</code>
                </dd>
              </>
            )}
            <dt>Created</dt>
            <dd>
              {room.createdAt ? dateTime(milliseconds(room.createdAt)).slice(0, 19) : 'unknown'}
              {room.creator && ` by ${room.creator}`}
            </dd>
            <dt>Time to live of messages</dt>
            <dd>{room.allowMessageTtl ? 'allowed' : 'not allowed'}</dd>
          </dl>
        </section>
        <section class="danger-zone">
          <h2>Removal</h2>
          {room.persist && (
            <div>
              <p>
                <b>Purge the messages.</b> The room, its members and its subscribers stay.
              </p>
              <button type="button" class="danger" onClick={() => setAsking('purge')}>
                Purge
              </button>
            </div>
          )}
          <div>
            <p>
              <b>Delete the room</b> with its messages, members and subscribers.
            </p>
            <button type="button" class="danger" onClick={() => setAsking('delete')}>
              Delete room
            </button>
          </div>
        </section>
      </div>
      {asking === 'purge' && (
        <Confirm
          title={`Purge ${room.roomId}?`}
          action="Purge all messages"
          onClose={() => setAsking(undefined)}
          onConfirm={async () => {
            const outcome = await call((rooms, options) => rooms.purgeRoom({ roomId: room.roomId }, options));
            toast(
              outcome.ok ? `Removed ${count(outcome.value.purged)} messages` : outcome.failure.message,
              outcome.ok ? 'good' : 'danger',
            );
            if (outcome.ok) changed();
            return outcome.ok;
          }}
        >
          <p>All {count(room.state?.messages ?? 0n)} stored messages are removed. This cannot be undone.</p>
        </Confirm>
      )}
      {asking === 'delete' && (
        <Confirm
          title={`Delete ${room.roomId}?`}
          action="Delete room"
          typed={room.roomId}
          onClose={() => setAsking(undefined)}
          onConfirm={async () => {
            const outcome = await call((rooms, options) =>
              rooms.deleteRoom({ roomId: room.roomId }, options),
            );
            toast(
              outcome.ok ? `Deleted ${room.roomId}` : outcome.failure.message,
              outcome.ok ? 'good' : 'danger',
            );
            if (outcome.ok) go({ page: 'rooms' });
            return outcome.ok;
          }}
        >
          <p>The room, its messages, members and subscribers are removed. This cannot be undone.</p>
        </Confirm>
      )}
    </div>
  );
}

function SettingsForm({ room, changed }: SettingsProps) {
  const [labels, setLabels] = useState(() => typedLabels(room.labels));
  const [typed, setTyped] = useState(() => typedRetention(room.retention));
  const present = room.dedupeWindow ? duration(room.dedupeWindow) : '';
  const [typedWindow, setTypedWindow] = useState(present);
  const [replicas, setReplicas] = useState(`${room.replicas || 1}`);
  const [failure, setFailure] = useState<Failure | undefined>(undefined);
  const [isBusy, setBusy] = useState(false);
  const retention = parseRetention(typed);
  const dedupeWindow = parseWindow(typedWindow);
  const submit = async (event: Event) => {
    event.preventDefault();
    if ('problems' in retention || 'problem' in dedupeWindow || isBusy) return;
    setBusy(true);
    const wanted = {
      roomId: room.roomId,
      labels: parseLabels(labels),
      ...(room.persist && {
        retention: retention.value,
        ...(dedupeWindow.value && { dedupeWindow: dedupeWindow.value }),
        replicas: Number(replicas),
      }),
    };
    const paths = room.persist ? ['labels', 'retention', 'replicas'] : ['labels'];
    // the service shortens a default with the largest age; what nobody typed stays as it is
    if (room.persist && typedWindow !== present) paths.push('dedupe_window');
    const outcome = await call((rooms, options) =>
      rooms.updateRoom({ room: wanted, updateMask: { paths } }, options),
    );
    setBusy(false);
    setFailure(outcome.ok ? undefined : outcome.failure);
    if (!outcome.ok) return;
    toast('Saved');
    changed();
  };
  return (
    <form class="settings-form" onSubmit={submit}>
      {room.persist && (
        <>
          <RetentionFields
            typed={typed}
            problems={'problems' in retention ? retention.problems : {}}
            onChange={setTyped}
          />
          <WindowField typed={typedWindow} onChange={setTypedWindow} />
          <ReplicasField replicas={replicas} onChange={setReplicas} />
        </>
      )}
      <label class="field">
        <span>Labels, one on each line</span>
        <textarea
          class="mono"
          rows={3}
          spellcheck={false}
          placeholder="team=payments"
          value={labels}
          onInput={(event) => setLabels(event.currentTarget.value)}
        />
      </label>
      {failure && <Problem failure={failure} />}
      <footer>
        <button
          type="submit"
          class="primary"
          disabled={isBusy || 'problems' in retention || 'problem' in dedupeWindow}
        >
          Save
        </button>
      </footer>
    </form>
  );
}
