-- Every captured change, in commit order. `id` has no gaps: the poll cycle assigns it together with the
-- update of the checkpoint row, and the sequence only follows.
CREATE TABLE change_history (
    id BIGSERIAL PRIMARY KEY,
    lsn TEXT NOT NULL,
    table_name TEXT NOT NULL,
    operation TEXT NOT NULL CHECK (operation IN ('insert', 'update', 'delete', 'truncate')),
    data JSONB NOT NULL,
    created_at TIMESTAMP WITH TIME ZONE DEFAULT NOW(),
    old_data JSONB,
    unchanged TEXT[],
    omitted TEXT[],
    as_text TEXT[],
    xid BIGINT,
    committed_at TIMESTAMP WITH TIME ZONE,
    epoch INTEGER
);

-- LSNs do not sort as text ('0/A' > '0/10'): compare them as pg_lsn. BRIN costs next to nothing on
-- insert, since both columns grow with the table.
CREATE INDEX change_history_lsn ON change_history USING brin ((lsn::pg_lsn) pg_lsn_minmax_ops);

CREATE INDEX change_history_created_at ON change_history USING brin (created_at);
