import { computed, signal } from '@preact/signals';

export const TABS = ['live', 'history', 'subscribers', 'members', 'settings'] as const;
export type Tab = (typeof TABS)[number];

export type Route =
  | { page: 'rooms' }
  | { page: 'room'; room: string; tab: Tab }
  | { page: 'health' }
  | { page: 'unknown' };

/** The route that the fragment of a URL names. */
export function parseRoute(fragment: string): Route {
  const [page = '', room, tab = 'live', ...rest] = fragment.replace(/^#?\/?/, '').split('/');
  if (page === '' && room === undefined) return { page: 'rooms' };
  if (page === 'health' && room === undefined) return { page: 'health' };
  const known = TABS.find((name) => name === tab);
  if (page !== 'room' || !room || known === undefined || rest.length > 0) return { page: 'unknown' };
  try {
    return { page: 'room', room: decodeURIComponent(room), tab: known };
  } catch {
    return { page: 'unknown' };
  }
}

/** The link to a route. */
export function href(route: Route): string {
  switch (route.page) {
    case 'room':
      return `#/room/${encodeURIComponent(route.room)}/${route.tab}`;
    case 'health':
      return '#/health';
    default:
      return '#/';
  }
}

const fragment = signal(globalThis.location?.hash ?? '');

/** The route of the page that is shown. */
export const route = computed(() => parseRoute(fragment.value));

export function followFragment(): void {
  addEventListener('hashchange', () => {
    fragment.value = location.hash;
  });
}

export function go(to: Route): void {
  location.hash = href(to);
}
