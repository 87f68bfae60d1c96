// Rust's wasm32-unknown-unknown target: found, added by rustup, or built from Debian's packages.
//
// rustup fetches the target from Rust's own download server. Many build machines reach only package registries. There the
// compiler comes from Debian's packages `rustc-web` and `cargo-web`, and its standard library for wasm32 is built once from
// `rust-web-src`. That toolchain is used only for the WASM build, by its own path. Native builds and tests keep the installed
// toolchain.
import { createHash } from "node:crypto";
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  renameSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { delimiter, join } from "node:path";
import { installDebianPackages } from "./debian.ts";
import { capture, Failure, output, pathWith, run, say, step, toolsDir } from "./steps.ts";

const target = "wasm32-unknown-unknown";

const debianPackages = ["rustc-web", "cargo-web", "rust-web-src", "lld-19"];

const debianRustc = "/usr/bin/rustc";
const debianCargo = "/usr/bin/cargo";
const debianRustlib = "/usr/lib/rustlib";

/**
 * Makes sure that Rust can build for wasm32, and returns the environment for that.
 *
 * `REPLICATION_WASM_TOOLCHAIN=debian` uses Debian's packages even if rustup would work.
 */
export async function wasmToolchain(): Promise<Record<string, string>> {
  const forced = process.env["REPLICATION_WASM_TOOLCHAIN"];
  if (forced !== undefined && forced !== "debian") {
    throw new Failure(`REPLICATION_WASM_TOOLCHAIN is "${forced}".`, 'Unset it, or set it to "debian".');
  }
  if ((await output("rustc", ["--version"])) === undefined) {
    throw new Failure(
      "There is no working `rustc` on PATH.",
      "Install Rust with rustup (or your distribution's packages), then run the command again.",
    );
  }
  let rustupSaid = "not tried";
  if (forced === undefined) {
    if (await hasTarget("rustc")) return {};
    const added = await addWithRustup();
    if (added.done) return {};
    rustupSaid = added.why;
    say(`   rustup could not add the target (${rustupSaid.split("\n").at(-1)}); trying Debian's packages`);
  }
  const toolchain = await debianToolchain(rustupSaid);
  return {
    PATH: [join(toolchain, "bin"), process.env["PATH"] ?? ""].join(delimiter),
    // Debian's compiler comes without Rust's own linker for WASM.
    CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER: "wasm-ld-19",
  };
}

/** Whether a compiler has the standard library for wasm32. */
async function hasTarget(rustc: string): Promise<boolean> {
  const folder = await output(rustc, ["--target", target, "--print", "target-libdir"]);
  return folder !== undefined && existsSync(folder) && readdirSync(folder).some((name) => name.startsWith("libcore-"));
}

async function addWithRustup(): Promise<{ done: boolean; why: string }> {
  if ((await output("rustup", ["--version"])) === undefined) return { done: false, why: "rustup is not installed" };
  return step(`Adding Rust's ${target} target with rustup`, "once, about 10 seconds", async () => {
    const added = await capture("rustup", ["target", "add", target], { timeoutMs: 180_000 });
    return { done: added.code === 0 && (await hasTarget("rustc")), why: added.stderr.trim() };
  });
}

/** Debian's compiler with a standard library for wasm32, in its own folder. */
async function debianToolchain(rustupSaid: string): Promise<string> {
  await installDebianPackages(
    debianPackages,
    `Rust's ${target} target is missing.\nTried: rustup target add ${target}: ${rustupSaid}`,
    `Either \`rustup target add ${target}\` on a machine that reaches Rust's download server`,
  );
  const version = await output(debianRustc, ["-vV"]);
  const host = version?.match(/^host: (.+)$/m)?.[1];
  if (version === undefined || host === undefined) {
    throw new Failure(
      `${debianRustc} does not run although ${debianPackages[0]} is installed.`,
      `Reinstall it: apt-get install --reinstall ${debianPackages[0]}`,
    );
  }
  // A standard library fits exactly one compiler, so a newer Debian package needs a new build.
  const key = createHash("sha256").update(version).digest("hex").slice(0, 12);
  const toolchain = join(toolsDir, "wasm-rust", key);
  if (!existsSync(toolchain)) {
    await step(`Building Rust's standard library for ${target}`, "once, about 40 seconds", () => buildToolchain(toolchain, host));
  }
  return toolchain;
}

/**
 * Creates a sysroot (a link to the compiler's host libraries, and those for wasm32, built here) and a `rustc` that uses it, so
 * that nothing is written to folders that belong to Debian's package manager.
 */
async function buildToolchain(toolchain: string, host: string): Promise<void> {
  mkdirSync(join(toolsDir, "wasm-rust"), { recursive: true });
  const made = mkdtempSync(`${toolchain}.`);
  try {
    const shell = join(made, "std");
    mkdirSync(join(shell, "src"), { recursive: true });
    // The empty [workspace] keeps cargo from treating the surrounding project as its parent.
    writeFileSync(join(shell, "Cargo.toml"), '[package]\nname = "std-shell"\nversion = "0.0.0"\nedition = "2024"\n\n[workspace]\n');
    writeFileSync(join(shell, "src", "lib.rs"), "");
    await run(debianCargo, ["build", "--release", "--target", target, "-Zbuild-std=std,panic_abort,proc_macro,test"], {
      cwd: shell,
      env: {
        ...process.env,
        PATH: pathWith("/usr/bin"),
        RUSTC: debianRustc,
        CARGO_TARGET_DIR: join(shell, "target"),
        RUSTC_BOOTSTRAP: "1",
        // Without bitcode, link-time optimisation fails: "failed to get bitcode".
        RUSTFLAGS: "-Cembed-bitcode=yes",
      },
      log: "wasm-std.log",
    });
    const rustlib = join(made, "sysroot", "lib", "rustlib");
    const libraries = join(rustlib, target, "lib");
    mkdirSync(libraries, { recursive: true });
    const built = join(shell, "target", target, "release", "deps");
    for (const name of readdirSync(built)) {
      if (name.endsWith(".rlib") && !name.startsWith("libstd_shell-")) copyFileSync(join(built, name), join(libraries, name));
    }
    symlinkSync(join(debianRustlib, host), join(rustlib, host));
    const bin = join(made, "bin");
    mkdirSync(bin);
    const rustc = join(bin, "rustc");
    writeFileSync(rustc, `#!/bin/sh\nexec ${debianRustc} --sysroot "$(dirname "$(dirname "$0")")/sysroot" "$@"\n`);
    chmodSync(rustc, 0o755);
    symlinkSync(debianCargo, join(bin, "cargo"));
    rmSync(shell, { recursive: true });
    chmodSync(made, 0o755);
    renameSync(made, toolchain);
  } catch (error) {
    rmSync(made, { recursive: true, force: true });
    throw error;
  }
}
