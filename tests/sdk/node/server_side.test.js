// Subscriptions that the server makes: personal channels, those of the token, those of the server API.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { api, client, connected, dataOf, event, events, eventually, publish, recorded, token, unique } from './support.js';

/** A connected client and the `subscribed` events that came with it, by channel. */
async function member(t, claims) {
  const c = client(t, { token: token(claims) });
  const contexts = recorded(c, 'subscribed');
  c.connect();
  await c.ready(5000);
  await eventually(() => contexts.length > 0);
  return [c, Object.fromEntries(contexts.map((context) => [context.channel, context]))];
}

test('a user hears the personal channel, with joins and own publications', async (t) => {
  const user = unique('42');
  const c = client(t, { token: token({ sub: user }) });
  const started = event(c, 'subscribed');
  const joined = event(c, 'join');
  c.connect();
  assert.equal((await started).channel, `#${user}`);
  const { channel, info } = await joined;
  assert.deepEqual([channel, info.user], [`#${user}`, user]);
  const arrived = event(c, 'publication');
  await c.publish(`#${user}`, { to: 'myself' });
  const publication = await arrived;
  assert.deepEqual([publication.channel, publication.data], [`#${user}`, { to: 'myself' }]);
});

test('the channels of a token are subscribed at connecting', async (t) => {
  const [one, two] = [unique(), unique('recovery:')];
  const [c, contexts] = await member(t, { channels: [one, two] });
  assert.deepEqual(Object.keys(contexts).sort(), [one, two].sort());
  assert.equal(contexts[two].recoverable, true);
  const arrived = event(c, 'publication');
  await publish(two, 'hello');
  const { channel, data, offset } = await arrived;
  assert.deepEqual({ channel, data, offset }, { channel: two, data: 'hello', offset: 1 });
});

test('the subs of a token carry info and data', async (t) => {
  const channel = unique();
  const [c, contexts] = await member(t, { subs: { [channel]: { info: { seat: 1 }, data: { hi: 1 } } } });
  assert.deepEqual(contexts[channel].data, { hi: 1 });
  const [info] = Object.values((await c.presence(channel)).clients);
  assert.deepEqual(info.chanInfo, { seat: 1 });
});

test('what a server-side subscription missed arrives after reconnecting', async (t) => {
  const channel = unique('recovery:');
  const [c] = await member(t, { channels: [channel] });
  const first = event(c, 'publication');
  await publish(channel, 1);
  await first;
  c.disconnect();
  for (const number of [2, 3]) await publish(channel, number);
  const back = event(c, 'subscribed');
  const missed = events(c, 'publication', 2);
  c.connect();
  const { wasRecovering, recovered } = await back;
  assert.deepEqual({ wasRecovering, recovered }, { wasRecovering: true, recovered: true });
  assert.deepEqual((await missed).map(dataOf), [2, 3]);
});

test('a server-side subscription whose position is gone says so', async (t) => {
  const channel = unique('smallhistory:');
  const [c] = await member(t, { channels: [channel] });
  c.disconnect();
  for (const number of [1, 2, 3]) await publish(channel, number);
  const back = event(c, 'subscribed');
  c.connect();
  const { wasRecovering, recovered } = await back;
  assert.deepEqual({ wasRecovering, recovered }, { wasRecovering: true, recovered: false });
});

test('the server API subscribes and unsubscribes all connections of a user', async (t) => {
  const user = unique('user');
  const channel = unique('recovery:');
  const members = [await connected(t, { token: token({ sub: user }) }), await connected(t, { token: token({ sub: user }) })];
  const started = members.map((c) => event(c, 'subscribed'));
  await api('subscribe', { user, channel, data: { paid: true } });
  for (const context of await Promise.all(started)) {
    assert.deepEqual([context.channel, context.data, context.recoverable], [channel, { paid: true }, true]);
  }
  const arrived = members.map((c) => event(c, 'publication'));
  await publish(channel, 'both');
  assert.deepEqual((await Promise.all(arrived)).map(dataOf), ['both', 'both']);
  const ended = members.map((c) => event(c, 'unsubscribed'));
  await api('unsubscribe', { user, channel });
  for (const context of await Promise.all(ended)) assert.equal(context.channel, channel);
});

test('a client cannot subscribe to what the server has subscribed it to', async (t) => {
  const channel = unique();
  const [c] = await member(t, { channels: [channel] });
  const sub = c.newSubscription(channel);
  const refused = event(sub, 'unsubscribed');
  sub.subscribe();
  assert.equal((await refused).code, 105);
});
