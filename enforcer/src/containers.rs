//! Containers: which cgroups are theirs, what their runtimes tell of them, and what is known so far.

use std::collections::{BTreeMap, HashMap};

use enforcer_common::Identity;
use enforcer_common::layout::Owner;
use serde::{Deserialize, Serialize};

use crate::tables::Tables;
use cgroup::Runtime;

mod bounded;
pub mod cgroup;
mod cri;
mod docker;
pub mod lookup;

/// What a runtime says of a container.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Container {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// The runtime that says so.
    pub runtime: Runtime,
    /// Its name, in Kubernetes that within its pod; a pod's sandbox has none.
    pub name: Option<String>,
    /// The image as the container was told to use it.
    pub image: Option<String>,
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// The name of its Kubernetes pod.
    pub pod: Option<String>,
    /// The Kubernetes namespace of its pod.
    pub namespace: Option<String>,
}

impl Container {
    /// Bytes of all that is said of it.
    pub fn bytes(&self) -> usize {
        let texts = [&self.name, &self.image, &self.pod, &self.namespace];
        let labels = self.labels.iter().map(|(key, value)| key.len() + value.len());
        texts.into_iter().flatten().map(String::len).chain(labels).sum()
    }
}

/// The containers that runtimes have told of, by the ids of their own cgroups. One whose cgroup is made again, as by a
/// restart, is another cgroup and is asked about again.
#[derive(Debug, Default)]
pub struct Containers {
    known: HashMap<u64, Container>,
    /// Whether something has changed since this was last asked.
    changed: bool,
}

impl Containers {
    /// Remembers what a runtime said of the container whose own cgroup has the id `cgroup`. Returns what was known of it.
    pub fn insert(&mut self, cgroup: u64, container: Container) -> Option<Container> {
        let before = self.known.insert(cgroup, container);
        self.changed |= before.as_ref() != self.known.get(&cgroup);
        before
    }

    /// Forgets a cgroup, if it is a container's.
    pub fn remove(&mut self, cgroup: u64) {
        self.changed |= self.known.remove(&cgroup).is_some();
    }

    /// Whether something has changed since the last call.
    pub fn take_change(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// What is known of the container whose own cgroup this is.
    pub fn get(&self, cgroup: u64) -> Option<&Container> {
        self.known.get(&cgroup)
    }

    /// Every container that is known, and the id of its own cgroup.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Container)> {
        self.known.iter().map(|(cgroup, container)| (*cgroup, container))
    }

    /// Whose the cgroup with this id is. `claimed` is who claims its path, and `inherited` whose its parent is.
    pub fn owner(&self, tables: &Tables, cgroup: u64, claimed: Option<Owner>, inherited: Owner) -> Owner {
        let is_pending = |owner: &Owner| owner.identity() == Identity::PENDING;
        match self.known.get(&cgroup).filter(|_| tables.pending.is_some()) {
            Some(container) => {
                let by_path = claimed.filter(|owner| !is_pending(owner)).unwrap_or(inherited);
                tables.owner_of_container(container, by_path)
            }
            None => claimed.unwrap_or(inherited),
        }
    }
}
