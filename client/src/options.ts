// What a feed is asked for, and what it tells.
import type { Backoff } from "./backoff.ts";
import type { Watch, WebSocketConstructor } from "./connection.ts";
import type { FeedError } from "./errors.ts";
import type { FilterWarning, Position, ResetReason, Subscription, TableChange, Tables, ChangeOf, WelcomeMessage } from "./protocol.ts";
import type { PositionStorage } from "./storage.ts";

/** A secret, or what fetches one: it is asked at each new connection. */
export type Credential = string | (() => string | Promise<string>);

/** What {@link connect} is told. */
export interface FeedOptions<T extends object = Tables> {
  /** The address of the Worker: `https://feed.example.com`. */
  url: string | URL;
  /** The instance's own token. For servers: whoever has it may do everything. */
  token?: Credential | undefined;
  /** A ticket that says what its bearer may see. For browsers; a function fetches a new one when the old one expires. */
  ticket?: Credential | undefined;
  /** These tables alone (`orders`, or `schema.table`); all that the credential allows when left out. */
  tables?: readonly (keyof T & string)[] | undefined;
  /** These rows alone; instead of `tables`. */
  subscriptions?: readonly Subscription<keyof T & string>[] | undefined;
  /** Where to begin when nothing is stored: after a position, with all that is kept, or (left out) from now on. */
  after?: Position | "earliest" | undefined;
  /** Where the position is kept between runs. */
  storage?: PositionStorage | undefined;
  /** A name for this client, in the server's `/clients` and logs. */
  clientId?: string | undefined;
  /**
   * Whether to tell the server what has been committed, so that it sends no more than a window beyond that and waits. Left out: after
   * each 64 Ki characters, and two seconds after a commit at the latest; but not with `commit: "manual"`, since the server could then
   * wait for a commit that waits for more changes. `true`: after each commit. `false`: not at all; the server then closes the
   * connection after each 16 MiB, and the feed connects again.
   */
  ack?: boolean | undefined;
  /**
   * `auto`: asking for the next batch says that the one before has been dealt with. `manual`: only
   * `batch.commit()` says so.
   */
  commit?: "auto" | "manual" | undefined;
  /** Where to go on after a reset: from now on, or with all that is kept. */
  afterReset?: "now" | "earliest" | undefined;
  /** Ends the feed, as `close()` does. */
  signal?: AbortSignal | undefined;

  /** Is given the batches instead of a loop over the feed; one at a time, and committed when it has returned. */
  onChanges?: ((batch: Batch<ChangeOf<T>>) => void | Promise<void>) | undefined;
  /**
   * Changes may have been missed: load everything anew. The new subscription stands already, so what
   * is written while you load is not lost, and comes when this has returned; some of it you may have
   * loaded. Without this function the feed fails with a `ResetError`.
   */
  onReset?: ((reset: Reset) => void | Promise<void>) | undefined;
  /**
   * Filters that some updates and deletes cannot be judged by, with the SQL that mends it: where the
   * welcome has any, and whenever they change since a table was altered.
   */
  onWarnings?: ((warnings: readonly FilterWarning[]) => void) | undefined;
  onState?: ((state: FeedState) => void) | undefined;
  /** Something went wrong; where the error is not `retryable`, the feed has ended. */
  onError?: ((error: FeedError) => void) | undefined;
  /** Each frame as it came, for logs. */
  onFrame?: ((frame: string) => void) | undefined;

  /**
   * How much may wait to be taken, in characters of JSON; 16 Mi when left out. Above it the feed
   * disconnects, and goes on where it stood when all has been taken. Where it acknowledges, the server
   * stops sending before that (at 8 MiB).
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
  /** Where the feed stood before. */
  readonly from: Position;
  /** Where it stands once these have been dealt with. */
  readonly position: Position;
  /** Whether these are from before the feed was live. */
  readonly catchUp: boolean;
  /** These and all before have been dealt with: stores the position, and tells the server where `ack` is set. */
  commit(): Promise<void>;
}

/** Changes may have been missed. */
export interface Reset {
  reason: ResetReason;
  /** Where the feed goes on. */
  position: Position;
}

/** What a feed is doing. */
export type FeedState =
  | { status: "connecting" }
  /** The subscription stands, and what was stored before comes. */
  | { status: "catching_up"; welcome: WelcomeMessage }
  /** All there was has been given out; changes come as they are stored. */
  | { status: "live"; position: Position }
  /** Too much waits to be taken; the feed goes on when it has been. */
  | { status: "paused" }
  /** Not connected; the next try is in `retryMs`. */
  | { status: "waiting"; reason: string; retryMs: number }
  | { status: "closed"; error?: unknown };
