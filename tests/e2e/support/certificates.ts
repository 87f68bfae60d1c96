// Certificates for one test, made by openssl.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/** A server's private key and certificate, as PEM. */
export interface ServerCertificate {
  key: string;
  certificate: string;
}

/** A certificate authority, as PEM. */
export interface Authority {
  certificate: string;
  /** Certifies a server under a host name. */
  certify(host: string): ServerCertificate;
}

/** Creates a certificate authority that nobody trusts yet. */
export function createAuthority(): Authority {
  return inFolder((folder) => {
    openssl(folder, "req", "-x509", ...newKey, "-days", "2", "-subj", "/CN=Test authority", "-keyout", "key", "-out", "crt");
    const [key, certificate] = ["key", "crt"].map((name) => readFileSync(join(folder, name), "utf8")) as [string, string];
    return { certificate, certify: (host) => certify({ key, certificate }, host) };
  });
}

const newKey = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

function certify(authority: ServerCertificate, host: string): ServerCertificate {
  return inFolder((folder) => {
    writeFileSync(join(folder, "ca.key"), authority.key);
    writeFileSync(join(folder, "ca.crt"), authority.certificate);
    writeFileSync(join(folder, "extensions"), `subjectAltName=DNS:${host}\n`);
    openssl(folder, "req", ...newKey, "-subj", `/CN=${host}`, "-keyout", "key", "-out", "csr");
    openssl(
      folder,
      "x509",
      "-req",
      "-in",
      "csr",
      "-CA",
      "ca.crt",
      "-CAkey",
      "ca.key",
      "-CAcreateserial",
      "-days",
      "2",
      "-extfile",
      "extensions",
      "-out",
      "crt",
    );
    return { key: readFileSync(join(folder, "key"), "utf8"), certificate: readFileSync(join(folder, "crt"), "utf8") };
  });
}

function openssl(folder: string, ...args: string[]): void {
  execFileSync("openssl", args, { cwd: folder, stdio: "pipe" });
}

function inFolder<T>(work: (folder: string) => T): T {
  const folder = mkdtempSync(join(tmpdir(), "pg-change-feed-certificates-"));
  try {
    return work(folder);
  } finally {
    rmSync(folder, { recursive: true });
  }
}
