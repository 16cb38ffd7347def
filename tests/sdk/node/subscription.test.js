// Subscribing, publishing, who is there.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { State, SubscriptionState } from 'centrifuge';
import {
  api, client, connected, dataOf, event, events, eventually, publish, recorded, subscribed, token, unique,
} from './support.js';

test('subscribes and unsubscribes', async (t) => {
  const c = await connected(t);
  const sub = await subscribed(c, unique());
  const left = event(sub, 'unsubscribed');
  sub.unsubscribe();
  assert.equal((await left).code, 0);
  assert.equal(c.state, State.Connected);
});

test('subscriptions made before connecting go out in its frame', async (t) => {
  const c = client(t);
  const subs = [1, 2, 3].map((number) => c.newSubscription(unique(`js_${number}_`)));
  subs.forEach((sub) => sub.subscribe());
  c.connect();
  await Promise.all(subs.map((sub) => sub.ready(5000)));
  assert.deepEqual(subs.map((sub) => sub.state), Array(3).fill(SubscriptionState.Subscribed));
});

test('subscribing and unsubscribing in quick turns ends as the last call says', async (t) => {
  const c = await connected(t);
  const channel = unique();
  const sub = c.newSubscription(channel);
  for (let round = 0; round < 10; round++) {
    sub.subscribe();
    sub.unsubscribe();
  }
  sub.subscribe();
  const { numClients, numUsers } = await sub.presenceStats();
  assert.deepEqual({ numClients, numUsers }, { numClients: 1, numUsers: 1 });
  assert.equal(Object.keys((await sub.presence()).clients).length, 1);
  sub.unsubscribe();
  await eventually(async () => (await c.presenceStats(channel)).numClients === 0);
  assert.deepEqual((await c.presence(channel)).clients, {});
});

test('an unsubscribe right behind the frame of connect and subscribe is obeyed', async (t) => {
  const c = client(t);
  const sub = c.newSubscription(unique());
  c.once('__centrifuge_debug:connect_frame_sent', () => sub.unsubscribe());
  sub.subscribe();
  c.connect();
  await c.ready(5000);
  const again = event(sub, 'subscribed');
  sub.subscribe();
  await again;
  assert.equal(c.state, State.Connected);
});

test('a publication reaches all subscribers, the publisher too, with who it is from', async (t) => {
  const user = unique('user');
  const one = await connected(t, { token: token({ sub: user, info: { name: 'Ann' } }) });
  const two = await connected(t);
  const channel = unique();
  const subs = [await subscribed(one, channel), await subscribed(two, channel)];
  const arrived = subs.map((sub) => event(sub, 'publication'));
  await subs[0].publish({ text: 'žluťoučký 🐎' });
  for (const publication of await Promise.all(arrived)) {
    assert.deepEqual(publication.data, { text: 'žluťoučký 🐎' });
    assert.equal(publication.offset, 1);
    assert.equal(publication.info.user, user);
    assert.deepEqual(publication.info.connInfo, { name: 'Ann' });
  }
});

test('any JSON can be published and arrives as it was', async (t) => {
  const c = await connected(t);
  const sub = await subscribed(c, unique());
  const values = ['text', 'line\nbreak', 0, 1.5, false, [], {}, [1, { a: null }], '\u2028', 'a"b\\c'];
  const arrived = events(sub, 'publication', values.length);
  for (const value of values) await sub.publish(value);
  assert.deepEqual((await arrived).map(dataOf), values);
});

test('publications of one client keep their order', async (t) => {
  const c = await connected(t);
  const sub = await subscribed(c, unique());
  const numbers = Array.from({ length: 100 }, (_, number) => number);
  const arrived = events(sub, 'publication', numbers.length);
  await Promise.all(numbers.map((number) => sub.publish(number)));
  assert.deepEqual((await arrived).map(dataOf), numbers);
});

test('nothing arrives after unsubscribing', async (t) => {
  const c = await connected(t);
  const other = await connected(t);
  const channel = unique();
  const sub = await subscribed(c, channel);
  const witness = await subscribed(other, channel);
  const seen = recorded(sub, 'publication', dataOf);
  sub.unsubscribe();
  await c.presenceStats(channel);
  const arrived = event(witness, 'publication');
  await publish(channel, 'late');
  await arrived;
  await c.presenceStats(channel);
  assert.deepEqual(seen, []);
});

test('an unknown namespace is refused with 102', async (t) => {
  const c = await connected(t);
  const sub = c.newSubscription('nowhere:x');
  const refused = event(sub, 'unsubscribed');
  sub.subscribe();
  const { code, reason } = await refused;
  assert.deepEqual({ code, reason }, { code: 102, reason: 'unknown channel' });
  assert.equal(c.state, State.Connected);
});

test('with client_insecure every channel is open', async (t) => {
  const c = await connected(t);
  for (const channel of [unique('$'), `#${unique()}`]) await subscribed(c, channel);
});

test('presence where there is none is refused with 108', async (t) => {
  const c = await connected(t);
  const sub = await subscribed(c, unique('recovery:'));
  await assert.rejects(sub.presence(), { code: 108 });
  await assert.rejects(sub.presenceStats(), { code: 108 });
});

test('presence names the clients of all workers', async (t) => {
  const channel = unique();
  const users = ['ann', 'ann', 'bob'].map((name) => name + unique());
  users[1] = users[0];
  for (const sub of users) {
    const c = await connected(t, { token: token({ sub, info: { sub } }) });
    await (await subscribed(c, channel)).presenceStats();
  }
  const observer = await connected(t);
  const { clients } = await observer.presence(channel);
  assert.deepEqual(Object.values(clients).map((info) => info.user).sort(), [...users].sort());
  for (const [id, info] of Object.entries(clients)) {
    assert.equal(info.client, id);
    assert.deepEqual(info.connInfo, { sub: info.user });
  }
  const { numClients, numUsers } = await observer.presenceStats(channel);
  assert.deepEqual({ numClients, numUsers }, { numClients: 3, numUsers: 2 });
});

test('joins and leaves are told to those who are there, once each', async (t) => {
  const channel = unique();
  const watcher = await connected(t);
  const sub = watcher.newSubscription(channel);
  const joins = recorded(sub, 'join', (context) => context.info.user);
  const leaves = recorded(sub, 'leave', (context) => context.info.user);
  sub.subscribe();
  await sub.ready(5000);
  const [ann, bob] = [unique('ann'), unique('bob')];
  const first = await connected(t, { token: token({ sub: ann }) });
  const theirs = await subscribed(first, channel);
  const second = await connected(t, { token: token({ sub: bob }) });
  await subscribed(second, channel);
  await eventually(() => joins.length === 3);
  theirs.unsubscribe();
  await eventually(() => leaves.length === 1);
  second.disconnect();
  await eventually(() => leaves.length === 2);
  first.disconnect();
  await watcher.presenceStats(channel);
  assert.deepEqual(joins, ['', ann, bob]);
  assert.deepEqual(leaves, [ann, bob]);
});

test('a tags filter lets through what matches, and the position goes on over the rest', async (t) => {
  const c = await connected(t);
  const channel = unique();
  const sub = await subscribed(c, channel, { tagsFilter: { key: 'a', cmp: 'eq', val: '1' } });
  const arrived = event(sub, 'publication');
  await publish(channel, 'two', { tags: { a: '2' } });
  await publish(channel, 'one', { tags: { a: '1', b: 'x' } });
  const { data, offset, tags } = await arrived;
  assert.deepEqual({ data, offset, tags }, { data: 'one', offset: 2, tags: { a: '1', b: 'x' } });
  c.disconnect();
  await publish(channel, 'three', { tags: { a: '3' } });
  await publish(channel, 'one again', { tags: { a: '1' } });
  const back = event(sub, 'subscribed');
  const recovered = event(sub, 'publication');
  c.connect();
  assert.equal((await back).recovered, true);
  assert.equal((await recovered).data, 'one again');
});

test('the server API ends a subscription with 2000', async (t) => {
  const user = unique('user');
  const channel = unique();
  const c = await connected(t, { token: token({ sub: user }) });
  const sub = await subscribed(c, channel);
  const ended = event(sub, 'unsubscribed');
  await api('unsubscribe', { user, channel });
  const { code, reason } = await ended;
  assert.deepEqual({ code, reason }, { code: 2000, reason: 'server unsubscribe' });
  await eventually(async () => (await c.presenceStats(channel)).numClients === 0);
});
