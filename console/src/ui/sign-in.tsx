import { signal } from '@preact/signals';
import { useState } from 'preact/hooks';
import { dateTime } from '../format';
import { restarts } from '../service';
import { identityOf, signIn, token } from '../session';
import { Dialog } from './dialog';

export const signInIsOpen = signal(false);

function close() {
  signInIsOpen.value = false;
}

/** Takes a token, or drops it. */
export function SignInDialog() {
  const [typed, setTyped] = useState(token.value);
  const identity = identityOf(typed.trim());
  const isExpired = identity?.expires !== undefined && identity.expires < Date.now();
  const use = (given: string) => {
    signIn(given);
    restarts.value += 1;
    close();
  };
  return (
    <Dialog title="Token" onClose={close}>
      <form
        onSubmit={(event) => {
          event.preventDefault();
          use(typed);
        }}
      >
        <label class="field">
          <span>Bearer token (JWT)</span>
          <textarea
            data-first
            rows={5}
            class="token"
            spellcheck={false}
            autocomplete="off"
            value={typed}
            onInput={(event) => setTyped(event.currentTarget.value)}
          />
        </label>
        <p class={isExpired ? 'warning' : 'muted'}>
          {typed.trim() === '' && 'The token stays in this tab, and is gone when the tab is closed.'}
          {typed.trim() !== '' && identity === undefined && 'This does not look like a JWT.'}
          {identity && (
            <>
              {identity.subject || 'Without a subject'}
              {identity.expires !== undefined &&
                ` · ${isExpired ? 'expired' : 'expires'} ${dateTime(identity.expires).slice(0, 19)}`}
            </>
          )}
        </p>
        <footer>
          {token.value && (
            <button type="button" onClick={() => use('')}>
              Sign out
            </button>
          )}
          <button type="submit" class="primary">
            Use this token
          </button>
        </footer>
      </form>
    </Dialog>
  );
}
