// How the pages say what the hub says.

// What the hub says begins small and has no full stop, or has one.
export function sentence(text) {
  return `${text.charAt(0).toUpperCase()}${text.slice(1).replace(/\.$/, "")}.`;
}

const REASONS = {
  1: "The server does not answer.",
  1001: "The server went away.",
  1005: "The server closed the connection.",
  1006: "The server cannot be reached.",
  1009: "A message was too big for this hub.",
  1012: "The server restarts.",
  3001: "The server restarts.",
  3008: "This window read too slowly.",
  3012: "The server did not hear from this window.",
  3013: "Too many messages at once.",
  4429: "Too many messages at once.",
};

// Why a connection ended, by its close code.
export function whyClosed(code, reason) {
  if (!navigator.onLine) return "This device is offline.";
  return REASONS[code] ?? sentence(reason || `The connection ended with code ${code}.`);
}
