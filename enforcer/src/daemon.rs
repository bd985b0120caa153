//! `enforcer run`: one loop over a closed set of inputs.

mod container;
mod events;
mod inputs;
mod live;
mod policy;
mod requests;
mod start;
mod tree;
mod upkeep;

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use anyhow::Context as _;
use enforcer_common::counter::{Counter, Outcome};
use rustix::thread::CapabilitySet;
use tokio::sync::mpsc;
use tracing::{error, info, warn};

use self::events::Executables;
use self::inputs::{Input, Inputs, Signals, TICK};
use self::policy::{Reload, Unconfirmed, Unsettled};
use self::start::{may_run_open, stand_open};
use self::upkeep::note_sockets;
use crate::audit::{Body, Log, Prompt, Stop};
use crate::cgroups::{Names, Subtree, Watch};
use crate::connections::sweep::Report;
use crate::connections::{Cause, Sweeper};
use crate::containers::Containers;
use crate::containers::lookup::{Lookups, Sockets, Word};
use crate::control::Request;
use crate::control::server::Socket;
use crate::descriptors;
use crate::failpoint;
use crate::kernel::feature::Unsupported;
use crate::kernel::watch::Tampering;
use crate::kernel::{self, Enforcement, Tally};
use crate::namespaces::Neighbours;
use crate::namespaces::news::News;
use crate::namespaces::survey::Surveyor;
use crate::notify::{self, Watchdog};
use crate::parser::Parser;
use crate::policy::{Fingerprint, Loaded, Rules};
use crate::privileges;
use crate::revision::{InvalidPolicy, Revision};
use crate::staying::{Kept, Staying};
use crate::vital;
use crate::watch;

/// Reports that may wait for the loop; who brings one more waits.
const REPORTS: usize = 16;

/// What `enforcer run` was asked to do.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Directory or file of the policy.
    pub policy: PathBuf,
    /// The cgroup whose subtree is judged; the top of the tree if none is given.
    pub cgroup_root: Option<PathBuf>,
    /// Where audit records go; `-` for standard output.
    pub audit: PathBuf,
    /// Whether permitted attempts are recorded too.
    pub log_allowed: bool,
    /// The most verbose level that the programs log at; 0 for none.
    pub kernel_log: u8,
    /// Where container runtimes listen.
    pub runtimes: Sockets,
    /// How enforcement outlives the daemon; none if it ends with it.
    pub staying: Option<Staying>,
    /// Whether changed policy files are put in force unasked.
    pub watch: bool,
    /// Where the control socket is, if there is to be one.
    pub control: Option<PathBuf>,
    /// How long a client of it may take once it has said what it wants.
    pub control_lifetime: Duration,
    /// What parses policies.
    pub parser: Parser,
}

/// Loads, fills, attaches, and serves until it is told to stop.
///
/// # Errors
///
/// An [`InvalidPolicy`], or what the host lacks or the kernel refused. Nothing is attached then.
pub fn run(settings: &Settings) -> anyhow::Result<()> {
    // Before there is any other thread: each has what the one had that made it.
    give_up_all_but(privileges::STARTING)?;
    if let Err(err) = descriptors::raise_limit() {
        // What does not fit is unknown, and the survey says so.
        warn!("raise the limit of open files: {err}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        // So that those that wait for the next tick are not woken to end before it.
        .thread_keep_alive(2 * TICK)
        .build()
        .context("start the runtime")?;
    let result = runtime.block_on(async {
        // Before anybody can know of the daemon, so that no signal finds it unprepared.
        let mut signals = Signals::catch()?;
        let mut watchdog = Watchdog::from_environment();
        loop {
            let (reports, reported) = mpsc::channel(REPORTS);
            let (lookups, answers) = Lookups::new(settings.runtimes.clone());
            match Daemon::start(settings, reports, lookups) {
                Ok(daemon) => return daemon.serve(signals, reported, answers, watchdog).await,
                Err(err) if may_run_open(settings, &err) => {
                    stand_open(settings, &err)?;
                    if !signals.ask_for_another_try(&mut watchdog).await {
                        notify::stopping();
                        return Ok(());
                    }
                    notify::reloading();
                }
                Err(err) => return Err(err),
            }
        }
    });
    // A parser or a survey that is still at work ends with the process, and is not waited for.
    runtime.shutdown_background();
    result
}

fn give_up_all_but(wanted: CapabilitySet) -> anyhow::Result<()> {
    privileges::keep_only(wanted).context(
        "give up capabilities\nhint: a filter of system calls around the daemon must allow `capset` and `prctl`",
    )
}

struct Daemon {
    settings: Settings,
    enforcement: Enforcement,
    /// The policy in force.
    revision: Arc<Revision>,
    unconfirmed: Option<Unconfirmed>,
    /// Reloads in the order in which they were asked for. The policy of the first one is being parsed.
    reloads: VecDeque<Reload>,
    /// Why the last reload was refused.
    refused: Option<String>,
    /// Only if changed policy files are put in force unasked.
    files: Option<watch::Watch>,
    unsettled: Option<Unsettled>,
    /// What was found in the policy directory when it was last read.
    seen: Fingerprint,
    /// The last policy that was read from there and could be used.
    known: Option<Loaded>,
    rules: VecDeque<(u32, Rules)>,
    subtree: Subtree,
    names: Names,
    /// Whether a cgroup was told of whose parent was not, though it is there: the ring had no room for that, or it is deeper than
    /// any call reaches.
    is_word_lost: bool,
    /// When the tree was last read.
    tree_read: Option<Instant>,
    is_tree_being_read: bool,
    /// Only where the kernel does not identify new cgroups itself.
    watch: Option<Watch>,
    containers: Containers,
    lookups: Lookups,
    /// The cgroups of containers that are older than the daemon and of which no runtime has told yet: what they were
    /// connected with is judged when one does.
    older: HashSet<u64>,
    news: News,
    /// None while it is at work.
    surveyor: Option<Surveyor>,
    /// What it has found of where only this host's own can be.
    neighbours: Arc<Neighbours>,
    /// What works beside the loop reports through this.
    reports: mpsc::Sender<Input>,
    /// Entries of the kernel's table of cgroups that were put right.
    cgroups_repaired: u64,
    /// Whether something has changed since the survey that is under way began.
    survey_again: bool,
    /// When the programs were last let tell again of namespaces that are still unknown.
    strangers_forgotten: Instant,
    /// Whether a caller has met a socket of which the programs do not know whose it is.
    met_unknown: bool,
    /// Executables of the processes in the events that are being written.
    executables: Executables,
    sweeper: Sweeper,
    /// Why live connections are still to be judged, in the order in which they are: that could not be ordered.
    owed: BTreeSet<Cause>,
    connections_closed: u64,
    /// Counts the records of what this daemon itself does.
    tally: Tally,
    log: Log,
    kept: Option<Kept>,
    /// What was found by the last look and could not be put back.
    tampering: Vec<Tampering>,
    /// Whether the tables in force are being read back.
    is_checking: bool,
    /// Whether this is to be done, and the next change of policy made ready for, once nobody waits for the last one any longer.
    is_check_due: bool,
    /// The table that somebody has changed and that could not be put right yet.
    damaged: Option<&'static str>,
    /// Losses that were already told of.
    lost_in_ring: u64,
    lost_in_writing: u64,
    own_unwritten: u64,
    unreadable: u64,
    /// Losses of all kinds when the log was last looked at.
    lost_before: u64,
    /// Whether events wait that the ring buffer's descriptor will not tell of again.
    more_events: bool,
    /// Whether it was said that the audit log takes nothing.
    complained: bool,
    /// Why the log could not be opened again when that was last wanted: the file before is written to.
    not_opened: Option<String>,
    /// Whether decisions were lost, and no second has passed since in which none was.
    is_uneasy: bool,
    started: (Instant, SystemTime),
    /// The way from the control socket to the loop, until the loop takes it.
    requests: Option<mpsc::Receiver<Request>>,
    /// Held as long as the daemon runs.
    _control: Option<Socket>,
}

impl Daemon {
    async fn serve(
        mut self,
        signals: Signals,
        reports: mpsc::Receiver<Input>,
        answers: mpsc::Receiver<Word>,
        watchdog: Watchdog,
    ) -> anyhow::Result<()> {
        let mut inputs = Inputs::new(&mut self, signals, reports, answers, watchdog)?;
        notify::ready(&self.status());
        loop {
            let confirm_by = self.unconfirmed.as_ref().map(|unconfirmed| unconfirmed.by);
            // What is being read already may be what has changed.
            let is_reading = !self.reloads.is_empty();
            let settled_at = self.unsettled.filter(|_| !is_reading).map(|unsettled| unsettled.until);
            inputs.heartbeat.run(self.wants_heartbeat())?;
            if std::mem::take(&mut self.is_check_due) {
                self.check_tables();
                self.make_ready();
            }
            match inputs.next(self.more_events, confirm_by, settled_at, &mut self.sweeper).await? {
                Input::Events => self.write_some_events()?,
                Input::KernelLog => self.enforcement.flush_log(),
                Input::Cgroups => self.update_cgroups(Watch::changes),
                Input::Network => {
                    if let Err(err) = self.news.drain() {
                        error!("watch addresses: {err}");
                    }
                    self.survey();
                }
                Input::Surveyed(surveyed) => self.take_survey(*surveyed),
                Input::TreeRead(read) => self.take_tree(&read),
                Input::TablesRead(revision, read) => self.take_tables(revision, read),
                Input::Bound(bound) => note_sockets(&mut self.enforcement, bound),
                Input::Container(word) => match *word {
                    Word::Is(answer) => self.take_answer(answer)?,
                    Word::Renamed(runtime, id) => {
                        self.ask_again(|_, _, container| container.runtime == runtime && container.id == id);
                    }
                },
                Input::Tick => {
                    self.survey();
                    // A policy that waits for its confirmation has nothing closed.
                    if self.unconfirmed.is_none() {
                        self.order_what_is_owed();
                    }
                    self.read_tree();
                    self.update_cgroups(Watch::renew);
                    self.make_room_for_verdicts();
                    self.find_bound();
                    self.ask_again(|lookups, id, _| lookups.is_stale(id));
                    if self.revision.tables.pending.is_some() && self.lookups.has_come() {
                        self.ask_about_containers();
                    }
                    if let Some(map) = self.damaged {
                        self.put_right(map);
                    }
                    // A directory that was made again below one that was not there.
                    self.look_at_files(watch::Watch::renew);
                }
                Input::Heartbeat => {
                    // What could not be written before is tried again.
                    self.write_events()?;
                    self.look_at_log();
                    self.look();
                    self.keep_ledger();
                    self.keep_containers();
                }
                Input::Reload => self.reload(Reload::unasked(Prompt::Signal)),
                Input::Parsed(parsed) => self.end_reload(*parsed),
                Input::PolicyFiles => self.look_at_files(watch::Watch::drain),
                Input::PolicySettled => self.reload_if_changed(),
                Input::Reopen => self.reopen_log(),
                Input::Control(request) => {
                    // Whoever asks again and again must not keep events waiting, and is told of all there is.
                    self.write_some_events()?;
                    self.answer(request);
                }
                Input::Unconfirmed => self.roll_back(),
                Input::Watchdog => notify::alive(),
                Input::Stop => {
                    notify::stopping();
                    return self.stop().await;
                }
                Input::Connections(report) => {
                    // The last one who had a use for the policy before.
                    let is_done = matches!(report, Report::Done { .. });
                    self.write_connections(report);
                    self.flush();
                    if is_done {
                        kernel::trim_memory();
                    }
                }
            }
        }
    }

    /// Whether something is to be done each second: where enforcement outlives the daemon, what keeps it up is looked at and
    /// the next daemon is told that this one was alive; where decisions were lost, it is tried whether they are now written.
    /// Otherwise a daemon to which nothing happens sleeps.
    fn wants_heartbeat(&self) -> bool {
        self.kept.is_some() || self.is_uneasy
    }

    /// Has something done beside this loop, which takes the report of it like any other input.
    fn beside(&self, work: impl FnOnce() -> Input + Send + 'static) {
        let reports = self.reports.clone();
        tokio::task::spawn_blocking(move || {
            // Nobody takes it any more when the daemon is about to end.
            drop(reports.blocking_send(vital::done(work)));
        });
    }

    /// The daemon in a line, for whoever asks the service manager.
    fn status(&self) -> String {
        let (services, rules) = (self.revision.tables.services.len(), self.revision.tables.rules.len());
        format!("enforcing revision {}: {services} services, {rules} rules", self.revision.tables.revision)
    }

    /// Detaches what is not to outlive the daemon, then writes what still waited and what it all came to.
    async fn stop(mut self) -> anyhow::Result<()> {
        failpoint::pass("stop-begun");
        // Nobody is there to confirm it to any longer, nor to take it back.
        if self.unconfirmed.is_some() {
            self.roll_back();
        }
        self.enforcement.detach();
        self.sweeper.end();
        while let Some(report) = self.sweeper.report().await {
            self.write_connections(report);
        }
        self.write_events()?;
        failpoint::pass("stop-events-written");
        let enforcing = self.enforcement.outlives_us();
        // What goes on being enforced goes on telling, and is told by the next daemon.
        while self.more_events && !enforcing {
            self.write_some_events()?;
        }
        self.log.give_up();
        let counts = self.enforcement.counts()?;
        // Of those that this daemon has written, these were left by earlier ones.
        let recovered = self.recovered();
        let told = (self.log.attempts() + self.log.unwritten() + self.unreadable).saturating_sub(recovered);
        let events_lost = counts.get(Counter::EVENTS_LOST) + self.unreadable + self.log.unwritten();
        let stop = Stop {
            allowed: counts.outcome(Outcome::Allowed),
            denied: counts.outcome(Outcome::Denied),
            would_deny: counts.outcome(Outcome::WouldDeny),
            events_produced: recovered
                + counts.get(Counter::EVENTS_WRITTEN)
                + counts.get(Counter::EVENTS_LOST),
            events_written: self.log.attempts(),
            events_lost,
            events_waiting: counts.get(Counter::EVENTS_WRITTEN).saturating_sub(told),
            enforcing,
            cgroups: u64::try_from(self.enforcement.cgroups()?.len()).unwrap_or(u64::MAX),
            cgroups_failed: counts.get(Counter::CGROUPS_FAILED),
            cgroups_repaired: self.cgroups_repaired,
            connections_closed: self.connections_closed,
            records_made: self.tally.since(),
            records_written: self.log.own().written,
            records_lost: self.log.own_unwritten(),
        };
        info!(
            allowed = stop.allowed,
            denied = stop.denied,
            would_deny = stop.would_deny,
            events_lost,
            "{}",
            if enforcing {
                "stopped: the policy stays in force until `enforcer detach`"
            } else {
                "stopped: nothing is enforced any longer"
            }
        );
        self.write(SystemTime::now(), Body::Stop(stop));
        let flushed = self.log.flush();
        self.keep_ledger();
        self.keep_containers();
        failpoint::pass("stopped");
        flushed.context("write audit log")
    }
}

/// Whether an error is the operator's input rather than the host's state.
pub fn is_bad_input(error: &anyhow::Error) -> bool {
    error.is::<InvalidPolicy>() || matches!(error.downcast_ref(), Some(Unsupported::NotACgroup { .. }))
}
