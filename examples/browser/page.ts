// Shows a feed in a page, and resumes where it was when the page is loaded again:
//
//     npx esbuild examples/browser/page.ts --bundle --format=esm --servedir=examples/browser --outdir=examples/browser
//
// In your own project import from "pg-change-feed-client".
import { connect, webStorage, type Feed, type FeedState, type TableChange } from "../../client/src/index.ts";

/** How many changes stay on the page. */
const maxRows = 500;

let feed: Feed | undefined;

const form = element("form", HTMLFormElement);
const list = element("changes", HTMLTableSectionElement);

form.addEventListener("submit", (event) => {
  event.preventDefault();
  const fields = new FormData(form);
  const value = (name: string) => String(fields.get(name) ?? "").trim();
  follow(value("url"), value("ticket"), value("tables"));
});

function follow(url: string, ticket: string, tables: string): void {
  feed?.close();
  list.replaceChildren();
  feed = connect({
    url,
    ticket: ticket === "" ? undefined : ticket,
    tables: tables === "" ? undefined : tables.split(",").map((name) => name.trim()),
    after: "earliest",
    // A position belongs to one feed and one choice of tables.
    storage: webStorage(localStorage, `feed ${url} ${tables}`),
    onChanges: ({ changes }) => changes.forEach(show),
    // Nothing here is derived from the changes, so there is nothing to reload.
    onReset: () => list.replaceChildren(),
    onState: (state) => (element("state", HTMLElement).textContent = inWords(state)),
  });
}

function show(change: TableChange): void {
  const row = document.createElement("tr");
  for (const text of [`${change.epoch}-${change.id}`, change.table, change.operation, JSON.stringify(change.data)]) {
    row.append(Object.assign(document.createElement("td"), { textContent: text }));
  }
  list.prepend(row);
  while (list.childElementCount > maxRows) list.lastElementChild?.remove();
}

function inWords(state: FeedState): string {
  switch (state.status) {
    case "connecting":
      return "connecting";
    case "catching_up":
      return `catching up to ${state.welcome.head}`;
    case "live":
      return `live from ${state.position}`;
    case "paused":
      return "waiting for this page";
    case "waiting":
      return `${state.reason}; trying again in ${(state.retryMs / 1000).toFixed(1)} s`;
    case "closed":
      return state.error === undefined ? "closed" : String(state.error);
    default:
      return state satisfies never;
  }
}

function element<E extends HTMLElement>(id: string, type: abstract new () => E): E {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new TypeError(`the page has no ${type.name} #${id}`);
  return found;
}
