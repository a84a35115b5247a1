import { Fragment } from 'preact';
import { useState } from 'preact/hooks';
import { bytes, count, dateTime, milliseconds, moment } from '../format';
import type { Message } from '../gen/unibus/v1/message_pb';
import { preview, show } from '../payload';
import { encoding } from './encoding';
import { toast } from './parts';

/** The payload bytes that the details of a message show at first. */
const SHOWN_MAX = 64 * 1024;

/** The class of a list of messages. Without senders there is no column for them. */
export function listClass(messages: readonly Message[]): string {
  return messages.some(({ sender }) => sender !== '') ? 'messages' : 'messages plain';
}

interface RowProps {
  message: Message;
  /** Deletes the message, if the list offers that. */
  onDelete?: ((message: Message) => void) | undefined;
  onOpen?: () => void;
}

/** A message on one line, with its details below it when it is opened. */
export function MessageRow({ message, onDelete, onOpen }: RowProps) {
  const [isOpen, setOpen] = useState(false);
  const at = message.publishedAt && milliseconds(message.publishedAt);
  const shown = preview(message.payload, encoding.value);
  const toggle = () => {
    if (!isOpen) onOpen?.();
    setOpen(!isOpen);
  };
  return (
    <li class={`message ${isOpen ? 'open' : ''}`}>
      <button type="button" data-row class="line" aria-expanded={isOpen} onClick={toggle}>
        <span class="sequence">{message.sequence > 0n ? count(message.sequence) : '–'}</span>
        <time class="time" title={at === undefined ? '' : dateTime(at)}>
          {at === undefined ? '' : moment(at, Date.now())}
        </time>
        <span class="sender" title={message.sender}>
          {message.sender}
        </span>
        <span class={`payload ${shown.encoding}`}>
          {message.payload.length === 0 ? <i class="muted">empty</i> : shown.text}
        </span>
        <span class="size">{bytes(message.payload.length)}</span>
      </button>
      {isOpen && <Details message={message} onDelete={onDelete} />}
    </li>
  );
}

function Details({ message, onDelete }: RowProps) {
  const [isWhole, setWhole] = useState(false);
  const isCut = !isWhole && message.payload.length > SHOWN_MAX;
  const payload = isCut ? message.payload.subarray(0, SHOWN_MAX) : message.payload;
  const shown = show(payload, encoding.value, isCut);
  const headers = Object.entries(message.headers);
  const copy = async () => {
    const whole = show(message.payload, encoding.value).text;
    try {
      await navigator.clipboard.writeText(whole);
      toast('Copied');
    } catch {
      toast('The browser does not allow copying here', 'danger');
    }
  };
  return (
    <div class="details">
      <dl>
        {message.publishedAt && (
          <>
            <dt>Stored</dt>
            <dd>{dateTime(milliseconds(message.publishedAt))}</dd>
          </>
        )}
        {message.sender && (
          <>
            <dt>Sender</dt>
            <dd>{message.sender}</dd>
          </>
        )}
        {message.messageId && (
          <>
            <dt>Message id</dt>
            <dd>
              <code>{message.messageId}</code>
            </dd>
          </>
        )}
        {headers.map(([name, value]) => (
          <Fragment key={name}>
            <dt>
              <code>{name}</code>
            </dt>
            <dd>
              <code>{value}</code>
            </dd>
          </Fragment>
        ))}
        <dt>Payload</dt>
        <dd>
          {bytes(message.payload.length)} as {shown.encoding}
        </dd>
      </dl>
      {message.payload.length > 0 && <pre class={shown.encoding}>{shown.text}</pre>}
      <footer>
        {isCut && (
          <button type="button" onClick={() => setWhole(true)}>
            Show all {bytes(message.payload.length)}
          </button>
        )}
        <button type="button" onClick={copy}>
          Copy payload
        </button>
        {onDelete && (
          <button type="button" class="danger quiet" onClick={() => onDelete(message)}>
            Delete message
          </button>
        )}
      </footer>
    </div>
  );
}
