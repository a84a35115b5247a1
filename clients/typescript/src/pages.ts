// Lists that come in pages.

interface Page<T> {
  items: T[] | undefined;
  next: string | undefined;
}

/** Yields the items of all pages. */
export async function* pages<T>(page: (token: string) => Promise<Page<T>>): AsyncGenerator<T, void> {
  let token = '';
  do {
    const { items = [], next = '' } = await page(token);
    yield* items;
    token = next;
  } while (token);
}
