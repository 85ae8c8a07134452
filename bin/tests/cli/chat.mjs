#!/usr/bin/env node
// Two pages of examples/chat talk to each other and to a service.
//
//     chat.mjs BROWSER URL USER PASSWORD SCREENSHOT
//
// It needs the package `playwright-core`, in the folder that NODE_MODULES names, and a Chromium by the name BROWSER.

import { execFileSync } from "node:child_process";
import { createRequire } from "node:module";
import { join } from "node:path";

const { chromium } = createRequire(join(process.env.NODE_MODULES, "x.js"))("playwright-core");
const [browserName, url, user, password, screenshot] = process.argv.slice(2);
const executablePath = execFileSync("sh", ["-c", 'command -v "$1"', "sh", browserName], { encoding: "utf8" }).trim();

const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"] });
try {
  const errors = [];
  const join = async name => {
    const page = await (await browser.newContext({ viewport: { width: 640, height: 480 } })).newPage();
    page.on("pageerror", error => errors.push(`${name}: ${error}`));
    await page.goto(url);
    await page.fill("#name", name);
    await page.fill("#user", user);
    await page.fill("#password", password);
    await page.click("#login button");
    await page.waitForSelector("#say:not([hidden])");
    return page;
  };
  const say = async (page, text) => {
    await page.fill("#text", text);
    await page.press("#text", "Enter");
  };
  const sees = (page, text) => page.waitForSelector(`li:has-text(${JSON.stringify(text)})`);

  const [ann, bob] = [await join("ann"), await join("bob")];
  await say(ann, "hello, <b>bob</b>");
  await sees(bob, "hello, <b>bob</b>");
  await say(bob, "hello, ann");
  await sees(ann, "hello, ann");
  await say(ann, "how many?");
  for (const page of [ann, bob]) await sees(page, "3 lines so far");

  // Who comes later gets the last messages, in their order.
  const carl = await join("carl");
  await sees(carl, "3 lines so far");
  const lines = await carl.$$eval("li", all => all.map(line => line.querySelector("b").textContent));
  if (JSON.stringify(lines) !== '["ann","bob","ann","service"]') throw new Error(`carl sees ${lines}`);

  await ann.screenshot({ path: screenshot });
  if (errors.length > 0) throw new Error(errors.join("\n"));
} finally {
  await browser.close();
}
