// The secret that a connection is opened with. It is fetched for each connection.
import { FeedError } from "./errors.ts";
import type { Credential } from "./options.ts";

/**
 * Fetches the credential. A function that hangs must neither leave the feed connecting for ever nor keep it from being
 * closed. Throws a retryable {@link FeedError} when the function fails, takes longer than `deadlineMs`, or `stop` is aborted.
 */
export async function fetchCredential(
  credential: Credential | undefined,
  deadlineMs: number,
  stop: AbortSignal,
): Promise<string | undefined> {
  if (typeof credential !== "function") return credential;
  let forget = () => {};
  try {
    return await new Promise<string>((resolve, reject) => {
      const timer = setTimeout(() => reject(failed(`no credential within ${deadlineMs} ms`)), deadlineMs);
      const stopped = () => reject(failed("the feed was closed"));
      stop.addEventListener("abort", stopped);
      forget = () => {
        clearTimeout(timer);
        stop.removeEventListener("abort", stopped);
      };
      new Promise<string>((answer) => answer(credential())).then(resolve, (cause: unknown) =>
        reject(failed(`the credential could not be fetched: ${String(cause)}`, cause)),
      );
    });
  } finally {
    forget();
  }
}

function failed(message: string, cause?: unknown): FeedError {
  return new FeedError("credential", message, { retryable: true, cause });
}
