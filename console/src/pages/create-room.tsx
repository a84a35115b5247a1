import { useState } from 'preact/hooks';
import type { Failure } from '../errors';
import { call } from '../service';
import { Dialog } from '../ui/dialog';
import { Problem, toast } from '../ui/parts';
import {
  EMPTY_RETENTION,
  parseRetention,
  parseWindow,
  ReplicasField,
  RetentionFields,
  type TypedRetention,
  WindowField,
} from './retention';

interface CreateProps {
  onClose: () => void;
  onCreated: (room: string) => void;
}

export function CreateRoomDialog({ onClose, onCreated }: CreateProps) {
  const [id, setId] = useState('');
  const [persist, setPersist] = useState(true);
  const [typed, setTyped] = useState<TypedRetention>(EMPTY_RETENTION);
  const [typedWindow, setTypedWindow] = useState('');
  const [replicas, setReplicas] = useState('1');
  const [failure, setFailure] = useState<Failure | undefined>(undefined);
  const [isBusy, setBusy] = useState(false);
  const retention = parseRetention(typed);
  const dedupeWindow = parseWindow(typedWindow);
  const submit = async (event: Event) => {
    event.preventDefault();
    if ('problems' in retention || 'problem' in dedupeWindow || isBusy) return;
    setBusy(true);
    const outcome = await call((rooms, options) =>
      rooms.createRoom(
        {
          roomId: id.trim(),
          persist,
          ...(persist && {
            retention: retention.value,
            ...(dedupeWindow.value && { dedupeWindow: dedupeWindow.value }),
            replicas: Number(replicas),
          }),
        },
        options,
      ),
    );
    setBusy(false);
    if (!outcome.ok) return setFailure(outcome.failure);
    const room = outcome.value.room?.roomId ?? id.trim();
    toast(`Created ${room}`);
    onClose();
    onCreated(room);
  };
  return (
    <Dialog title="New room" onClose={onClose}>
      <form onSubmit={submit}>
        <label class="field">
          <span>Room id</span>
          <input
            data-first
            name="id"
            autocomplete="off"
            spellcheck={false}
            placeholder="The service makes one if it is empty"
            value={id}
            onInput={(event) => setId(event.currentTarget.value)}
          />
        </label>
        <fieldset class="choices">
          <legend>Messages</legend>
          <label>
            <input type="radio" name="persist" checked={persist} onChange={() => setPersist(true)} />
            <span>
              <b>Persisted</b> Every message is stored and has a sequence.
            </span>
          </label>
          <label>
            <input type="radio" name="persist" checked={!persist} onChange={() => setPersist(false)} />
            <span>
              <b>Ephemeral</b> A message reaches only who listens when it is sent.
            </span>
          </label>
        </fieldset>
        {persist && (
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
        {failure && <Problem failure={failure} />}
        <footer>
          <button type="button" onClick={onClose}>
            Cancel
          </button>
          <button
            type="submit"
            class="primary"
            disabled={isBusy || 'problems' in retention || 'problem' in dedupeWindow}
          >
            Create room
          </button>
        </footer>
      </form>
    </Dialog>
  );
}
