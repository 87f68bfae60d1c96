// Where to connect, and with which credential.
import { FeedError } from "./errors.ts";
import { protocolVersion, subprotocol, type Position } from "./protocol.ts";

/** The query of the upgrade. */
export interface ConnectQuery {
  after: Position | "earliest" | undefined;
  tables: readonly string[] | undefined;
  client: string | undefined;
  ack: boolean;
}

/** The address of `GET /ws` on a Worker whose own address is `base` (http, https, ws or wss). */
export function feedUrl(base: string | URL, query: ConnectQuery): URL {
  const url = new URL(base);
  url.protocol = url.protocol.replace(/^http/, "ws");
  url.pathname = `${url.pathname.replace(/\/$/, "")}/ws`;
  url.search = "";
  url.hash = "";
  url.searchParams.set("v", protocolVersion);
  if (query.after !== undefined) url.searchParams.set("after", query.after);
  if (query.tables !== undefined) url.searchParams.set("tables", query.tables.join(","));
  if (query.client !== undefined) url.searchParams.set("client", query.client);
  if (query.ack) url.searchParams.set("ack", "1");
  return url;
}

/**
 * The subprotocols to offer. The credential is one of them, since browsers cannot set headers on a WebSocket, and URLs
 * end up in logs.
 */
export function subprotocols(credential: string | undefined): string[] {
  return credential === undefined ? [subprotocol] : [subprotocol, `bearer.${base64url(credential)}`];
}

function base64url(text: string): string {
  const bytes = Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte));
  return btoa(bytes.join("")).replaceAll("+", "-").replaceAll("/", "_").replace(/=+$/, "");
}

const askingMs = 5_000;

/**
 * Why the server refuses an upgrade. A WebSocket does not tell, so the same is requested once more without an upgrade. Undefined if
 * there is nothing to learn: the server would accept it now, it cannot be reached, or a browser may not read its answer.
 *
 * @param renewable Whether the next try comes with a fresh credential.
 */
export async function askWhyRefused(url: URL, credential: string | undefined, renewable: boolean): Promise<FeedError | undefined> {
  const plain = new URL(url);
  plain.protocol = plain.protocol.replace(/^ws/, "http");
  try {
    const response = await fetch(plain, {
      headers: credential === undefined ? {} : { authorization: `Bearer ${credential}` },
      signal: AbortSignal.timeout(askingMs),
    });
    // 426: the only thing wrong is that this is not an upgrade.
    if (response.ok || response.status === 426) return undefined;
    // A proxy in front of the server may limit the rate as well, and answers in its own words.
    const error = await errorIn(response);
    if (response.status === 429) {
      return new FeedError("refused", error?.message ?? "too many requests", { retryable: true, code: error?.code ?? "rate_limited" });
    }
    if (error === undefined) return undefined;
    const retryable = error.retryable || (renewable && [401, 403].includes(response.status));
    return new FeedError("refused", error.message, { retryable, code: error.code ?? String(response.status) });
  } catch {
    return undefined;
  }
}

/** The error in the body of a response, if there is one in the server's form. */
async function errorIn(response: Response): Promise<{ message: string; code: string | undefined; retryable: boolean } | undefined> {
  const text = await response.text();
  try {
    const { error } = JSON.parse(text) as { error?: { code?: unknown; message?: unknown; retryable?: unknown } };
    if (typeof error?.message !== "string") return undefined;
    return { message: error.message, code: typeof error.code === "string" ? error.code : undefined, retryable: error.retryable !== false };
  } catch {
    return undefined;
  }
}
