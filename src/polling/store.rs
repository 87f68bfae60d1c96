//! What one peek gave, on its way into history.
//!
//! ```text
//! Slice -> decode -> Assembler -> ChangeBatch -> [ lock the checkpoint, once ] -> Writer
//! ```

use tokio::io::{AsyncRead, AsyncWrite};

use super::cycle::{Cycle, Feed};
use super::fence;
use super::peek::{Peek, Slice};
use crate::changes::{
    Accepted, Assembler, ChangeBatch, DescribedRelation, Limits, TypeCatalog, TypeRow,
};
use crate::error::Result;
use crate::history::{self, Recent};
use crate::lsn::Lsn;
use crate::pgoutput;
use crate::postgres::{self, ArrayParam, Connection, Element, Param};
use crate::state::OWN_TABLES;

/// The changes of one peek, a slice at a time.
#[derive(Debug)]
pub(super) struct Store {
    assembler: Assembler,
    batch: ChangeBatch,
    writer: history::Writer,
    recent: Option<Recent>,
    relations: Vec<(i64, DescribedRelation)>,
    epoch: i32,
    last_id: i64,
    stored: u64,
    /// The end of the last commit that the peek lists, stored or not.
    passed: Lsn,
    /// The checkpoint row is locked by this transaction.
    fenced: bool,
    /// The id of the first change of the write that is under way.
    writing: Option<i64>,
}

/// What one peek has stored.
#[derive(Debug)]
pub(super) struct Finished {
    pub(super) changes: u64,
    pub(super) last_id: i64,
    /// The changes, when they are few.
    pub(super) recent: Option<Recent>,
    /// The relations that were described, each with the id of the first change that it is of.
    pub(super) relations: Vec<(i64, DescribedRelation)>,
}

impl Store {
    pub(super) fn new(feed: &Feed, cycle: &Cycle) -> Self {
        let checkpoint = &cycle.checkpoint;
        Self {
            assembler: Assembler::new(
                checkpoint.lsn,
                OWN_TABLES.map(|table| (feed.own_schema.clone(), table.to_owned())),
                Limits {
                    max_row_bytes: feed.max_row_bytes as usize,
                },
            ),
            batch: ChangeBatch::default(),
            writer: history::Writer::new(feed.write_by),
            recent: Some(Recent::after(checkpoint.epoch, checkpoint.last_id)),
            relations: Vec::new(),
            epoch: checkpoint.epoch,
            last_id: checkpoint.last_id,
            stored: 0,
            passed: checkpoint.lsn,
            fenced: false,
            writing: None,
        }
    }

    /// Changes stored so far.
    pub(super) fn stored(&self) -> u64 {
        self.stored
    }

    /// Up to where everything that the peek lists is stored.
    pub(super) fn passed(&self) -> Lsn {
        self.passed
    }

    /// The last slice gave changes.
    pub(super) fn has_unwritten(&self) -> bool {
        !self.batch.is_empty()
    }

    /// Decodes a slice into the batch. Asks the catalogue for types that are new, once what is under
    /// way has been answered.
    pub(super) async fn transform<S>(
        &mut self,
        connection: &mut Connection<S>,
        cycle: &mut Cycle,
        peek: &mut Peek,
        slice: Slice,
    ) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.batch.clear();
        for commit in slice.commits {
            self.assembler.expect_commit(commit.xid, commit.end_lsn);
            self.passed = self.passed.max(commit.end_lsn);
        }
        for message in slice.messages {
            let whole = message.bytes.len() == message.full_len;
            let decoded = if whole {
                pgoutput::decode(&message.bytes)?
            } else {
                pgoutput::decode_prefix(&message.bytes, message.full_len)?
            };
            let next_id = self
                .next_id()
                .saturating_add_unsigned(self.batch.len() as u64);
            let as_text = cycle
                .documents_as_text_from
                .is_some_and(|from| next_id >= from);
            self.assembler.write_documents_as_text(as_text);
            let types = &mut cycle.types;
            let accepted = self.assembler.accept(&decoded, types, &mut self.batch)?;
            if let Accepted::NeedTypes(missing) = accepted {
                self.settle(connection, cycle).await?;
                peek.receive(connection).await?;
                let types = &mut cycle.types;
                look_up_types(connection, types, &missing).await?;
                self.assembler.accept(&decoded, types, &mut self.batch)?;
            }
            let described = self.assembler.take_described().into_iter();
            self.relations
                .extend(described.map(|relation| (next_id, relation)));
        }
        Ok(())
    }

    /// Locks the checkpoint, once. False when another reader has stored since it was looked at.
    /// Nothing may be under way.
    pub(super) async fn lock<S>(
        &mut self,
        connection: &mut Connection<S>,
        feed: &Feed,
        cycle: &mut Cycle,
    ) -> Result<bool>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if !self.fenced {
            let has_moved = fence::lock(connection, &feed.slot, &mut cycle.checkpoint).await?;
            self.fenced = !has_moved;
        }
        Ok(self.fenced)
    }

    /// Queues the batch's insertion; [`Self::settle`] takes in the answer.
    pub(super) fn queue_write<S>(&mut self, connection: &mut Connection<S>) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let first_id = self.next_id();
        self.writer
            .queue(connection, &self.batch, first_id, self.epoch)?;
        self.writing = Some(first_id);
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
        Ok(())
    }

    /// Waits for the insertion that is under way, if there is one.
    pub(super) async fn settle<S>(
        &mut self,
        connection: &mut Connection<S>,
        cycle: &mut Cycle,
    ) -> Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let Some(first_id) = self.writing.take() else {
            return Ok(());
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

    /// What was stored.
    pub(super) fn finish(self) -> Finished {
        Finished {
            changes: self.stored,
            last_id: self.last_id,
            recent: self.recent,
            relations: self.relations,
        }
    }

    fn next_id(&self) -> i64 {
        self.last_id.saturating_add(1)
    }
}

async fn look_up_types<S>(
    connection: &mut Connection<S>,
    types: &mut TypeCatalog,
    missing: &[u32],
) -> Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
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
    types.learn(missing, described?);
    Ok(())
}
