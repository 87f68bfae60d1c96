// Who may read: anyone with the secret SYNC_TOKEN. Replace this with your own access control.

/** Whether a request carries the token: as a header, or as a subprotocol, since browsers cannot set headers on a WebSocket. */
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

/** All digests have the same length, so that a comparison takes the same time for every text. */
function digest(text: string): Promise<ArrayBuffer> {
  return crypto.subtle.digest("SHA-256", new TextEncoder().encode(text));
}

function equal(a: ArrayBuffer, b: ArrayBuffer): boolean {
  return crypto.subtle.timingSafeEqual(a, b);
}
