//! Writes what one peek returned to the history.
//!
//! ```text
//! Slice -> decode -> Assembler -> ChangeBatch -> Writer
//! ```

use std::collections::VecDeque;

use super::checkpoint_update::CheckpointUpdate;
use super::cycle_config::CycleConfig;
use super::cycle_state::CycleState;
use super::peek::{Peek, Slice};
use crate::changes::{
    Assembler, ChangeBatch, DescribedRelation, Limits, Outcome, TypeCatalog, TypeRow,
};
use crate::error::Result;
use crate::history::{self, QueuedInsert, Recent, WriteError};
use crate::lsn::Lsn;
use crate::pgoutput;
use crate::postgres::{self, ArrayParam, Connection, Element, Param, Stream};
use crate::state::Checkpoint;

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
    /// The end of the last commit that was decoded, stored or not.
    last_commit_end: Lsn,
    in_flight: VecDeque<Write>,
}

/// A write in flight.
#[derive(Debug)]
struct Write {
    /// The id of its first change.
    first_id: i64,
    insert: QueuedInsert,
}

/// What was written of one peek.
#[derive(Debug)]
pub(super) struct Written {
    /// The id before the first change.
    pub(super) after: i64,
    /// The number of changes.
    pub(super) stored: u64,
    /// The changes, if they are few enough to be kept in memory.
    pub(super) recent: Option<Recent>,
    /// The relations that were described, each with the id of the first change that it applies to.
    pub(super) relations: Vec<(i64, DescribedRelation)>,
}

impl BatchWriter {
    pub(super) fn new(config: &CycleConfig, cycle: &CycleState) -> Self {
        let checkpoint = &cycle.checkpoint;
        Self {
            assembler: Assembler::new(
                checkpoint.lsn,
                cycle.feed_tables.clone(),
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
            in_flight: VecDeque::new(),
        }
    }

    /// The end of the last commit that was decoded, stored or not.
    pub(super) fn last_commit_end(&self) -> Lsn {
        self.last_commit_end
    }

    /// There are changes that have not been sent.
    pub(super) fn has_unwritten(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Bytes of changes that have not been sent.
    pub(super) fn unwritten_bytes(&self) -> usize {
        self.batch.bytes()
    }

    /// The update of the checkpoint once everything up to `covered_through` is stored, including
    /// what has not been sent yet.
    pub(super) fn checkpoint_update<'a>(
        &self,
        slot: &'a str,
        known: &'a Checkpoint,
        covered_through: Lsn,
    ) -> CheckpointUpdate<'a> {
        let unwritten = self.batch.len() as u64;
        CheckpointUpdate {
            slot,
            known,
            lsn: covered_through.max(known.lsn),
            last_id: self.last_id.saturating_add_unsigned(unwritten),
        }
    }

    /// Decodes a slice into the batch. Looks up unknown types over `connection`, which the peek
    /// reads from; no write may be in flight on it.
    pub(super) async fn decode<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
        cycle: &mut CycleState,
        peek: &mut Peek,
        slice: Slice,
    ) -> Result<()> {
        for message in slice.messages {
            let is_whole = message.bytes.len() == message.full_len;
            let decoded = if is_whole {
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
                    peek.receive(connection).await?;
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

    /// If a transaction whose end has not arrived keeps more than `max_bytes` pending, scans ahead
    /// for its commit, so that its changes can be written. `connection` is as for [`Self::decode`].
    pub(super) async fn limit_pending<S: Stream>(
        &mut self,
        max_bytes: usize,
        connection: &mut Connection<S>,
        peek: &mut Peek,
    ) -> Result<()> {
        if let Some(xid) = self.assembler.open_transaction()
            && self.batch.pending_bytes() > max_bytes
        {
            peek.receive(connection).await?;
            let end = peek.find_commit(connection, xid).await?;
            self.assembler.set_commit_lsn(end, &mut self.batch);
        }
        Ok(())
    }

    /// Sends the insertion of the whole batch. [`Self::await_writes`] waits for the answer.
    pub(super) async fn write<S: Stream>(&mut self, connection: &mut Connection<S>) -> Result<()> {
        let first_id = self.next_id();
        let insert = self
            .writer
            .queue(connection, &self.batch, first_id, self.epoch)?;
        connection.send().await?;
        self.batch_sent(Write { first_id, insert });
        Ok(())
    }

    /// Queues the insertion of the whole batch together with the checkpoint's update, in one
    /// statement, which inserts nothing unless it updates the checkpoint.
    pub(super) fn queue_conditional_write<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
        update: &CheckpointUpdate<'_>,
    ) -> Result<()> {
        let first_id = self.next_id();
        let condition = update.condition();
        let insert =
            self.writer
                .queue_if(connection, &self.batch, first_id, self.epoch, &condition)?;
        self.batch_sent(Write { first_id, insert });
        Ok(())
    }

    fn batch_sent(&mut self, write: Write) {
        let fits = self
            .recent
            .as_mut()
            .is_some_and(|recent| recent.push(&self.batch, write.first_id));
        if !fits {
            self.recent = None;
        }
        self.in_flight.push_back(write);
        let count = self.batch.len() as u64;
        self.last_id = self.last_id.saturating_add_unsigned(count);
        self.stored += count;
        self.batch.clear();
    }

    /// Waits until at most `left` writes are in flight.
    pub(super) async fn await_writes<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
        cycle: &mut CycleState,
        left: usize,
    ) -> Result<()> {
        while self.in_flight.len() > left {
            self.await_write(connection, cycle).await?;
        }
        Ok(())
    }

    /// Waits for the oldest write in flight. Returns the number of rows that it inserted; 0 if none
    /// is in flight.
    pub(super) async fn await_write<S: Stream>(
        &mut self,
        connection: &mut Connection<S>,
        cycle: &mut CycleState,
    ) -> Result<u64> {
        let Some(Write { first_id, insert }) = self.in_flight.pop_front() else {
            return Ok(0);
        };
        let written = insert.finish(connection).await;
        if let Err(WriteError::ValueRefused(_)) = &written {
            let from = cycle.documents_as_text_from.unwrap_or(first_id);
            cycle.documents_as_text_from = Some(from.min(first_id));
        }
        Ok(written?)
    }

    /// What was written.
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
