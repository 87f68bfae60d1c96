-- How far each slot's changes are stored. Two readers of one slot take turns by this row: they update
-- it only if it is as they have read it, or lock it.
CREATE TABLE replication_checkpoint (
    slot TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL,
    lsn PG_LSN NOT NULL,
    last_id BIGINT NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW(),
    -- The cluster and timeline that the position belongs to: on another, an LSN means something else.
    system_identifier TEXT NOT NULL,
    timeline BIGINT NOT NULL
);
