// A request to the Worker's HTTP endpoints.

/** A JSON answer. */
export interface Answer<Body> {
  status: number;
  headers: Headers;
  body: Body;
}

/** Sends an authorised request with a JSON body, and parses the JSON of the answer. Rejects when `signal` is aborted. */
export async function requestJson<Body>(
  url: URL,
  token: string,
  method: string,
  body?: unknown,
  signal?: AbortSignal,
): Promise<Answer<Body>> {
  const response = await fetch(url, {
    method,
    headers: { authorization: `Bearer ${token}`, ...(body === undefined ? {} : { "content-type": "application/json" }) },
    body: body === undefined ? null : JSON.stringify(body),
    signal: signal ?? null,
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, body: (text === "" ? undefined : JSON.parse(text)) as Body };
}
