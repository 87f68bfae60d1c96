// What can go wrong with a feed, in a form that programs can tell apart.
import type { Position, ResetReason } from "./protocol.ts";

/**
 * What kind of thing went wrong: `connection` (lost, or not to be had), `refused` (by the server's
 * answer to the upgrade), `server` (an `error` frame), `protocol` (a frame that is not of this
 * protocol), `gap` (changes are missing between two frames), `credential` (the token's function
 * failed), `storage` (of the position), `reset`, `consumer` (a callback failed).
 */
export type FeedErrorKind = "connection" | "refused" | "server" | "protocol" | "gap" | "credential" | "storage" | "reset" | "consumer";

/** Something went wrong. Where it is `retryable`, the feed goes on by itself; else it has ended. */
export class FeedError extends Error {
  readonly kind: FeedErrorKind;
  readonly retryable: boolean;
  /** The server's own code, where it gave one. */
  readonly code: string | undefined;

  constructor(kind: FeedErrorKind, message: string, options: { retryable: boolean; code?: string | undefined; cause?: unknown }) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = "FeedError";
    this.kind = kind;
    this.retryable = options.retryable;
    this.code = options.code;
  }
}

/** Changes may have been missed, and nobody was there to be told: the feed was given no `onReset`. */
export class ResetError extends FeedError {
  readonly reason: ResetReason;
  /** Where the feed could go on once everything is reloaded. */
  readonly position: Position;

  constructor(reason: ResetReason, position: Position) {
    super("reset", `the feed cannot go on from the stored position (${reason}): reload, then connect with after: "${position}"`, {
      retryable: false,
      code: reason,
    });
    this.name = "ResetError";
    this.reason = reason;
    this.position = position;
  }
}
