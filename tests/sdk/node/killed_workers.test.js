// kill -9 of each worker of the hub, one after the other, while publications flow. Run alone: HUB_PID is the supervisor.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { test } from 'node:test';
import { connected, event, eventually, publish, recorded, subscribed, token, unique } from './support.js';

/** The process ids of the hub's workers. */
function workers() {
  const rows = execFileSync('ps', ['-A', '-o', 'pid=,ppid=,stat=,command='], { encoding: 'utf8' }).trim().split('\n');
  const columns = rows.map((row) => row.trim().split(/\s+/));
  const own = columns.filter(([, parent, state]) => parent === process.env.HUB_PID && state[0] !== 'Z');
  return own.filter((row) => row.includes('hub.worker')).map(([pid]) => Number(pid));
}

/** A publication that is sent until it is taken; the key makes a second attempt harmless. */
async function certainly(channel, number) {
  await eventually(() => publish(channel, number, { idempotency_key: `${number}` }).then(() => true, () => false), 10000);
}

test('every client gets every publication once and in order, whichever worker dies', { timeout: 60000 }, async (t) => {
  const channel = unique('recovery:');
  const members = [];
  for (let number = 0; number < 12; number++) {
    const c = await connected(t);
    const sub = await subscribed(c, channel);
    const cuts = recorded(c, 'connecting');
    members.push({ cuts, seen: recorded(sub, 'publication', (p) => p.data), backs: recorded(sub, 'subscribed') });
  }
  let published = 0;
  const some = async (count) => {
    for (let sent = 0; sent < count; sent++) await certainly(channel, published++);
  };
  await some(10);
  const before = workers();
  assert.equal(before.length, 2);
  for (const victim of before) {
    process.kill(victim, 'SIGKILL');
    await some(20);
    await eventually(() => workers().length === 2 && !workers().includes(victim), 20000);
    await some(5);
  }
  await eventually(() => members.every(({ seen }) => seen.length >= published), 20000);
  await some(1);
  await eventually(() => members.every(({ seen }) => seen.length >= published), 20000);
  const all = Array.from({ length: published }, (_, number) => number);
  for (const { cuts, seen, backs } of members) {
    assert.deepEqual(seen, all);
    assert.ok(cuts.length > 0, 'it was connected to one of the workers');
    assert.ok(backs.every((context) => context.recovered), 'each subscription was recovered');
  }
});

test('a server-side subscription survives its worker too', { timeout: 60000 }, async (t) => {
  const channel = unique('recovery:');
  const c = await connected(t, { token: token({ channels: [channel] }) });
  const seen = recorded(c, 'publication', (p) => p.data);
  const back = event(c, 'subscribed', 20000);
  await certainly(channel, 0);
  for (const victim of workers()) process.kill(victim, 'SIGKILL');
  await certainly(channel, 1);
  assert.equal((await back).recovered, true);
  await certainly(channel, 2);
  await eventually(() => seen.length >= 3, 20000);
  assert.deepEqual(seen, [0, 1, 2]);
});
