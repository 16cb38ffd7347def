// What the browser keeps for the pages. Private windows may refuse it, and the pages work without.

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
