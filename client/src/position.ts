// The library's own look into a position, "<epoch>-<id>": to tell what comes twice, and what is missing.
import type { Position } from "./protocol.ts";

/** A position taken apart. Ids of different epochs say nothing about each other. */
export interface Place {
  epoch: number;
  /** The id of a change; 0 is before the first. Ids are 64-bit. */
  id: bigint;
}

/** Takes a position apart; undefined for text that no server gave out. */
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
