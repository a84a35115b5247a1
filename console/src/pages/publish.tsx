import { useRef, useState } from 'preact/hooks';
import type { Failure } from '../errors';
import { bytes, count } from '../format';
import { Durability, type Message } from '../gen/unibus/v1/message_pb';
import type { Room } from '../gen/unibus/v1/room_pb';
import { type Encoding, parsePayload } from '../payload';
import { call } from '../service';
import { Problem, toast } from '../ui/parts';

const DURABILITIES: Record<Durability, string> = {
  [Durability.UNSPECIFIED]: 'stored',
  [Durability.NONE]: 'sent',
  [Durability.BUFFERED]: 'stored, not yet synced',
  [Durability.SYNCED]: 'stored and synced',
  [Durability.QUORUM]: 'stored by a majority',
  [Durability.QUORUM_SYNCED]: 'stored and synced by a majority',
};

/** Headers that were typed as lines, or the line that is none. */
export function parseHeaders(typed: string): Message['headers'] | string {
  const headers: Message['headers'] = {};
  for (const line of typed.split('\n').filter((line) => line.trim() !== '')) {
    const [name, ...rest] = line.split(':');
    if (rest.length === 0 || !name?.trim()) return `"${line.trim()}" has no colon after its name.`;
    headers[name.trim()] = rest.join(':').trim();
  }
  return headers;
}

export function PublishBox({ room }: { room: Room }) {
  const [text, setText] = useState('');
  const [encoding, setEncoding] = useState<Exclude<Encoding, 'auto'>>('text');
  const [isOpen, setOpen] = useState(false);
  const [id, setId] = useState('');
  const [headers, setHeaders] = useState('');
  const [failure, setFailure] = useState<Failure | undefined>(undefined);
  const [isBusy, setBusy] = useState(false);
  const area = useRef<HTMLTextAreaElement>(null);
  const payload = parsePayload(text, encoding);
  const parsed = parseHeaders(headers);
  const problem = typeof payload === 'string' ? payload : typeof parsed === 'string' ? parsed : undefined;
  const publish = async () => {
    if (typeof payload === 'string' || typeof parsed === 'string' || isBusy) return;
    setBusy(true);
    const message = {
      roomId: room.roomId,
      payload: Uint8Array.from(payload),
      headers: parsed,
      messageId: id.trim(),
    };
    const outcome = await call((rooms, options) => rooms.publish(message, options));
    setBusy(false);
    setFailure(outcome.ok ? undefined : outcome.failure);
    if (!outcome.ok) return;
    const { sequence, duplicate, durability } = outcome.value;
    const what = duplicate ? 'was stored before' : DURABILITIES[durability];
    toast(room.persist ? `Message ${count(sequence)} ${what}` : 'Message sent');
    setText('');
    setId('');
    area.current?.focus();
  };
  return (
    <form
      class="publish"
      onSubmit={(event) => {
        event.preventDefault();
        void publish();
      }}
    >
      {failure && <Problem failure={failure} />}
      <div class="compose">
        <textarea
          ref={area}
          data-new
          rows={2}
          aria-label="Payload"
          placeholder="Write a message"
          spellcheck={false}
          class={encoding === 'text' ? '' : 'mono'}
          value={text}
          onInput={(event) => setText(event.currentTarget.value)}
          onKeyDown={(event) => {
            if (event.key === 'Enter' && (event.ctrlKey || event.metaKey)) void publish();
          }}
        />
        <div class="compose-side">
          <button type="submit" class="primary" disabled={isBusy || problem !== undefined}>
            Publish
          </button>
          <button type="button" class="quiet" aria-expanded={isOpen} onClick={() => setOpen(!isOpen)}>
            Options
          </button>
        </div>
      </div>
      {isOpen && (
        <div class="compose-options">
          <label class="field">
            <span>Written as</span>
            <select
              value={encoding}
              onChange={(event) => setEncoding(event.currentTarget.value as Exclude<Encoding, 'auto'>)}
            >
              <option value="text">Text</option>
              <option value="hex">Hex</option>
              <option value="base64">Base64</option>
            </select>
          </label>
          <label class="field">
            <span>Message id</span>
            <input
              autocomplete="off"
              placeholder="None"
              disabled={!room.persist}
              value={id}
              onInput={(event) => setId(event.currentTarget.value)}
            />
          </label>
          <label class="field wide">
            <span>Headers</span>
            <textarea
              rows={2}
              class="mono"
              spellcheck={false}
              placeholder="name: value"
              value={headers}
              onInput={(event) => setHeaders(event.currentTarget.value)}
            />
          </label>
        </div>
      )}
      <p class="hint">
        {problem !== undefined ? (
          <span class="field-problem">{problem}</span>
        ) : (
          <span class="muted">
            {text === '' ? (
              <span class="keys-hint">n writes, Ctrl Enter publishes</span>
            ) : (
              bytes(typeof payload === 'string' ? 0 : payload.length)
            )}
          </span>
        )}
      </p>
    </form>
  );
}
