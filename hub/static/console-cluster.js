// What is known of the workers, from what each tells about itself once a second.

// Milliseconds without a word after which a worker is silent, and after which it is forgotten.
const SILENT = 3_500;
const FORGOTTEN = 120_000;
// One that said that it goes is forgotten when it has gone, even if its last word was not heard.
const GOING = new Set(["retiring", "draining"]);

// Seconds without a heartbeat through Redis; there is one a second.
const DEAF = 2.5;

// Of a worker's troubles, those by which something did not arrive; the others are shown beside them.
const LOSSES = ["dropped", "slow", "unsent", "lost"];

export class Cluster {
  constructor() {
    // By node: {figures, heardAt, channels, all}
    this.workers = new Map();
  }

  hear({ worker, channels, gone }, now) {
    if (gone) this.workers.delete(gone.node);
    if (worker) this.at(worker.node, { figures: worker, heardAt: now });
    if (channels && this.workers.has(channels.node)) this.at(channels.node, { channels: channels.channels, all: channels.all });
  }

  at(node, news) {
    const before = this.workers.get(node) ?? { figures: null, heardAt: 0, channels: [], all: false };
    this.workers.set(node, { ...before, ...news });
  }

  // While this page itself heard nothing, no worker is to blame.
  forgive(now) {
    for (const worker of this.workers.values()) worker.heardAt = now;
  }

  expire(now) {
    for (const [node, { figures, heardAt }] of this.workers) {
      const limit = GOING.has(figures.state) ? SILENT : FORGOTTEN;
      if (now - heardAt > limit) this.workers.delete(node);
    }
  }

  list(now) {
    const all = [...this.workers.values()].map(({ figures, heardAt }) => describe(figures, now - heardAt));
    return all.sort((a, b) => a.host.localeCompare(b.host) || a.pid - b.pid);
  }

  totals(now) {
    const live = this.list(now).filter(({ silent }) => !silent);
    const sum = (name) => live.reduce((total, worker) => total + worker[name], 0);
    const names = ["connections", "subscriptions", "published", "delivered", "bytes"];
    return {
      ...Object.fromEntries(names.map((name) => [name, sum(name)])),
      lag: worst(live, "lag"),
      round_trip: worst(live, "round_trip"),
      losses: LOSSES.map((name) => [name, live.reduce((total, { trouble }) => total + trouble[name], 0)]),
      workers: live.length,
    };
  }

  // {list: [{name, subscribers, rate}], all}: what is published in a channel is heard by each worker that has it, its
  // subscribers are here or there.
  channels(now) {
    const found = new Map();
    let whole = true;
    for (const { channels, all, heardAt } of this.workers.values()) {
      if (now - heardAt > SILENT) continue;
      whole &&= all;
      for (const [name, subscribers, rate] of channels) {
        const before = found.get(name) ?? { name, subscribers: 0, rate: 0 };
        found.set(name, { name, subscribers: before.subscribers + subscribers, rate: Math.max(before.rate, rate) });
      }
    }
    return { list: [...found.values()], all: whole };
  }
}

function describe(figures, age) {
  const silent = age > SILENT;
  const lost = LOSSES.reduce((total, name) => total + figures.trouble[name], 0);
  // A Redis that does not answer takes as long as it has been silent.
  const trip = figures.silence > DEAF ? figures.silence : figures.round_trip;
  return { ...figures, silent, age: age / 1000, lost, round_trip: trip };
}

function worst(workers, name) {
  const values = workers.filter((worker) => worker[name] !== null);
  if (!values.length) return null;
  return values.reduce((most, worker) => (worker[name] > most[name] ? worker : most));
}
