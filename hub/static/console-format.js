// How numbers are said.

const compact = new Intl.NumberFormat("en", { notation: "compact", maximumFractionDigits: 1 });
const whole = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });

export function count(value) {
  return value < 10_000 ? whole.format(value) : compact.format(value);
}

// In a second: small ones are told apart.
export function rate(value) {
  if (value >= 9.95) return count(value);
  return value < 0.05 ? "0" : value.toFixed(1);
}

export function duration(seconds) {
  if (seconds === null) return "–";
  if (seconds < 0.0995) return `${(seconds * 1000).toFixed(seconds < 0.00995 ? 1 : 0)} ms`;
  return seconds < 9.95 ? `${seconds.toFixed(2)} s` : since(seconds);
}

export function since(seconds) {
  const units = [["d", 86400], ["h", 3600], ["min", 60]];
  for (const [name, size] of units) if (seconds >= size) return `${Math.floor(seconds / size)} ${name}`;
  return `${Math.floor(seconds)} s`;
}

export function bytes(value) {
  if (value === null) return "–";
  for (const [name, size] of [["GB", 1e9], ["MB", 1e6], ["kB", 1e3]]) {
    if (value >= size) return `${(value / size).toFixed(value < 10 * size ? 1 : 0)} ${name}`;
  }
  return `${Math.round(value)} B`;
}

export function percent(share) {
  return `${Math.round(share * 100)} %`;
}

export function plural(number, word) {
  return `${count(number)} ${word}${number === 1 ? "" : "s"}`;
}
