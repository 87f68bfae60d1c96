// Follows the feed of a running instance: `npm run tail -- --url https://... --tables orders --json`.
import { parseArgs } from "node:util";
import { runningInstance } from "./instance.ts";
import { changeLine, followFeed } from "./feed.ts";
import { Failure, main, say } from "./steps.ts";

const usage = `npm run tail -- [options]
  --url <url>          the instance; the one that \`npm run dev\` started when left out
  --token <token>      its token; REPLICATION_TOKEN of the environment when left out
  --tables <a,b>       these tables alone
  --after <position>   go on after a position, or \`earliest\` for all that is kept; from now when left out
  --json               the server's messages as they come, one a line`;

function options() {
  try {
    return parseArgs({
      options: {
        url: { type: "string" },
        token: { type: "string" },
        tables: { type: "string" },
        after: { type: "string" },
        json: { type: "boolean", default: false },
        help: { type: "boolean", default: false },
      },
    }).values;
  } catch (error) {
    throw new Failure((error as Error).message, usage);
  }
}

await main(async () => {
  const { json, help, ...asked } = options();
  if (help) return say(usage);
  const url = asked.url ?? runningInstance().url;
  const stop = new AbortController();
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => stop.abort());
  // `npm run tail | head` ends when its reader does.
  process.stdout.on("error", () => process.exit(0));
  const print = (line: string) => process.stdout.write(`${line}\n`);
  let first = true;
  await followFeed(
    { ...asked, url, token: asked.token ?? process.env["REPLICATION_TOKEN"] },
    {
      ...(json ? { frame: print } : { change: (change) => print(changeLine(change)) }),
      welcome: (head) => {
        say(first ? `Following ${url}; its head is ${head}. Ctrl-C ends.` : `Connected again; the head is ${head}.`);
        first = false;
      },
      reset: (reason) => say(`Reset (${reason}): changes before this point may be missing here. Reload what you derived from them.`),
      disconnected: (reason, retryMs) => say(`Disconnected (${reason}); next try in ${retryMs / 1000} s.`),
    },
    stop.signal,
  );
});
