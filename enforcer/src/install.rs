//! Puts tables in force with every cgroup of the subtree identified.

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use enforcer_common::layout::Cgroup;

use crate::cgroups::{self, Names, Subtree};
use crate::containers::Containers;
use crate::kernel::Enforcement;
use crate::tables::Tables;

/// Puts tables in force. Where they say of every cgroup what the `former` ones in force say, the cgroups are taken from
/// those; otherwise the tree is walked. `last` is done when everything is ready; if it fails, the policy in force stays.
pub(crate) fn install(
    enforcement: &mut Enforcement,
    tables: &Tables,
    former: Option<&Tables>,
    subtree: &Subtree,
    names: &mut Names,
    containers: &Containers,
    last: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    if former.is_some_and(|former| own_the_same(former, tables)) {
        return enforcement.install(tables, |next| {
            next.carry_over()?;
            last()
        });
    }
    let (in_force, former_ids) = (enforcement.owners()?, enforcement.cgroups()?);
    let is_same_policy = enforcement.revision()? == tables.revision;
    enforcement.install(tables, |next| {
        let mut entered: HashMap<u64, Cgroup> = HashMap::new();
        subtree.walk(|found| {
            let cgroup = cgroup_of(tables, containers, &entered, &found);
            let is_there = || subtree.id_at(found.path) == Some(found.id);
            next.enter(found.id, cgroup, is_there)?;
            entered.insert(found.id, cgroup);
            names.insert(found.id, found.path);
            Ok::<(), anyhow::Error>(())
        })?;
        // Sockets outlive the directory of their cgroup, and go on being its service's.
        for id in former_ids.into_iter().filter(|id| !entered.contains_key(id)) {
            let Some(was) = in_force.cgroup(id)? else { continue };
            let cgroup = match names.path(id) {
                Some(path) => {
                    let found = cgroups::Found { id, parent: None, path };
                    cgroup_of(tables, containers, &HashMap::new(), &found)
                }
                // It vanished before this daemon came, or is deeper than any call reaches: nobody can say what another policy
                // calls it.
                None if is_same_policy => was,
                None => continue,
            };
            next.enter(id, cgroup, || stays(|| in_force.cgroup(id).is_ok_and(|cgroup| cgroup.is_none())))?;
        }
        last()
    })
}

/// How long the program on `cgroup_release` may take from one slot to the other: it can be interrupted between them.
const RELEASED_WITHIN: Duration = Duration::from_secs(1);

/// Whether a cgroup stays in the tables in force that was taken out of the next ones. The program that forgets it takes it out of
/// one after the other.
fn stays(is_gone: impl Fn() -> bool) -> bool {
    let until = Instant::now() + RELEASED_WITHIN;
    while !is_gone() {
        if Instant::now() >= until {
            return true;
        }
        thread::yield_now();
    }
    false
}

/// Whether both say the same of every cgroup, in the same states of the automaton.
fn own_the_same(former: &Tables, tables: &Tables) -> bool {
    Arc::ptr_eq(&former.claims, &tables.claims)
        && former.services == tables.services
        && former.pending == tables.pending
        && former.top == tables.top
}

/// Whose a cgroup is, from its parent if that was entered already, or else from its path.
pub(crate) fn cgroup_of(
    tables: &Tables,
    containers: &Containers,
    entered: &HashMap<u64, Cgroup>,
    found: &cgroups::Found<'_>,
) -> Cgroup {
    let (state, inherited) = match found.parent.and_then(|parent| entered.get(&parent)) {
        Some(parent) => {
            let name = found.path.file_name().unwrap_or_default();
            (tables.claims.child(parent.state, name.as_bytes()), parent.owner)
        }
        None => {
            let parent = found.path.parent().map_or(&b""[..], cgroups::bytes);
            (tables.claims.state(cgroups::bytes(found.path)), tables.owner_of_path(parent))
        }
    };
    let claimed = tables.claims.claimants.get(&state).copied();
    Cgroup { owner: containers.owner(tables, found.id, claimed, inherited), state }
}
