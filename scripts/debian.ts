// Debian's packages, for tools that neither npm nor cargo has.
import { Failure, output, run, step } from "./steps.ts";

/**
 * Installs the packages that are missing.
 *
 * @param tried What else was tried, in words, for the error message.
 * @param otherwise What to do instead on a machine without Debian.
 */
export async function installDebianPackages(packages: string[], tried: string, otherwise: string): Promise<void> {
  const missing: string[] = [];
  for (const name of packages) {
    const status = await output("dpkg-query", ["--show", "--showformat=${db:Status-Status}", name]);
    if (status !== "installed") missing.push(name);
  }
  if (missing.length === 0) return;
  const byHand = `${otherwise}, or on Debian as root:\n  apt-get install --no-install-recommends ${missing.join(" ")}`;
  if ((await output("apt-get", ["--version"])) === undefined) {
    throw new Failure(`${tried}\nDebian's packages: there is no apt-get here.`, byHand);
  }
  const asRoot = process.getuid?.() === 0 ? [] : ["sudo", "-n"];
  if (asRoot.length > 0 && (await output("sudo", ["-n", "true"])) === undefined) {
    throw new Failure(`${tried}\nDebian's packages: installing them needs root, and sudo asks for a password.`, byHand);
  }
  const aptGet = async (log: string, ...args: string[]) => {
    const [program = "apt-get", ...rest] = [...asRoot, "apt-get", ...args];
    await run(program, rest, { env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" }, log });
  };
  try {
    await step(`Installing Debian's ${missing.join(", ")}`, "once, about 1 minute", async () => {
      await aptGet("apt-update.log", "update");
      await aptGet("apt-install.log", "install", "--yes", "--no-install-recommends", ...missing);
    });
  } catch (error) {
    throw new Failure(`${tried}\nDebian's packages: ${(error as Error).message}`, byHand, { cause: error });
  }
}
