// Follows a change feed: in browsers, in Node from version 22 on, and in Workers. No dependencies.
export { connect, Feed } from "./feed.ts";
export type { Batch, Credential, FeedOptions, FeedState, Reset } from "./options.ts";
export { FeedError, ResetError, type FeedErrorKind } from "./errors.ts";
export { memoryStorage, webStorage, type PositionStorage } from "./storage.ts";
export { checkChangesMessage, checkServerMessage, MalformedFrame, readServerMessage, UnknownFrame } from "./guards.ts";
export { Sequence, type Step } from "./sequence.ts";
export { isPosition } from "./position.ts";
export type * from "./protocol.ts";
