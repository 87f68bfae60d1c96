/** What the bearer of a ticket may see: a table, or those of its rows for which every condition holds. */
export interface TicketTable {
  table: string;
  filter?: { column: string; op: "eq" | "neq" | "lt" | "lte" | "gt" | "gte" | "in"; value: unknown }[];
}

/** Signs a ticket (a JSON Web Token, HS256) with the secret REPLICATION_TICKET_SECRET. For servers. */
export async function signTicket(secret: string, tables: TicketTable[], expiresInSeconds = 600): Promise<string> {
  const base64url = (bytes: Uint8Array) => btoa(String.fromCharCode(...bytes)).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
  const utf8 = new TextEncoder();
  const claims = { exp: Math.floor(Date.now() / 1000) + expiresInSeconds, tables };
  const signed = [{ alg: "HS256", typ: "JWT" }, claims].map((part) => base64url(utf8.encode(JSON.stringify(part)))).join(".");
  const key = await crypto.subtle.importKey("raw", utf8.encode(secret), { name: "HMAC", hash: "SHA-256" }, false, ["sign"]);
  const signature = await crypto.subtle.sign("HMAC", key, utf8.encode(signed));
  return `${signed}.${base64url(new Uint8Array(signature))}`;
}
