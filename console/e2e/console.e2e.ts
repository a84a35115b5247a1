import type { Browser } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { launch, range, shownSequences, Watched } from './browser';
import { eventually, Service } from './service';

let service: Service;
let browser: Browser;

beforeAll(async () => {
  [service, browser] = await Promise.all([Service.start(), launch()]);
});

afterAll(async () => {
  await browser?.close();
  await service?.end();
});

const open = (fragment: string, options = {}) => Watched.open(browser, service.url(fragment), options);

async function room(roomId: string, persist = true): Promise<string> {
  await service.client().createRoom({ roomId, persist });
  return roomId;
}

async function publish(roomId: string, texts: string[]): Promise<void> {
  const client = service.client();
  for (const text of texts) await client.publish({ roomId, payload: new TextEncoder().encode(text) });
}

test('a room is created, written to and watched live', async () => {
  // Goal: the first minutes of a new user. Method: create a room in the console, publish from it and from another program, and see
  // both messages come; then each encoding.
  const watched = await open('#/');
  const { page } = watched;
  await page.getByRole('button', { name: 'New room' }).click();
  await page.getByLabel('Room id').fill('first');
  await page.getByLabel('Largest age').fill('7d');
  await page.getByLabel('Dedupe window').fill('12h');
  await watched.picture('new-room');
  await page.getByRole('button', { name: 'Create room' }).click();
  await page.locator('[data-status=live]').waitFor();

  await page.getByLabel('Payload', { exact: true }).fill('hello from the console');
  await page.getByRole('button', { name: 'Publish' }).click();
  await page.getByText('Message 1 stored and synced').waitFor();
  await page.locator('.message', { hasText: 'hello from the console' }).waitFor();

  await service.client().publish({
    roomId: 'first',
    payload: Uint8Array.from([0xfb, 0xff, 0xfe]),
    headers: { 'content-type': 'application/octet-stream' },
    messageId: 'id-2',
  });
  const second = page.locator('.message').nth(1);
  await second.getByText('fb ff fe').waitFor();
  await page.getByLabel('Base64').check();
  await second.getByText('+//+').waitFor();
  await second.locator('button').first().click();
  await second.getByText('application/octet-stream').waitFor();
  await second.getByText('id-2').waitFor();
  await watched.picture('live');
  const stored = await service.client().getRoom({ roomId: 'first' });
  expect(stored.room?.retention?.maxAge?.seconds).toBe(604_800n);
  expect(stored.room?.dedupeWindow?.seconds).toBe(43_200n);
  await watched.close();
});

test('a watched room loses nothing when the service is killed', async () => {
  // Goal: a subscription resumes by itself, where it was, and says so. Method: kill the service while a page watches, publish as
  // soon as it is back; the page shows every message once, and showed that it reconnects.
  await room('resumed');
  await publish('resumed', ['1', '2', '3']);
  const watched = await open('#/room/resumed/live');
  const { page } = watched;
  await page.locator('[data-status=live]').waitFor();
  for (const round of [1, 2]) {
    const before = 3 + (round - 1) * 10;
    await service.kill();
    await page.locator('[data-status=waiting]').waitFor();
    if (round === 1) {
      await page.getByText('does not answer').first().waitFor();
      await watched.picture('reconnecting');
    }
    await service.run();
    await publish('resumed', range(before + 1, before + 10).map(String));
    await eventually(async () => expect(await shownSequences(page)).toEqual(range(1, before + 10)));
    await page.locator('[data-status=live]').waitFor();
  }
  await watched.close();
});

test('the rooms are listed with their state, and found', async () => {
  // Goal: an operator sees at a glance which room does what. Method: rooms with and without messages; their figures, a search, and
  // one that finds nothing.
  await service.client().createRoom({
    roomId: 'orders-eu',
    persist: true,
    labels: { team: 'payments', region: 'eu' },
    retention: { maxBytes: 1_048_576n },
  });
  await room('presence', false);
  await publish(
    'orders-eu',
    range(1, 30).map((number) => `{"order":${number},"state":"paid"}`),
  );
  const watched = await open('#/');
  const { page } = watched;
  const row = page.locator('tr', { hasText: 'orders-eu' });
  await row.locator('.messages', { hasText: '30' }).waitFor();
  await row.getByText('team=payments').waitFor();
  await page.locator('tr', { hasText: 'presence' }).getByText('Ephemeral').waitFor();
  await publish('orders-eu', ['x', 'y', 'z']);
  await row.locator('.rate', { hasText: /[1-9].*\/s/ }).waitFor();
  await watched.picture('rooms');

  await page.getByLabel('Search rooms').fill('pay eu');
  await expect.poll(() => page.locator('tbody tr').count()).toBe(1);
  await page.getByLabel('Search rooms').fill('nothing like it');
  await page.getByText('No room fits').waitFor();
  await watched.close();
});

test('the history is read in pages, and a message is deleted', async () => {
  // Goal: old messages can be read and erased. Method: 250 messages; back by pages, forward, to a sequence, and one deleted.
  await room('long');
  const messages = range(1, 250).map((number) => ({ payload: new TextEncoder().encode(`number ${number}`) }));
  await service.client().publishBatch({ roomId: 'long', messages });
  const watched = await open('#/room/long/history');
  const { page } = watched;
  const shows = (from: number, to: number) =>
    eventually(async () => expect(await shownSequences(page)).toEqual(range(from, to)));
  await shows(151, 250);
  await page.getByRole('button', { name: 'Older' }).click();
  await shows(51, 150);
  await page.getByRole('button', { name: 'Older' }).click();
  await shows(1, 50);
  expect(await page.getByRole('button', { name: 'Older' }).isDisabled()).toBe(true);
  await page.getByRole('button', { name: 'Newer' }).click();
  await shows(51, 150);
  await page.getByLabel('From a sequence or a time').fill('240');
  await page.getByRole('button', { name: 'Go' }).click();
  await shows(240, 250);
  await watched.picture('history');

  await page.locator('.message').first().locator('button').first().click();
  await page.getByRole('button', { name: 'Delete message' }).click();
  await page.getByRole('dialog').getByRole('button', { name: 'Delete message' }).click();
  await shows(241, 250);
  await watched.close();
});

test('subscribers are shown with their lag, moved and deleted', async () => {
  // Goal: an operator sees who is behind, and helps. Method: two durable subscribers, one behind; bars, a move, a deletion.
  await room('queue');
  await publish('queue', range(1, 40).map(String));
  const client = service.client();
  const stop = new AbortController();
  for (const [subscriber, position] of [
    ['fast', 38n],
    ['slow', 4n],
  ] as const) {
    const frames = client.subscribe({ roomId: 'queue', subscriber }, { signal: stop.signal });
    await frames[Symbol.asyncIterator]().next();
    await client.acknowledge({ roomId: 'queue', subscriber, sequence: position });
  }
  const watched = await open('#/room/queue/subscribers');
  const { page } = watched;
  const rows = page.locator('tbody tr');
  await eventually(async () =>
    expect(await rows.locator('.name').allTextContents()).toEqual(['slow', 'fast']),
  );
  await rows.nth(0).locator('.lag-cell', { hasText: '36' }).waitFor();
  const widths = await rows
    .locator('.bar span')
    .evaluateAll((bars) => bars.map((bar) => bar.getBoundingClientRect().width));
  expect(widths[0]).toBeGreaterThan(10 * (widths[1] ?? 0));
  await watched.picture('subscribers');

  await rows.nth(0).getByRole('button', { name: 'Move' }).click();
  await page.getByRole('dialog').getByText('At the end').click();
  await page.getByRole('button', { name: 'Move subscriber' }).click();
  await page.getByText('slow continues after 40').waitFor();
  stop.abort();
  await page.locator('tr', { hasText: 'fast' }).getByRole('button', { name: 'Delete' }).click();
  await page.getByRole('button', { name: 'Delete subscriber' }).click();
  await eventually(async () => expect(await rows.locator('.name').allTextContents()).toEqual(['slow']));
  await watched.close();
});

test('a room is changed, purged and deleted', async () => {
  // Goal: owners need no other tool. Method: labels, retention and dedupe window changed; a wrong value is told; purge; delete by typing the name.
  await room('doomed');
  await publish('doomed', ['1', '2', '3']);
  const watched = await open('#/room/doomed/settings');
  const { page } = watched;
  await page.getByLabel('Largest age').fill('soon');
  await page.getByText('A duration, such as').waitFor();
  expect(await page.getByRole('button', { name: 'Save' }).isDisabled()).toBe(true);
  await page.getByLabel('Largest age').fill('1h30m');
  await page.getByLabel('Dedupe window').fill('1h');
  await page.getByLabel('Labels').fill('team=payments\nplain');
  await watched.picture('settings');
  await page.getByRole('button', { name: 'Save' }).click();
  await page.getByText('Saved').waitFor();
  const stored = await service.client().getRoom({ roomId: 'doomed' });
  expect(stored.room?.labels).toEqual({ team: 'payments', plain: '' });
  expect(stored.room?.retention?.maxAge?.seconds).toBe(5400n);
  expect(stored.room?.dedupeWindow?.seconds).toBe(3600n);

  await page.getByRole('button', { name: 'Purge' }).click();
  await page.getByRole('button', { name: 'Purge all messages' }).click();
  await page.getByText('Removed 3 messages').waitFor();

  await page.getByRole('button', { name: 'Delete room' }).click();
  const dialog = page.getByRole('dialog');
  await dialog.getByRole('textbox').fill('another');
  await dialog.getByRole('button', { name: 'Delete room' }).click();
  expect(await dialog.isVisible()).toBe(true);
  await dialog.getByRole('textbox').fill('doomed');
  await dialog.getByRole('button', { name: 'Delete room' }).click();
  await page.getByText('Deleted doomed').waitFor();
  await page.getByRole('heading', { name: 'Rooms' }).waitFor();
  await watched.close();
});

test('health is shown, with charts where there are metrics', async () => {
  // Goal: an operator sees whether the instance works. Method: the page with the service up, and with it killed.
  const watched = await open('#/health');
  const { page } = watched;
  await page.locator('.tile', { hasText: 'Ready' }).waitFor();
  await page.locator('.tile', { hasText: 'Answered' }).waitFor();
  const hasMetrics = (await fetch(`http://127.0.0.1:${service.adminPort}/metrics`)).ok;
  if (hasMetrics) {
    await publish('orders-eu', range(1, 50).map(String));
    await page.locator('.chart path').first().waitFor();
    await expect.poll(() => page.locator('.chart').count()).toBeGreaterThan(5);
    expect(await page.locator('.missing').allTextContents()).toEqual([]);
  } else {
    await page.getByText('there are no charts').waitFor();
  }
  await page.waitForTimeout(hasMetrics ? 6000 : 0);
  await watched.picture('health');
  await service.kill();
  await page.locator('.tile.danger', { hasText: 'This instance' }).waitFor();
  await service.run();
  await page.locator('.tile.good', { hasText: 'This instance' }).waitFor();
  await watched.close();
});
