//! Which cgroups there are, what they are called and whose they are.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::time::{Duration, Instant};

use enforcer_common::event::CgroupEvent;
use enforcer_common::layout::Owner;
use tracing::{error, warn};

use super::Daemon;
use super::inputs::Input;
use crate::cgroups::{self, Changes, Child, Watch};
use crate::install::cgroup_of;
use crate::reconcile::{self, Repair, Tree};

/// How long the tree is not looked at again because word of a cgroup was lost: whoever makes cgroups could have it read all the time.
const NAMES_AGAIN: Duration = Duration::from_secs(1);

/// What the cgroup tree was, to be compared with the kernel's table.
pub(super) struct TreeRead {
    /// The policy that was in force.
    revision: u32,
    /// The ids in the table before the tree was read.
    before: HashSet<u64>,
    tree: std::io::Result<Tree>,
}

impl Daemon {
    /// Has the cgroup tree read, to compare it with the kernel's table.
    pub(super) fn read_tree(&mut self) {
        // Where the daemon itself identifies cgroups, its watch is what keeps the table.
        if self.watch.is_some() || self.is_tree_being_read {
            return;
        }
        let before: HashSet<u64> = match self.enforcement.cgroups() {
            Ok(ids) => ids.into_iter().collect(),
            Err(err) => {
                error!("compare cgroups: {err}");
                return;
            }
        };
        // What is told from now on may be of something that came too late for this look.
        (self.is_tree_being_read, self.is_word_lost) = (true, false);
        let (revision, subtree) = (self.revision.tables.revision, self.subtree.clone());
        self.beside(move || {
            Input::TreeRead(Box::new(TreeRead { revision, before, tree: Tree::read(&subtree) }))
        });
    }

    /// Has the tree read if word of a cgroup was lost, but neither for each that is told of nor again and again.
    pub(super) fn look_for_names(&mut self) {
        let is_recent = self.tree_read.is_some_and(|read| read.elapsed() < NAMES_AGAIN);
        if self.is_word_lost && !is_recent {
            self.read_tree();
        }
    }

    /// Takes in what the tree was.
    pub(super) fn take_tree(&mut self, read: &TreeRead) {
        (self.tree_read, self.is_tree_being_read) = (Some(Instant::now()), false);
        match &read.tree {
            Ok(tree) => {
                // A reload has entered every cgroup anew.
                if read.revision == self.revision.tables.revision {
                    self.reconcile(tree, &read.before);
                }
                self.learn_names(tree, &read.before);
                self.forget_lost(tree, &read.before);
            }
            Err(err) => error!("compare cgroups: read the tree: {err}"),
        }
    }

    /// Puts right what the kernel's table says otherwise than the tree.
    fn reconcile(&mut self, tree: &Tree, before: &HashSet<u64>) {
        let tables = &self.revision.tables;
        let repairs = reconcile::repairs(
            tree,
            before,
            |id| self.enforcement.cgroup(id),
            |seen, known| {
                let found = cgroups::Found { id: seen.id, parent: seen.parent, path: &seen.path };
                cgroup_of(tables, &self.containers, known, &found)
            },
        );
        for repair in repairs {
            let result = match repair {
                Repair::Enter(id, cgroup) | Repair::Correct(id, cgroup) => {
                    // It may have gone since the tree was read, and nothing would ever forget it again.
                    let path = tree.cgroups.iter().find(|seen| seen.id == id).map(|seen| &seen.path);
                    if path.is_none_or(|path| self.subtree.id_at(path) != Some(id)) {
                        continue;
                    }
                    self.enforcement.enter_cgroup(id, cgroup)
                }
                Repair::Forget(id) => {
                    self.forget_cgroup(id);
                    self.enforcement.remove_cgroup(id)
                }
            };
            self.cgroups_repaired += 1;
            match result {
                Ok(()) => warn!(?repair, "the kernel's table of cgroups differed from the tree"),
                Err(err) => error!("compare cgroups: {err}"),
            }
        }
    }

    /// Takes in the paths of cgroups of which nothing had told.
    fn learn_names(&mut self, tree: &Tree, before: &HashSet<u64>) {
        let seen = tree.cgroups.iter().map(|seen| (seen.id, seen.path.as_path()));
        let enforcement = &self.enforcement;
        let learned = self.names.learn(seen, before, |id| enforcement.cgroup(id).is_some());
        for (id, path) in learned {
            self.look_for_container(id, &path);
        }
    }

    /// Forgets the cgroups that are gone without a word.
    fn forget_lost(&mut self, tree: &Tree, before: &HashSet<u64>) {
        let names = self.names.ids().map(|id| (id, self.names.path(id).is_some()));
        let containers = self.containers.iter().map(|(id, _)| (id, true));
        let lost = reconcile::lost(names.chain(containers), tree, before);
        if lost.is_empty() {
            return;
        }
        // The word may be waiting, and before it what they did, which is told with their names.
        if let Err(err) = self.write_events() {
            error!("write audit log: {err:#}");
            return;
        }
        if self.more_events {
            return;
        }
        for id in lost {
            // One that came after the look at the tree.
            if self.enforcement.cgroup(id).is_none() {
                self.forget_cgroup(id);
            }
        }
    }

    /// Whose each cgroup is in the kernel's table. One that goes meanwhile is left out.
    pub(super) fn owners(&self) -> anyhow::Result<HashMap<u64, Owner>> {
        let ids = self.enforcement.cgroups()?.into_iter();
        Ok(ids.filter_map(|id| Some((id, self.enforcement.cgroup(id)?.owner))).collect())
    }

    /// Takes in what the watch has seen, where there is one.
    pub(super) fn update_cgroups(&mut self, ask: impl FnOnce(&mut Watch) -> Changes) {
        let Some(watch) = &mut self.watch else { return };
        let Changes { changes, trouble } = ask(watch);
        if let Some(err) = trouble {
            error!("watch cgroups: {err}");
        }
        for change in changes {
            let result = match change {
                cgroups::Change::Appeared { id, path } => {
                    let owner = self.revision.tables.owner_of_path(cgroups::bytes(&path));
                    let set = self.enforcement.set_cgroup(id, owner);
                    self.look_for_container(id, &path);
                    // By its path alone it is less than what its container is known to be.
                    if let Some(own) = self.container_around(&path)
                        && let Err(err) = self.identify(&own)
                    {
                        error!("identify cgroup: {err:#}");
                    }
                    self.names.insert(id, &path);
                    set
                }
                cgroups::Change::Forgotten { id } => {
                    self.forget_cgroup(id);
                    self.enforcement.remove_cgroup(id)
                }
            };
            if let Err(err) = result {
                error!("identify cgroup: {err}");
            }
        }
    }

    /// Takes in what the programs tell of a cgroup that they have entered or forgotten.
    pub(super) fn take_cgroup(&mut self, event: &CgroupEvent) {
        if event.made == 0 {
            self.forget_cgroup(event.id);
            // The program has removed it; a policy that was being put in force may have entered it again.
            if let Err(err) = self.enforcement.remove_cgroup(event.id) {
                error!("forget cgroup: {err}");
            }
            return;
        }
        match self.names.insert_child(event.id, event.parent, OsStr::from_bytes(event.name())) {
            Child::At(path) => self.look_for_container(event.id, &path),
            Child::Hidden => {}
            // If the parent has gone too, nothing finds it any more.
            Child::Orphan => self.is_word_lost |= self.enforcement.cgroup(event.parent).is_some(),
        }
    }

    fn forget_cgroup(&mut self, id: u64) {
        self.names.remove(id);
        self.containers.remove(id);
        self.older.remove(&id);
        self.lookups.close(id);
    }
}
