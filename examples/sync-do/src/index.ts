// The public routes of the application: checks the credential and picks the object.
//
//     GET /<table>/rows   the rows that have arrived here
//     GET /<table>/ws     WebSocket: the changes, in the protocol of the feed
import { isAllowed } from "./access.ts";
import type { Env } from "./sync-do.ts";

export { SyncDO } from "./sync-do.ts";

export default {
  async fetch(request, env): Promise<Response> {
    if (!(await isAllowed(request, env.SYNC_TOKEN))) return problem(401, "unauthorized", "a valid bearer token is needed");
    const { pathname, search } = new URL(request.url);
    const [, table = "", what] = /^\/([^/]+)\/(rows|ws)$/.exec(pathname) ?? [];
    // Each table has an object, and an object costs money: none for names that a stranger makes up.
    if (what === undefined || !env.TABLES.split(",").includes(table)) return problem(404, "not_found", "there is no such table");
    const object = env.SYNC.getByName(table);
    await object.follow(table);
    // No other path of the object, such as the feed's callback, can be reached from outside.
    return what === "ws" ? object.fetch(new Request(`https://sync-do/ws${search}`, request)) : Response.json(await object.rows());
  },
} satisfies ExportedHandler<Env>;

function problem(status: number, code: string, message: string): Response {
  return Response.json({ error: { code, message, retryable: false } }, { status });
}
