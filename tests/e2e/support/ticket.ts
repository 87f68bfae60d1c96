// Client tickets as an application signs them: JSON Web Tokens (RFC 7519) with HS256.
import { createHmac } from "node:crypto";

/** The tables and rows that a ticket opens. */
export interface TicketTable {
  table: string;
  filter?: { column: string; op: string; value: unknown }[];
}

/** How a ticket is made. By default it is valid. */
export interface TicketOptions {
  secret: string;
  tables: TicketTable[];
  /** Seconds from now. */
  expiresIn?: number;
  header?: object;
  claims?: object;
}

const encode = (part: object): string => Buffer.from(JSON.stringify(part)).toString("base64url");

/** Signs a ticket. */
export function mintTicket({ secret, tables, expiresIn = 60, header = { alg: "HS256", typ: "JWT" }, claims = {} }: TicketOptions): string {
  const exp = Math.floor(Date.now() / 1000) + expiresIn;
  const signed = `${encode(header)}.${encode({ exp, tables, ...claims })}`;
  return `${signed}.${createHmac("sha256", secret).update(signed).digest("base64url")}`;
}
