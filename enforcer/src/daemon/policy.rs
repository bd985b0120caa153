//! How another policy comes into force, and goes again if nobody confirms it.

use std::panic::resume_unwind;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use tokio::sync::oneshot;
use tracing::{debug, error, info, warn};

use super::inputs::Input;
use super::{Daemon, Settings};
use crate::audit::{Body, Peer, PolicyChange, Prompt};
use crate::connections::Cause;
use crate::control::{Applied, Proposal, Refusal};
use crate::ephemeral::Ephemeral;
use crate::failpoint;
use crate::identities::Identities;
use crate::install::install;
use crate::notify;
use crate::policy::{Document, Fingerprint, Loaded, Policy};
use crate::revision::{InvalidPolicy, Revision};
use crate::tables::Tables;
use crate::watch;

/// Revisions whose rules are remembered, so that an event that waited across a reload still names its rule.
const REVISIONS_REMEMBERED: usize = 8;

/// How long policy files must be left alone before they are read: an editor or a package manager writes several times.
const QUIET: Duration = Duration::from_millis(200);

/// After this time they are read all the same.
const RESTLESS: Duration = Duration::from_secs(2);

/// How long to wait before a policy that could not be put back is tried again.
const ROLL_BACK_AGAIN: Duration = Duration::from_secs(1);

/// What was read from the policy directory.
pub(super) struct Parsed {
    seen: Fingerprint,
    read: anyhow::Result<Loaded>,
    /// What was known before.
    known: Option<Loaded>,
}

/// A reload that is under way, or waits until the one before has come to its end.
pub(super) struct Reload {
    cause: Prompt,
    /// Who asked for it through the control socket.
    by: Option<Peer>,
    /// The way to tell whoever did what came of it.
    answer: Option<oneshot::Sender<Result<u32, String>>>,
}

impl Reload {
    pub(super) fn unasked(cause: Prompt) -> Self {
        Self { cause, by: None, answer: None }
    }

    /// One that a client of the control socket wants, and waits for.
    pub(super) fn asked(by: Option<Peer>, answer: oneshot::Sender<Result<u32, String>>) -> Self {
        Self { cause: Prompt::Control, by, answer: Some(answer) }
    }
}

/// A policy that goes unless it is confirmed.
pub(super) struct Unconfirmed {
    before: Arc<Revision>,
    pub(super) by: Instant,
}

/// Policy files have changed, and are looked at when they come to rest.
#[derive(Clone, Copy)]
pub(super) struct Unsettled {
    /// When the first of the changes was seen.
    since: Instant,
    /// When they are looked at, unless another change comes before.
    pub(super) until: Instant,
}

impl Daemon {
    /// Asks the watch on the policy's files whether they have changed. If so they are read when they have come to rest.
    pub(super) fn look_at_files(&mut self, ask: impl FnOnce(&mut watch::Watch) -> std::io::Result<bool>) {
        let Some(files) = &mut self.files else { return };
        match ask(files) {
            Ok(false) => {}
            Ok(true) => {
                let now = Instant::now();
                let since = self.unsettled.map_or(now, |unsettled| unsettled.since);
                let until = (now + QUIET).min(since + RESTLESS);
                self.unsettled = Some(Unsettled { since, until });
            }
            Err(err) => error!("watch policy: {err}"),
        }
    }

    /// Reloads if what is in the policy's files is not what was read last.
    pub(super) fn reload_if_changed(&mut self) {
        self.unsettled = None;
        if self.seen.take(std::slice::from_ref(&self.settings.policy)) == self.seen {
            return;
        }
        self.reload(Reload::unasked(Prompt::Files));
    }

    /// Has the policy directory read again, beside this loop, as soon as the reloads before have come to their ends.
    pub(super) fn reload(&mut self, reload: Reload) {
        // One that waits will read what is there then, whoever asks for it.
        let is_asked_already = self.reloads.iter().skip(1).any(|waiting| waiting.cause == reload.cause);
        if reload.answer.is_none() && is_asked_already {
            return;
        }
        self.reloads.push_back(reload);
        if self.reloads.len() == 1 {
            self.begin_reload();
        }
    }

    fn begin_reload(&mut self) {
        notify::reloading();
        self.reopen_log();
        failpoint::pass("reload-begun");
        let (settings, known) = (self.settings.clone(), self.known.take());
        self.beside(move || {
            let (seen, read) = read_policy(&settings, known.as_ref(), || {});
            Input::Parsed(Box::new(Parsed { seen, read, known }))
        });
        self.make_ready();
    }

    /// Does what can be done for the next policy before it is known; what comes of it is seen when that is put in force.
    pub(super) fn make_ready(&mut self) {
        if let Err(err) = self.enforcement.make_ready() {
            debug!("make ready for the next policy: {err}");
        }
    }

    /// Puts in force what was read; if that cannot be used, the policy in force stays. Goes on to the next reload that waits.
    pub(super) fn end_reload(&mut self, Parsed { seen, read, known }: Parsed) {
        let Some(Reload { cause, by, answer }) = self.reloads.pop_front() else { return };
        // What waits was decided by the policy before, and is written before the record of the change.
        if let Err(err) = self.write_events() {
            error!("write audit log: {err:#}");
        }
        (self.seen, self.known) = (seen, known);
        let result = self.take_over(self.revision.tables.revision + 1, read, cause, by);
        failpoint::pass("reloaded");
        notify::ready(&self.status());
        let is_in_force = result.is_ok();
        if answer.is_some_and(|answer| answer.send(result).is_err()) {
            debug!("whoever asked through the control socket has gone");
        }
        if is_in_force {
            self.follow_up();
        }
        if !self.reloads.is_empty() {
            self.begin_reload();
        }
    }

    /// Puts what was read from the policy directory in force, and tells what came of it, in one record.
    pub(super) fn take_over(
        &mut self,
        next: u32,
        read: anyhow::Result<Loaded>,
        cause: Prompt,
        by: Option<Peer>,
    ) -> Result<u32, String> {
        self.tally.add(1);
        let put = read
            .and_then(|loaded| {
                // An empty policy would permit everything.
                let policy = loaded.policy.clone().context("read policy: nothing of it can be used")?;
                let read = (policy, loaded.documents.clone());
                self.known = Some(loaded);
                Ok(self.revision.next(read, next)?)
            })
            .and_then(|revision| self.put_in_force(revision));
        let result = match put {
            Ok(()) => {
                info!(revision = next, services = self.revision.tables.services.len(), "policy reloaded");
                self.unconfirmed = None;
                Ok(next)
            }
            Err(err) => {
                let revision = self.revision.tables.revision;
                let err = in_short(&format!("{err:#}"));
                error!(revision, "reload refused, the policy in force stays: {err}");
                Err(err)
            }
        };
        self.refused = result.clone().err();
        let word = if result.is_ok() { "applied" } else { "refused" };
        self.record_change(word, cause, by, self.refused.clone());
        result
    }

    /// Writes a record of a change that was counted before it was made.
    fn record_change(
        &mut self,
        result: &'static str,
        cause: Prompt,
        by: Option<Peer>,
        error: Option<String>,
    ) {
        let change = PolicyChange { result, cause, by, revision: self.revision.tables.revision, error };
        self.write(SystemTime::now(), Body::Policy(change));
        self.flush();
    }

    fn put_in_force(&mut self, revision: Revision) -> anyhow::Result<()> {
        let Revision { tables, documents, identities, .. } = &revision;
        failpoint::pass("reload-compiled");
        let former = Some(&self.revision.tables);
        let (enforcement, names, kept) = (&mut self.enforcement, &mut self.names, &mut self.kept);
        let remember = move || {
            let remembered =
                kept.as_mut().map_or(Ok(()), |kept| kept.remember(tables.revision, documents, identities));
            failpoint::pass("reload-state-written");
            remembered
        };
        let (sweeper, mut is_expected) = (&self.sweeper, false);
        // The disk is waited for beside the kernel, and before the policy is in force.
        let installed = thread::scope(|scope| {
            let remembering = thread::Builder::new()
                .spawn_scoped(scope, remember)
                .context("remember policy: start a thread for it")?;
            install(enforcement, tables, former, &self.subtree, names, &self.containers, || {
                remembering.join().unwrap_or_else(|panic| resume_unwind(panic))?;
                // Before it is in force: what it permits is not closed by the one before.
                sweeper.expect(tables.revision);
                is_expected = true;
                Ok(())
            })
        });
        if installed.is_err() {
            if let Some(kept) = &mut self.kept
                && let Err(err) = kept.forget(revision.tables.revision)
            {
                warn!("forget a policy that has not come into force: {err}");
            }
            if is_expected {
                self.sweeper.expect(self.revision.tables.revision);
                // What was under way has stopped meanwhile.
                self.sweep(Cause::Reload);
            }
        }
        installed?;
        self.rules.push_back((tables.revision, tables.rules.clone()));
        while self.rules.len() > REVISIONS_REMEMBERED {
            self.rules.pop_front();
        }
        self.revision = Arc::new(revision);
        self.is_check_due = true;
        self.damaged = None;
        // The policy before may have let new connections be while decisions could not be written down.
        if self.is_uneasy {
            self.refuse_new(true);
        }
        self.ask_about_containers();
        Ok(())
    }

    /// Does what follows from the policy that has come into force, and is not waited for.
    pub(super) fn follow_up(&mut self) {
        warn_of_ephemeral(&self.revision.policy);
        self.sweep(Cause::Reload);
    }

    /// Puts a policy of the control socket in force. The directory stays as it is.
    pub(super) fn apply(&mut self, proposal: Proposal) -> Result<Applied, Refusal> {
        let before = self.revision.clone();
        if proposal.revision.tables.revision != before.tables.revision + 1 {
            return Err(Refusal::Overtaken);
        }
        if self.unconfirmed.is_some() {
            return Err(Refusal::Unconfirmed(before.tables.revision));
        }
        self.tally.add(1);
        self.put_in_force(proposal.revision).map_err(|err| {
            self.tally.take_back(1);
            error!("apply refused, the policy in force stays: {err:#}");
            Refusal::Failed(format!("put policy in force: {err:#}"))
        })?;
        let revision = self.revision.tables.revision;
        info!(revision, services = self.revision.tables.services.len(), "policy applied");
        self.refused = None;
        self.unconfirmed = proposal
            .confirm_within
            .map(|within| Unconfirmed { before: before.clone(), by: Instant::now() + within });
        self.record_change("applied", Prompt::Control, proposal.by, None);
        if self.unconfirmed.is_none() {
            self.follow_up();
        } else {
            warn_of_ephemeral(&self.revision.policy);
            // What is closed does not come back with the policy before.
            if let Err(err) = self.sweeper.wait() {
                error!("leave live connections alone: {err}");
            }
        }
        Ok(Applied { before, after: self.revision.clone() })
    }

    pub(super) fn confirm(&mut self, by: Option<Peer>) -> Result<u32, Refusal> {
        self.unconfirmed.take().ok_or(Refusal::NothingToConfirm)?;
        let revision = self.revision.tables.revision;
        info!(revision, "policy confirmed");
        self.tally.add(1);
        self.record_change("confirmed", Prompt::Control, by, None);
        self.sweep(Cause::Reload);
        Ok(revision)
    }

    /// Puts the policy back in force that was there before the one that nobody confirmed.
    pub(super) fn roll_back(&mut self) {
        let Some(Unconfirmed { before, .. }) = self.unconfirmed.take() else { return };
        if let Err(err) = self.write_events() {
            error!("write audit log: {err:#}");
        }
        let mut revision = Revision::clone(&before);
        revision.tables.revision = self.revision.tables.revision + 1;
        // Numbers that were given out meanwhile stay given.
        revision.identities = self.revision.identities.clone();
        revision.since = Some(SystemTime::now());
        self.tally.add(1);
        match self.put_in_force(revision) {
            Ok(()) => {
                let revision = self.revision.tables.revision;
                warn!(revision, "policy rolled back: nobody confirmed it");
                self.record_change("rolled-back", Prompt::Timeout, None, None);
                self.follow_up();
            }
            Err(err) => {
                self.tally.take_back(1);
                error!("roll back the policy: {err:#}");
                self.unconfirmed = Some(Unconfirmed { before, by: Instant::now() + ROLL_BACK_AGAIN });
            }
        }
    }
}

/// Says which reserved ports are not safe from whoever asks the kernel for any port.
pub(super) fn warn_of_ephemeral(policy: &Policy) {
    match Ephemeral::read() {
        Ok(ephemeral) => {
            if let Some(advice) = ephemeral.advice(policy) {
                warn!("{advice}");
            }
        }
        Err(err) => debug!("read which ports the kernel chooses from: {err}"),
    }
}

/// Reads the policy; says every warning, and every error if there is one.
pub(super) fn read_policy(
    settings: &Settings,
    known: Option<&Loaded>,
    meanwhile: impl FnMut(),
) -> (Fingerprint, anyhow::Result<Loaded>) {
    let (fingerprint, loaded) =
        settings.parser.load(std::slice::from_ref(&settings.policy), known, meanwhile);
    (fingerprint, loaded.map_err(anyhow::Error::from).and_then(usable))
}

/// Parses a policy of which the text is known.
pub(super) fn parse(settings: &Settings, documents: Vec<Document>) -> anyhow::Result<Loaded> {
    Ok(settings.parser.compile_documents(documents, notify::alive)?)
}

fn usable(loaded: Loaded) -> anyhow::Result<Loaded> {
    if loaded.policy.is_none() {
        bail!(InvalidPolicy::of(&loaded.findings));
    }
    for finding in &loaded.findings {
        warn!("{}", finding.render());
    }
    Ok(loaded)
}

pub(super) fn compile(
    policy: &Policy,
    identities: &mut Identities,
    revision: u32,
    top: &[u8],
) -> anyhow::Result<Tables> {
    Tables::compile_below(policy, identities, revision, top)
        .map_err(|err| InvalidPolicy(err.to_string()).into())
}

/// Findings of a refused policy that the log, the record and the answer tell.
const TOLD: usize = 20;

/// What is wrong with a policy, without the thousands of findings that one mistake in a file that a program wrote may make.
fn in_short(text: &str) -> String {
    let findings: Vec<&str> = text.split("\n\n").collect();
    match findings.len().checked_sub(TOLD) {
        None | Some(0) => text.to_owned(),
        Some(more) => {
            let told = findings.into_iter().take(TOLD).collect::<Vec<_>>().join("\n\n");
            format!("{told}\n\nand {more} more: `enforcer validate` tells them all")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{TOLD, in_short};

    #[test]
    fn a_refusal_of_a_thousand_findings_tells_the_first_and_how_many_there_are() {
        let findings = |number: usize| -> Vec<String> {
            (0..number).map(|n| format!("error[unknown-name]: no service {n}\n --> a.yaml:{n}:1")).collect()
        };
        let few = findings(TOLD).join("\n\n");
        assert_eq!(in_short(&few), few);
        let many = in_short(&findings(1_100).join("\n\n"));
        assert!(many.starts_with(&few) && many.len() < few.len() + 100, "{many}");
        assert!(many.ends_with("\n\nand 1080 more: `enforcer validate` tells them all"), "{many}");
    }
}
