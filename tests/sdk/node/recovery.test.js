// What was missed arrives, or the client is told that it is gone.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { connected, dataOf, event, events, publish, subscribed, unique } from './support.js';

test('publications missed while disconnected arrive in order, then live ones', async (t) => {
  const c = await connected(t);
  const channel = unique('recovery:');
  const sub = await subscribed(c, channel);
  const first = event(sub, 'publication');
  await publish(channel, 1);
  assert.equal((await first).offset, 1);
  c.disconnect();
  for (const number of [2, 3, 4]) await publish(channel, number);
  const back = event(sub, 'subscribed');
  const missed = events(sub, 'publication', 3);
  c.connect();
  const { wasRecovering, recovered, hasRecoveredPublications } = await back;
  assert.deepEqual([wasRecovering, recovered, hasRecoveredPublications], [true, true, true]);
  assert.deepEqual((await missed).map(dataOf), [2, 3, 4]);
  const live = event(sub, 'publication');
  await publish(channel, 5);
  assert.deepEqual([(await live).data, (await live).offset], [5, 5]);
});

test('a first subscription is no recovery', async (t) => {
  const c = await connected(t);
  const channel = unique('recovery:');
  await publish(channel, 1);
  const sub = c.newSubscription(channel);
  const started = event(sub, 'subscribed');
  sub.subscribe();
  const { wasRecovering, recovered, recoverable, positioned, streamPosition } = await started;
  assert.deepEqual([wasRecovering, recovered, recoverable, positioned], [false, false, true, true]);
  assert.equal(streamPosition.offset, 1);
  assert.match(streamPosition.epoch, /./);
});

test('publications missed while unsubscribed arrive', async (t) => {
  const c = await connected(t);
  const channel = unique('recovery:');
  const sub = await subscribed(c, channel);
  sub.unsubscribe();
  for (const number of [1, 2]) await publish(channel, number);
  const missed = events(sub, 'publication', 2);
  sub.subscribe();
  assert.deepEqual((await missed).map(dataOf), [1, 2]);
});

test('leaving while recovered publications arrive loses none', async (t) => {
  const c = await connected(t);
  const channel = unique('recovery:');
  const sub = await subscribed(c, channel);
  sub.unsubscribe();
  for (const number of [1, 2, 3]) await publish(channel, number);
  const seen = [];
  sub.on('publication', (publication) => seen.push(publication.data));
  sub.once('publication', () => sub.unsubscribe());
  const left = event(sub, 'unsubscribed');
  sub.subscribe();
  await left;
  assert.deepEqual(seen, [1]);
  const rest = events(sub, 'publication', 2);
  sub.subscribe();
  assert.deepEqual((await rest).map(dataOf), [2, 3]);
});

test('a subscription can start from a known position', async (t) => {
  const c = await connected(t);
  const channel = unique('recovery:');
  const { epoch } = await publish(channel, 1);
  for (const number of [2, 3]) await publish(channel, number);
  for (const since of [{ offset: 1, epoch }, { offset: 1, epoch: '' }]) {
    const sub = c.newSubscription(channel, { since });
    const missed = events(sub, 'publication', 2);
    sub.subscribe();
    assert.deepEqual((await missed).map(dataOf), [2, 3]);
    sub.unsubscribe();
    c.removeSubscription(sub);
  }
});

test('a position that is no longer kept does not recover, and live ones go on', async (t) => {
  const c = await connected(t);
  const channel = unique('smallhistory:');
  const sub = await subscribed(c, channel);
  const first = event(sub, 'publication');
  await publish(channel, 1);
  await first;
  sub.unsubscribe();
  for (const number of [2, 3, 4, 5]) await publish(channel, number);
  const back = event(sub, 'subscribed');
  sub.subscribe();
  const { wasRecovering, recovered, hasRecoveredPublications, streamPosition } = await back;
  assert.deepEqual([wasRecovering, recovered, hasRecoveredPublications], [true, false, false]);
  assert.equal(streamPosition.offset, 5);
  const live = event(sub, 'publication');
  await publish(channel, 6);
  assert.equal((await live).data, 6);
});

test('a position in another epoch does not recover', async (t) => {
  const c = await connected(t);
  const channel = unique('recovery:');
  await publish(channel, 1);
  const sub = c.newSubscription(channel, { since: { offset: 1, epoch: 'another' } });
  const started = event(sub, 'subscribed');
  sub.subscribe();
  const { wasRecovering, recovered, streamPosition } = await started;
  assert.deepEqual([wasRecovering, recovered, streamPosition.offset], [true, false, 1]);
});

test('getState is asked once, and again when its position is gone', async (t) => {
  const c = await connected(t);
  const channel = unique('smallhistory:');
  const reader = await connected(t);
  let calls = 0;
  const getState = async () => {
    calls++;
    const { offset, epoch } = await reader.history(channel);
    return { offset, epoch };
  };
  const sub = c.newSubscription(channel, { getState, minResubscribeDelay: 10, maxResubscribeDelay: 50 });
  const started = event(sub, 'subscribed');
  sub.subscribe();
  assert.equal((await started).recovered, true);
  assert.equal(calls, 1);
  c.disconnect();
  for (let number = 1; number <= 5; number++) await publish(channel, number);
  const back = event(sub, 'subscribed');
  c.connect();
  assert.equal((await back).streamPosition.offset, 5);
  assert.equal(calls, 2);
});
