import { useEffect } from 'preact/hooks';
import { helpIsOpen, KEYS } from './keys';
import { HealthPage } from './pages/health';
import { RoomPage } from './pages/room';
import { RoomsPage } from './pages/rooms';
import { href, route } from './router';
import { reachable, settings, wasReached } from './service';
import { identity, refused, token } from './session';
import { nextTheme, theme } from './theme';
import { Dialog } from './ui/dialog';
import { Empty, Toasts } from './ui/parts';
import { SignInDialog, signInIsOpen } from './ui/sign-in';

export function App() {
  const shown = route.value;
  useEffect(() => {
    const name = shown.page === 'room' ? shown.room : shown.page === 'health' ? 'Health' : 'Rooms';
    document.title = `${name} · unibus`;
  }, [shown]);
  return (
    <>
      <Header />
      <Banner />
      <main>
        {shown.page === 'rooms' && <RoomsPage />}
        {shown.page === 'room' && <RoomPage key={shown.room} room={shown.room} tab={shown.tab} />}
        {shown.page === 'health' && <HealthPage />}
        {shown.page === 'unknown' && (
          <Empty title="There is no such page">
            <a href={href({ page: 'rooms' })}>All rooms</a>
          </Empty>
        )}
      </main>
      <Toasts />
      {signInIsOpen.value && <SignInDialog />}
      {helpIsOpen.value && <Help />}
    </>
  );
}

const THEME_SIGNS = { auto: '◐', light: '☀', dark: '☾' } as const;

function Header() {
  const page = route.value.page;
  return (
    <header class="top">
      <a class="brand" href={href({ page: 'rooms' })}>
        <img src="icon.svg" alt="" width="22" height="22" />
        <span>unibus</span>
      </a>
      <nav aria-label="Pages">
        <a
          href={href({ page: 'rooms' })}
          aria-current={page === 'rooms' || page === 'room' ? 'page' : undefined}
        >
          Rooms
        </a>
        <a href={href({ page: 'health' })} aria-current={page === 'health' ? 'page' : undefined}>
          Health
        </a>
      </nav>
      <span class="space" />
      <Reachability />
      <button
        type="button"
        class="icon"
        title={`Colours: ${theme.value}`}
        aria-label={`Colours: ${theme.value}. Change`}
        data-theme-button
        onClick={nextTheme}
      >
        {THEME_SIGNS[theme.value]}
      </button>
      <button
        type="button"
        class="icon wide-only"
        title="Keys"
        aria-label="Keys"
        onClick={() => {
          helpIsOpen.value = true;
        }}
      >
        ?
      </button>
      <button
        type="button"
        class="identity"
        data-sign-in
        onClick={() => {
          signInIsOpen.value = true;
        }}
      >
        {token.value ? identity.value?.subject || 'Token' : 'Sign in'}
      </button>
    </header>
  );
}

function Reachability() {
  const state = reachable.value;
  const text = { unknown: 'Connecting', yes: 'Connected', no: 'No answer' }[state];
  return (
    <span class={`reachability ${state}`} role="status" title={settings.value?.service}>
      <i /> <span>{text}</span>
    </span>
  );
}

const REFUSED = {
  missing: 'The service asks for a token.',
  invalid: 'The service does not accept this token.',
  expired: 'The token has expired.',
} as const;

function Banner() {
  if (refused.value !== undefined) {
    return (
      <div class="banner" role="alert">
        {REFUSED[refused.value]}
        <button
          type="button"
          class="primary"
          onClick={() => {
            signInIsOpen.value = true;
          }}
        >
          Enter a token
        </button>
      </div>
    );
  }
  if (reachable.value === 'no') {
    return (
      <div class="banner" role="alert">
        <span>
          The service at <code>{settings.value?.service ?? 'its address'}</code> does not answer. The console
          tries again until it does.
          {!wasReached.value && (
            <>
              {' '}
              If the service runs, check that <code>--cors-origins</code> lists <code>{location.origin}</code>
              .
            </>
          )}
        </span>
      </div>
    );
  }
  return null;
}

function Help() {
  return (
    <Dialog
      title="Keys"
      onClose={() => {
        helpIsOpen.value = false;
      }}
    >
      <dl class="keys">
        {KEYS.map(([key, meaning]) => (
          <div key={key}>
            <dt>
              <kbd>{key}</kbd>
            </dt>
            <dd>{meaning}</dd>
          </div>
        ))}
      </dl>
      <p class="muted">
        unibus {settings.value?.version ?? ''} · <a href="licenses.txt">licences of the parts</a>
      </p>
    </Dialog>
  );
}
