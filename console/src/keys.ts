import { signal } from '@preact/signals';
import { go, route, TABS } from './router';

/** Whether the list of keys is shown. */
export const helpIsOpen = signal(false);

export const KEYS: readonly (readonly [string, string])[] = [
  ['/', 'Search'],
  ['j  k  ↓  ↑', 'Next and previous row'],
  ['Enter', 'Open the row'],
  ['1 … 5', 'The tabs of a room'],
  ['n', 'New room, or write a message'],
  ['Ctrl Enter', 'Publish'],
  ['Esc', 'Leave a field, close a dialog, go back'],
  ['?', 'This list'],
];

function isTyping(target: EventTarget | null): target is HTMLElement {
  return (
    target instanceof HTMLElement && (target.matches('input, textarea, select') || target.isContentEditable)
  );
}

/** Moves the focus by one row of the list that is shown. */
function move(step: 1 | -1): boolean {
  const rows = [...document.querySelectorAll<HTMLElement>('main [data-row]')];
  const at = rows.indexOf(document.activeElement as HTMLElement);
  const next = rows[at === -1 ? (step === 1 ? 0 : rows.length - 1) : at + step];
  next?.focus();
  next?.scrollIntoView({ block: 'nearest' });
  return next !== undefined;
}

function pressed(event: KeyboardEvent): boolean {
  const onRow = document.activeElement?.matches('[data-row]') ?? false;
  switch (event.key) {
    case '/': {
      const search = document.querySelector<HTMLInputElement>('[data-search]');
      search?.focus();
      search?.select();
      return search !== null;
    }
    case 'j':
      return move(1);
    case 'k':
      return move(-1);
    case 'ArrowDown':
      return (onRow || document.activeElement === document.body) && move(1);
    case 'ArrowUp':
      return onRow && move(-1);
    case 'n': {
      const target = document.querySelector<HTMLElement>('[data-new]');
      if (target instanceof HTMLButtonElement) target.click();
      else target?.focus();
      return target !== null;
    }
    case '?':
      helpIsOpen.value = true;
      return true;
    case 'Escape':
      if (route.value.page === 'rooms') return false;
      go({ page: 'rooms' });
      return true;
  }
  const shown = route.value;
  const tab = TABS[Number(event.key) - 1];
  if (shown.page !== 'room' || tab === undefined) return false;
  go({ ...shown, tab });
  return true;
}

/** Handles the keys of the whole page. */
export function followKeys(): void {
  addEventListener('keydown', (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (document.querySelector('dialog[open]')) return;
    if (isTyping(event.target)) {
      if (event.key === 'Escape') event.target.blur();
      return;
    }
    if (pressed(event)) event.preventDefault();
  });
}
