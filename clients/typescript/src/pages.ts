// Lists that come in pages.

/** Yields the items of all pages. */
export async function* pages<Page extends { nextPageToken: string }, T>(
  page: (pageToken: string) => Promise<Page>,
  items: (page: Page) => T[],
): AsyncGenerator<T, void> {
  let token = '';
  do {
    const answer = await page(token);
    yield* items(answer);
    token = answer.nextPageToken;
  } while (token);
}
