//! What is asked for through the control socket.

use std::collections::BTreeSet;

use tracing::{debug, error};

use super::Daemon;
use super::policy::Reload;
use crate::control::api::Records;
use crate::control::{LogState, Request, Snapshot};
use crate::staying::Kept;

impl Daemon {
    /// Does what the control socket asks for. Whoever asked may have gone meanwhile.
    pub(super) fn answer(&mut self, request: Request) {
        let heard = match request {
            Request::Snapshot(answer) => match self.snapshot() {
                Ok(snapshot) => answer.send(snapshot).is_ok(),
                Err(err) => {
                    error!("read counters: {err:#}");
                    false
                }
            },
            Request::Reload(by, answer) => {
                self.reload(Reload::asked(by, answer));
                true
            }
            Request::Apply(proposal, answer) => answer.send(self.apply(*proposal)).is_ok(),
            Request::Confirm(by, answer) => answer.send(self.confirm(by)).is_ok(),
        };
        if !heard {
            debug!("whoever asked through the control socket has gone");
        }
    }

    fn snapshot(&self) -> anyhow::Result<Snapshot> {
        let (started, started_at) = self.started;
        let own_lost = self.kept.as_ref().map_or(0, Kept::own_lost);
        Ok(Snapshot {
            started,
            started_at,
            revision: self.revision.clone(),
            confirm_by: self.unconfirmed.as_ref().map(|unconfirmed| unconfirmed.by),
            directory: self.settings.policy.clone(),
            refused: self.refused.clone(),
            subtree: self.subtree.clone(),
            kernel_identifies: self.watch.is_none(),
            counts: self.enforcement.counts()?,
            refuses_new: self.enforcement.refuses_new()?,
            owners: self.owners()?,
            neighbours: self.neighbours.clone(),
            containers: self.containers.iter().map(|(id, container)| (id, container.clone())).collect(),
            tampering: self.tampering.clone(),
            foreign_programs: self.enforcement.foreign_programs().unwrap_or_else(|err| {
                error!("look for programs of others: {err}");
                BTreeSet::new()
            }),
            log: LogState {
                path: self.settings.audit.clone(),
                written: self.log.attempts(),
                recovered: self.recovered(),
                lost: self.unreadable + self.log.unwritten(),
                stuck: self.complained,
                not_opened: self.not_opened.clone(),
            },
            records: Records {
                made: self.tally.since() + own_lost,
                written: self.log.own().written,
                lost: self.log.own_unwritten() + own_lost,
            },
        })
    }
}
