//! What one peek gave, on its way into history.
//!
//! ```text
//! Slice -> decode -> Assembler -> ChangeBatch -> Writer
//! ```

use std::collections::VecDeque;

use super::checkpoint_update::{self, CheckpointUpdate};
use super::cycle::{CycleConfig, CycleState};
use super::peek::{Peek, Slice};
use crate::changes::{
    Assembler, ChangeBatch, DescribedRelation, Limits, Outcome, TypeCatalog, TypeRow,
};
use crate::error::Result;
use crate::history::{self, Recent};
use crate::lsn::Lsn;
use crate::pgoutput;
use crate::postgres::{self, ArrayParam, Connection, Element, Param, Stream};
use crate::state::{Checkpoint, OWN_TABLES};

/// The changes of one peek, a slice at a time.
#[derive(Debug)]
pub(super) struct BatchWriter {
    assembler: Assembler,
    batch: ChangeBatch,
    writer: history::Writer,
    recent: Option<Recent>,
    relations: Vec<(i64, DescribedRelation)>,
    epoch: i32,
    last_id: i64,
    stored: u64,
    /// The end of the last commit that was given, stored or not.
    last_commit_end: Lsn,
    /// The ids of the first changes of the writes that are under way.
    writing: VecDeque<i64>,
}

/// What one peek has stored.
#[derive(Debug)]
pub(super) struct Written {
    /// The id before the first change.
    pub(super) after: i64,
    /// How many changes.
    pub(super) stored: u64,
    /// The changes, when they are few.
    pub(super) recent: Option<Recent>,
    /// The relations that were described, each with the id of the first change that it is of.
    pub(super) relations: Vec<(i64, DescribedRelation)>,
}

impl BatchWriter {
    pub(super) fn new(config: &CycleConfig, cycle: &CycleState) -> Self {
        let checkpoint = &cycle.checkpoint;
        Self {
            assembler: Assembler::new(
                checkpoint.lsn,
                OWN_TABLES.map(|table| (config.own_schema.clone(), table.to_owned())),
                Limits {
                    max_row_bytes: config.max_row_bytes as usize,
                },
            ),
            batch: ChangeBatch::default(),
            writer: history::Writer::new(config.write_method),
            recent: Some(Recent::after(checkpoint.epoch, checkpoint.last_id)),
            relations: Vec::new(),
            epoch: checkpoint.epoch,
            last_id: checkpoint.last_id,
            stored: 0,
            last_commit_end: checkpoint.lsn,
            writing: VecDeque::new(),
        }
    }

    /// The end of the last commit.
    pub(super) fn last_commit_end(&self) -> Lsn {
        self.last_commit_end
    }

    /// There are changes that no write has taken.
    pub(super) fn has_unwritten(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Bytes of changes that no write has taken.
    pub(super) fn unwritten_bytes(&self) -> usize {
        self.batch.bytes()
    }

    /// The checkpoint's move when everything up to `covered` is stored, with what no write has
    /// taken yet.
    pub(super) fn checkpoint_update<'a>(
        &self,
        slot: &'a str,
        known: &'a Checkpoint,
        covered: Lsn,
    ) -> CheckpointUpdate<'a> {
        let unwritten = self.batch.len() as u64;
        CheckpointUpdate {
            slot,
            known,
            lsn: covered.max(known.lsn),
            last_id: self.last_id.saturating_add_unsigned(unwritten),
        }
    }

    /// Decodes a slice into the batch. Asks the catalogue for types that are new over `connection`,
    /// the one that is peeked over, once what is under way there has been answered: with `single_connection`,
    /// writes too.
    pub(super) async fn transform<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
        cycle: &mut CycleState,
        peek: &mut Peek,
        slice: Slice,
        single_connection: bool,
    ) -> Result<()> {
        for message in slice.messages {
            let whole = message.bytes.len() == message.full_len;
            let decoded = if whole {
                pgoutput::decode(&message.bytes)?
            } else {
                pgoutput::decode_prefix(&message.bytes, message.full_len)?
            };
            let waiting = self.batch.len() + self.batch.pending();
            let next_id = self.next_id().saturating_add_unsigned(waiting as u64);
            let as_text = cycle
                .documents_as_text_from
                .is_some_and(|from| next_id >= from);
            self.assembler.write_documents_as_text(as_text);
            let types = &mut cycle.types;
            match self.assembler.accept(&decoded, types, &mut self.batch)? {
                Outcome::Nothing | Outcome::Changes(_) => {}
                Outcome::Committed(end) => self.last_commit_end = self.last_commit_end.max(end),
                Outcome::MissingTypes(missing) => {
                    self.drain_responses(connection, cycle, peek, single_connection)
                        .await?;
                    let types = &mut cycle.types;
                    look_up_types(connection, types, &missing).await?;
                    self.assembler.accept(&decoded, types, &mut self.batch)?;
                }
            }
            let described = self.assembler.take_described_relations().into_iter();
            self.relations
                .extend(described.map(|relation| (next_id, relation)));
        }
        if slice.is_last {
            self.assembler.finish()?;
        }
        Ok(())
    }

    /// Where more than `max_bytes` of a transaction are held back, since its end has not come, looks
    /// ahead for it. `connection` and `single_connection` are as for [`Self::transform`].
    pub(super) async fn hold_at_most<S: Stream>(
        &mut self,
        max_bytes: usize,
        connection: &mut Connection<S>,
        cycle: &mut CycleState,
        peek: &mut Peek,
        single_connection: bool,
    ) -> Result<()> {
        if let Some(xid) = self.assembler.open_transaction()
            && self.batch.pending_bytes() > max_bytes
        {
            self.drain_responses(connection, cycle, peek, single_connection)
                .await?;
            let end = peek.find_commit(connection, xid).await?;
            self.assembler.set_commit_lsn(end, &mut self.batch);
        }
        Ok(())
    }

    /// Takes in whatever is under way on the connection that is peeked over.
    async fn drain_responses<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
        cycle: &mut CycleState,
        peek: &mut Peek,
        single_connection: bool,
    ) -> Result<()> {
        while single_connection && self.writes_under_way() > 0 {
            self.await_write(connection, cycle).await?;
        }
        Ok(peek.receive(connection).await?)
    }

    /// Sends the insertion of all that is not written yet; [`Self::await_write`] takes in the answer.
    pub(super) async fn write<S: Stream>(&mut self, connection: &mut Connection<S>) -> Result<()> {
        let first_id = self.next_id();
        self.writer
            .queue(connection, &self.batch, first_id, self.epoch)?;
        connection.send().await?;
        self.record_write(first_id);
        Ok(())
    }

    /// Queues the same, in one statement with the checkpoint's move, and only if that finds
    /// the checkpoint as it is known.
    pub(super) fn queue_conditional_write<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
        update: &CheckpointUpdate<'_>,
    ) -> Result<()> {
        let first_id = self.next_id();
        let fence = checkpoint_update::condition(update);
        self.writer
            .queue_if(connection, &self.batch, first_id, self.epoch, &fence)?;
        self.record_write(first_id);
        Ok(())
    }

    fn record_write(&mut self, first_id: i64) {
        self.writing.push_back(first_id);
        if !self
            .recent
            .as_mut()
            .is_some_and(|recent| recent.push(&self.batch, first_id))
        {
            self.recent = None;
        }
        let count = self.batch.len() as u64;
        self.last_id = self.last_id.saturating_add_unsigned(count);
        self.stored += count;
        self.batch.clear();
    }

    /// Waits for the oldest insertion that is under way, if there is one; gives the number of rows
    /// it inserted.
    pub(super) async fn await_write<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
        cycle: &mut CycleState,
    ) -> Result<u64> {
        let Some(first_id) = self.writing.pop_front() else {
            return Ok(0);
        };
        history::Writer::finish(connection)
            .await
            .inspect_err(|error| {
                if error.code() == history::VALUE_REFUSED {
                    let from = cycle.documents_as_text_from.unwrap_or(first_id);
                    cycle.documents_as_text_from = Some(from.min(first_id));
                }
            })
    }

    /// Insertions that are under way.
    pub(super) fn writes_under_way(&self) -> usize {
        self.writing.len()
    }

    /// What was stored.
    pub(super) fn finish(self) -> Written {
        Written {
            after: self.last_id.saturating_sub_unsigned(self.stored),
            stored: self.stored,
            recent: self.recent,
            relations: self.relations,
        }
    }

    fn next_id(&self) -> i64 {
        self.last_id.saturating_add(1)
    }
}

async fn look_up_types<S: Stream>(
    connection: &mut Connection<S>,
    types: &mut TypeCatalog,
    missing: &[u32],
) -> Result<()> {
    let mut oids = ArrayParam::new(Element::Oid);
    for &oid in missing {
        oids.push_oid(oid);
    }
    let rows = connection
        .query(TypeCatalog::LOOKUP_SQL, &[Param::Array(&oids)])
        .await?;
    let described: std::result::Result<Vec<TypeRow>, postgres::Error> = rows
        .iter()
        .map(|row| {
            Ok(TypeRow {
                oid: row.get(0)?,
                kind: row.get(1)?,
                part: row.get(2)?,
                detail: row.get(3)?,
            })
        })
        .collect();
    types.add(missing, described?);
    Ok(())
}
