// Connection and subscription tokens.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { State, SubscriptionState, UnauthorizedError } from 'centrifuge';
import { client, connected, event, events, inSeconds, subscribed, token, unique } from './support.js';

test('the user and info of a connection token are known to others', async (t) => {
  const user = unique('user');
  const c = await connected(t, { token: token({ sub: user, info: { role: 'admin' } }) });
  const channel = unique();
  await subscribed(c, channel);
  const [info] = Object.values((await c.presence(channel)).clients);
  assert.deepEqual([info.user, info.connInfo], [user, { role: 'admin' }]);
});

test('a forged connection token ends it with 3500', async (t) => {
  const c = client(t, { token: `${token({ sub: '42' }).slice(0, -4)}AAAA` });
  const closed = event(c, 'disconnected');
  c.connect();
  const { code, reason } = await closed;
  assert.deepEqual({ code, reason }, { code: 3500, reason: 'invalid token' });
});

test('an expired connection token is replaced by getToken', async (t) => {
  const user = unique('user');
  let calls = 0;
  const getToken = async () => {
    calls++;
    return token({ sub: user, exp: inSeconds(600) });
  };
  const c = client(t, { token: token({ sub: user, exp: inSeconds(-60) }), getToken });
  const refused = event(c, 'error');
  const opened = event(c, 'connected');
  c.connect();
  assert.equal((await refused).error.code, 109);
  await opened;
  assert.equal(calls, 1);
});

test('a connection token is refreshed before it expires, and the connection stays', async (t) => {
  const user = unique('user');
  let calls = 0;
  let refreshed;
  const twice = new Promise((resolve) => (refreshed = resolve));
  const getToken = async () => {
    if (++calls === 3) refreshed();
    return token({ sub: user, exp: inSeconds(2) });
  };
  const c = await connected(t, { getToken });
  const ends = [];
  c.on('connecting', (context) => ends.push(context));
  c.on('disconnected', (context) => ends.push(context));
  await twice;
  await subscribed(c, unique());
  assert.deepEqual(ends, []);
});

test('a refresh with the token of another user ends the connection with 3500', async (t) => {
  const users = [unique('ann'), unique('bob')];
  const getToken = async () => token({ sub: users.shift(), exp: inSeconds(1) });
  const c = client(t, { getToken });
  const closed = event(c, 'disconnected', 10000);
  c.connect();
  assert.equal((await closed).code, 3500);
});

test('a client whose getToken gives up is unauthorized', async (t) => {
  const getToken = async () => {
    throw new UnauthorizedError('go away');
  };
  const c = client(t, { getToken });
  const closed = event(c, 'disconnected');
  c.connect();
  assert.equal((await closed).code, 1);
});

test('a subscription token brings its info and data', async (t) => {
  const user = unique('user');
  const channel = unique('$');
  const c = await connected(t, { token: token({ sub: user }) });
  const sub = c.newSubscription(channel, {
    getToken: async (context) =>
      token({ sub: user, channel: context.channel, info: { seat: 7 }, data: { welcome: true } }),
  });
  const started = event(sub, 'subscribed');
  sub.subscribe();
  assert.deepEqual((await started).data, { welcome: true });
  const [info] = Object.values((await sub.presence()).clients);
  assert.deepEqual(info.chanInfo, { seat: 7 });
});

test('a forged subscription token is refused with 103, and the connection stays', async (t) => {
  const c = await connected(t);
  const sub = c.newSubscription(unique(), { token: 'forged' });
  const refused = event(sub, 'unsubscribed');
  sub.subscribe();
  assert.equal((await refused).code, 103);
  assert.equal(c.state, State.Connected);
});

test('a subscription token of another channel ends the connection with 3500', async (t) => {
  const c = await connected(t);
  const sub = c.newSubscription(unique(), { token: token({ channel: unique() }) });
  const closed = event(c, 'disconnected');
  sub.subscribe();
  assert.equal((await closed).code, 3500);
});

test('an expired subscription token is replaced by getToken', async (t) => {
  const c = await connected(t);
  const channel = unique();
  const sub = c.newSubscription(channel, {
    token: token({ channel, exp: inSeconds(-60) }),
    getToken: async () => token({ channel, exp: inSeconds(600) }),
    minResubscribeDelay: 10,
  });
  const refused = event(sub, 'error');
  const started = event(sub, 'subscribed');
  sub.subscribe();
  assert.equal((await refused).error.code, 109);
  await started;
});

test('a subscription token is refreshed before it expires, and the subscription stays', async (t) => {
  const c = await connected(t);
  const channel = unique();
  let calls = 0;
  let refreshed;
  const twice = new Promise((resolve) => (refreshed = resolve));
  const sub = await subscribed(c, channel, {
    getToken: async () => {
      if (++calls === 3) refreshed();
      return token({ channel, exp: inSeconds(2) });
    },
  });
  const ends = [];
  sub.on('subscribing', (context) => ends.push(context));
  sub.on('unsubscribed', (context) => ends.push(context));
  await twice;
  const arrived = events(sub, 'publication', 1);
  await sub.publish('still here');
  await arrived;
  assert.deepEqual(ends, []);
  assert.equal(sub.state, SubscriptionState.Subscribed);
});
