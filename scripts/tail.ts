// Follows the feed of a running instance: `npm run tail -- --url https://... --tables orders --json`.
import { parseArgs } from "node:util";
import { connect, isPosition } from "../client/src/index.ts";
import { changeLine, feedFailure, soon } from "./feed.ts";
import { runningInstance } from "./instance.ts";
import { Failure, main, say } from "./steps.ts";

const usage = `npm run tail -- [options]
  --url <url>          the instance; default: the one that \`npm run dev\` started
  --token <token>      its token; default: REPLICATION_TOKEN in the environment
  --tables <a,b>       only these tables
  --after <position>   start after a position, or \`earliest\` for everything that is kept; default: from now on
  --json               print the server's messages as received, one per line`;

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
  // `npm run tail | head` ends with its reader.
  process.stdout.on("error", () => process.exit(0));
  const print = (line: string) => process.stdout.write(`${line}\n`);
  const { tables, after } = asked;
  if (after !== undefined && after !== "earliest" && !isPosition(after)) {
    throw new Failure(`"${after}" is not a position.`, "Use one that the feed has sent, such as 1-42; or earliest.");
  }
  let isFirst = true;
  const feed = connect({
    url,
    token: asked.token ?? process.env["REPLICATION_TOKEN"],
    tables: tables?.split(","),
    after,
    afterReset: "earliest",
    signal: stop.signal,
    onFrame: (frame) => json && print(frame),
    onChanges: ({ changes }) => {
      if (!json) for (const change of changes) print(changeLine(change));
    },
    onReset: ({ reason }) => say(`Reset (${reason}): changes before this point may be missing. Reload what you derived from them.`),
    onState: (state) => {
      if (state.status === "waiting") say(`Disconnected (${state.reason}); next try in ${soon(state.retryMs)}.`);
      if (state.status !== "catching_up") return;
      const { head } = state.welcome;
      say(isFirst ? `Following ${url}; its head is ${head}. Press Ctrl-C to stop.` : `Connected again; the head is ${head}.`);
      isFirst = false;
    },
  });
  await feed.done.catch((error: unknown) => {
    throw feedFailure(error);
  });
});
