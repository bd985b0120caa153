//! That what was put in force stays in force, whoever else changes the host.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use enforcer_common::layout::SocketNote;
use tracing::{debug, error, warn};

use super::Daemon;
use super::inputs::Input;
use crate::audit::{Body, Tamper};
use crate::existing::{self, Bound};
use crate::failpoint;
use crate::install::install;
use crate::kernel::feature;
use crate::kernel::watch::{Deed, Tampering};
use crate::kernel::{Enforcement, MapError};
use crate::namespaces::survey::Surveyor;
use crate::namespaces::{Neighbours, Views};

/// How long the programs do not tell again, at the least, of a network namespace that a survey did not take in.
const STRANGERS_AGAIN: Duration = Duration::from_secs(1);

/// What a survey of the network namespaces has found.
pub(super) struct Surveyed {
    surveyor: Surveyor,
    views: std::io::Result<Views>,
    /// Namespaces that the programs had told of before it.
    strangers: Vec<u64>,
}

impl Daemon {
    /// Tells of what somebody has done to programs and pins.
    pub(super) fn look(&mut self) {
        let found = self.enforcement.look();
        // What could not be put back is told once, and not every second.
        let told = std::mem::take(&mut self.tampering);
        for tampering in found.iter().filter(|tampering| !told.contains(tampering)) {
            let Tampering { deed, objects, error } = tampering;
            let repaired = error.is_none() && *deed != Deed::ForeignProgram;
            warn!(
                deed = deed.code(),
                objects = objects.join(", "),
                repaired,
                error,
                "somebody tampers with enforcement"
            );
            let (deed, objects, error) = (deed.code(), objects.clone(), error.clone());
            self.tally.add(1);
            self.write(SystemTime::now(), Body::Tamper(Tamper { deed, objects, repaired, error }));
        }
        self.tampering = found.into_iter().filter(|tampering| tampering.error.is_some()).collect();
        self.flush();
    }

    /// Has the network namespaces surveyed, beside this loop, which goes on meanwhile.
    pub(super) fn survey(&mut self) {
        let Some(mut surveyor) = self.surveyor.take() else {
            self.survey_again = true;
            return;
        };
        // What the programs tell from now on may come too late for this survey.
        let strangers = self.enforcement.strangers().unwrap_or_else(|err| {
            error!("survey network namespaces: {err}");
            Vec::new()
        });
        self.beside(move || {
            let views = surveyor.views();
            Input::Surveyed(Box::new(Surveyed { surveyor, views, strangers }))
        });
    }

    /// Has the verdicts forgotten that the programs keep, if there was no room for further ones.
    pub(super) fn make_room_for_verdicts(&mut self) {
        match self.enforcement.make_room_for_verdicts() {
            Ok(true) => debug!("verdicts are kept anew: there was no room for all"),
            Ok(false) => {}
            Err(err) => error!("make room for verdicts: {err}"),
        }
    }

    /// Has the sockets found that wait for somebody, if a caller has met one that no program has seen being bound: a
    /// `listen` or `connect` without `bind` passes no hook.
    pub(super) fn find_bound(&mut self) {
        if !std::mem::take(&mut self.met_unknown) || failpoint::is_blind() {
            return;
        }
        let subtree = self.subtree.clone();
        self.beside(move || {
            let bound = feature::cgroup2().map(|mount| existing::bound(&subtree, &mount));
            Input::Bound(bound.unwrap_or_else(|err| {
                error!("find who holds ports: {err}");
                Vec::new()
            }))
        });
    }

    /// Has the tables in force read back as a whole, beside this loop. A reload writes only what has changed since the slot was
    /// last in force, and reads back only that: what somebody else has done to the rest comes out here.
    pub(super) fn check_tables(&mut self) {
        if self.is_checking {
            return;
        }
        let Some(held) = self.enforcement.held() else { return };
        self.is_checking = true;
        let revision = self.revision.tables.revision;
        self.beside(move || Input::TablesRead(revision, held.check()));
    }

    /// Puts the policy in force again, written in full, if its tables are not what was written.
    pub(super) fn take_tables(&mut self, revision: u32, read: Result<(), MapError>) {
        self.is_checking = false;
        if revision != self.revision.tables.revision {
            // They may have been written to meanwhile, and others are in force.
            return self.check_tables();
        }
        let (found, map) = match read {
            Ok(()) => return,
            Err(found @ MapError::Differs { map, .. }) => (found, map),
            Err(err) => {
                error!("read back the tables in force: {err}");
                return;
            }
        };
        warn!(%found, "the tables in force are not what was written");
        self.put_right(map);
    }

    /// Puts the policy in force again, written in full, after somebody has changed this table of it.
    pub(super) fn put_right(&mut self, map: &'static str) {
        self.enforcement.distrust();
        let tables = &self.revision.tables;
        let (enforcement, names) = (&mut self.enforcement, &mut self.names);
        let installed = install(enforcement, tables, None, &self.subtree, names, &self.containers, || Ok(()));
        let error = installed.err().map(|err| format!("{err:#}"));
        let (repaired, objects) = (error.is_none(), vec![map.to_owned()]);
        // What could not be put right is tried again, until it is or another policy is in force.
        self.damaged = (!repaired).then_some(map);
        warn!(map, repaired, error, "somebody tampers with enforcement");
        let tamper = Tamper { deed: "table-changed", objects, repaired, error };
        self.tally.add(1);
        self.write(SystemTime::now(), Body::Tamper(tamper));
        self.flush();
    }

    pub(super) fn take_survey(&mut self, surveyed: Surveyed) {
        self.surveyor = Some(surveyed.surveyor);
        let taken = surveyed.views.map_err(anyhow::Error::from).and_then(|views| {
            self.enforcement.set_views(&views)?;
            self.neighbours = Arc::new(Neighbours::of(&views));
            // Of one that cannot be taken in the programs would tell at each call, and have another survey made at once.
            let is_time = self.strangers_forgotten.elapsed() >= STRANGERS_AGAIN;
            if is_time {
                self.strangers_forgotten = Instant::now();
            }
            let strangers = surveyed.strangers.iter().copied();
            let forgotten: Vec<u64> = strangers.filter(|cookie| is_time || views.knows(*cookie)).collect();
            Ok(self.enforcement.forget_strangers(&forgotten)?)
        });
        if let Err(err) = taken {
            error!("survey network namespaces: {err:#}");
        }
        if std::mem::take(&mut self.survey_again) {
            self.survey();
        }
    }
}

/// Says whose the ports are that were bound while no program saw it.
pub(super) fn note_sockets(enforcement: &mut Enforcement, bound: Vec<Bound>) {
    for bound in bound {
        let note = SocketNote::of(bound.cgroup, bound.netns);
        if let Err(err) = enforcement.note_socket(&bound.socket, note) {
            warn!("note the owner of a socket: {err}");
        }
    }
}
