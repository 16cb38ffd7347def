// Connecting, disconnecting, remote calls.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { State } from 'centrifuge';
import { api, client, connected, event, subscribed, token, unique } from './support.js';

test('connects without a token, and disconnects', async (t) => {
  const c = client(t);
  const opened = event(c, 'connected');
  c.connect();
  const context = await opened;
  assert.match(context.client, /^[0-9a-f-]{36}$/);
  assert.equal(context.transport, 'websocket');
  const closed = event(c, 'disconnected');
  c.disconnect();
  assert.equal((await closed).code, 0);
});

test('connects again and again', async (t) => {
  const c = client(t);
  for (let round = 0; round < 10; round++) {
    c.connect();
    c.disconnect();
  }
  c.connect();
  await c.ready(5000);
  assert.equal(c.state, State.Connected);
});

test('commands given before connecting go out with it', async (t) => {
  const c = client(t);
  const called = c.rpc('method', { my: 'data' });
  c.connect();
  await assert.rejects(called, { code: 108 });
});

test('a remote call without a handler is answered 108', async (t) => {
  const c = await connected(t);
  await assert.rejects(c.rpc('method', {}), { code: 108, message: 'not available' });
  assert.equal(c.state, State.Connected);
});

test('a message to the server without a handler ends the connection with 3508', async (t) => {
  const c = await connected(t);
  const closed = event(c, 'disconnected');
  await c.send({ to: 'nobody' });
  const { code, reason } = await closed;
  assert.deepEqual({ code, reason }, { code: 3508, reason: 'not available' });
});

test('many commands in one frame are answered each', async (t) => {
  const c = await connected(t);
  const channel = unique();
  const sub = c.newSubscription(channel);
  c.startBatching();
  sub.subscribe();
  const answers = [
    c.publish(channel, { n: 1 }),
    c.publish(channel, { n: 2 }),
    c.rpc('nothing', {}).catch((error) => error.code),
    c.presenceStats(channel),
    c.history(channel, { limit: 10 }),
  ];
  c.stopBatching();
  const [, , rpc, stats, history] = await Promise.all(answers);
  assert.equal(rpc, 108);
  assert.equal(stats.numClients, 1);
  assert.deepEqual(history.publications.map((p) => p.data), [{ n: 1 }, { n: 2 }]);
});

test('a client that the server ends with a reconnect code comes back', async (t) => {
  const user = unique('user');
  const c = await connected(t, { token: token({ sub: user }) });
  const again = event(c, 'connected');
  const left = event(c, 'connecting');
  await api('disconnect', { user, disconnect: { code: 4000, reason: 'come back' } });
  const { code, reason } = await left;
  assert.deepEqual({ code, reason }, { code: 4000, reason: 'come back' });
  await again;
});

test('a client that the server ends for good stays away', async (t) => {
  const user = unique('user');
  const c = await connected(t, { token: token({ sub: user }) });
  const closed = event(c, 'disconnected');
  await api('disconnect', { user });
  const { code, reason } = await closed;
  assert.deepEqual({ code, reason }, { code: 3503, reason: 'force disconnect' });
  assert.equal(c.state, State.Disconnected);
});

test('a whitelisted client of a disconnected user stays', async (t) => {
  const user = unique('user');
  const one = await connected(t, { token: token({ sub: user }) });
  const two = client(t, { token: token({ sub: user }) });
  const opened = event(two, 'connected');
  two.connect();
  const kept = (await opened).client;
  const closed = event(one, 'disconnected');
  await api('disconnect', { user, whitelist: [kept] });
  await closed;
  await subscribed(two, unique());
  assert.equal(two.state, State.Connected);
});
