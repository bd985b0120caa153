//! Which containers there are, by the word of their runtimes.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use enforcer_common::Identity;
use enforcer_common::layout::Cgroup;
use tracing::{error, warn};

use super::Daemon;
use super::events::Words;
use crate::audit::{Body, ContainerKnown};
use crate::cgroups;
use crate::connections::Cause;
use crate::containers::lookup::{Answer, Lookups, Question};
use crate::containers::{Container, cgroup};
use crate::install::cgroup_of;
use crate::state::KnownContainer;

impl Daemon {
    /// Leaves to the next daemon which containers are known.
    pub(super) fn keep_containers(&mut self) {
        let Some(kept) = self.kept.as_ref().filter(|_| self.containers.take_change()) else { return };
        let known = self.containers.iter().filter_map(|(cgroup, container)| {
            let path = self.names.path(cgroup)?.to_path_buf();
            // Text is all that the file holds; the few other paths are asked about anew.
            path.to_str()?;
            Some(KnownContainer { cgroup, path, container: container.clone() })
        });
        if let Err(err) = kept.remember_containers(known.collect()) {
            warn!("{err}");
        }
    }

    /// Asks about every container that is there and not known yet, if the policy selects any.
    pub(super) fn ask_about_containers(&mut self) {
        if self.revision.tables.pending.is_none() {
            self.lookups.close_all();
            return;
        }
        let cgroups: Vec<(u64, Arc<Path>)> = self.names.iter().map(|(id, path)| (id, path.clone())).collect();
        for (id, path) in cgroups {
            self.look_for_container(id, &path);
        }
    }

    /// Asks about a cgroup if it is the host's container; brings one that lies in a known container up to date.
    pub(super) fn look_for_container(&mut self, id: u64, path: &Path) {
        if self.revision.tables.pending.is_none() {
            return;
        }
        if let Some(question) = question(id, path, &self.revision.tables.top) {
            // What an earlier daemon knew is to be confirmed.
            if self.containers.get(id).is_none() || !self.lookups.has_told(id) {
                self.lookups.ask(question);
            }
            return;
        }
        let found = cgroup::find(cgroups::bytes(path), &self.revision.tables.top);
        let Some(found) = found.filter(|found| found.user.is_none()) else { return };
        // A cgroup may have been made from what its parent was a moment before it was told of.
        let is_pending = |cgroup: Cgroup| cgroup.owner.identity() == Identity::PENDING;
        if !self.enforcement.cgroup(id).is_some_and(is_pending) {
            return;
        }
        let own = PathBuf::from(OsStr::from_bytes(found.own));
        if let Some(own_id) = self.subtree.id_at(&own)
            && self.containers.get(own_id).is_some()
            && let Err(err) = self.identify(&own)
        {
            error!("identify cgroup: {err:#}");
        }
    }

    /// Asks again about the known containers that are wanted, which stay who they are meanwhile.
    pub(super) fn ask_again(&mut self, is_wanted: impl Fn(&Lookups, u64, &Container) -> bool) {
        if self.revision.tables.pending.is_none() {
            return;
        }
        let wanted =
            self.containers.iter().filter(|(id, container)| is_wanted(&self.lookups, *id, container));
        let wanted: Vec<u64> = wanted.map(|(id, _)| id).collect();
        for id in wanted {
            let Some(path) = self.names.path(id) else { continue };
            let Some(question) = question(id, path, &self.revision.tables.top) else { continue };
            self.lookups.ask_again(question);
        }
    }

    /// The containers' own cgroups that are there and pending.
    pub(super) fn pending_containers(&self) -> HashSet<u64> {
        let all = self.names.iter().map(|(id, _)| id).filter(|id| self.containers.get(*id).is_none());
        let is_pending = |id: &u64| {
            self.enforcement.cgroup(*id).is_some_and(|cgroup| cgroup.owner.identity() == Identity::PENDING)
        };
        all.filter(is_pending).collect()
    }

    /// Takes in what a runtime has told of a container.
    pub(super) fn take_answer(&mut self, answer: Answer) -> anyhow::Result<()> {
        // What was decided before comes before it in the log; and word of its cgroup's end may be there.
        self.write_events()?;
        let Answer { cgroup: id, container, after } = answer;
        let Some(path) = self.names.path(id).map(Path::to_path_buf) else {
            self.lookups.close(id);
            return Ok(());
        };
        self.lookups.is_known(id, container.runtime);
        let before = self.containers.insert(id, container.clone());
        if before.as_ref() == Some(&container) {
            return Ok(());
        }
        let was = self.enforcement.cgroup(id).map(|cgroup| cgroup.owner);
        self.tally.add(1);
        if let Err(err) = self.identify(&path) {
            error!("identify container {}: {err:#}", container.id);
        }
        let selecting: Vec<&str> =
            self.revision.tables.selecting(&container).map(|service| service.name.as_str()).collect();
        let owner = self.enforcement.cgroup(id).map_or(Identity::UNKNOWN, |cgroup| cgroup.owner.identity());
        let words = Words::of(&self.revision, &self.names, &self.rules);
        let service = words.name(owner).into_owned();
        if owner == Identity::UNKNOWN {
            warn!(
                id = container.id,
                cgroup = %path.display(),
                selected_by = selecting.join(", "),
                "two services claim this container, by its runtime's word or its cgroup's path: it is unknown"
            );
        }
        let known = ContainerKnown {
            service,
            cgroup: path.to_string_lossy().into_owned(),
            cgroup_id: id,
            id: container.id,
            runtime: container.runtime.name(),
            name: container.name,
            image: container.image,
            pod: container.pod,
            namespace: container.namespace,
            pending_ms: before.is_none().then(|| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
        };
        self.write(SystemTime::now(), Body::Container(Box::new(known)));
        self.flush();
        // Somebody else than before may hold connections that only the one before was permitted.
        let is_other = before.is_some() && was != self.enforcement.cgroup(id).map(|cgroup| cgroup.owner);
        // A policy that waits for its confirmation has nothing closed.
        if (is_other || self.older.remove(&id)) && self.unconfirmed.is_none() {
            self.sweep(Cause::Container);
        }
        Ok(())
    }

    /// Gives a container's own cgroup, and then what lies below, the owner that they have by what is known now.
    pub(super) fn identify(&mut self, own: &Path) -> anyhow::Result<()> {
        let (tables, containers, enforcement) =
            (&self.revision.tables, &self.containers, &mut self.enforcement);
        let mut entered = HashMap::new();
        self.subtree.below(own).walk(|found| {
            let cgroup = cgroup_of(tables, containers, &entered, &found);
            enforcement.set_owner(found.id, cgroup.owner)?;
            entered.insert(found.id, cgroup);
            Ok::<(), anyhow::Error>(())
        })?;
        Ok(())
    }

    /// The own cgroup of the known container that a cgroup is or lies in.
    pub(super) fn container_around(&self, path: &Path) -> Option<PathBuf> {
        // On most hosts there is none, and the tree need not be asked.
        self.containers.iter().next()?;
        let is_known =
            |path: &&Path| self.subtree.id_at(path).is_some_and(|id| self.containers.get(id).is_some());
        path.ancestors().find(is_known).map(Path::to_path_buf)
    }
}

/// What is to be asked about a cgroup, if it is the own one of a container of the host's.
fn question(id: u64, path: &Path, top: &[u8]) -> Option<Question> {
    let bytes = cgroups::bytes(path);
    let (found, is_candidate) = match cgroup::find(bytes, top) {
        // A container in another one is a part of that.
        Some(found) if found.own.len() < bytes.len() || found.user.is_some() => return None,
        Some(found) => (found, false),
        None => (cgroup::candidate(bytes, top)?, true),
    };
    let (container, runtimes) = (found.id.to_owned(), found.runtimes);
    Some(Question { cgroup: id, path: path.to_path_buf(), id: container, runtimes, is_candidate })
}
