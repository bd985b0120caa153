//! Live connections, as the control socket tells of them.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::PathBuf;
use std::thread;

use enforcer_common::layout::{Cgroup, Owner};
use enforcer_common::{Identity, Mode};

use super::{Snapshot, api};
use crate::audit;
use crate::connections::judge::End;
use crate::connections::survey::Survey;
use crate::connections::sweep::action;
use crate::connections::{self, Action, Cause, Connection, InForce, State, Traffic, judge};
use crate::containers::Containers;
use crate::install::cgroup_of;
use crate::revision::Revision;

/// The sockets of this host at one moment.
pub struct Live {
    found: connections::Snapshot,
}

impl Live {
    /// Reads them, in a thread that ends with it: entering network namespaces is a thread's affair.
    ///
    /// # Errors
    ///
    /// There is no room for a thread.
    pub fn look(snapshot: &Snapshot) -> io::Result<Self> {
        let (path, neighbours) = (snapshot.subtree.path.clone(), snapshot.neighbours.clone());
        let look = move || Survey::take(&path, neighbours).snapshot;
        let looked = thread::Builder::new().name(String::from("live")).spawn(look)?.join();
        Ok(Self { found: looked.map_err(|_panic| io::Error::other("the thread that looks has failed"))? })
    }

    /// What the policy in force says of each.
    ///
    /// # Errors
    ///
    /// The cgroup tree cannot be read.
    pub fn connections(&self, snapshot: &Snapshot) -> io::Result<api::Connections> {
        let revision = &snapshot.revision;
        let paths = owners(snapshot, revision)?.into_iter().map(|(id, (path, _))| (id, path)).collect();
        let owners = snapshot.owners.clone();
        let judged = judge(&self.found, &InForce::new(&revision.tables, owners)).connections;
        Ok(api::Connections {
            revision: revision.tables.revision,
            unreadable: self.found.unreadable.clone(),
            connections: judged.iter().map(|found| self.connection(found, revision, &paths)).collect(),
        })
    }

    /// Those that `after` would close, were it in force.
    ///
    /// # Errors
    ///
    /// The cgroup tree cannot be read.
    pub fn dying(&self, snapshot: &Snapshot, after: &Revision) -> io::Result<Vec<api::Connection>> {
        let now = InForce::new(&snapshot.revision.tables, snapshot.owners.clone());
        let judged = judge(&self.found, &now).connections;
        let denied = judged.iter().filter(|found| !found.is_permitted());
        let denied_now: HashSet<usize> = denied.flat_map(Connection::sockets).collect();
        let (mut paths, mut owned) = (HashMap::new(), HashMap::new());
        for (id, (path, owner)) in owners(snapshot, after)? {
            paths.insert(id, path);
            owned.insert(id, owner);
        }
        let judged = judge(&self.found, &InForce::new(&after.tables, owned)).connections;
        let dies = |found: &&Connection| {
            // What is denied already and lives was spared when the enforcer started.
            let spared = found.sockets().any(|place| denied_now.contains(&place));
            let action = action(Cause::Reload, after.tables.existing, spared, &found.decision);
            action == Some(Action::Closed) && !found.may_change
        };
        Ok(judged.iter().filter(dies).map(|found| self.connection(found, after, &paths)).collect())
    }

    fn connection(
        &self,
        found: &Connection,
        revision: &Revision,
        paths: &HashMap<u64, PathBuf>,
    ) -> api::Connection {
        let decision = &found.decision;
        let end = |identity: Identity, end: &End| api::ConnectionEnd {
            service: revision.identities.name(identity).unwrap_or("unknown").to_owned(),
            cgroup: paths.get(&end.party.cgroup_id()).map(|path| path.to_string_lossy().into_owned()),
            address: audit::ip(end.at.address),
            port: end.at.port.number(),
        };
        let traffic = |end: &End| -> Option<Traffic> { self.found.sockets.get(end.socket?)?.traffic };
        let (here, there) = (traffic(&found.caller), traffic(&found.answerer));
        let is_opened = matches!(found.state, State::Open | State::Closing);
        let age = here.into_iter().chain(there).map(|traffic| traffic.age).max();
        let rule = decision.rule().and_then(|rule| {
            let rule = revision.tables.rules.get(usize::try_from(rule.0).ok()?)?;
            Some(rule.name.to_string())
        });
        api::Connection {
            from: end(decision.from, &found.caller),
            to: end(decision.to, &found.answerer),
            protocol: audit::protocol(found.protocol).into_owned(),
            state: found.state.name().to_owned(),
            verdict: audit::verdict(decision.verdict).to_owned(),
            mode: audit::mode(decision.mode).to_owned(),
            reason: decision.reason.code().to_owned(),
            rule,
            // What is doubtful may be permitted a moment later.
            outdated: !found.is_permitted() && decision.mode == Mode::Enforce && !found.may_change,
            age_ms_at_least: age.filter(|_| is_opened),
            sent: here.map(|here| here.sent).or(there.map(|there| there.received)),
            received: here.map(|here| here.received).or(there.map(|there| there.sent)),
        }
    }
}

/// Every cgroup's path, and whose it is under `revision`.
fn owners(snapshot: &Snapshot, revision: &Revision) -> io::Result<HashMap<u64, (PathBuf, Owner)>> {
    let mut containers = Containers::default();
    for (id, container) in &snapshot.containers {
        containers.insert(*id, container.clone());
    }
    let mut entered: HashMap<u64, Cgroup> = HashMap::new();
    let mut found = HashMap::new();
    snapshot.subtree.walk(|seen| {
        let cgroup = cgroup_of(&revision.tables, &containers, &entered, &seen);
        entered.insert(seen.id, cgroup);
        found.insert(seen.id, (seen.path.to_path_buf(), cgroup.owner));
        Ok::<(), io::Error>(())
    })?;
    Ok(found)
}
