// Who may read: whoever has the secret SYNC_TOKEN. Your application knows its users better.

/** Whether a request carries the token: as a header, or as a subprotocol where browsers cannot set one. */
export async function isAllowed(request: Request, token: string | undefined): Promise<boolean> {
  if (token === undefined || token === "") return false;
  const given = bearer(request.headers);
  return given !== undefined && equal(await digest(given), await digest(token));
}

function bearer(headers: Headers): string | undefined {
  const header = /^Bearer (\S+)$/i.exec(headers.get("authorization") ?? "")?.[1];
  if (header !== undefined) return header;
  const protocols = (headers.get("sec-websocket-protocol") ?? "").split(",").map((protocol) => protocol.trim());
  const encoded = protocols.find((protocol) => protocol.startsWith("bearer."))?.slice("bearer.".length);
  try {
    return encoded === undefined ? undefined : atob(encoded.replaceAll("-", "+").replaceAll("_", "/"));
  } catch {
    return undefined;
  }
}

/** Of one length, whatever the texts', so that comparing takes the same time for all. */
function digest(text: string): Promise<ArrayBuffer> {
  return crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
}

function equal(a: ArrayBuffer, b: ArrayBuffer): boolean {
  return crypto.subtle.timingSafeEqual(a, b);
}
