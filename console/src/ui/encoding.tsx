import { signal } from '@preact/signals';
import { ENCODINGS, type Encoding } from '../payload';

/** How payloads are shown. */
export const encoding = signal<Encoding>('auto');

const NAMES: Record<Encoding, string> = { auto: 'Auto', text: 'Text', hex: 'Hex', base64: 'Base64' };

/** The choice of how payloads are shown. */
export function EncodingChoice() {
  return (
    <fieldset class="segments" aria-label="Show payloads as">
      {ENCODINGS.map((name) => (
        <label key={name} class={encoding.value === name ? 'chosen' : ''}>
          <input
            type="radio"
            name="encoding"
            checked={encoding.value === name}
            onChange={() => {
              encoding.value = name;
            }}
          />
          {NAMES[name]}
        </label>
      ))}
    </fieldset>
  );
}
