// The public route of the application: who may, and which object.
//
//     GET /<table>/rows   the rows as they are known here
//     GET /<table>/ws     WebSocket: the changes, in the protocol of the feed
import { isAllowed } from "./access.ts";
import type { Env } from "./sync-do.ts";

export { SyncDO } from "./sync-do.ts";

export default {
  async fetch(request, env): Promise<Response> {
    if (!(await isAllowed(request, env.SYNC_TOKEN))) return problem(401, "unauthorized", "a valid bearer token is needed");
    const { pathname, search } = new URL(request.url);
    const [, table = "", what] = /^\/([^/]+)\/(rows|ws)$/.exec(pathname) ?? [];
    // Each table has an object, and an object costs: not for any name that somebody thinks of.
    if (what === undefined || !env.TABLES.split(",").includes(table)) return problem(404, "not_found", "there is no such table here");
    const object = env.SYNC.getByName(table);
    await object.follow(table);
    // Other paths, such as the feed's callback, cannot be reached from outside.
    return what === "ws" ? object.fetch(new Request(`https://sync-do/ws${search}`, request)) : Response.json(await object.rows());
  },
} satisfies ExportedHandler<Env>;

function problem(status: number, code: string, message: string): Response {
  return Response.json({ error: { code, message, retryable: false } }, { status });
}
