// The parts of a position, "<epoch>-<id>", by which the library recognises duplicates and gaps.
import type { Position } from "./protocol.ts";

/** A parsed position. Ids of different epochs cannot be compared. */
export interface Place {
  epoch: number;
  /** The id of a change; 0 is before the first. Ids are 64-bit. */
  id: bigint;
}

/** Parses a position; undefined for text that is not one. */
export function readPosition(text: Position): Place | undefined {
  const match = /^(0|[1-9]\d{0,9})-(0|[1-9]\d{0,18})$/.exec(text);
  if (match === null) return undefined;
  const [, epoch = "", id = ""] = match;
  return { epoch: Number(epoch), id: BigInt(id) };
}

/** Whether text is a position. */
export function isPosition(text: unknown): text is Position {
  return typeof text === "string" && readPosition(text) !== undefined;
}
