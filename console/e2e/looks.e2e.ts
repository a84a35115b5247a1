import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { launch, range, Watched } from './browser';
import { eventually, Service } from './service';

let service: Service;
let browser: Browser;

const encode = (text: string) => new TextEncoder().encode(text);
const PAGES = [
  '#/',
  '#/room/orders-eu/live',
  '#/room/orders-eu/history',
  '#/room/orders-eu/subscribers',
  '#/room/orders-eu/members',
  '#/room/orders-eu/settings',
  '#/health',
];

beforeAll(async () => {
  [service, browser] = await Promise.all([Service.start(), launch()]);
  const client = service.client();
  await client.createRoom({
    roomId: 'orders-eu',
    persist: true,
    labels: { team: 'payments', region: 'eu', tier: 'gold' },
    retention: { maxBytes: 20_480n },
  });
  for (const roomId of [
    'alerts',
    'billing-events',
    'chat.general',
    'привет',
    'a-very-long-name.'.repeat(6),
  ]) {
    await client.createRoom({ roomId, persist: true });
  }
  const messages = range(1, 120).map((number) => ({
    payload:
      number % 7 === 0
        ? Uint8Array.from(range(200, 240))
        : encode(`{"order":${number},"amount":"12.50 EUR","state":"paid"}`),
  }));
  await client.publishBatch({ roomId: 'orders-eu', messages });
  for (const subscriber of ['warehouse', 'invoices']) {
    const stop = new AbortController();
    const frames = client.subscribe({ roomId: 'orders-eu', subscriber }, { signal: stop.signal });
    await frames[Symbol.asyncIterator]().next();
    await client.acknowledge({
      roomId: 'orders-eu',
      subscriber,
      sequence: subscriber === 'warehouse' ? 20n : 117n,
    });
    stop.abort();
  }
});

afterAll(async () => {
  await browser?.close();
  await service?.end();
});

/** Waits until a page has its content. */
async function settled(page: Page): Promise<void> {
  await page.locator('h1').first().waitFor();
  await eventually(async () => expect(await page.locator('.skeleton').count()).toBe(0));
  if (page.url().endsWith('live')) await page.locator('[data-status=live]').waitFor();
  if (page.url().endsWith('#/')) {
    await page.locator('tr', { hasText: 'alerts' }).locator('.messages', { hasText: /\d/ }).waitFor();
  }
}

/** The smallest contrast of a text with what is behind it, as WCAG computes it, and the text. */
function smallestContrast(page: Page): Promise<[number, string]> {
  return page.evaluate(() => {
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    if (!canvas) throw new Error('there is no canvas');
    const luminance = (colour: string): number => {
      canvas.fillStyle = colour;
      canvas.fillRect(0, 0, 1, 1);
      const [r, g, b] = [...canvas.getImageData(0, 0, 1, 1).data].map((value) => {
        const share = value / 255;
        return share <= 0.03928 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
      });
      return 0.2126 * (r ?? 0) + 0.7152 * (g ?? 0) + 0.0722 * (b ?? 0);
    };
    const behind = (element: Element | null): string => {
      for (let at = element; at; at = at.parentElement) {
        const colour = getComputedStyle(at).backgroundColor;
        if (!/rgba\(.*, 0\)|transparent/.test(colour)) return colour;
      }
      return 'white';
    };
    let smallest: [number, string] = [21, ''];
    for (const element of document.querySelectorAll('#app *')) {
      const hasText = [...element.childNodes].some(
        (node) => node.nodeType === Node.TEXT_NODE && node.textContent?.trim(),
      );
      if (!hasText || element.matches(':disabled, :disabled *') || element.closest('svg')) continue;
      const [text, back] = [luminance(getComputedStyle(element).color), luminance(behind(element))];
      const contrast = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
      if (contrast < smallest[0])
        smallest = [contrast, `${element.tagName}.${element.className}: ${element.textContent}`];
    }
    return smallest;
  });
}

test('every page is legible in dark and in light, by the system and by choice', async () => {
  // Goal: no text vanishes in either theme. Method: each page in both; the contrast of every text is at least 4.5 (WCAG AA); the button
  // overrules the system, and the choice survives a reload.
  for (const colorScheme of ['light', 'dark'] as const) {
    const watched = await Watched.open(browser, service.url(), { colorScheme });
    const { page } = watched;
    for (const fragment of PAGES) {
      await page.goto(service.url(fragment));
      await settled(page);
      const [contrast, text] = await smallestContrast(page);
      expect(contrast, `${colorScheme} ${fragment} ${text}`).toBeGreaterThanOrEqual(4.5);
      await watched.picture(`${colorScheme}-${fragment.split('/').at(-1) || 'rooms'}`);
    }
    const background = () => page.evaluate(() => getComputedStyle(document.body).backgroundColor);
    const bySystem = await background();
    const other = colorScheme === 'light' ? 'dark' : 'light';
    while (!(await page.locator('[data-theme-button]').getAttribute('title'))?.endsWith(other)) {
      await page.locator('[data-theme-button]').click();
    }
    expect(await background()).not.toBe(bySystem);
    await page.reload();
    expect(await background()).not.toBe(bySystem);
    await watched.close();
  }
});

test('every page fits on a small screen', async () => {
  // Goal: the console works on a phone. Method: each page 360 pixels wide; nothing is wider than the screen, and a message can be
  // published.
  const watched = await Watched.open(browser, service.url(), {
    viewport: { width: 360, height: 740 },
    hasTouch: true,
  });
  const { page } = watched;
  for (const fragment of PAGES) {
    await page.goto(service.url(fragment));
    await settled(page);
    const tooWide = await page.evaluate(() =>
      [document.documentElement, ...document.querySelectorAll('main, main > *, .list, .toolbar')]
        .filter(
          (element) =>
            element.getBoundingClientRect().right >
              innerWidth - (element.matches('.list, .toolbar') ? 8 : 0) ||
            element.scrollWidth > innerWidth + 1,
        )
        .map((element) => `${element.tagName}.${element.className}`),
    );
    expect(tooWide, fragment).toEqual([]);
    await watched.picture(`small-${fragment.split('/').at(-1) || 'rooms'}`);
  }
  await page.goto(service.url('#/room/alerts/live'));
  await page.getByLabel('Payload', { exact: true }).fill('from a phone');
  await page.getByRole('button', { name: 'Publish' }).tap();
  await page.locator('.message', { hasText: 'from a phone' }).waitFor();
  await watched.close();
});

test('everything works with the keyboard', async () => {
  // Goal: no mouse is needed. Method: search, open, tabs, move among messages, write, publish, go back, help; the focus is always seen.
  const watched = await Watched.open(browser, service.url(), { reducedMotion: 'reduce' });
  const { page } = watched;
  await settled(page);
  await page.keyboard.press('/');
  await page.keyboard.type('orders');
  await page.keyboard.press('Escape');
  expect(await page.evaluate(() => document.activeElement?.tagName)).toBe('BODY');
  await page.keyboard.press('/');
  await page.keyboard.type('e');
  await page.keyboard.press('Escape');
  await page.keyboard.press('j');
  await page.keyboard.press('j');
  await page.keyboard.press('k');
  const focused = () => page.evaluate(() => document.activeElement?.textContent ?? '');
  expect(await focused()).toContain('a-very-long-name');
  await page.keyboard.press('ArrowDown');
  expect(await focused()).toBe('alerts');
  await watched.picture('keyboard');
  await page.keyboard.press('Enter');
  await page.locator('[data-status=live]').waitFor();
  await page.keyboard.press('n');
  await page.keyboard.type('typed without a mouse');
  await page.keyboard.press('Control+Enter');
  await page.locator('.message', { hasText: 'typed without a mouse' }).waitFor();
  await page.keyboard.press('Escape');
  for (const [key, name] of [
    ['2', 'History'],
    ['3', 'Subscribers'],
    ['4', 'Members'],
    ['5', 'Settings'],
    ['1', 'Live'],
  ] as const) {
    await page.keyboard.press(key);
    await eventually(async () => expect(await page.locator('.tabs [aria-current]').textContent()).toBe(name));
  }
  await page.locator('.message').first().waitFor();
  await page.keyboard.press('j');
  await page.keyboard.press('Enter');
  await page.getByRole('button', { name: 'Copy payload' }).waitFor();
  await page.keyboard.press('?');
  await page.getByRole('dialog').getByText('Next and previous row').waitFor();
  await page.keyboard.press('Escape');
  await eventually(async () => expect(await page.getByRole('dialog').count()).toBe(0));
  await page.keyboard.press('Escape');
  await page.getByRole('heading', { name: 'Rooms' }).waitFor();

  // each stop of the tabulator is visible, and none is stuck
  const stops = new Set<string>();
  for (let presses = 0; presses < 20; presses += 1) {
    await page.keyboard.press('Tab');
    const stop = await page.evaluate(() => {
      const element = document.activeElement;
      const box = element?.getBoundingClientRect();
      return element && element !== document.body
        ? `${element.tagName} ${element.textContent} ${(box?.width ?? 0) > 0}`
        : '';
    });
    expect(stop).not.toMatch(/false$/);
    stops.add(stop);
  }
  expect(stops.size).toBeGreaterThan(8);
  await watched.close();
});

test('a busy room stays usable', async () => {
  // Goal: a page keeps up with a fast room, within bounds. Method: 5,000 messages as fast as one publisher can; the page counts all,
  // keeps 500, and stays where the reader scrolled to.
  const client = service.client();
  await client.createRoom({ roomId: 'busy', persist: true });
  const watched = await Watched.open(browser, service.url('#/room/busy/live'));
  const { page } = watched;
  await page.locator('[data-status=live]').waitFor();
  const batch = range(1, 500).map((number) => ({ payload: encode(`${number} ${'x'.repeat(200)}`) }));
  for (let round = 0; round < 10; round += 1) await client.publishBatch({ roomId: 'busy', messages: batch });
  await page.getByText('5,000 received').waitFor();
  await eventually(async () => expect(await page.locator('.message').count()).toBe(500));
  await page.locator('.stream').evaluate((list) => list.scrollTo(0, 100));
  await page
    .getByRole('button', { name: /Follow|new/ })
    .first()
    .waitFor();
  const first = await page.locator('.message .sequence').first().textContent();
  await client.publishBatch({ roomId: 'busy', messages: batch });
  await page.getByRole('button', { name: '500 new' }).waitFor();
  expect(await page.locator('.message .sequence').first().textContent()).toBe(first);
  await watched.picture('held');
  await page.getByRole('button', { name: '500 new' }).click();
  await page.locator('.message .sequence', { hasText: '5,500' }).waitFor();
  await watched.close();
});
