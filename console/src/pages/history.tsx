import type { MessageInitShape } from '@bufbuild/protobuf';
import { timestampFromMs } from '@bufbuild/protobuf/wkt';
import { useState } from 'preact/hooks';
import { count } from '../format';
import type { Message } from '../gen/unibus/v1/message_pb';
import type { Room } from '../gen/unibus/v1/room_pb';
import type { HistoryRequestSchema } from '../gen/unibus/v1/room_service_pb';
import { useLoaded } from '../load';
import { call } from '../service';
import { Confirm } from '../ui/dialog';
import { EncodingChoice } from '../ui/encoding';
import { listClass, MessageRow } from '../ui/message';
import { Empty, Loading, Problem, toast } from '../ui/parts';

type Anchor = NonNullable<MessageInitShape<typeof HistoryRequestSchema>['anchor']>;

/** The messages of a page. */
const LIMIT = 100;
const NEWEST: Anchor = { case: undefined };

/** The anchor of a place that was typed: a sequence, or a time. Nothing if it is neither. */
export function anchorOf(typed: string): Anchor | undefined {
  const text = typed.trim();
  if (text === '') return NEWEST;
  const digits = text.replace(/[,\s]/g, '');
  if (/^\d{1,20}$/.test(digits)) {
    const sequence = BigInt(digits);
    return { case: 'afterSequence', value: sequence > 0n ? sequence - 1n : 0n };
  }
  const isTime = /^\d{4}-\d{2}-\d{2}/.test(text);
  const at = isTime ? Date.parse(text) : Number.NaN;
  return Number.isNaN(at) ? undefined : { case: 'timeRange', value: { start: timestampFromMs(at) } };
}

function nameOf(anchor: Anchor): string {
  return JSON.stringify(anchor, (_, value) => (typeof value === 'bigint' ? `${value}` : value));
}

export function HistoryTab({ room }: { room: Room }) {
  const [anchor, setAnchor] = useState<Anchor>(NEWEST);
  const [typed, setTyped] = useState('');
  const [deleting, setDeleting] = useState<Message | undefined>(undefined);
  const wanted = anchorOf(typed);
  const { value, failure, reload } = useLoaded(
    (rooms, options) => rooms.history({ roomId: room.roomId, limit: LIMIT, anchor }, options),
    `${room.roomId} ${nameOf(anchor)}`,
  );
  if (!room.persist) {
    return (
      <Empty title="An ephemeral room has no history">
        <p>Its messages are not stored.</p>
      </Empty>
    );
  }
  return (
    <div class="history">
      <div class="toolbar">
        <button
          type="button"
          disabled={!value?.hasOlder}
          onClick={() => setAnchor({ case: 'beforeCursor', value: value?.olderCursor ?? '' })}
        >
          ← Older
        </button>
        <button
          type="button"
          disabled={!value?.hasNewer}
          onClick={() => setAnchor({ case: 'afterCursor', value: value?.newerCursor ?? '' })}
        >
          Newer →
        </button>
        <button
          type="button"
          onClick={() => {
            setTyped('');
            setAnchor(NEWEST);
            reload();
          }}
        >
          Newest
        </button>
        <form
          class="jump"
          onSubmit={(event) => {
            event.preventDefault();
            if (wanted) setAnchor(wanted);
          }}
        >
          <span class="search">
            <input
              data-search
              aria-label="From a sequence or a time"
              placeholder="Sequence or time"
              title="A sequence such as 1200, or a time such as 2026-05-01 12:30"
              aria-invalid={wanted === undefined}
              value={typed}
              onInput={(event) => setTyped(event.currentTarget.value)}
            />
          </span>
          <button type="submit" disabled={wanted === undefined || typed.trim() === ''}>
            Go
          </button>
        </form>
        <span class="space" />
        <EncodingChoice />
      </div>
      {failure && <Problem failure={failure} retry={reload} />}
      {!value && !failure && <Loading lines={8} />}
      {value && value.messages.length === 0 && (
        <Empty title={value.hasOlder || value.hasNewer ? 'No message here' : 'The room has no messages'}>
          {value.lastSequence > 0n && <p>The last sequence is {count(value.lastSequence)}.</p>}
        </Empty>
      )}
      {value && value.messages.length > 0 && (
        <>
          <p class="muted range">
            {count(value.messages[0]?.sequence ?? 0n)} to {count(value.messages.at(-1)?.sequence ?? 0n)} of{' '}
            {count(value.firstSequence)} to {count(value.lastSequence)}
          </p>
          <ol class={listClass(value.messages)} aria-label="Messages">
            {value.messages.map((message) => (
              <MessageRow key={String(message.sequence)} message={message} onDelete={setDeleting} />
            ))}
          </ol>
        </>
      )}
      {deleting && (
        <Confirm
          title={`Delete message ${count(deleting.sequence)}?`}
          action="Delete message"
          onClose={() => setDeleting(undefined)}
          onConfirm={async () => {
            const request = { roomId: room.roomId, sequence: deleting.sequence };
            const outcome = await call((rooms, options) => rooms.deleteMessage(request, options));
            toast(outcome.ok ? 'Deleted' : outcome.failure.message, outcome.ok ? 'good' : 'danger');
            if (outcome.ok) reload();
            return outcome.ok;
          }}
        >
          <p>The message is overwritten in the files of the NATS server. Backups are not touched.</p>
        </Confirm>
      )}
    </div>
  );
}
