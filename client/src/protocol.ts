// Version 1 of the protocol as types: what the server sends, and what a client says. What each frame
// means is told in docs/protocol.md; `readServerMessage` holds real frames against these types.

/** The version that this library speaks: `?v=1`. */
export const protocolVersion = "1";

/** The subprotocol that the server answers an upgrade with. */
export const subprotocol = "replication.v1";

/**
 * A place in the feed: everything up to and including one change. Opaque: keep it, and give it back
 * as it came.
 */
export type Position = string;

/** A row as JSON. A number that a double would round is a string. */
export type Row = Record<string, unknown>;

interface ChangeBase<Table extends string, Schema extends string> {
  /** Its place in the feed: without gaps in an unfiltered one, in the order of the commits. */
  id: number;
  /** Where its transaction's commit ends in the write-ahead log. */
  lsn: string;
  /** Counts the times that changes may have been missed. */
  epoch: number;
  /** Its transaction. */
  xid: number | null;
  schema: Schema;
  /** Without the schema. */
  table: Table;
  /** Large columns that the update did not touch: they are absent from `data`. */
  unchanged: string[];
  /** Columns too large to send: they are absent from `data`. */
  omitted: string[];
  /** Columns whose value JSON cannot hold, given as a string of their text; absent where there are none. */
  asText?: string[];
  /** When its transaction was committed: ISO 8601 in UTC, to the microsecond. */
  committedAt: string | null;
}

/** A new row. */
export interface Insert<R extends object = Row, Table extends string = string, Schema extends string = string> extends ChangeBase<
  Table,
  Schema
> {
  operation: "insert";
  /** The row; only one larger than the server's `maxRowBytes` lacks columns, which `omitted` names. */
  data: R;
  old: null;
}

/** A changed row. */
export interface Update<R extends object = Row, Table extends string = string, Schema extends string = string> extends ChangeBase<
  Table,
  Schema
> {
  operation: "update";
  /** The row as it is now; without the columns that `unchanged` and `omitted` name. */
  data: Partial<R>;
  /** The row before, where the table's replica identity is `FULL`; its key, where that changed; else null. */
  old: Partial<R> | null;
}

/** A row that is gone. */
export interface Delete<R extends object = Row, Table extends string = string, Schema extends string = string> extends ChangeBase<
  Table,
  Schema
> {
  operation: "delete";
  /** The row's key; the whole row where the table's replica identity is `FULL`. */
  data: Partial<R>;
  old: null;
}

/** All rows of a table are gone. */
export interface Truncate<Table extends string = string, Schema extends string = string> extends ChangeBase<Table, Schema> {
  operation: "truncate";
  data: Record<string, never>;
  old: null;
}

/** One change of one row, or a truncation. */
export type TableChange<R extends object = Row, Table extends string = string, Schema extends string = string> =
  Insert<R, Table, Schema> | Update<R, Table, Schema> | Delete<R, Table, Schema> | Truncate<Table, Schema>;

/** The row types of tables by name: `orders` for a table in public, else `schema.table`. */
export type Tables = Record<string, object>;

/** A change of any of these tables; `change.table === "orders"` tells which, and with it the row's type. */
export type ChangeOf<T extends object> = string extends keyof T
  ? TableChange
  : {
      [Name in keyof T & string]: T[Name] extends infer R extends object
        ? Name extends `${infer Schema}.${infer Table}`
          ? TableChange<R, Table, Schema>
          : TableChange<R, Name, "public">
        : never;
    }[keyof T & string];

/** A value that a filter compares with. */
export type Scalar = string | number | boolean | null;

/** A condition on a column. Numbers compare as exact decimals: write those beyond a double as strings. */
export type Condition =
  | { column: string; op: "eq" | "neq"; value: Scalar }
  | { column: string; op: "lt" | "lte" | "gt" | "gte"; value: Exclude<Scalar, null> }
  | { column: string; op: "in"; value: readonly Scalar[] };

/** A table, or those of its rows for which every condition holds. */
export interface Subscription<Table extends string = string> {
  table: Table;
  filter?: readonly Condition[];
}

/** The subscription stands at its position. */
export interface WelcomeMessage {
  type: "welcome";
  clientId: string;
  epoch: number;
  /** Just before the oldest change that is kept. */
  oldest: Position;
  /** At the newest change. */
  head: Position;
  /** Where the subscription stands: what is sent next begins there. Older servers leave it out. */
  position?: Position;
  /** Filters that some updates and deletes cannot be judged by; absent where there are none. */
  warnings?: FilterWarning[];
}

/** What the welcome warned of is so no more: a table was altered. */
export interface WarningsMessage {
  type: "warnings";
  /** All that hold from now on; maybe none. */
  warnings: FilterWarning[];
}

/** A filter's columns whose old values the table's replica identity leaves out. */
export interface FilterWarning {
  table: string;
  columns: string[];
  message: string;
  /** What mends it. */
  sql: string;
}

/** Changes, in the order of their ids. */
export interface ChangesMessage {
  type: "changes";
  changes: TableChange[];
  /** Where the client stood before. */
  from: Position;
  /** Where it stands now: at the last of the changes, or beyond it. */
  to: Position;
  /** Whether these were stored before the client came, or while it lagged. */
  catchUp: boolean;
}

/** The client has everything there is. */
export interface CaughtUpMessage {
  type: "caught_up";
  position: Position;
}

/** The feed went on, and nothing of it was for the client. */
export interface ProgressMessage {
  type: "progress";
  position: Position;
}

/** Why a client cannot go on from where it stands. */
export type ResetReason = "too_old" | "epoch_changed" | "slow_consumer";

/** Resuming is impossible: reload, then subscribe anew. */
export interface ResetMessage {
  type: "reset";
  reason: ResetReason;
}

/** Something that the client sent is refused. */
export interface ErrorMessage {
  type: "error";
  /** Stable, for programs: `bad_field`, `not_allowed`, `rate_limited` and others, which docs/protocol.md lists. */
  code: string;
  /** For people. */
  message: string;
  /** Whether the same may succeed later. */
  retryable: boolean;
}

/** Every frame that the server sends, but for "pong". */
export type ServerMessage =
  WelcomeMessage | WarningsMessage | ChangesMessage | CaughtUpMessage | ProgressMessage | ResetMessage | ErrorMessage;

/** The client wants something else from here on. */
export interface SubscribeMessage {
  type: "subscribe";
  subscriptions: readonly Subscription[];
  /** Where to begin; where the client stands when left out. */
  after?: Position | "earliest";
}

/** The client has dealt with everything up to here. */
export interface AckMessage {
  type: "ack";
  position: Position;
}

/** Every frame that a client sends, but for "ping". */
export type ClientMessage = SubscribeMessage | AckMessage;
