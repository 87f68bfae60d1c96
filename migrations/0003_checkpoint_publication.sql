-- What the publication published when the feed last looked, so that a feed that was away can tell whether
-- it published less meanwhile. NULL until the feed has looked.
ALTER TABLE replication_checkpoint ADD COLUMN IF NOT EXISTS publication JSONB;
