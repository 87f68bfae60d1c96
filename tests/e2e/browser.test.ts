// The client library in a real browser, on the example page.
import assert from "node:assert/strict";
import { test, type TestContext } from "node:test";
import type { Page } from "playwright-core";
import { servePage, startBrowser } from "./support/browser.ts";
import { FaultProxy } from "./support/fault-proxy.ts";
import { Scenario } from "./support/scenario.ts";
import { waitFor } from "./support/wait-for.ts";

/** A page that follows the feed of a scenario through a proxy. */
async function open(t: TestContext) {
  const scenario = await Scenario.start(t);
  await scenario.initialise({ pollInterval: 50 });
  const { proxy, url } = await FaultProxy.to(t, scenario.worker.url.href);
  const context = await startBrowser(t);
  const page = await context.newPage();
  const problems: string[] = [];
  page.on("pageerror", (error) => problems.push(String(error)));
  const address = await servePage(t);
  const follow = async (ticket = scenario.worker.token) => {
    await page.goto(address);
    await page.fill("[name=url]", url);
    await page.fill("[name=ticket]", ticket);
    await page.click("button");
  };
  return { scenario, proxy, page, problems, follow };
}

const rows = async (page: Page) => page.$$eval("#changes tr", (rows) => rows.map((row) => row.textContent).reverse());

test("a page shows changes as they come, across lost connections, and resumes when it is loaded again", async (t) => {
  const { scenario, proxy, page, problems, follow } = await open(t);
  const shows = (count: number) => waitFor(`${count} changes on the page`, async () => (await rows(page)).length >= count && rows(page));
  await follow();
  await page.waitForFunction("document.querySelector('#state').textContent.startsWith('live')");
  await scenario.insert(1);
  assert.deepEqual(await shows(1), ['1-1itemsinsert{"id":1,"name":"item 1"}']);

  proxy.cutNow();
  await scenario.insert(2);
  assert.equal((await shows(2))[1], '1-2itemsinsert{"id":2,"name":"item 2"}');

  await page.goto("about:blank");
  await scenario.insert(3);
  await follow();
  assert.deepEqual(await shows(1), ['1-3itemsinsert{"id":3,"name":"item 3"}'], "what the page has dealt with does not come again");
  assert.deepEqual(problems, []);
});

test("a page with a wrong credential shows nothing, and says that it is not connected", async (t) => {
  const { scenario, page, follow } = await open(t);
  await scenario.insert(1);
  await follow("wrong");
  await page.waitForFunction("document.querySelector('#state').textContent.includes('trying again')");
  assert.deepEqual(await rows(page), []);
});
