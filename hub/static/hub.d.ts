/** A client of the hub for browsers; see hub.js. */

/** A place in a channel's history. `{ offset: 0, epoch: "" }` is its beginning. */
export interface Position {
  offset: number;
  epoch: string;
}

/** Who somebody in a channel is. `user` is empty for those without a token; the infos come from tokens. */
export interface ClientInfo {
  user: string;
  client: string;
  connInfo?: unknown;
  chanInfo?: unknown;
}

export interface Publication<T = unknown> {
  data: T;
  /** In channels with history. */
  offset?: number;
  tags?: Record<string, string>;
  /** The client that published; absent if the server did. */
  info?: ClientInfo;
}

export interface History<T = unknown> extends Position {
  publications: Publication<T>[];
}

export interface HistoryOptions {
  /** At most so many; all that the hub gives if absent, none but the position if 0. */
  limit?: number;
  /** Only what came after it; with `reverse`, before it. */
  since?: Position;
  /** The newest first. */
  reverse?: boolean;
}

export interface PresenceStats {
  clients: number;
  users: number;
}

/** In a channel with history and a hub that says it: where the publication is. */
export type PublishResult = Partial<Position>;

/** A condition on the tags of a publication; the others do not come. */
export interface Filter {
  op?: "" | "and" | "or" | "not";
  key?: string;
  cmp?: "eq" | "neq" | "in" | "nin" | "ex" | "nex" | "sw" | "ew" | "ct" | "gt" | "gte" | "lt" | "lte";
  val?: string;
  vals?: string[];
  nodes?: Filter[];
}

/**
 * What the hub answered instead of a result (`code` from 100 on), or why there is no answer: 1 it did not come in time,
 * 2 the connection was lost meanwhile, so that nobody knows whether the command was carried out (`cause` has the close code),
 * 3 disconnected (`cause` has the code and the reason of the end), 4 not subscribed, 5 no token.
 */
export class HubError extends Error {
  constructor(code: number, message: string, temporary?: boolean, cause?: unknown);
  readonly code: number;
  /** The same may succeed later. */
  readonly temporary: boolean;
}

/** Why something ended or is interrupted: 0 and the like from this side, a close code or an error's code from the hub. */
export interface Reason {
  code: number;
  reason: string;
}

/** An attempt begins (`delay` 0), or will in `delay` milliseconds; `attempt` counts the failures in a row. */
export interface Connecting extends Reason {
  attempt: number;
  delay: number;
}

export interface Connected {
  client: string;
  data?: unknown;
}

export interface Subscribed<T = unknown> {
  channel: string;
  /** It went on at an earlier position. */
  wasRecovering: boolean;
  /** Nothing was missed. */
  recovered: boolean;
  /** What was missed and recovered. Each comes as `publication` too, right after this. */
  publications: Publication<T>[];
  recoverable: boolean;
  positioned: boolean;
  position: Position | null;
  data?: unknown;
}

type InChannel<T> = T & { channel: string };

export interface SubscriptionEvents<T = unknown> {
  /** Not subscribed for now: asked for, or interrupted. */
  subscribing: InChannel<Reason>;
  subscribed: Subscribed<T>;
  /** For good: asked for, refused, or ended by the hub. */
  unsubscribed: InChannel<Reason>;
  publication: InChannel<Publication<T>>;
  join: InChannel<{ info: ClientInfo }>;
  leave: InChannel<{ info: ClientInfo }>;
  /** What is tried again by itself. */
  error: InChannel<{ error: HubError }>;
}

/** Those of all its subscriptions happen on the connection too. */
export interface HubEvents extends Omit<SubscriptionEvents, "error"> {
  connecting: Connecting;
  connected: Connected;
  /** For good, until `connect()`. */
  disconnected: Reason;
  /** What the server sends to this connection alone. */
  message: { data: unknown };
  error: { channel?: string; error: HubError };
}

export interface SubscriptionOptions {
  /** A subscription token; or where to get one within 10 s, first and whenever it ends. An empty answer means: not
   * allowed. */
  token?: string;
  getToken?: (channel: string) => string | null | Promise<string | null>;
  /** For the server. */
  data?: unknown;
  /** Begin after this position instead of now. */
  since?: Position;
  /** Wishes, for namespaces that allow but do not force them. */
  positioned?: boolean;
  recoverable?: boolean;
  joinLeave?: boolean;
  filter?: Filter;
}

export interface HubOptions {
  /** A connection token; or where to get one within 10 s, first and whenever it ends. An empty answer means: not
   * allowed. */
  token?: string;
  getToken?: () => string | null | Promise<string | null>;
  /** For the server. */
  data?: unknown;
  /** What this program is, at most 16 characters. */
  name?: string;
  /** Milliseconds until a command without an answer is given up. 10,000. */
  timeout?: number;
  /** Milliseconds: attempts come at random within the first, doubled with each failure, but not longer than the second. */
  minDelay?: number;
  maxDelay?: number;
}

/** A channel that this client listens to. It survives the connection, and keeps its position over `unsubscribe()`. */
export class Subscription<T = unknown> {
  private constructor();
  readonly channel: string;
  readonly state: "unsubscribed" | "subscribing" | "subscribed";
  /** Where it would go on; null if the channel keeps nothing. */
  readonly position: Position | null;
  /** Returns what takes the handler away again. */
  on<K extends keyof SubscriptionEvents>(event: K, handler: (context: SubscriptionEvents<T>[K]) => void): () => void;
  /** Again, after `unsubscribe()`. */
  subscribe(): this;
  unsubscribe(): void;
  /** Resolves when it is subscribed; rejects if that will not be, or not within `timeout` milliseconds. Where the
   * connection has ended for good, that is at once; before the first `connect()` it waits. */
  ready(timeout?: number): Promise<void>;
  /** These wait until it is subscribed, for the connection's `timeout` at most; while disconnected they fail at once. */
  publish(data: T): Promise<PublishResult>;
  history(options?: HistoryOptions): Promise<History<T>>;
  /** By client. */
  presence(): Promise<Record<string, ClientInfo>>;
  presenceStats(): Promise<PresenceStats>;
}

/** A connection to a hub. */
export class Hub {
  /** `url` may be relative to the page, and http: or ws:. */
  constructor(url: string | URL, options?: HubOptions);
  readonly state: "disconnected" | "connecting" | "connected";
  /** What the next connection says; set it to say something else. */
  token: string | undefined;
  /** This connection's id; null while there is none. */
  readonly client: string | null;
  /** Returns what takes the handler away again. */
  on<K extends keyof HubEvents>(event: K, handler: (context: HubEvents[K]) => void): () => void;
  /** Connect and stay connected; while a delay runs, try now. Resolves when connected, rejects if that will not be. */
  connect(): Promise<void>;
  disconnect(): void;
  /** Resolves when connected; rejects if that will not be, at once after the end, or not within `timeout` milliseconds. */
  ready(timeout?: number): Promise<void>;
  /** The subscription to a channel: the present one if there is one, otherwise a new one. */
  subscribe<T = unknown>(channel: string, options?: SubscriptionOptions): Subscription<T>;
  /** The present one, also if the server made it. */
  subscription(channel: string): Subscription | undefined;
  /** Commands wait for a connection, for `timeout` at most; while disconnected they fail at once. */
  publish(channel: string, data: unknown): Promise<PublishResult>;
  history<T = unknown>(channel: string, options?: HistoryOptions): Promise<History<T>>;
  presence(channel: string): Promise<Record<string, ClientInfo>>;
  presenceStats(channel: string): Promise<PresenceStats>;
  rpc<T = unknown>(method: string, data?: unknown): Promise<T>;
}
