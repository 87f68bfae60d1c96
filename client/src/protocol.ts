// Version 1 of the protocol as types: what the server and the client send. docs/protocol.md explains each frame, and
// `readServerMessage` checks real frames against these types.

/** The version that this library speaks: `?v=1`. */
export const protocolVersion = "1";

/** The subprotocol that the server selects. */
export const subprotocol = "replication.v1";

/**
 * A place in the feed: everything up to and including one change. Opaque: keep it, and send it back unchanged.
 */
export type Position = string;

/** A row as JSON. A number that a double cannot hold exactly is a string. */
export type Row = Record<string, unknown>;

interface ChangeBase<Table extends string, Schema extends string> {
  /** Its place in the feed. Ids are in the order of the commits, and have no gaps in an unfiltered feed. */
  id: number;
  /** The LSN at which its transaction's commit record ends. */
  lsn: string;
  /** Increases whenever changes may have been missed. */
  epoch: number;
  /** The id of its transaction. */
  xid: number | null;
  schema: Schema;
  /** Without the schema. */
  table: Table;
  /** Large columns that the update did not touch: they are absent from `data`. */
  unchanged: string[];
  /** Columns that are too large to send: they are absent from `data`. */
  omitted: string[];
  /** Columns whose value JSON cannot hold; `data` has Postgres's text for them. Absent if there are none. */
  asText?: string[];
  /** When its transaction was committed: ISO 8601 in UTC, with microseconds. */
  committedAt: string | null;
}

/** A new row. */
export interface Insert<R extends object = Row, Table extends string = string, Schema extends string = string> extends ChangeBase<
  Table,
  Schema
> {
  operation: "insert";
  /** The row. It is complete unless it is larger than the server's `maxRowBytes`: `omitted` names what it lacks. */
  data: R;
  old: null;
}

/** A changed row. */
export interface Update<R extends object = Row, Table extends string = string, Schema extends string = string> extends ChangeBase<
  Table,
  Schema
> {
  operation: "update";
  /** The new row, without the columns that `unchanged` and `omitted` name. */
  data: Partial<R>;
  /** The old row if the table's replica identity is `FULL`; the old key if the key changed; otherwise null. */
  old: Partial<R> | null;
}

/** A deleted row. */
export interface Delete<R extends object = Row, Table extends string = string, Schema extends string = string> extends ChangeBase<
  Table,
  Schema
> {
  operation: "delete";
  /** The row's key; the whole row if the table's replica identity is `FULL`. */
  data: Partial<R>;
  old: null;
}

/** All rows of a table were deleted. */
export interface Truncate<Table extends string = string, Schema extends string = string> extends ChangeBase<Table, Schema> {
  operation: "truncate";
  data: Record<string, never>;
  old: null;
}

/** One change of one row, or a truncation. */
export type TableChange<R extends object = Row, Table extends string = string, Schema extends string = string> =
  Insert<R, Table, Schema> | Update<R, Table, Schema> | Delete<R, Table, Schema> | Truncate<Table, Schema>;

/** The row types of tables by name: `orders` for a table in public, otherwise `schema.table`. */
export type Tables = Record<string, object>;

/** A change of any of these tables. `change.table === "orders"` narrows it to one of them, and its row to that type. */
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

/** A condition on a column. Numbers compare as exact decimals: write those that a double cannot hold as strings. */
export type Condition =
  | { column: string; op: "eq" | "neq"; value: Scalar }
  | { column: string; op: "lt" | "lte" | "gt" | "gte"; value: Exclude<Scalar, null> }
  | { column: string; op: "in"; value: readonly Scalar[] };

/** A table, or the rows of it that meet every condition. */
export interface Subscription<Table extends string = string> {
  table: Table;
  filter?: readonly Condition[];
}

/** The subscription stands at its position. */
export interface WelcomeMessage {
  type: "welcome";
  clientId: string;
  epoch: number;
  /** Directly before the oldest change that is kept. */
  oldest: Position;
  /** At the newest change. */
  head: Position;
  /** Where the subscription stands: what is sent next begins there. Older servers leave it out. */
  position?: Position;
  /** Filters that cannot be evaluated for some updates and deletes; absent if there are none. */
  warnings?: FilterWarning[];
}

/** A table was altered, and the warnings of the welcome no longer apply. */
export interface WarningsMessage {
  type: "warnings";
  /** All that apply from now on; possibly none. */
  warnings: FilterWarning[];
}

/** The columns of a filter whose old values the table's replica identity omits. */
export interface FilterWarning {
  table: string;
  columns: string[];
  message: string;
  /** The SQL that fixes it. */
  sql: string;
}

/** Changes, in the order of their ids. */
export interface ChangesMessage {
  type: "changes";
  changes: TableChange[];
  /** Where the client stood before these changes. */
  from: Position;
  /** Where it stands after them: at the last of them or beyond it. */
  to: Position;
  /** Whether they were stored before the client connected, or while it lagged. */
  catchUp: boolean;
}

/** The client has every stored change. */
export interface CaughtUpMessage {
  type: "caught_up";
  position: Position;
}

/** The feed advanced without a change for this client. */
export interface ProgressMessage {
  type: "progress";
  position: Position;
}

/** Why a client cannot continue from where it stands. */
export type ResetReason = "too_old" | "epoch_changed" | "slow_consumer";

/** The client cannot resume: it must reload everything and subscribe again. */
export interface ResetMessage {
  type: "reset";
  reason: ResetReason;
  /** Directly before the oldest change that is kept. Older servers leave it out. */
  oldest?: Position;
  /** At the newest change. Older servers leave it out. */
  head?: Position;
}

/** The server refuses something that the client sent. */
export interface ErrorMessage {
  type: "error";
  /** Stable, for programs: `bad_field`, `not_allowed`, `rate_limited` and others, which docs/protocol.md lists. */
  code: string;
  /** For people. */
  message: string;
  /** Whether the same request may succeed later. */
  retryable: boolean;
}

/** Every frame that the server sends, except for "pong". */
export type ServerMessage =
  WelcomeMessage | WarningsMessage | ChangesMessage | CaughtUpMessage | ProgressMessage | ResetMessage | ErrorMessage;

/** The client subscribes to something else from here on. */
export interface SubscribeMessage {
  type: "subscribe";
  subscriptions: readonly Subscription[];
  /** Where to begin. Default: where the client stands. */
  after?: Position | "earliest";
}

/** The client has dealt with everything up to here. */
export interface AckMessage {
  type: "ack";
  position: Position;
}

/** Every frame that a client sends, except for "ping". */
export type ClientMessage = SubscribeMessage | AckMessage;
