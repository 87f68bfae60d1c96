-- How far each slot's changes are stored. The row is the fence between two readers of one slot.
CREATE TABLE replication_checkpoint (
    slot TEXT PRIMARY KEY,
    epoch INTEGER NOT NULL,
    lsn PG_LSN NOT NULL,
    last_id BIGINT NOT NULL,
    updated_at TIMESTAMP WITH TIME ZONE NOT NULL DEFAULT NOW(),
    -- The cluster and timeline the position belongs to: on another, an LSN means something else.
    system_identifier TEXT NOT NULL,
    timeline BIGINT NOT NULL
);
