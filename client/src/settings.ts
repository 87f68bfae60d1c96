// The options of a feed, checked and with every default filled in.
import type { AckPolicy } from "./acknowledgements.ts";
import type { Backoff } from "./backoff.ts";
import type { Watch, WebSocketConstructor } from "./connection.ts";
import type { FeedError } from "./errors.ts";
import type { Credential, FeedOptions, FeedState } from "./options.ts";
import type { FilterWarning, Subscription } from "./protocol.ts";

const defaults = {
  // Twice what the server leaves unacknowledged, so that it is the server that waits as long as the feed acknowledges.
  maxBuffered: 16 << 20,
  ack: { everyChars: 64 << 10, everyMs: 5_000 },
  retry: { firstMs: 1_000, maxMs: 30_000, spreadMs: 5_000, healthyMs: 5_000 },
  watch: { credentialMs: 15_000, openMs: 15_000, heartbeatMs: 15_000 },
};

/** How a feed connects, and what it asks for. */
export interface Settings {
  url: string | URL;
  credential: Credential | undefined;
  /** Undefined: everything that the credential allows. */
  subscriptions: readonly Subscription[] | undefined;
  clientId: string | undefined;
  /** Undefined: never acknowledge. */
  ack: AckPolicy | undefined;
  afterReset: "now" | "earliest";
  maxBuffered: number;
  retry: Backoff;
  watch: Watch;
  WebSocket: WebSocketConstructor;
}

/** The callbacks of the application. None of them throws. */
export interface Callbacks {
  onState(state: FeedState): void;
  onWarnings(warnings: readonly FilterWarning[]): void;
  onError(error: FeedError): void;
  onFrame(frame: string): void;
}

/** Fills in the defaults. Throws a `TypeError` for options that contradict each other, or without a WebSocket. */
export function settingsOf<T extends object>(options: FeedOptions<T>): Settings {
  const { url, token, ticket, tables, subscriptions, clientId, afterReset = "now", maxBuffered = defaults.maxBuffered } = options;
  if (token !== undefined && ticket !== undefined) throw new TypeError("give a feed a token or a ticket, not both");
  if (tables !== undefined && subscriptions !== undefined) throw new TypeError("give a feed tables or subscriptions, not both");
  const WebSocket = options.WebSocket ?? (globalThis.WebSocket as WebSocketConstructor | undefined);
  if (WebSocket === undefined) {
    throw new TypeError("this runtime has no WebSocket (Node has one from version 22 on): pass one in the options");
  }
  return {
    url,
    credential: token ?? ticket,
    subscriptions: (subscriptions ?? tables)?.map(asSubscription),
    clientId,
    ack: ackPolicy(options),
    afterReset,
    maxBuffered,
    retry: { ...defaults.retry, ...options.retry },
    watch: { ...defaults.watch, ...options.watch },
    WebSocket,
  };
}

/** A table by its name alone, as a subscription. */
export function asSubscription(subscription: Subscription | string): Subscription {
  return typeof subscription === "string" ? { table: subscription } : subscription;
}

function ackPolicy<T extends object>({ ack, commit }: FeedOptions<T>): AckPolicy | undefined {
  if (ack === true) return { ...defaults.ack, everyChars: 0 };
  return ack === false || commit === "manual" ? undefined : defaults.ack;
}
