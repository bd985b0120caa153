//! What becomes of the connections that a policy finds open.

use std::time::SystemTime;

use anyhow::Context as _;
use tracing::{debug, error};

use super::Daemon;
use super::events::Words;
use super::inputs::TICK;
use crate::audit::{self, Body};
use crate::connections::sweep::{Report, Told};
use crate::connections::{self, Action, Cause};
use crate::failpoint;
use crate::kernel::CgroupOwners;

impl Daemon {
    /// Has live connections judged by the policy in force.
    pub(super) fn sweep(&mut self, cause: Cause) {
        self.owed.insert(cause);
        self.order_what_is_owed();
    }

    /// Has live connections judged by the policy in force, of which these are the owners of cgroups.
    pub(super) fn order_sweep(&self, cause: Cause, owners: CgroupOwners) -> anyhow::Result<()> {
        self.sweeper
            .order(cause, self.revision.clone(), owners, self.neighbours.clone())
            .context("judge live connections")
    }

    /// Orders what was to be judged; what cannot be ordered is tried again at the next tick, since connections that the policy
    /// denies stay open until then.
    pub(super) fn order_what_is_owed(&mut self) {
        while let Some(cause) = self.owed.first().copied() {
            let owners = failpoint::read_owners().map_err(anyhow::Error::from);
            let ordered = owners
                .and_then(|()| Ok(self.enforcement.owners()?))
                .and_then(|owners| self.order_sweep(cause, owners));
            if let Err(err) = ordered {
                error!("judge live connections: {err:#}\nhint: it is tried again within {TICK:?}");
                return;
            }
            self.owed.remove(&cause);
        }
    }

    /// Writes what was found of live connections.
    pub(super) fn write_connections(&mut self, report: Report) {
        match report {
            Report::Denied(cause, revision, denied) => {
                for told in denied {
                    self.connections_closed += u64::from(told.action == Action::Closed);
                    if let Some(err) = &told.error {
                        error!("{err}");
                    }
                    self.remember_rules(revision, told.connection.decision.rule());
                    let words = Words::of(&self.revision, &self.names, &self.rules);
                    let record = connection(&words, cause, revision, &told);
                    let written = self.log.write(SystemTime::now(), Body::Connection(&record));
                    self.complain_of(&written);
                }
            }
            Report::Trouble(err) => error!("judge live connections: {err}"),
            Report::Done { cause, revision, took, older } => {
                debug!(cause = cause.name(), revision, ?took, "live connections are judged");
                if let Some(Err(err)) = self.kept.as_ref().map(|kept| kept.swept(revision, older)) {
                    error!("{err}");
                }
            }
        }
    }
}

/// The record of a live connection that is denied.
fn connection<'a>(words: &Words<'a>, cause: Cause, revision: u32, told: &Told) -> audit::Connection<'a> {
    let Told { connection, action, error } = told;
    let decision = &connection.decision;
    let end = |identity, end: &connections::judge::End| {
        let cgroup = Some(end.party.cgroup_id()).filter(|id| *id != 0);
        words.end(identity, cgroup, Some((end.at.address, end.at.port)))
    };
    audit::Connection {
        action: action.name(),
        cause: cause.name(),
        error: error.clone(),
        verdict: audit::verdict(decision.verdict),
        mode: audit::mode(decision.mode),
        reason: decision.reason.code(),
        rule: words.rule(revision, decision.rule()),
        revision,
        protocol: audit::protocol(connection.protocol),
        state: connection.state.name(),
        source: end(decision.from, &connection.caller),
        destination: end(decision.to, &connection.answerer),
    }
}
