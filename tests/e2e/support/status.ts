// GET /status, as far as tests read it.
import type { RunningWorker } from "./worker.ts";

/** The answer of GET /status. */
export interface Status {
  state: "uninitialized" | "initializing" | "polling" | "hibernating" | "halted";
  config: { slot: string; pollInterval: number; hibernationDelay: number } | null;
  epoch: number | null;
  position: { id: number; lsn: string } | null;
  slot: { exists: boolean; retainedBytes: number | null; walStatus: string | null; checkedAt: number; ageMs: number } | null;
  history: { oldestId: number; newestId: number } | null;
  initialPoll: { complete: boolean };
  polling: { cycles: number; changes: number; pruned: number; nextPollAt: number | null; consecutiveFailures: number };
  halted: { category: string; code: string; message: string; remedy?: string; since: number } | null;
  clients: { webSockets: number };
  errors: Record<string, { count: number; lastAt: number; lastCode: string; lastMessage: string }>;
}

export async function statusOf(worker: RunningWorker): Promise<Status> {
  const { status, body } = await worker.request<Status>("GET", "/status");
  if (status !== 200) throw new Error(`GET /status: ${status} ${JSON.stringify(body)}`);
  return body;
}
