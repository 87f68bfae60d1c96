// The browser that the client library is tested in.
import { existsSync } from "node:fs";
import { installDebianPackages } from "./debian.ts";
import { Failure, output } from "./steps.ts";

const debianChromium = "/usr/bin/chromium";

/** Browsers with the same engine, by their names on PATH and their paths on macOS. */
const known = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"];
const onMac = ["/Applications/Google Chrome.app/Contents/MacOS/Google Chrome", "/Applications/Chromium.app/Contents/MacOS/Chromium"];

/** The path of a Chromium: `CHROMIUM`, one that is installed, or Debian's, which this installs. */
export async function chromium(): Promise<string> {
  const given = process.env["CHROMIUM"];
  if (given !== undefined && given !== "") {
    if ((await output(given, ["--version"])) !== undefined) return given;
    throw new Failure(`CHROMIUM is "${given}", which does not run.`, "Set it to the path of a Chromium or Chrome, or unset it.");
  }
  for (const name of known) {
    const path = await output("which", [name]);
    if (path !== undefined && (await output(path, ["--version"])) !== undefined) return path;
  }
  const found = onMac.find((path) => existsSync(path));
  if (found !== undefined) return found;
  await installDebianPackages(
    ["chromium"],
    "No Chromium or Chrome is installed, and the client library is tested in one.",
    "Install Chromium or Chrome, and set CHROMIUM to its path if it is not on PATH",
  );
  return debianChromium;
}
