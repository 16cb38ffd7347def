// Ids of messages that came already: one that was sent twice around a reconnect may have arrived the first time.

const MOST = 1000;

export class Seen {
  constructor() {
    this.ids = new Set();
  }

  // Whether it comes for the first time. Without an id nobody knows.
  isNew(id) {
    if (id === null) return true;
    const fresh = !this.ids.has(id);
    this.ids.add(id);
    if (this.ids.size > MOST) this.ids.delete(this.ids.values().next().value);
    return fresh;
  }
}
