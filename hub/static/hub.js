// A client of the Centrifuge protocol, version 2, as JSON over a WebSocket.
//
//     const hub = new Hub("/connection/websocket");
//     const chat = hub.subscribe("chat:lobby");
//     chat.on("publication", ({ data }) => console.log(data));
//     hub.connect();
//     await chat.publish({ text: "hello" });
//
// The types, and what each member means: hub.d.ts.

// Milliseconds. How late a token, a ping or the answer to `connect` may be.
const PATIENCE = 10_000;
// A connection that held this long starts the delays afresh.
const STABLE = 5_000;
// Timers that are longer fire at once.
const LONGEST_TIMER = 2 ** 31 - 1;

// Errors of this side; those of the hub begin with 100.
const TIMEOUT = 1, LOST = 2, DISCONNECTED = 3, UNSUBSCRIBED = 4, NO_TOKEN = 5;
const TOKEN_EXPIRED = 109;

// A subscription that ends with this code, or a later one, is to be made again.
const RESUBSCRIBE = 2500;

// Positions and tokens are worth nothing any more.
const isInvalidated = (code) => code === 2502 || code === 3014;

// The same attempt would fare the same.
const isTerminal = (code) => (code >= 3500 && code < 4000) || (code >= 4500 && code < 5000);

export class HubError extends Error {
  constructor(code, message, temporary = code < 100, cause) {
    super(message, { cause });
    this.name = "HubError";
    this.code = code;
    this.temporary = temporary;
  }
}

// The commands of a connection that have no reply yet. A call that `mayWait` is the application's: asked for before there
// is a connection, it is sent when there is one. The others end with the connection.
class Calls {
  // `onSilence`: a hub that should have answered has said nothing at all.
  constructor({ timeout, write, onSilence }) {
    Object.assign(this, { timeout, write, onSilence });
    // `connect` goes out, so others may follow without waiting for its reply.
    this.isOpen = false;
    // By id, in the order of asking.
    this.pending = new Map();
    this.lastId = 0;
    this.isAsking = false;
  }

  request(kind, body, done, failed, mayWait = false) {
    const id = ++this.lastId;
    // Half an emoji is no Unicode: it ends the connection.
    const mended = (_, value) => (typeof value === "string" && value.toWellFormed?.()) || value;
    const line = JSON.stringify({ id, [kind]: body }, mended);
    const call = { id, kind, line, done, failed, mayWait, sent: false };
    call.timer = setTimeout(() => this.overdue(call), this.timeout);
    this.pending.set(id, call);
    if (this.isOpen) this.transmit(call);
  }

  sendWaiting() {
    for (const call of this.pending.values()) if (!call.sent) this.transmit(call);
  }

  transmit(call) {
    call.sent = true;
    // In a frame of its own: one that is too big ends the connection.
    this.write(call.line);
  }

  answer(id, error, result) {
    const call = this.pending.get(id);
    if (!call) return;
    this.take(call);
    if (error) call.failed(new HubError(error.code, error.message, Boolean(error.temporary)));
    else call.done(result[call.kind] ?? {});
  }

  overdue(call) {
    if (!call.mayWait) return this.onSilence();
    this.take(call).failed(new HubError(TIMEOUT, "timeout"));
    // A socket may be open and yet dead: ask what any hub answers at once.
    if (!call.sent || this.isAsking) return;
    this.isAsking = true;
    const over = () => (this.isAsking = false);
    this.request("rpc", { method: "" }, over, over);
  }

  // The hub has refused `connect`, and handled nothing behind it.
  unsend() {
    for (const call of this.pending.values()) call.sent = false;
  }

  close(error) {
    for (const call of this.pending.values()) if (call.sent || !call.mayWait) this.take(call).failed(error);
  }

  failAll(error) {
    for (const call of this.pending.values()) this.take(call).failed(error);
  }

  take(call) {
    clearTimeout(call.timer);
    this.pending.delete(call.id);
    return call;
  }
}

// What a connection and a subscription have in common: events, a goal, a token, trying again.
class Party {
  constructor(goal, options) {
    this._goal = goal;
    this._options = options;
    this.token = options.token;
    this._handlers = {};
    // Who waits for the goal: told by a call, with an error if it will not be reached.
    this._waiting = new Set();
    // Failures in a row; each doubles the delay.
    this._attempts = 0;
    // The present attempt, an object of its own: what belongs to an earlier one is ignored.
    this._turn = null;
  }

  on(event, handler) {
    (this._handlers[event] ??= new Set()).add(handler);
    return () => this._handlers[event].delete(handler);
  }

  ready(timeout) {
    if (this.state === this._goal) return Promise.resolve();
    if (this._hub._end) return Promise.reject(this._hub._end);
    return new Promise((resolve, reject) => {
      const settle = (error) => {
        clearTimeout(timer);
        this._waiting.delete(settle);
        error ? reject(error) : resolve();
      };
      const timer = timeout && setTimeout(() => settle(new HubError(TIMEOUT, "timeout")), timeout);
      this._waiting.add(settle);
    });
  }

  _emit(event, context) {
    for (const handler of [...(this._handlers[event] ?? [])]) {
      try {
        handler(context);
      } catch (error) {
        // The application's fault: reported as uncaught, and the others hear the event.
        queueMicrotask(() => { throw error; });
      }
    }
  }

  _settle(error) {
    for (const settle of [...this._waiting]) settle(error);
  }

  _newTurn() {
    clearTimeout(this._retryTimer);
    clearTimeout(this._refreshTimer);
    return (this._turn = {});
  }

  // Full jitter: clients that lost the same worker must not come back in step.
  _delay() {
    const { minDelay, maxDelay } = this._hub._options;
    return Math.random() * Math.min(maxDelay, minDelay * 2 ** this._attempts++);
  }

  _lacksToken() {
    return !this.token && this._options.getToken !== undefined;
  }

  // Resolves to whether there is a token now. If not, everything else has been seen to.
  async _authorize(turn, again) {
    let token, error, timer;
    const late = new Promise((_, reject) => (timer = setTimeout(reject, PATIENCE, new Error("timeout"))));
    try {
      token = await Promise.race([this._options.getToken(this.channel), late]);
    } catch (cause) {
      error = new HubError(NO_TOKEN, `no token: ${cause?.message ?? cause}`, true, cause);
    }
    clearTimeout(timer);
    if (turn !== this._turn) return false;
    if (error) {
      this._emit("error", { error });
      again(error);
    } else if (!token) this._quit(NO_TOKEN, "unauthorized");
    this.token = token;
    return Boolean(token);
  }

  _expiresIn({ expires, ttl }) {
    clearTimeout(this._refreshTimer);
    if (expires && this._options.getToken) this._refreshIn(ttl * 1000);
  }

  _refreshIn(delay) {
    this._refreshTimer = setTimeout(() => this._refresh(), Math.min(delay, LONGEST_TIMER));
  }

  async _refresh() {
    const turn = this._turn;
    const later = () => this._refreshIn(5_000 + Math.random() * 5_000);
    this.token = undefined;
    if (!(await this._authorize(turn, later))) return;
    const failed = (error) => {
      if (turn !== this._turn) return;
      this._emit("error", { error });
      error.temporary || error.code === TOKEN_EXPIRED ? later() : this._quit(error.code, error.message);
    };
    const body = { channel: this.channel, token: this.token };
    this._hub._calls.request(this._refreshing, body, (result) => turn === this._turn && this._expiresIn(result), failed);
  }
}

const member = ({ user, client, conn_info, chan_info }) => ({ user, client, connInfo: conn_info, chanInfo: chan_info });

const published = ({ data, offset, tags, info }) => ({ data, offset, tags, info: info && member(info) });

export class Subscription extends Party {
  constructor(hub, channel, options) {
    super("subscribed", options);
    this._hub = hub;
    this._refreshing = "sub_refresh";
    this._own = this._server = false;
    this.channel = channel;
    this.state = "unsubscribed";
    // Where to go on after an interruption; null if the channel keeps nothing.
    this.position = options.since ?? null;
  }

  subscribe() {
    const other = this._hub._subs.get(this.channel);
    if (other && other !== this) throw new Error(`there is another subscription to ${this.channel}`);
    if (other) return this;
    this._hub._subs.set(this.channel, this);
    this._own = true;
    this._attempts = 0;
    this._pause(0, "subscribe called");
    this._start();
    return this;
  }

  unsubscribe() {
    if (this.state !== "unsubscribed") this._quit(0, "unsubscribe called");
  }

  ready(timeout) {
    if (this.state !== "unsubscribed") return super.ready(timeout);
    return Promise.reject(new HubError(UNSUBSCRIBED, "not subscribed", false));
  }

  publish(data) {
    return this._soon("publish", data);
  }

  history(options) {
    return this._soon("history", options);
  }

  presence() {
    return this._soon("presence");
  }

  presenceStats() {
    return this._soon("presenceStats");
  }

  // What the hub of that name does, once it is subscribed.
  async _soon(method, argument) {
    const hub = this._hub;
    if (hub.state !== "disconnected") await this.ready(hub._options.timeout);
    return hub[method](this.channel, argument);
  }

  _emit(event, context) {
    const told = { channel: this.channel, ...context };
    super._emit(event, told);
    this._hub._emit(event, told);
  }

  async _start() {
    const hub = this._hub;
    if (!hub._calls.isOpen || this._server || this.state !== "subscribing") return;
    const turn = this._newTurn();
    if (this._lacksToken() && !(await this._authorize(turn, () => this._retry()))) return;
    const { data, positioned, recoverable, joinLeave, filter } = this._options;
    const wish = { channel: this.channel, token: this.token, data, positioned, recoverable, tf: filter };
    hub._calls.request(
      "subscribe",
      { ...wish, join_leave: joinLeave, ...this._recovery() },
      (result) => turn === this._turn && this._accept(result),
      (error) => turn === this._turn && this._refused(error),
    );
  }

  _recovery() {
    return this.position && { recover: true, ...this.position };
  }

  _accept(result) {
    const turn = this._newTurn();
    const { recoverable, recovered, was_recovering, positioned, data, publications = [], offset = 0, epoch = "" } = result;
    this._attempts = 0;
    this.state = "subscribed";
    this.position = recoverable ? { offset, epoch } : null;
    this._expiresIn(result);
    this._emit("subscribed", {
      recovered: Boolean(recovered),
      wasRecovering: Boolean(was_recovering),
      recoverable: Boolean(recoverable),
      positioned: Boolean(positioned),
      publications: publications.map(published),
      position: this.position,
      data,
    });
    if (turn === this._turn) this._settle();
    // A handler may have unsubscribed: what it did not hear of is recovered the next time.
    for (const publication of publications) if (turn === this._turn) this._receive(publication);
  }

  _refused(error) {
    if (error.code === TOKEN_EXPIRED && this._options.getToken) this.token = undefined;
    else if (!error.temporary) return this._stop(error.code, error.message);
    this._emit("error", { error });
    this._retry();
  }

  _retry() {
    this._retryTimer = setTimeout(() => this._start(), this._delay());
  }

  // The position moves first: what a handler does then is done after the publication.
  _receive(publication) {
    const { offset, epoch } = publication;
    if (this.position && offset) this.position = { offset, epoch: epoch || this.position.epoch };
    this._emit("publication", published(publication));
  }

  _ended({ code, reason }) {
    if (this._server || code < RESUBSCRIBE) return this._stop(code, reason);
    if (isInvalidated(code)) this._forget();
    this._pause(code, reason);
    this._retry();
  }

  // The server does not subscribe us any more.
  _left() {
    if (!this._own) return this._stop(0, "not subscribed any more");
    this._server = false;
    this._start();
  }

  _forget() {
    this.token = undefined;
    this.position = null;
  }

  // Not subscribed for now.
  _pause(code, reason) {
    this._newTurn();
    if (this.state === "subscribing") return;
    this.state = "subscribing";
    this._emit("subscribing", { code, reason });
  }

  // Ended from here: the hub is told.
  _quit(code, reason) {
    const failed = (error) => error.code >= 100 && this._hub._lost(error.code, error.message);
    if (this._hub._calls.isOpen) this._hub._calls.request("unsubscribe", { channel: this.channel }, () => {}, failed);
    this._stop(code, reason);
  }

  _stop(code, reason) {
    this._newTurn();
    this._hub._subs.delete(this.channel);
    this.state = "unsubscribed";
    this._server = false;
    this._settle(new HubError(code < 100 ? UNSUBSCRIBED : code, reason, false));
    this._emit("unsubscribed", { code, reason });
  }
}

export class Hub extends Party {
  constructor(url, options = {}) {
    super("connected", { timeout: 10_000, minDelay: 500, maxDelay: 20_000, name: "hub.js", ...options });
    this._hub = this;
    this._refreshing = "refresh";
    this._url = new URL(url, globalThis.location?.href);
    this._url.protocol = this._url.protocol.replace("http", "ws");
    this.state = "disconnected";
    this.client = null;
    // Why it is disconnected; null before the first connection, and from `connect` on.
    this._end = null;
    // By channel, those that are wanted: subscribed or not.
    this._subs = new Map();
    this._socket = null;
    this._calls = new Calls({
      timeout: this._options.timeout,
      write: (frame) => this._socket?.readyState === WebSocket.OPEN && this._socket.send(frame),
      onSilence: () => this._lost(TIMEOUT, "no answer"),
    });
    this._online = () => this.connect();
  }

  connect() {
    if (this.state === "disconnected") {
      this.state = "connecting";
      this._end = null;
      globalThis.addEventListener?.("online", this._online);
    }
    if (this.state === "connecting" && !this._busy) {
      this._attempts = 0;
      this._open(0, "connect called");
    }
    const ready = this.ready();
    // Whoever does not wait for it hears of a failure by the event.
    ready.catch(() => {});
    return ready;
  }

  disconnect() {
    this._stop(0, "disconnect called");
  }

  subscribe(channel, options = {}) {
    return this._subs.get(channel) ?? new Subscription(this, channel, options).subscribe();
  }

  subscription(channel) {
    return this._subs.get(channel);
  }

  publish(channel, data) {
    return this._ask("publish", { channel, data });
  }

  async history(channel, { limit = -1, since, reverse } = {}) {
    const { publications = [], offset = 0, epoch = "" } = await this._ask("history", { channel, limit, since, reverse });
    return { publications: publications.map(published), offset, epoch };
  }

  async presence(channel) {
    const { presence } = await this._ask("presence", { channel });
    return Object.fromEntries(Object.entries(presence).map(([id, info]) => [id, member(info)]));
  }

  async presenceStats(channel) {
    const { num_clients, num_users } = await this._ask("presence_stats", { channel });
    return { clients: num_clients, users: num_users };
  }

  async rpc(method, data) {
    return (await this._ask("rpc", { method, data })).data;
  }

  // The connection

  async _open(code, reason) {
    const turn = this._newTurn();
    this._busy = true;
    this._emit("connecting", { code, reason, attempt: this._attempts, delay: 0 });
    if (turn !== this._turn) return;
    const failed = (error) => this._lost(error.code, error.message);
    if (this._lacksToken() && !(await this._authorize(turn, failed))) return;
    const socket = (this._socket = new WebSocket(this._url));
    socket.onopen = () => this._greet(turn);
    socket.onmessage = ({ data }) => this._hear(data, turn);
    socket.onclose = ({ code, reason }) => this._lost(code, reason || "connection lost");
    this._silence = PATIENCE;
    this._watch();
  }

  // What waits follows at once: a hub handles commands in order, `connect` first.
  _greet(turn) {
    const { data, name } = this._options;
    const server = [...this._subs.values()].filter((sub) => sub._server && sub.position);
    const subs = server.length ? Object.fromEntries(server.map((sub) => [sub.channel, sub._recovery()])) : undefined;
    this._calls.isOpen = true;
    this._calls.request(
      "connect",
      { token: this.token, data, name, subs },
      (result) => this._accept(result, turn),
      (error) => turn === this._turn && this._refused(error),
    );
    for (const sub of this._subs.values()) sub._start();
    this._calls.sendWaiting();
  }

  _accept({ client, ping, pong, subs = {}, data, ...expiry }, turn) {
    this.state = "connected";
    this.client = client;
    this._connectedAt = Date.now();
    this._pong = pong;
    this._silence = ping ? ping * 1000 + PATIENCE : 0;
    this._watch();
    this._expiresIn(expiry);
    this._emit("connected", { client, data });
    for (const sub of [...this._subs.values()]) if (sub._server && !subs[sub.channel]) sub._left();
    for (const channel in subs) if (turn === this._turn) this._subscribed(channel, subs[channel]);
    if (turn === this._turn) this._settle();
  }

  _refused(error) {
    this._calls.unsend();
    if (error.code === TOKEN_EXPIRED && this._options.getToken) this.token = undefined;
    else if (!error.temporary) return this._stop(error.code, error.message);
    this._lost(error.code, error.message);
  }

  // The server subscribed us.
  _subscribed(channel, result) {
    const sub = this._subs.get(channel) ?? new Subscription(this, channel, {});
    this._subs.set(channel, sub);
    sub._server = true;
    sub._accept(result);
  }

  _lost(code, reason) {
    if (this.state === "disconnected") return;
    if (this.state === "connected" && Date.now() - this._connectedAt >= STABLE) this._attempts = 0;
    this.state = "connecting";
    const turn = this._release(code, reason);
    if (turn !== this._turn) return;
    if (isInvalidated(code)) {
      this.token = undefined;
      for (const sub of this._subs.values()) sub._forget();
    }
    if (isTerminal(code)) return this._stop(code, reason);
    const delay = this._delay();
    this._retryTimer = setTimeout(() => this._open(code, reason), delay);
    this._emit("connecting", { code, reason, attempt: this._attempts, delay });
  }

  _quit(code, reason) {
    this._stop(code, reason);
  }

  _stop(code, reason) {
    if (this.state === "disconnected") return;
    this.state = "disconnected";
    this._end = new HubError(DISCONNECTED, "disconnected", true, { code, reason });
    globalThis.removeEventListener?.("online", this._online);
    const turn = this._release(code, reason);
    if (turn !== this._turn) return;
    this._calls.failAll(this._end);
    for (const party of [this, ...this._subs.values()]) party._settle(this._end);
    this._emit("disconnected", { code, reason });
  }

  // Leave the socket; what was sent will not be answered.
  _release(code, reason) {
    const turn = this._newTurn();
    this._calls.isOpen = false;
    clearTimeout(this._watchdog);
    const { _socket: socket } = this;
    this._socket = this.client = null;
    this._busy = false;
    if (socket) {
      socket.onopen = socket.onmessage = socket.onclose = null;
      socket.close();
    }
    for (const sub of [...this._subs.values()]) sub._pause(code, reason);
    this._calls.close(new HubError(LOST, "connection lost", true, { code, reason }));
    return turn;
  }

  _watch() {
    clearTimeout(this._watchdog);
    if (this._silence) this._watchdog = setTimeout(() => this._lost(TIMEOUT, "no answer"), this._silence);
  }

  // Commands

  // Of the application: it may wait for a connection.
  _ask(kind, body) {
    if (this.state === "disconnected") return Promise.reject(this._end ?? new HubError(DISCONNECTED, "disconnected"));
    return new Promise((resolve, reject) => this._calls.request(kind, body, resolve, reject, true));
  }

  // What is heard

  _hear(frame, turn) {
    this._watch();
    // A handler may have ended the connection.
    for (const line of frame.split("\n")) if (line && turn === this._turn) this._handle(JSON.parse(line));
  }

  _handle({ id, error, push, ...result }) {
    if (push) return this._pushed(push);
    if (id) return this._calls.answer(id, error, result);
    if (this._pong) this._calls.write("{}");
  }

  _pushed({ channel = "", pub, join, leave, subscribe, unsubscribe, message }) {
    if (message) return this._emit("message", { data: message.data });
    if (subscribe) return this._subscribed(channel, subscribe);
    const sub = this._subs.get(channel);
    // It was on its way when we unsubscribed.
    if (sub?.state !== "subscribed") return;
    if (pub) sub._receive(pub);
    else if (join) sub._emit("join", { info: member(join.info) });
    else if (leave) sub._emit("leave", { info: member(leave.info) });
    else if (unsubscribe) sub._ended(unsubscribe);
  }
}
