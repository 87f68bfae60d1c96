//! The properties of the server that replication depends on.

use crate::error::{Category, Error, Result};
use crate::lsn::Lsn;
use crate::postgres::{Connection, Stream};

/// The properties of the server, as read at one time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// `pg_control_system().system_identifier`: made by initdb, kept by every copy of the cluster.
    pub system_identifier: String,
    /// The current timeline. It changes with a restore and with a promotion.
    pub timeline: i64,
    /// Everything before this position is on disk.
    pub flush_lsn: Lsn,
    /// The schema in which tables are created if none is named.
    pub schema: String,
    /// The role may call `pg_log_standby_snapshot()` (PostgreSQL 16 and later).
    pub may_log_snapshots: bool,
    /// `change_history` exists.
    pub(super) has_history: bool,
    version: i32,
    wal_level: String,
    role: String,
    may_replicate: bool,
    slots_used: i64,
    slots_allowed: i64,
}

// On RDS the right to replicate is a membership of the role, not an attribute. The timeline is read
// from the name of the WAL file, since pg_control_checkpoint() shows a new one only after a
// checkpoint.
const READ: &str = "\
SELECT pg_catalog.pg_is_in_recovery(), \
       (SELECT system_identifier::text FROM pg_catalog.pg_control_system()), \
       CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN \
         ('x' || pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int8 END, \
       CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_current_wal_flush_lsn() END, \
       pg_catalog.current_schema()::text, \
       pg_catalog.current_setting('wal_level'), \
       current_user::text, \
       (SELECT rolsuper OR rolreplication OR EXISTS (SELECT FROM pg_catalog.pg_roles g \
          WHERE g.rolname = 'rds_replication' AND pg_catalog.pg_has_role(r.oid, g.oid, 'MEMBER')) \
        FROM pg_catalog.pg_roles r WHERE r.rolname = current_user), \
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots), \
       pg_catalog.current_setting('max_replication_slots')::int8, \
       pg_catalog.to_regclass('change_history') IS NOT NULL, \
       pg_catalog.current_setting('server_version_num')::int4, \
       COALESCE(pg_catalog.has_function_privilege(pg_catalog.to_regprocedure('pg_log_standby_snapshot()'), 'EXECUTE'), \
         false)";

/// In the form of `server_version_num`.
const OLDEST_VERSION: i32 = 150_000;

impl Server {
    /// Reads the properties in one round trip.
    ///
    /// Fails with [`Category::Configuration`] on a standby, or if there is no schema to create
    /// tables in.
    pub async fn read<S: Stream>(connection: &mut Connection<S>) -> Result<Self> {
        let row = connection.query_one(READ, &[]).await?;
        if row.get(0)? {
            return Err(Error::new(
                Category::Configuration,
                "server_in_recovery",
                "this server is a standby: it cannot store change history",
            )
            .with_remedy("connect to the primary"));
        }
        let schema: Option<String> = row.get(4)?;
        Ok(Self {
            system_identifier: row.get(1)?,
            timeline: row.get(2)?,
            flush_lsn: row.get(3)?,
            schema: schema.ok_or_else(no_schema)?,
            wal_level: row.get(5)?,
            role: row.get(6)?,
            may_replicate: row.get(7)?,
            slots_used: row.get(8)?,
            slots_allowed: row.get(9)?,
            has_history: row.get(10)?,
            version: row.get(11)?,
            may_log_snapshots: row.get(12)?,
        })
    }

    /// Checks what only the server's administrator can change.
    pub(super) fn check_requirements(&self) -> Result<()> {
        if self.version < OLDEST_VERSION {
            let message = format!("this is PostgreSQL {}", self.version / 10_000);
            return Err(
                Error::new(Category::Configuration, "server_too_old", message)
                    .with_remedy("upgrade the server: the feed supports PostgreSQL 15 and later"),
            );
        }
        if self.wal_level != "logical" {
            let message = format!("wal_level is {} but must be logical", self.wal_level);
            return Err(
                Error::new(Category::Configuration, "wal_level_too_low", message).with_remedy(
                    "run ALTER SYSTEM SET wal_level = 'logical'; and restart Postgres (managed \
                     services have a setting for it, such as rds.logical_replication = 1)",
                ),
            );
        }
        if !self.may_replicate {
            let message = format!("the role {} may not use replication slots", self.role);
            let role = postgres_protocol::escape::escape_identifier(&self.role);
            return Err(Error::new(Category::Permission, "replication_not_allowed", message)
                .with_remedy(format!(
                    "run ALTER ROLE {role} REPLICATION; (on RDS: GRANT rds_replication TO {role};)"
                )));
        }
        Ok(())
    }

    /// Checks that the server has room for one more slot.
    pub(super) fn check_free_slot(&self) -> Result<()> {
        if self.slots_used < self.slots_allowed {
            return Ok(());
        }
        let message = format!(
            "all {} replication slots (max_replication_slots) are in use",
            self.slots_allowed
        );
        Err(
            Error::new(Category::Configuration, "no_free_slot", message).with_remedy(format!(
                "drop one that nobody needs with SELECT pg_drop_replication_slot('...'); (to list them: \
             SELECT slot_name, active FROM pg_replication_slots;), or run ALTER SYSTEM SET \
             max_replication_slots = {}; and restart Postgres",
                self.slots_allowed + 4
            )),
        )
    }
}

fn no_schema() -> Error {
    Error::new(
        Category::Configuration,
        "no_schema",
        "none of the schemas in the role's search_path exists and can be used by the role",
    )
    .with_remedy("run GRANT USAGE, CREATE ON SCHEMA public TO the role, or set its search_path")
}
