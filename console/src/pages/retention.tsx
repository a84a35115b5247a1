import type { MessageInitShape } from '@bufbuild/protobuf';
import type { DurationSchema } from '@bufbuild/protobuf/wkt';
import { duration, parseBytes, parseDuration } from '../format';
import type { Retention, RetentionSchema } from '../gen/unibus/v1/room_pb';

/** The bounds of a room as they are typed. Empty: no bound. */
export interface TypedRetention {
  maxAge: string;
  maxBytes: string;
  maxMessages: string;
  maxMessageBytes: string;
}

export const EMPTY_RETENTION: TypedRetention = {
  maxAge: '',
  maxBytes: '',
  maxMessages: '',
  maxMessageBytes: '',
};

type Problems = Partial<Record<keyof TypedRetention, string>>;
export type ParsedRetention = { value: MessageInitShape<typeof RetentionSchema> } | { problems: Problems };

export function parseRetention(typed: TypedRetention): ParsedRetention {
  const problems: Problems = {};
  const parsed = <T,>(
    field: keyof TypedRetention,
    parse: (text: string) => T | undefined,
    form: string,
  ): T | undefined => {
    const text = typed[field].trim();
    const value = text === '' ? undefined : parse(text);
    if (text !== '' && value === undefined) problems[field] = form;
    return value;
  };
  const maxAge = parsed('maxAge', parseDuration, 'A duration, such as 7d or 1h30m');
  const maxBytes = parsed('maxBytes', parseBytes, 'A size, such as 10 MiB');
  const maxMessages = parsed(
    'maxMessages',
    (text) => (/^\d+$/.test(text) ? BigInt(text) : undefined),
    'A number',
  );
  const maxMessageBytes = parsed('maxMessageBytes', parseBytes, 'A size, such as 64 KiB');
  if (Object.keys(problems).length > 0) return { problems };
  return {
    value: {
      ...(maxAge !== undefined && { maxAge: span(maxAge) }),
      maxBytes: maxBytes ?? 0n,
      maxMessages: maxMessages ?? 0n,
      maxMessageBytes: Number(maxMessageBytes ?? 0n),
    },
  };
}

function span(milliseconds: number): MessageInitShape<typeof DurationSchema> {
  return { seconds: BigInt(Math.floor(milliseconds / 1000)), nanos: (milliseconds % 1000) * 1_000_000 };
}

/** A typed dedupe window. Empty: the default. */
export function parseWindow(
  typed: string,
): { value: MessageInitShape<typeof DurationSchema> | undefined } | { problem: string } {
  if (typed.trim() === '') return { value: undefined };
  const window = parseDuration(typed);
  return window === undefined ? { problem: 'A duration, such as 1h' } : { value: span(window) };
}

/** The bounds of a room as a person would type them. */
export function typedRetention(retention: Retention | undefined): TypedRetention {
  const bytes = (value: bigint | number | undefined): string => {
    if (!value) return '';
    let [rest, unit] = [BigInt(value), 0];
    while (rest % 1024n === 0n && unit < 4) {
      rest /= 1024n;
      unit += 1;
    }
    return unit === 0 ? `${rest}` : `${rest} ${['', 'KiB', 'MiB', 'GiB', 'TiB'][unit]}`;
  };
  return {
    maxAge: retention?.maxAge ? duration(retention.maxAge) : '',
    maxBytes: bytes(retention?.maxBytes),
    maxMessages: retention?.maxMessages ? `${retention.maxMessages}` : '',
    maxMessageBytes: bytes(retention?.maxMessageBytes),
  };
}

const FIELDS: readonly (readonly [keyof TypedRetention, string, string])[] = [
  ['maxAge', 'Largest age', '7d'],
  ['maxBytes', 'Largest total size', '1 GiB'],
  ['maxMessages', 'Largest number of messages', '100000'],
  ['maxMessageBytes', 'Largest payload', '64 KiB'],
];

interface FieldsProps {
  typed: TypedRetention;
  problems: Problems;
  onChange: (typed: TypedRetention) => void;
}

export function RetentionFields({ typed, problems, onChange }: FieldsProps) {
  return (
    <fieldset class="grid-fields">
      <legend>Retention (empty: no bound)</legend>
      {FIELDS.map(([field, name, example]) => (
        <label key={field} class="field">
          <span>{name}</span>
          <input
            name={field}
            autocomplete="off"
            placeholder={example}
            value={typed[field]}
            aria-invalid={problems[field] !== undefined}
            onInput={(event) => onChange({ ...typed, [field]: event.currentTarget.value })}
          />
          {problems[field] && <span class="field-problem">{problems[field]}</span>}
        </label>
      ))}
    </fieldset>
  );
}

interface WindowProps {
  typed: string;
  onChange: (typed: string) => void;
}

export function WindowField({ typed, onChange }: WindowProps) {
  const parsed = parseWindow(typed);
  return (
    <label class="field">
      <span>Dedupe window of message ids (2m to 24h)</span>
      <input
        name="dedupeWindow"
        autocomplete="off"
        placeholder="2m"
        value={typed}
        aria-invalid={'problem' in parsed}
        onInput={(event) => onChange(event.currentTarget.value)}
      />
      {'problem' in parsed && <span class="field-problem">{parsed.problem}</span>}
    </label>
  );
}

interface ReplicasProps {
  replicas: string;
  onChange: (replicas: string) => void;
}

export function ReplicasField({ replicas, onChange }: ReplicasProps) {
  return (
    <label class="field short">
      <span>Replicas</span>
      <select value={replicas} onChange={(event) => onChange(event.currentTarget.value)}>
        <option>1</option>
        <option>3</option>
        <option>5</option>
      </select>
    </label>
  );
}
