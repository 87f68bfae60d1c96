// The options of a feed, and what it reports.
import type { Backoff } from "./backoff.ts";
import type { Watch, WebSocketConstructor } from "./connection.ts";
import type { FeedError } from "./errors.ts";
import type { FilterWarning, Position, ResetReason, Subscription, TableChange, Tables, ChangeOf, WelcomeMessage } from "./protocol.ts";
import type { PositionStorage } from "./storage.ts";

/** A secret, or a function that fetches one. The function is called for each new connection. */
export type Credential = string | (() => string | Promise<string>);

/** The options of {@link connect}. */
export interface FeedOptions<T extends object = Tables> {
  /** The address of the Worker: `https://feed.example.com`. */
  url: string | URL;
  /** The instance's own token. For servers only: it permits everything. */
  token?: Credential | undefined;
  /** A ticket, which says what its bearer may see. For browsers. Give a function, so that a new one is fetched when the old one expires. */
  ticket?: Credential | undefined;
  /** Only these tables (`orders`, or `schema.table`). Default: everything that the credential allows. */
  tables?: readonly (keyof T & string)[] | undefined;
  /** Only these rows; instead of `tables`. */
  subscriptions?: readonly Subscription<keyof T & string>[] | undefined;
  /** Where to begin if no position is stored: after a position, or with the `earliest` change that is kept. Default: from now on. */
  after?: Position | "earliest" | undefined;
  /** Keeps the position between runs. */
  storage?: PositionStorage | undefined;
  /** A name for this client in the server's `/clients` and logs. */
  clientId?: string | undefined;
  /**
   * Whether to tell the server what has been committed, so that it sends no more than a window beyond that and waits. Default: after
   * each 64 Ki characters, and five seconds after a commit at the latest; but not with `commit: "manual"`, since the server could then
   * wait for a commit that waits for more changes. `true`: after each commit. `false`: not at all; the server then closes the
   * connection after each 16 MiB, and the feed connects again.
   */
  ack?: boolean | undefined;
  /**
   * `auto`: asking for the next batch commits the one before. `manual`: only `batch.commit()` does.
   */
  commit?: "auto" | "manual" | undefined;
  /** Where to continue after a reset: from now on, or with the earliest change that is kept. */
  afterReset?: "now" | "earliest" | undefined;
  /** Closes the feed, as `close()` does. */
  signal?: AbortSignal | undefined;

  /** Receives the batches, instead of a loop over the feed. One at a time; a batch is committed when this has returned. */
  onChanges?: ((batch: Batch<ChangeOf<T>>) => void | Promise<void>) | undefined;
  /**
   * Changes may have been missed: reload everything. The new subscription stands already, so whatever is written while you load
   * comes once this has returned; some of it you may have loaded. Without this function the feed fails with a `ResetError`.
   */
  onReset?: ((reset: Reset) => void | Promise<void>) | undefined;
  /**
   * Filters that cannot be evaluated for some updates and deletes, with the SQL that fixes it. Called when the welcome has any, and
   * when an altered table changes them.
   */
  onWarnings?: ((warnings: readonly FilterWarning[]) => void) | undefined;
  onState?: ((state: FeedState) => void) | undefined;
  /** Something went wrong. If the error is not `retryable`, the feed has ended. */
  onError?: ((error: FeedError) => void) | undefined;
  /** Each frame as received, for logs. */
  onFrame?: ((frame: string) => void) | undefined;

  /**
   * How much may wait for the application, in characters of JSON. Default: 16 Mi. Above that the feed disconnects, and resumes when
   * everything has been taken. If it acknowledges, the server stops sending before that, at 8 MiB.
   */
  maxBuffered?: number | undefined;
  /** How long to wait before connecting again: at most 1 s, doubling to 30 s; up to 5 s after a deploy. */
  retry?: Partial<Backoff> | undefined;
  /** How long to wait for the credential, the opening, and the answer to a ping: 15 s each. */
  watch?: Partial<Watch> | undefined;
  /** For runtimes without a global WebSocket. */
  WebSocket?: WebSocketConstructor | undefined;
}

/** Changes that arrived together. */
export interface Batch<Change = TableChange> {
  /** At least one, in the order of their ids. */
  readonly changes: readonly Change[];
  /** Where the feed stood before these changes. */
  readonly from: Position;
  /** Where it stands after them. */
  readonly position: Position;
  /** Whether they were stored before the feed was live. */
  readonly catchUp: boolean;
  /** These changes and all before them have been dealt with: stores the position, and acknowledges it if the feed does so (`ack`). */
  commit(): Promise<void>;
}

/** Changes may have been missed. */
export interface Reset {
  reason: ResetReason;
  /** Where the feed continues. */
  position: Position;
}

/** What a feed is doing. */
export type FeedState =
  | { status: "connecting" }
  /** The subscription stands, and stored changes are coming. */
  | { status: "catching_up"; welcome: WelcomeMessage }
  /** Every stored change has been given out; new ones come as they are stored. */
  | { status: "live"; position: Position }
  /** Too much is waiting; the feed resumes when it has been taken. */
  | { status: "paused" }
  /** Not connected; the next try is in `retryMs`. */
  | { status: "waiting"; reason: string; retryMs: number }
  | { status: "closed"; error?: unknown };
