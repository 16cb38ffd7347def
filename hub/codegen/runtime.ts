import type {
  ClientInfo,
  History,
  HistoryOptions,
  Hub,
  PresenceStats,
  Publication,
  PublishResult,
  Subscription,
  SubscriptionOptions,
} from "./hub.js";

/** One channel; cheap to make. `Sent` is what clients may publish in it. */
export class Channel<Received, Sent = Received> {
  readonly hub: Hub;
  readonly name: string;

  constructor(hub: Hub, name: string) {
    this.hub = hub;
    this.name = name;
  }

  /** A parameter as it stands in a channel's name. Throws RangeError for what no name can have. */
  static part(value: string | number | boolean): string {
    const text = value === true ? "True" : value === false ? "False" : String(value);
    if (text && !text.includes(":")) return text;
    throw new RangeError(`${JSON.stringify(text)} is empty or has a colon: it cannot be part of a channel's name`);
  }

  /**
   * Calls `handler` for each publication. A channel has one subscription, however often this is called, and its
   * `unsubscribe()` is for all handlers.
   */
  subscribe(
    handler: (message: Received, publication: Publication<Received>) => void,
    options?: SubscriptionOptions,
  ): Subscription<Received> {
    const subscription = this.hub.subscribe<Received>(this.name, options);
    subscription.on("publication", (publication) => handler(publication.data, publication));
    return subscription;
  }

  /** Rejects with HubError: 107 if the message does not fit, 103 if this client may not. */
  publish(message: Sent): Promise<PublishResult> {
    const subscription = this.hub.subscription(this.name);
    return subscription ? subscription.publish(message) : this.hub.publish(this.name, message);
  }

  /** What was published before. */
  history(options?: HistoryOptions): Promise<History<Received>> {
    const subscription = this.hub.subscription(this.name) as Subscription<Received> | undefined;
    return subscription ? subscription.history(options) : this.hub.history<Received>(this.name, options);
  }

  /** Who is there, by client. */
  presence(): Promise<Record<string, ClientInfo>> {
    const subscription = this.hub.subscription(this.name);
    return subscription ? subscription.presence() : this.hub.presence(this.name);
  }

  presenceStats(): Promise<PresenceStats> {
    const subscription = this.hub.subscription(this.name);
    return subscription ? subscription.presenceStats() : this.hub.presenceStats(this.name);
  }
}
