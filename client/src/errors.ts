// What can go wrong with a feed, in a form that programs can tell apart.
import type { Position, ResetReason } from "./protocol.ts";

/**
 * What went wrong: `connection` (lost, or could not be made), `refused` (the server's answer to the upgrade), `server` (an
 * `error` frame), `protocol` (an invalid or unknown frame), `gap` (changes are missing between two frames), `credential`
 * (the function for the ticket or token failed, or took too long), `storage` (the position could not be stored or read), `reset`,
 * `consumer` (a callback failed).
 */
export type FeedErrorKind = "connection" | "refused" | "server" | "protocol" | "gap" | "credential" | "storage" | "reset" | "consumer";

/** Something went wrong. If it is `retryable`, the feed continues by itself; otherwise it has ended. */
export class FeedError extends Error {
  readonly kind: FeedErrorKind;
  readonly retryable: boolean;
  /** The server's code (`unauthorized`, `rate_limited` and so on), if the error came from the server. */
  readonly code: string | undefined;

  constructor(kind: FeedErrorKind, message: string, options: { retryable: boolean; code?: string | undefined; cause?: unknown }) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "FeedError";
    this.kind = kind;
    this.retryable = options.retryable;
    this.code = options.code;
  }
}

/** Changes may have been missed, and the feed has no `onReset` to report that to. */
export class ResetError extends FeedError {
  readonly reason: ResetReason;
  /** Where the feed can continue once everything is reloaded. */
  readonly position: Position;

  constructor(reason: ResetReason, position: Position) {
    super("reset", `the feed cannot continue from the stored position (${reason}): reload, then connect with after: "${position}"`, {
      retryable: false,
      code: reason,
    });
    this.name = "ResetError";
    this.reason = reason;
    this.position = position;
  }
}
