//! A policy with the owners of the cgroups that sockets of a snapshot are of, so that one judgement sees one state.

use std::collections::HashMap;

use enforcer_common::layout::{EdgeKey, EdgeValue, Owner, PortKey, ProtocolKey};
use enforcer_common::{Address, Identity};

use crate::tables::Tables;

/// What live connections are judged by.
pub struct InForce<'a> {
    tables: &'a Tables,
    owners: HashMap<u64, Owner>,
}

impl<'a> InForce<'a> {
    /// A policy, and whose each cgroup is under it; one that is not named is unknown.
    pub fn new(tables: &'a Tables, owners: HashMap<u64, Owner>) -> Self {
        Self { tables, owners }
    }
}

impl enforcer_common::Tables for InForce<'_> {
    fn cgroup(&self, id: u64) -> Option<Owner> {
        self.owners.get(&id).copied()
    }

    fn network(&self, address: &Address) -> Option<Identity> {
        enforcer_common::Tables::network(self.tables, address)
    }

    fn edge(&self, key: &EdgeKey) -> Option<&EdgeValue> {
        enforcer_common::Tables::edge(self.tables, key)
    }

    fn reserved(&self, key: &PortKey) -> Option<Owner> {
        enforcer_common::Tables::reserved(self.tables, key)
    }

    fn names_protocol(&self, key: &ProtocolKey) -> bool {
        enforcer_common::Tables::names_protocol(self.tables, key)
    }
}
