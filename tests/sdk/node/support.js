// What the tests share: clients of the hub at HUB_URL, tokens, the server API, and waiting with a deadline.

import { createHmac, randomUUID } from 'node:crypto';
import { Centrifuge } from 'centrifuge';
import WebSocket from 'ws';

const HUB = process.env.HUB_URL;
// Of tests/sdk/hub.toml.
const SECRET = 'secret';
const API_KEY = 'test-api-key';

export const DEADLINE = 5000;

/** A client that is disconnected after the test `t`. It reconnects quickly. */
export function client(t, options = {}) {
  const endpoint = `${HUB.replace('http', 'ws')}/connection/websocket`;
  const made = new Centrifuge(endpoint, { websocket: WebSocket, minReconnectDelay: 50, maxReconnectDelay: 500, ...options });
  t.after(() => made.disconnect());
  return made;
}

/** A connected client. */
export async function connected(t, options = {}) {
  const made = client(t, options);
  made.connect();
  await made.ready(DEADLINE);
  return made;
}

/** A subscription that is subscribed. */
export async function subscribed(owner, channel, options = {}) {
  const sub = owner.newSubscription(channel, options);
  sub.subscribe();
  await sub.ready(DEADLINE);
  return sub;
}

/** A channel or user that no other test uses. */
export function unique(prefix = 'js_') {
  return prefix + randomUUID();
}

/** A JWT as an application's server would issue it. */
export function token(claims) {
  const parts = [{ typ: 'JWT', alg: 'HS256' }, claims].map((part) => base64(JSON.stringify(part)));
  const signature = createHmac('sha256', SECRET).update(parts.join('.')).digest('base64url');
  return [...parts, signature].join('.');
}

function base64(text) {
  return Buffer.from(text).toString('base64url');
}

/** Unix time, `seconds` from now. */
export function inSeconds(seconds) {
  return Math.floor(Date.now() / 1000) + seconds;
}

/** The result of a call of the server API. */
export async function api(method, body) {
  const response = await fetch(`${HUB}/api/${method}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', 'X-API-Key': API_KEY },
    body: JSON.stringify(body),
  });
  const answer = await response.json();
  if (!response.ok || answer.error) throw new Error(`${method}: ${response.status} ${JSON.stringify(answer)}`);
  return answer.result;
}

export function publish(channel, data, options = {}) {
  return api('publish', { channel, data, ...options });
}

/** The next event of this name. */
export async function event(emitter, name, deadline = DEADLINE) {
  const [first] = await events(emitter, name, 1, deadline);
  return first;
}

/** The next `count` events of this name. Listens from the moment of the call. */
export function events(emitter, name, count, deadline = DEADLINE) {
  const seen = [];
  return new Promise((resolve, reject) => {
    const listener = (context) => {
      if (seen.push(context) === count) end(resolve, seen);
    };
    const late = () => end(reject, new Error(`${seen.length} of ${count} events '${name}' after ${deadline} ms`));
    const timer = setTimeout(late, deadline);
    const end = (settle, value) => {
      clearTimeout(timer);
      emitter.off(name, listener);
      settle(value);
    };
    emitter.on(name, listener);
  });
}

/** Everything that `name` brings from now on. */
export function recorded(emitter, name, pick = (context) => context) {
  const seen = [];
  emitter.on(name, (context) => seen.push(pick(context)));
  return seen;
}

/** Returns once `condition()` is true. */
export async function eventually(condition, deadline = DEADLINE) {
  const end = Date.now() + deadline;
  while (!(await condition())) {
    if (Date.now() > end) throw new Error(`not within ${deadline} ms: ${condition}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

export const dataOf = (publication) => publication.data;
