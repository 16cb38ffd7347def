// The history command.

import assert from 'node:assert/strict';
import { before, test } from 'node:test';
import { api, connected, dataOf, publish, subscribed, unique } from './support.js';

const channel = unique();
const numbers = (history) => history.publications.map(dataOf);

before(async () => {
  for (const number of [1, 2, 3, 4, 5]) await publish(channel, number);
});

test('without a limit there is only the position', async (t) => {
  const c = await connected(t);
  const { publications, offset, epoch } = await c.history(channel);
  assert.deepEqual({ publications, offset }, { publications: [], offset: 5 });
  assert.match(epoch, /./);
  assert.deepEqual(await c.history(channel, { limit: 0 }), { publications: [], offset, epoch });
});

test('a limit gives the oldest, reversed the newest', async (t) => {
  const sub = await subscribed(await connected(t), channel);
  assert.deepEqual(numbers(await sub.history({ limit: 2 })), [1, 2]);
  assert.deepEqual(numbers(await sub.history({ limit: -1 })), [1, 2, 3, 4, 5]);
  assert.deepEqual(numbers(await sub.history({ limit: 2, reverse: true })), [5, 4]);
});

test('since goes on from a position, in both directions', async (t) => {
  const c = await connected(t);
  const { epoch } = await c.history(channel);
  const page = (offset, options) => c.history(channel, { since: { offset, epoch }, ...options }).then(numbers);
  assert.deepEqual(await page(2, { limit: 2 }), [3, 4]);
  assert.deepEqual(await page(4, { limit: 10 }), [5]);
  assert.deepEqual(await page(5, { limit: 10 }), []);
  assert.deepEqual(await page(4, { limit: 2, reverse: true }), [3, 2]);
});

test('publications carry their offsets, tags and authors', async (t) => {
  const c = await connected(t);
  const name = unique();
  const sub = await subscribed(c, name);
  await publish(name, 'api', { tags: { a: '1' } });
  await sub.publish('client');
  const [first, second] = (await sub.history({ limit: 2 })).publications;
  assert.deepEqual([first.offset, second.offset], [1, 2]);
  assert.deepEqual(first.tags, { a: '1' });
  assert.equal(first.info, undefined);
  assert.equal(second.info.user, '');
});

test('a position in another epoch is refused with 112', async (t) => {
  const c = await connected(t);
  await assert.rejects(c.history(channel, { limit: 1, since: { offset: 1, epoch: 'another' } }), { code: 112 });
});

test('only what the namespace keeps is there', async (t) => {
  const c = await connected(t);
  const name = unique('smallhistory:');
  for (const number of [1, 2, 3]) await publish(name, number);
  const history = await c.history(name, { limit: -1 });
  assert.deepEqual([numbers(history), history.offset], [[2, 3], 3]);
});

test('a removed history is empty and counts on', async (t) => {
  const c = await connected(t);
  const name = unique();
  await publish(name, 1);
  await api('history_remove', { channel: name });
  assert.deepEqual(numbers(await c.history(name, { limit: -1 })), []);
  assert.equal((await publish(name, 2)).offset, 2);
});
