// The peer, in its own process: npm's pg-logical-replication decodes the stream, `pg` stores it. It continues to read
// while a batch is being stored.
import { LogicalReplicationService, PgoutputPlugin, type Pgoutput } from "pg-logical-replication";
import pg from "pg";

/** The order that the parent sends. The answers are `acknowledged` and, when the slot is free again, `ended`. */
export interface PeerOrder {
  url: string;
  slot: string;
  changes: number;
  batch: number;
}

const insert = `
INSERT INTO change_history (lsn, table_name, operation, data, xid, committed_at, epoch)
SELECT r.lsn, 'orders', 'insert', r.data, r.xid, r.committed_at, 1
FROM unnest($1::text[], $2::jsonb[], $3::bigint[], $4::timestamptz[]) AS r(lsn, data, xid, committed_at)`;

/** The columns of a batch, each as an array, so that one statement inserts it. */
class Batch {
  readonly lsn: string[] = [];
  readonly data: string[] = [];
  readonly xid: number[] = [];
  readonly committedAt: Date[] = [];
}

async function drain({ url, slot, changes, batch: size }: PeerOrder): Promise<void> {
  const store = new pg.Client(url);
  await store.connect();
  const service = new LogicalReplicationService({ connectionString: url }, { acknowledge: { auto: false, timeoutSeconds: 0 } });
  let batch = new Batch();
  let seen = 0;
  let begin: Pgoutput.MessageBegin | undefined;
  // The batches are stored one after the other, while the stream is read.
  let stored: Promise<unknown> = Promise.resolve();
  const flush = () => {
    const { lsn, data, xid, committedAt } = batch;
    batch = new Batch();
    stored = stored.then(() => store.query(insert, [lsn, data, xid, committedAt]));
  };
  await new Promise<void>((resolve, reject) => {
    service.on("error", reject);
    service.on("data", (lsn: string, message: Pgoutput.Message) => {
      if (message.tag === "begin") begin = message;
      if (message.tag === "insert" && begin !== undefined) {
        batch.lsn.push(begin.commitLsn ?? "");
        batch.data.push(JSON.stringify(message.new));
        batch.xid.push(begin.xid);
        batch.committedAt.push(new Date(Number(begin.commitTime) / 1000));
        seen += 1;
        if (batch.lsn.length === size) flush();
      }
      if (message.tag === "commit" && seen === changes) {
        if (batch.lsn.length > 0) flush();
        stored.then(() => service.acknowledge(lsn)).then(() => resolve(), reject);
      }
    });
    service.subscribe(new PgoutputPlugin({ protoVersion: 1, publicationNames: [slot] }), slot).catch(reject);
  });
  process.send?.("acknowledged");
  await service.destroy();
  await store.end();
}

process.on("message", (order: PeerOrder) => {
  drain(order).then(
    () => process.send?.("ended"),
    (error: unknown) => {
      console.error(error);
      process.exit(1);
    },
  );
});
process.on("disconnect", () => process.exit(0));
