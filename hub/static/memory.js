// What a page remembers: in the browser's storage, which private windows may refuse (it works without), and of messages
// their ids, while it is open.

export function recall(storage, key, fallback) {
  try {
    return JSON.parse(window[storage].getItem(`hub.${key}`)) ?? fallback;
  } catch {
    return fallback;
  }
}

export function keep(storage, key, value) {
  try {
    window[storage].setItem(`hub.${key}`, JSON.stringify(value));
  } catch {
    // See above.
  }
}

const MOST = 1000;

// A message that was sent twice around a reconnect may have arrived the first time.
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
