// A Worker that follows the feed with the client library, over its own WebSocket.
import { connect } from "../../../client/src/index.ts";

export default {
  /** GET ?url=&token=&count=: the first `count` changes, from the earliest on. */
  async fetch(request): Promise<Response> {
    const asked = new URL(request.url).searchParams;
    const feed = connect({ url: asked.get("url") ?? "", token: asked.get("token") ?? "", after: "earliest", ack: true });
    const ids: number[] = [];
    for await (const { changes } of feed) {
      ids.push(...changes.map(({ id }) => id));
      if (ids.length >= Number(asked.get("count"))) break;
    }
    return Response.json(ids);
  },
} satisfies ExportedHandler;
