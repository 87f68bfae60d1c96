//! Looking up what the filters of consumers name: the one place that binds views.

use std::collections::BTreeSet;
use std::rc::Rc;

use super::consumer::Consumer;
use super::sink::Sink;
use crate::clients::{Columns, MAX_COLUMNS_AT_ONCE, View, Views};
use crate::config::TableName;
use crate::error::Result;
use crate::postgres::{Connection, Stream};

/// Consumers that are bound together, with the views that they had when it began.
pub(super) struct BindBatch<S> {
    members: Vec<(Rc<Consumer<S>>, Rc<View>)>,
    columns: BTreeSet<(TableName, String)>,
}

impl<S: Sink> BindBatch<S> {
    /// As many unbound consumers as one statement can serve, at least one; `None` when there is
    /// none. A consumer whose lookup failed is bound alone, so that its failure affects no other.
    pub(super) fn of(consumers: &[Rc<Consumer<S>>], now: u64) -> Option<Self> {
        let mut batch: Option<Self> = None;
        for consumer in consumers {
            let Some(view) = consumer.unbound() else {
                continue;
            };
            let reading = consumer.reading();
            if !reading.may_read(now) {
                continue;
            }
            let has_failed = reading.failures() > 0;
            let columns = columns_of(&view);
            match &mut batch {
                None => {
                    let members = vec![(Rc::clone(consumer), view)];
                    batch = Some(Self { members, columns });
                    if has_failed {
                        break;
                    }
                }
                Some(batch) if !has_failed => batch.add(consumer, view, columns),
                Some(_) => {}
            }
        }
        batch
    }

    fn add(
        &mut self,
        consumer: &Rc<Consumer<S>>,
        view: Rc<View>,
        columns: BTreeSet<(TableName, String)>,
    ) {
        let new = columns.difference(&self.columns).count();
        if self.columns.len() + new <= MAX_COLUMNS_AT_ONCE {
            self.columns.extend(columns);
            self.members.push((Rc::clone(consumer), view));
        }
    }

    /// The consumers.
    pub(super) fn members(&self) -> impl Iterator<Item = &Rc<Consumer<S>>> {
        self.members.iter().map(|(consumer, _)| consumer)
    }

    /// Reads what the catalogue says of their columns.
    pub(super) async fn look_up<St: Stream>(
        &self,
        connection: &mut Connection<St>,
    ) -> Result<Columns> {
        let all: Vec<_> = self.columns.iter().cloned().collect();
        let mut found = Columns::default();
        for some in all.chunks(MAX_COLUMNS_AT_ONCE) {
            let some = some.iter().cloned().collect();
            found.extend(Columns::read(connection, &some).await?);
        }
        Ok(found)
    }

    /// Binds the views. A consumer that has subscribed to something else meanwhile is bound next
    /// time.
    pub(super) fn bind(&self, columns: &Columns, views: &Views) {
        let facts = |table: &TableName, column: &str| columns.facts(table, column);
        for (consumer, view) in &self.members {
            if !Rc::ptr_eq(view, &consumer.state().view) {
                continue;
            }
            let mut bound = View::clone(view);
            let result = if consumer.was_bound() {
                bound.rebind(facts);
                Ok(())
            } else {
                bound.bind(facts)
            };
            consumer.bind(result.map(|()| views.shared(Rc::new(bound))));
        }
    }
}

fn columns_of(view: &View) -> BTreeSet<(TableName, String)> {
    let columns = view.filtered_columns();
    columns
        .map(|(table, column)| (table.clone(), column.to_owned()))
        .collect()
}
