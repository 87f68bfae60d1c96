//! The relations that were described in a peek.

use std::collections::HashMap;
use std::rc::Rc;

use crate::error::{Category, Error};

use super::message::{Relation, ReplicaIdentity, Tuple};

/// The descriptions of relations by OID. They are valid within one peek: pgoutput describes every
/// relation again in each call, before its first row.
#[derive(Debug, Default)]
pub struct RelationCache {
    relations: HashMap<u32, Rc<OwnedRelation>>,
}

/// A [`Relation`] that outlives its message. It is cheap to clone: its names and columns are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedRelation {
    /// The relation's OID.
    pub oid: u32,
    /// Its schema.
    pub schema: Rc<str>,
    /// Its name.
    pub name: Rc<str>,
    /// Which old values updates and deletes contain.
    pub replica_identity: ReplicaIdentity,
    /// The published columns, in the order of the tuples.
    pub columns: Rc<[OwnedColumn]>,
}

/// A column of an [`OwnedRelation`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedColumn {
    /// Whether it is part of the key of the replica identity.
    pub is_key: bool,
    /// The column's name.
    pub name: Rc<str>,
    /// The OID of its type.
    pub type_oid: u32,
    /// `atttypmod`; -1 for none.
    pub type_modifier: i32,
}

/// A row does not match the relations described so far.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RelationError {
    /// The relation was not described.
    #[error("a row of the relation with OID {oid} arrived before its description")]
    Unknown {
        /// The relation's OID.
        oid: u32,
    },
    /// The tuple has more or fewer values than the relation has columns.
    #[error("a row of {schema}.{name} has {found} values, but {expected} columns were described")]
    ColumnCount {
        /// The relation's schema.
        schema: Rc<str>,
        /// The relation's name.
        name: Rc<str>,
        /// The number of columns of the relation.
        expected: usize,
        /// The number of values of the tuple.
        found: usize,
    },
}

impl RelationCache {
    /// Creates the cache of a peek.
    pub fn new() -> Self {
        Self::default()
    }

    /// Stores a description. It replaces an older one of the same OID: the relation was altered.
    pub fn insert(&mut self, relation: &Relation<'_>) -> Rc<OwnedRelation> {
        let owned = Rc::new(OwnedRelation::from(relation));
        self.relations.insert(owned.oid, Rc::clone(&owned));
        owned
    }

    /// Returns the latest description of the relation with this OID.
    pub fn get(&self, oid: u32) -> Result<&Rc<OwnedRelation>, RelationError> {
        self.relations
            .get(&oid)
            .ok_or(RelationError::Unknown { oid })
    }
}

impl OwnedRelation {
    /// Checks that `tuple` has one value per column. Keys and cut rows have that too.
    pub fn check(&self, tuple: &Tuple<'_>) -> Result<(), RelationError> {
        if tuple.values.len() == self.columns.len() {
            return Ok(());
        }
        Err(RelationError::ColumnCount {
            schema: Rc::clone(&self.schema),
            name: Rc::clone(&self.name),
            expected: self.columns.len(),
            found: tuple.values.len(),
        })
    }
}

impl From<&Relation<'_>> for OwnedRelation {
    fn from(relation: &Relation<'_>) -> Self {
        let columns = relation.columns.iter().map(|column| OwnedColumn {
            is_key: column.is_key,
            name: column.name.into(),
            type_oid: column.type_oid,
            type_modifier: column.type_modifier,
        });
        Self {
            oid: relation.oid,
            schema: relation.schema.into(),
            name: relation.name.into(),
            replica_identity: relation.replica_identity,
            columns: columns.collect(),
        }
    }
}

impl From<RelationError> for Error {
    fn from(error: RelationError) -> Self {
        // As the message and not as the source: a source must be `Send`, and shared names are not.
        Self::new(
            Category::Decode,
            "pgoutput_relation_mismatch",
            error.to_string(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pgoutput::{Column, TupleData};

    fn orders(columns: &[&'static str]) -> Relation<'static> {
        let column = |&name| Column {
            is_key: name == "id",
            name,
            type_oid: 23,
            type_modifier: -1,
        };
        Relation {
            oid: 7,
            schema: "public",
            name: "orders",
            replica_identity: ReplicaIdentity::Default,
            columns: columns.iter().map(column).collect(),
        }
    }

    #[test]
    fn a_row_of_an_undescribed_relation_is_an_error() {
        let error = RelationCache::new().get(7).unwrap_err();
        assert_eq!(error, RelationError::Unknown { oid: 7 });
    }

    #[test]
    fn a_later_description_replaces_an_earlier_one() {
        let mut relations = RelationCache::new();
        let before = relations.insert(&orders(&["id"]));
        relations.insert(&orders(&["id", "total"]));
        let after = relations.get(7).unwrap();
        assert_eq!((before.columns.len(), after.columns.len()), (1, 2));
        assert_eq!(&*after.columns[1].name, "total");
        assert!(after.columns[0].is_key && !after.columns[1].is_key);
    }

    #[test]
    fn a_tuple_must_have_one_value_per_column() {
        let relation = OwnedRelation::from(&orders(&["id", "total"]));
        let tuple = |len| Tuple {
            values: vec![TupleData::Null; len],
        };
        assert_eq!(relation.check(&tuple(2)), Ok(()));
        for found in [0, 1, 3] {
            let error = relation.check(&tuple(found)).unwrap_err();
            assert!(
                matches!(error, RelationError::ColumnCount { expected: 2, found: f, .. } if f == found)
            );
            assert_eq!(
                error.to_string(),
                format!("a row of public.orders has {found} values, but 2 columns were described")
            );
        }
    }
}
