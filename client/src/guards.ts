// Checks what comes over the wire against the types of the protocol. A frame that does not pass never reaches the
// application.
//
// Unknown members pass: a later server of the same protocol version may add some.
import { isPosition } from "./position.ts";
import type {
  CaughtUpMessage,
  ChangesMessage,
  ErrorMessage,
  FilterWarning,
  ProgressMessage,
  ResetMessage,
  ResetReason,
  ServerMessage,
  TableChange,
  WarningsMessage,
  WelcomeMessage,
} from "./protocol.ts";

/** An invalid frame. */
export class MalformedFrame extends Error {
  /** The path of the invalid part, such as `changes[3].lsn`. */
  readonly path: string;

  constructor(path: string, problem: string) {
    super(`${path}: ${problem}`);
    this.name = "MalformedFrame";
    this.path = path;
  }
}

/** A frame with a `type` that this library does not know. The rest of it was not checked. */
export class UnknownFrame extends MalformedFrame {
  constructor(type: string) {
    super("type", `unknown: ${JSON.stringify(type.slice(0, 50))}`);
    this.name = "UnknownFrame";
  }
}

/** Parses and checks a text frame of the server. Throws {@link MalformedFrame}. */
export function readServerMessage(text: string): ServerMessage {
  let frame: unknown;
  try {
    frame = JSON.parse(text);
  } catch {
    throw new MalformedFrame("frame", "is not JSON");
  }
  return checkServerMessage(frame);
}

/** Checks a frame that has been parsed. Throws {@link MalformedFrame}. */
export function checkServerMessage(frame: unknown): ServerMessage {
  const fields = members(frame, "frame");
  const type = text(fields, "type", "");
  if (!isMessageType(type)) throw new UnknownFrame(type);
  checks[type](fields);
  return fields as unknown as ServerMessage;
}

/**
 * Checks the body of a call to a Sync Durable Object, which must be a `changes` frame. Throws {@link MalformedFrame}.
 */
export function checkChangesMessage(frame: unknown): ChangesMessage {
  const message = checkServerMessage(frame);
  if (message.type !== "changes") throw new MalformedFrame("type", 'must be "changes"');
  return message;
}

type Members = Record<string, unknown>;

/** One check for each type of frame. The compiler demands one for each frame that is added to the protocol. */
const checks: Record<ServerMessage["type"], (fields: Members) => void> = {
  welcome: (fields: Members & Partial<Unchecked<WelcomeMessage>>) => {
    text(fields, "clientId", "");
    whole(fields, "epoch", "");
    position(fields, "oldest");
    position(fields, "head");
    if (fields.position !== undefined) position(fields, "position");
    if (fields.warnings !== undefined) warnings(fields);
  },
  warnings: (fields: Members & Partial<Unchecked<WarningsMessage>>) => warnings(fields),
  changes: (fields: Members & Partial<Unchecked<ChangesMessage>>) => {
    list(fields, "changes", "").forEach((change, index) => checkChange(change, `changes[${index}]`));
    position(fields, "from");
    position(fields, "to");
    flag(fields, "catchUp");
  },
  caught_up: (fields: Members & Partial<Unchecked<CaughtUpMessage>>) => position(fields, "position"),
  progress: (fields: Members & Partial<Unchecked<ProgressMessage>>) => position(fields, "position"),
  reset: (fields: Members & Partial<Unchecked<ResetMessage>>) => {
    const reason = text(fields, "reason", "");
    if (!resetReasons.has(reason)) throw new MalformedFrame("reason", `unknown: ${JSON.stringify(reason.slice(0, 50))}`);
    if (fields.oldest !== undefined) position(fields, "oldest");
    if (fields.head !== undefined) position(fields, "head");
  },
  error: (fields: Members & Partial<Unchecked<ErrorMessage>>) => {
    text(fields, "code", "");
    text(fields, "message", "");
    flag(fields, "retryable");
  },
};

type Unchecked<Message> = { [Name in keyof Message]: unknown };

const resetReasons = new Set<string>(["too_old", "epoch_changed", "slow_consumer"] satisfies ResetReason[]);

const isMessageType = (type: string): type is ServerMessage["type"] => Object.hasOwn(checks, type);

function warnings(fields: Members): void {
  list(fields, "warnings", "").forEach((warning, index) => checkWarning(warning, `warnings[${index}]`));
}

function checkWarning(warning: unknown, path: string): void {
  const fields = members(warning, path);
  for (const name of ["table", "message", "sql"] satisfies (keyof FilterWarning)[]) text(fields, name, path);
  names(fields, "columns", path);
}

const operations = new Set<string>(["insert", "update", "delete", "truncate"] satisfies TableChange["operation"][]);

function checkChange(change: unknown, path: string): void {
  const fields = members(change, path);
  // Ids are 64-bit on the server. One that a double rounds cannot be told from its neighbour.
  if (whole(fields, "id", path) < 1) throw new MalformedFrame(`${path}.id`, "must be positive");
  if (!/^[0-9A-F]{1,8}\/[0-9A-F]{1,8}$/.test(text(fields, "lsn", path))) {
    throw new MalformedFrame(`${path}.lsn`, "must look like 0/16B3748");
  }
  whole(fields, "epoch", path);
  if (fields["xid"] !== null) whole(fields, "xid", path);
  text(fields, "schema", path);
  text(fields, "table", path);
  const operation = text(fields, "operation", path);
  if (!operations.has(operation)) throw new MalformedFrame(`${path}.operation`, `unknown: ${JSON.stringify(operation.slice(0, 50))}`);
  members(fields["data"], `${path}.data`);
  if (fields["old"] !== null) members(fields["old"], `${path}.old`);
  names(fields, "unchanged", path);
  names(fields, "omitted", path);
  if (fields["asText"] !== undefined) names(fields, "asText", path);
  if (fields["committedAt"] !== null) text(fields, "committedAt", path);
}

function members(value: unknown, path: string): Members {
  if (typeof value !== "object" || value === null || Array.isArray(value)) throw new MalformedFrame(path, "must be an object");
  return value as Members;
}

function inside(path: string, name: string): string {
  return path === "" ? name : `${path}.${name}`;
}

function text(fields: Members, name: string, path: string): string {
  const value = fields[name];
  if (typeof value !== "string") throw new MalformedFrame(inside(path, name), "must be a string");
  return value;
}

function whole(fields: Members, name: string, path: string): number {
  const value = fields[name];
  if (!Number.isSafeInteger(value) || (value as number) < 0) {
    throw new MalformedFrame(inside(path, name), "must be a whole number that a double can hold exactly");
  }
  return value as number;
}

function flag(fields: Members, name: string): void {
  if (typeof fields[name] !== "boolean") throw new MalformedFrame(name, "must be true or false");
}

function position(fields: Members, name: string): void {
  if (!isPosition(fields[name])) throw new MalformedFrame(name, "must be a position");
}

function list(fields: Members, name: string, path: string): unknown[] {
  const value = fields[name];
  if (!Array.isArray(value)) throw new MalformedFrame(inside(path, name), "must be a list");
  return value;
}

function names(fields: Members, name: string, path: string): void {
  if (!list(fields, name, path).every((column) => typeof column === "string")) {
    throw new MalformedFrame(inside(path, name), "must be a list of strings");
  }
}
