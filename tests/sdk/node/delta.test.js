// Publications as differences from the one before.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { connected, dataOf, event, events, publish, subscribed, unique } from './support.js';

const long = 'a text that is long enough to make a difference worth its while, '.repeat(5);

test('similar publications arrive as differences, after a full one', async (t) => {
  const c = await connected(t);
  const channel = unique('delta:');
  const sub = await subscribed(c, channel, { delta: 'fossil' });
  const arrived = events(sub, 'publication', 10);
  const values = Array.from({ length: 10 }, (_, index) => ({ index, long }));
  for (const value of values) await publish(channel, value);
  assert.deepEqual((await arrived).map(dataOf), values);
  const { numFullPayloads, numDeltaPayloads, bytesReceived, bytesDecoded } = sub.deltaStats();
  assert.deepEqual({ numFullPayloads, numDeltaPayloads }, { numFullPayloads: 1, numDeltaPayloads: 9 });
  assert.ok(bytesReceived < bytesDecoded / 2, `${bytesReceived} of ${bytesDecoded} bytes`);
});

test('a difference never cuts a character in two', async (t) => {
  const c = await connected(t);
  const channel = unique('delta:');
  const sub = await subscribed(c, channel, { delta: 'fossil' });
  const texts = ['é', 'è', 'ê', '€', '₤', '🐎', '🐴', '🦄🐎', 'e\u0301', 'z'].map((sign) => long + sign + long);
  const arrived = events(sub, 'publication', texts.length);
  for (const text of texts) await publish(channel, { text });
  assert.deepEqual((await arrived).map((publication) => publication.data.text), texts);
  assert.ok(sub.deltaStats().numDeltaPayloads > 0);
});

test('clients with and without differences share a channel', async (t) => {
  const channel = unique('delta:');
  const subs = [
    await subscribed(await connected(t), channel, { delta: 'fossil' }),
    await subscribed(await connected(t), channel),
  ];
  const values = [{ long }, { long }, 'text', [long], { long: `${long}!` }, 7];
  const arrived = subs.map((sub) => events(sub, 'publication', values.length));
  for (const value of values) await subs[1].publish(value);
  for (const publications of await Promise.all(arrived)) assert.deepEqual(publications.map(dataOf), values);
  assert.equal(subs[1].deltaStats().numDeltaPayloads, 0);
});

test('recovered publications can be read, and live ones build on them', async (t) => {
  const c = await connected(t);
  const channel = unique('delta:');
  const sub = await subscribed(c, channel, { delta: 'fossil' });
  const first = event(sub, 'publication');
  await publish(channel, { step: 1, long });
  await first;
  c.disconnect();
  for (const step of [2, 3]) await publish(channel, { step, long });
  const back = event(sub, 'subscribed');
  const missed = events(sub, 'publication', 2);
  c.connect();
  assert.equal((await back).recovered, true);
  assert.deepEqual((await missed).map(dataOf), [{ step: 2, long }, { step: 3, long }]);
  const live = event(sub, 'publication');
  await publish(channel, { step: 4, long });
  assert.deepEqual((await live).data, { step: 4, long });
});

test('a namespace without differences sends full publications', async (t) => {
  const c = await connected(t);
  const channel = unique('recovery:');
  const sub = await subscribed(c, channel, { delta: 'fossil' });
  const arrived = events(sub, 'publication', 2);
  for (const step of [1, 2]) await publish(channel, { step, long });
  assert.deepEqual((await arrived).map(dataOf), [{ step: 1, long }, { step: 2, long }]);
  assert.equal(sub.deltaStats().numDeltaPayloads, 0);
});
