import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { Role } from '../src/gen/unibus/v1/room_service_pb';
import { launch, range, shownSequences, Watched } from './browser';
import { eventually, Service } from './service';

let service: Service;
let browser: Browser;

beforeAll(async () => {
  [service, browser] = await Promise.all([Service.start({ enforce: true }), launch()]);
});

afterAll(async () => {
  await browser?.close();
  await service?.end();
});

async function signIn(page: Page, token: string): Promise<void> {
  await page.locator('[data-sign-in]').click();
  await page.getByLabel('Bearer token (JWT)').fill(token);
  await page.getByRole('button', { name: 'Use this token' }).click();
}

async function signedIn(subject: string, fragment: string, options = {}): Promise<Watched> {
  const watched = await Watched.open(browser, service.url(fragment), options);
  await signIn(watched.page, service.token(subject));
  return watched;
}

test('the console asks for a token, and keeps it in its tab only', async () => {
  // Goal: nothing is shown without credentials, and none stay behind. Method: no token, one that is no token, a valid one; it survives a
  // reload, is gone with the tab, and is nowhere but in the storage of the session.
  const watched = await Watched.open(browser, service.url('#/'));
  const { page } = watched;
  await page.getByText('The service asks for a token').waitFor();
  await signIn(page, 'garbage');
  await page.getByText('does not accept this token').waitFor();
  await watched.picture('token');
  await signIn(page, service.token('ann'));
  await page.getByText('There is no room yet').waitFor();
  expect(await page.locator('[data-sign-in]').textContent()).toBe('ann');
  await page.reload();
  await page.getByText('There is no room yet').waitFor();
  const kept = await page.evaluate(() => [JSON.stringify(localStorage), document.cookie].join());
  expect(kept).not.toContain('eyJ');
  const other = await page.context().newPage();
  await other.goto(service.url('#/'));
  await other.getByText('The service asks for a token').waitFor();
  await watched.close();
});

test('a member that is removed stops seeing messages', async () => {
  // Goal: removal takes effect on open pages. Method: ann adds bob in the console, both watch; ann removes bob; bob's page says so
  // within two seconds and gets no later message, ann's goes on.
  const ann = await signedIn('ann', '#/');
  await service.client(service.token('ann')).createRoom({ roomId: 'club', persist: true });
  await ann.page.goto(service.url('#/room/club/members'));
  await ann.page.getByRole('button', { name: 'Add member' }).first().click();
  await ann.page.getByLabel('Authenticated id').fill('bob');
  await ann.page.getByLabel('Role').selectOption({ value: String(Role.WRITER) });
  await ann.page.getByRole('dialog').getByRole('button', { name: 'Add member' }).click();
  await ann.page.locator('tr', { hasText: 'bob' }).getByText('Writer').waitFor();
  await ann.picture('members');

  const bob = await signedIn('bob', '#/room/club/live');
  await bob.page.locator('[data-status=live]').waitFor();
  await bob.page.getByLabel('Payload', { exact: true }).fill('hello, this is bob');
  await bob.page.keyboard.press('Control+Enter');
  await bob.page.locator('.message .sender', { hasText: 'bob' }).waitFor();

  await ann.page.locator('tr', { hasText: 'bob' }).getByRole('button', { name: 'Remove' }).click();
  await ann.page.getByRole('button', { name: 'Remove member' }).click();
  await bob.page.getByText('You are no longer a member of this room').first().waitFor({ timeout: 2000 });
  await ann.page.goto(service.url('#/room/club/live'));
  await ann.page.getByLabel('Payload', { exact: true }).fill('without bob');
  await ann.page.keyboard.press('Control+Enter');
  await eventually(async () => expect(await shownSequences(ann.page)).toEqual([1, 2]));
  expect(await shownSequences(bob.page)).toEqual([1]);
  await bob.picture('removed');
  await Promise.all([ann.close(), bob.close()]);
});

test('a subscription waits for a token that is valid, and goes on where it was', async () => {
  // Goal: an expired token costs no messages. Method: a token of a second; while it is expired messages are published; a new token
  // brings them.
  const client = service.client(service.token('ann'));
  await client.createRoom({ roomId: 'renewed', persist: true });
  await client.publish({ roomId: 'renewed', payload: new Uint8Array(1) });
  const watched = await Watched.open(browser, service.url('#/room/renewed/live'));
  const { page } = watched;
  await signIn(page, service.token('ann'));
  await page.locator('[data-status=live]').waitFor();
  await page.evaluate(() => sessionStorage.clear());
  await signIn(page, 'expired');
  await service.kill();
  await service.run();
  await page.getByText('Waiting for a token').waitFor();
  for (const _ of range(1, 3)) await client.publish({ roomId: 'renewed', payload: new Uint8Array(1) });
  await signIn(page, service.token('ann'));
  await eventually(async () => expect(await shownSequences(page)).toEqual([1, 2, 3, 4]));
  await watched.close();
});
