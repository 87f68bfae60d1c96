//! What a client asked for, what its ticket lets it see, and which rows of a change it gets.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use super::change::{FeedChange, Kind, Visible, redact};
use super::change_range::CachedChange;
use super::filter::{ColumnFacts, Condition, MAX_CONDITIONS, RawCondition, Truth};
use super::frame_error::FrameError;
use super::schema_history::{SchemaAt, SchemaHistory};
use crate::changes::RelationName;
use crate::config::TableName;

/// Subscriptions of one client, and tables of one ticket.
pub const MAX_SUBSCRIPTIONS: usize = 64;
/// Bytes of all subscriptions of one client as JSON, and of all tables of one ticket: both are kept
/// in the socket's attachment of 16 KiB.
pub const MAX_SUBSCRIPTIONS_BYTES: usize = 6 << 10;

/// One table, or some of its rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "RawSubscription", into = "RawSubscription")]
pub struct Subscription {
    table: TableName,
    /// The table, as in `change_history.table_name`.
    qualified: String,
    /// All must hold; empty: all rows.
    filter: Vec<Condition>,
}

/// What a client wants to get. Several subscriptions of one table add up.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subscriptions {
    /// Every table of the publication, or every table of the ticket.
    AllTables,
    /// These.
    Tables(Vec<Subscription>),
}

/// What a client asked for, and what it may see.
///
/// A change is for the client when
/// - its subscriptions match, or may match, the new or the old row: if unknown, the change is sent,
///   because a change that is not sent is lost; and
/// - its ticket certainly allows the row: if unknown, the row is withheld, because a ticket exists to
///   hide rows. An update is sent with only the rows that the ticket allows.
///
/// `TRUNCATE` carries no row, so it is for every client of its table.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct View {
    /// What the client asked for.
    #[serde(rename = "want")]
    wanted: Subscriptions,
    /// What its ticket allows; `None`: everything.
    #[serde(rename = "may", default, skip_serializing_if = "Option::is_none")]
    allowed: Option<Vec<Subscription>>,
}

/// A filter that cannot be evaluated for some updates and deletes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FilterWarning {
    /// The table, as it was subscribed to.
    pub table: String,
    /// The filter's columns whose old values the table's replica identity leaves out.
    pub columns: Vec<String>,
    /// What this means for the client.
    pub message: String,
    /// The SQL that fixes it.
    pub sql: String,
}

/// The JSON form.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSubscription {
    table: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    filter: Vec<RawCondition>,
}

impl Subscription {
    /// All rows of a table.
    pub fn whole_table(table: TableName) -> Self {
        Self {
            qualified: qualified(&table),
            table,
            filter: Vec::new(),
        }
    }

    /// The table.
    pub fn table(&self) -> &TableName {
        &self.table
    }

    /// The conditions, all of which must hold.
    pub fn filter(&self) -> &[Condition] {
        &self.filter
    }

    /// Applies the catalogue's facts about the filter's columns; `facts` returns `None` for a
    /// column that the table does not have.
    pub fn bind(&mut self, facts: impl Fn(&str) -> Option<ColumnFacts>) -> Result<(), FrameError> {
        for (index, condition) in self.filter.iter_mut().enumerate() {
            let within = |error: FrameError| error.within(&format!("filter[{index}]"));
            let problem = || format!("the table has no column {:?}", condition.column());
            let found = facts(condition.column())
                .ok_or_else(|| within(FrameError::field("column", problem())))?;
            condition.bind(found).map_err(within)?;
        }
        Ok(())
    }

    /// Warns of columns whose old values updates and deletes may not carry, with the SQL that fixes
    /// it.
    pub fn warning(&self) -> Option<FilterWarning> {
        let uncovered = self
            .filter
            .iter()
            .filter(|condition| !condition.is_identity());
        let mut columns: Vec<String> = uncovered
            .map(|condition| condition.column().to_owned())
            .collect();
        columns.sort_unstable();
        columns.dedup();
        if columns.is_empty() {
            return None;
        }
        let identifier = postgres_protocol::escape::escape_identifier;
        let TableName { schema, table } = &self.table;
        Some(FilterWarning {
            table: self.table.to_string(),
            message:
                "updates and deletes do not carry the old values of these columns, so the old \
                      row cannot be checked: without a ticket they are sent anyway; with a ticket, \
                      a row that stops matching is not reported"
                    .into(),
            sql: format!(
                "ALTER TABLE {}.{} REPLICA IDENTITY FULL",
                identifier(schema),
                identifier(table)
            ),
            columns,
        })
    }

    fn is_of(&self, change: &FeedChange<'_>) -> bool {
        self.table.schema == change.schema() && self.table.table == change.table()
    }

    fn holds_for_new(&self, change: &FeedChange<'_>, then: SchemaAt<'_>) -> Truth {
        all(&self.filter, |condition| {
            let is_number = then.is_number(&self.table, condition.column());
            condition.holds(change.data(condition.column()), is_number)
        })
    }

    /// An update without an old row did not change the replica identity's columns. Both the feed
    /// and the catalogue must say that the column is one of them: the partitions of a table may
    /// differ from what the feed describes.
    fn holds_for_old(&self, change: &FeedChange<'_>, then: SchemaAt<'_>) -> Truth {
        all(&self.filter, |condition| {
            let column = condition.column();
            let old = change.old(column);
            let is_same =
                !change.has_old() && condition.is_identity() && then.is_key(&self.table, column);
            let old = old.or_else(|| is_same.then(|| change.data(column)).flatten());
            condition.holds(old, then.is_number(&self.table, column))
        })
    }
}

fn qualified(table: &TableName) -> String {
    RelationName::new(&table.schema, &table.table)
        .qualified()
        .to_owned()
}

fn all(conditions: &[Condition], holds: impl Fn(&Condition) -> Truth) -> Truth {
    conditions.iter().map(holds).min().unwrap_or(Truth::True)
}

impl TryFrom<RawSubscription> for Subscription {
    type Error = FrameError;

    fn try_from(raw: RawSubscription) -> Result<Self, FrameError> {
        read_subscription(raw, Condition::try_from)
    }
}

/// Reads a list of subscriptions as a client or a ticket sends it; `field` is its name there.
pub(super) fn read_subscriptions(
    field: &str,
    list: Vec<RawSubscription>,
) -> Result<Vec<Subscription>, FrameError> {
    if list.is_empty() {
        return Err(FrameError::field(field, "must name at least one table"));
    }
    FrameError::check_size(field, list.len(), MAX_SUBSCRIPTIONS)?;
    let read = |(index, raw)| {
        read_subscription(raw, Condition::from_client)
            .map_err(|error: FrameError| error.within(&format!("{field}[{index}]")))
    };
    let list = list.into_iter().enumerate().map(read);
    let list = list.collect::<Result<Vec<_>, _>>()?;
    check_bytes(field, &list)?;
    Ok(list)
}

/// Refuses subscriptions that would not fit the socket's attachment once [`Subscription::bind`] has
/// added its flags.
pub(super) fn check_bytes(field: &str, list: &[Subscription]) -> Result<(), FrameError> {
    const FLAG: usize = r#","identity":true"#.len();
    let conditions: usize = list
        .iter()
        .map(|subscription| subscription.filter.len())
        .sum();
    let bytes = serde_json::to_string(list).map_or(usize::MAX, |json| json.len());
    let bytes = bytes.saturating_add(conditions.saturating_mul(FLAG));
    FrameError::check_size(field, bytes, MAX_SUBSCRIPTIONS_BYTES)
}

fn read_subscription(
    raw: RawSubscription,
    read: impl Fn(RawCondition) -> Result<Condition, FrameError>,
) -> Result<Subscription, FrameError> {
    FrameError::check_size("filter", raw.filter.len(), MAX_CONDITIONS)?;
    let conditions = raw.filter.into_iter().enumerate();
    let conditions = conditions.map(|(index, raw)| {
        read(raw).map_err(|error: FrameError| error.within(&format!("filter[{index}]")))
    });
    let table = read_table("table", &raw.table)?;
    Ok(Subscription {
        qualified: qualified(&table),
        table,
        filter: conditions.collect::<Result<_, _>>()?,
    })
}

pub(super) fn read_table(field: &str, text: &str) -> Result<TableName, FrameError> {
    let problem = "must be `table` (in schema public) or `schema.table`";
    TableName::parse(text).ok_or_else(|| FrameError::field(field, problem))
}

impl From<Subscription> for RawSubscription {
    fn from(subscription: Subscription) -> Self {
        Self {
            table: subscription.table.to_string(),
            filter: subscription.filter.into_iter().map(Into::into).collect(),
        }
    }
}

impl View {
    /// A view of `wanted` within `allowed`, which is `None` for a client that may see everything.
    /// Fails if the client names a table that the ticket does not.
    pub fn new(
        wanted: Subscriptions,
        allowed: Option<Vec<Subscription>>,
    ) -> Result<Self, FrameError> {
        if let (Subscriptions::Tables(tables), Some(allowed)) = (&wanted, &allowed) {
            for (index, wanted) in tables.iter().enumerate() {
                if !allowed.iter().any(|allowed| allowed.table == wanted.table) {
                    let field = format!("subscriptions[{index}].table");
                    return Err(FrameError::NotAllowed { field });
                }
            }
        }
        Ok(Self { wanted, allowed })
    }

    /// The view of the same client with other subscriptions.
    pub fn resubscribe(&self, wanted: Subscriptions) -> Result<Self, FrameError> {
        Self::new(wanted, self.allowed.clone())
    }

    /// Whether both have the same subscriptions and ticket, whatever the catalogue says of their
    /// columns.
    pub fn asks_for_the_same(&self, other: &Self) -> bool {
        let unbound = |view: &Self| {
            let mut view = view.clone();
            view.rebind(|_, _| None);
            view
        };
        unbound(self) == unbound(other)
    }

    /// What the client asked for.
    pub fn wanted(&self) -> &Subscriptions {
        &self.wanted
    }

    /// Applies the catalogue's facts about every filter's columns; `facts` returns `None` for a
    /// column or a table that does not exist. The path in an error is the client's own field.
    pub fn bind(
        &mut self,
        facts: impl Fn(&TableName, &str) -> Option<ColumnFacts>,
    ) -> Result<(), FrameError> {
        let bind = |name: &str, list: &mut [Subscription]| {
            list.iter_mut().enumerate().try_for_each(|(index, it)| {
                let table = it.table.clone();
                it.bind(|column| facts(&table, column))
                    .map_err(|error| error.within(&format!("{name}[{index}]")))
            })
        };
        if let Subscriptions::Tables(tables) = &mut self.wanted {
            bind("subscriptions", tables)?;
        }
        bind(
            "ticket.tables",
            self.allowed.as_deref_mut().unwrap_or_default(),
        )
    }

    /// Applies the catalogue's current facts about the columns. A column that was dropped or
    /// changed its type is not the client's mistake: the subscription continues, and its conditions
    /// are unknown where they cannot be evaluated.
    pub fn rebind(&mut self, facts: impl Fn(&TableName, &str) -> Option<ColumnFacts>) {
        let wanted = match &mut self.wanted {
            Subscriptions::AllTables => &mut [],
            Subscriptions::Tables(tables) => tables.as_mut_slice(),
        };
        for subscription in wanted.iter_mut().chain(self.allowed.iter_mut().flatten()) {
            for condition in &mut subscription.filter {
                condition.rebind(facts(&subscription.table, condition.column()));
            }
        }
    }

    /// Every filter that cannot be evaluated for some updates and deletes.
    pub fn warnings(&self) -> Vec<FilterWarning> {
        let allowed = self.allowed.iter().flatten();
        let mut warnings = Vec::new();
        for warning in self
            .tables()
            .iter()
            .chain(allowed)
            .filter_map(Subscription::warning)
        {
            if !warnings.contains(&warning) {
                warnings.push(warning);
            }
        }
        warnings
    }

    /// The tables whose changes the client can get, as in `change_history.table_name`; empty: all.
    pub fn table_names(&self) -> Vec<String> {
        let tables = match (&self.wanted, &self.allowed) {
            (Subscriptions::AllTables, Some(allowed)) => allowed,
            (Subscriptions::AllTables, None) => return Vec::new(),
            (Subscriptions::Tables(tables), _) => tables,
        };
        let names = tables.iter().map(|table| table.qualified.clone());
        let mut names: Vec<String> = names.collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// The tables whose rows are filtered.
    pub fn filtered_tables(&self) -> impl Iterator<Item = &TableName> {
        let all = self.tables().iter().chain(self.allowed.iter().flatten());
        all.filter(|subscription| !subscription.filter.is_empty())
            .map(Subscription::table)
    }

    /// Whether every change is for the client.
    pub fn is_everything(&self) -> bool {
        self.wanted == Subscriptions::AllTables && self.allowed.is_none()
    }

    /// Whether any filter names a column.
    pub fn has_filters(&self) -> bool {
        let allowed = self.allowed.iter().flatten();
        let mut all = self.tables().iter().chain(allowed);
        all.any(|subscription| !subscription.filter.is_empty())
    }

    /// The columns that filters name, with their tables.
    pub fn filtered_columns(&self) -> impl Iterator<Item = (&TableName, &str)> {
        let all = self.tables().iter().chain(self.allowed.iter().flatten());
        all.flat_map(|subscription| {
            let columns = subscription.filter.iter().map(Condition::column);
            columns.map(|column| (&subscription.table, column))
        })
    }

    /// How many conditions the client's filters have.
    pub fn conditions(&self) -> usize {
        self.tables()
            .iter()
            .map(|subscription| subscription.filter.len())
            .sum()
    }

    /// Which rows of a stored change the client gets. The table alone decides where possible, so
    /// that most changes are never parsed for most views.
    pub fn see(&self, change: &CachedChange<'_>, schemas: &SchemaHistory) -> Visible {
        if self.is_everything() {
            return Visible::Whole;
        }
        let wanted = match &self.wanted {
            Subscriptions::AllTables => Rows::All,
            Subscriptions::Tables(tables) => rows_of(tables, change.table()),
        };
        let allowed = match &self.allowed {
            None => Rows::All,
            Some(tables) => rows_of(tables, change.table()),
        };
        match (wanted, allowed) {
            (Rows::None, _) | (_, Rows::None) => Visible::Nothing,
            (Rows::All, Rows::All) => Visible::Whole,
            _ => match change.change() {
                Ok(parsed) => self.judge(parsed, schemas.at(change.id())),
                // Not written by this system. It must not block later changes: without a ticket it
                // is sent unchanged, with a ticket it is withheld.
                Err(_) if self.allowed.is_none() => Visible::Whole,
                Err(_) => Visible::Nothing,
            },
        }
    }

    /// Which rows of `change` the client gets; `then`: the schemas when it was written.
    pub fn judge(&self, change: &FeedChange<'_>, then: SchemaAt<'_>) -> Visible {
        let allowed_new = self.allows(|allowed| allowed.holds_for_new(change, then), change);
        if change.kind() != Kind::Update {
            let is_seen = match change.kind() {
                Kind::Truncate => self.allows(|_| Truth::True, change) && self.is_wanted(change),
                _ => allowed_new && self.wants(|wanted| wanted.holds_for_new(change, then), change),
            };
            return if is_seen {
                Visible::Whole
            } else {
                Visible::Nothing
            };
        }
        let allowed_old = self.allows(|allowed| allowed.holds_for_old(change, then), change);
        let wants_new = || self.wants(|wanted| wanted.holds_for_new(change, then), change);
        let wants_old = || self.wants(|wanted| wanted.holds_for_old(change, then), change);
        match (allowed_new, allowed_old) {
            (true, true) if wants_new() || wants_old() => Visible::Whole,
            // The client may see the new row, and the change has no old row to hide.
            (true, false) if !change.has_old() && (wants_new() || wants_old()) => Visible::Whole,
            (true, false) if change.has_old() && wants_new() => Visible::OnlyNew,
            (false, true) if change.has_old() && wants_old() => Visible::OnlyOld,
            _ => Visible::Nothing,
        }
    }

    fn tables(&self) -> &[Subscription] {
        match &self.wanted {
            Subscriptions::AllTables => &[],
            Subscriptions::Tables(tables) => tables,
        }
    }

    fn is_wanted(&self, change: &FeedChange<'_>) -> bool {
        self.wants(|_| Truth::True, change)
    }

    fn wants(&self, holds: impl Fn(&Subscription) -> Truth, change: &FeedChange<'_>) -> bool {
        match &self.wanted {
            Subscriptions::AllTables => true,
            Subscriptions::Tables(tables) => any(tables, holds, change) != Truth::False,
        }
    }

    fn allows(&self, holds: impl Fn(&Subscription) -> Truth, change: &FeedChange<'_>) -> bool {
        match &self.allowed {
            None => true,
            Some(tables) => any(tables, holds, change) == Truth::True,
        }
    }
}

fn any(
    tables: &[Subscription],
    holds: impl Fn(&Subscription) -> Truth,
    change: &FeedChange<'_>,
) -> Truth {
    let of_table = tables
        .iter()
        .filter(|subscription| subscription.is_of(change));
    of_table.map(holds).max().unwrap_or(Truth::False)
}

/// Which rows of a table a list of subscriptions names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rows {
    None,
    Some,
    All,
}

fn rows_of(tables: &[Subscription], table: &str) -> Rows {
    let mut rows = Rows::None;
    for subscription in tables.iter().filter(|listed| listed.qualified == table) {
        if subscription.filter.is_empty() {
            return Rows::All;
        }
        rows = Rows::Some;
    }
    rows
}

/// The JSON of a stored change, reduced to what `visible` allows; `None` if nothing is visible.
pub fn redact_stored<'a>(change: &CachedChange<'a>, visible: Visible) -> Option<Cow<'a, str>> {
    // A change that was evaluated has been parsed, so redacting it does not fail.
    redact(change.json(), visible).unwrap_or_default()
}
