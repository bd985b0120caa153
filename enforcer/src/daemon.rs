//! `enforcer run`: one loop over a closed set of inputs.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::ffi::OsStr;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail};
use enforcer_common::counter::{Counter, Outcome};
use enforcer_common::event::{CgroupEvent, Event, InvalidEvent, Message};
use enforcer_common::layout::{Cgroup, Owner, SocketNote};
use enforcer_common::limits::RING_BYTES;
use enforcer_common::{Address, Direction, Identity, Mode, Port, Reason, RuleId};
use nix::time::{ClockId, clock_gettime};
use rustix::thread::CapabilitySet;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, error, info, warn};

use crate::audit::{
    self, Attempt, Body, ContainerKnown, End, Log, Lost, Peer, PolicyChange, Process, Prompt, Rule, Start,
    Stop, Tamper, Unprotected,
};
use crate::cgroups::{self, Changes, Child, Names, Subtree, Watch};
use crate::connections::sweep::{Report, Told};
use crate::connections::{self, Action, Cause, Sweeper};
use crate::containers::cgroup;
use crate::containers::lookup::{Answer, Lookups, Question, Sockets, Word};
use crate::containers::{Container, Containers};
use crate::control::api::Records;
use crate::control::server::Socket;
use crate::control::{Applied, LogState, Proposal, Refusal, Request, Snapshot};
use crate::descriptors;
use crate::ephemeral::Ephemeral;
use crate::existing::{self, Bound};
use crate::failpoint;
use crate::identities::Identities;
use crate::install::{cgroup_of, install};
use crate::kernel::feature::{self, Unsupported};
use crate::kernel::watch::{Deed, Tampering};
use crate::kernel::{self, Enforcement, LoadError, MapError, Options, Pins, Tally};
use crate::namespaces::Views;
use crate::namespaces::news::News;
use crate::namespaces::survey::Surveyor;
use crate::netns;
use crate::notify::{self, Watchdog};
use crate::parser::Parser;
use crate::policy::{Document, Fingerprint, Loaded, OnUnsupported, Policy, Rules};
use crate::privileges;
use crate::reconcile::{self, Repair, Tree};
use crate::revision::{InvalidPolicy, Origin, Revision};
use crate::state::KnownContainer;
use crate::staying::{self, First, Kept, Left, Staying};
use crate::tables::Tables;
use crate::timer::Timer;
use crate::vital;
use crate::watch;

/// Revisions whose rules are remembered, so that an event that waited across a reload still names its rule.
const REVISIONS_REMEMBERED: usize = 8;

/// Events that are written between two looks at the other inputs.
const EVENTS_AT_ONCE: usize = 4096;

/// More events than the ring buffer holds.
const EVENTS_THAT_WAIT: usize = RING_BYTES as usize / size_of::<Event>();

/// How long events are left to gather after some were read. A program wakes the reader of a ring that was read to its end,
/// by an interrupt that costs the caller more than the rest of the event, so this bounds how often one does.
const EVENTS_GATHER: Duration = Duration::from_millis(10);

/// How often the next daemon can tell from the ledger that this one was alive.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// Reports that may wait for the loop; who brings one more waits.
const REPORTS: usize = 16;

/// How long a change of the network that nobody told of stays unseen.
const TICK: Duration = Duration::from_secs(10);

/// How long the tree is not looked at again because word of a cgroup was lost: whoever makes cgroups could have it read all the time.
const NAMES_AGAIN: Duration = Duration::from_secs(1);

/// How long the programs do not tell again, at the least, of a network namespace that a survey did not take in.
const STRANGERS_AGAIN: Duration = Duration::from_secs(1);

/// Requests of the control socket that may wait for the loop.
const REQUESTS_WAITING: usize = 16;

/// How long policy files must be left alone before they are read: an editor or a package manager writes several times.
const QUIET: Duration = Duration::from_millis(200);

/// After this time they are read all the same.
const RESTLESS: Duration = Duration::from_secs(2);

/// How long to wait before a policy that could not be put back is tried again.
const ROLL_BACK_AGAIN: Duration = Duration::from_secs(1);

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

/// Whether the host cannot enforce, nothing of an earlier daemon does, and the policy says that the daemon is to run all the same.
fn may_run_open(settings: &Settings, err: &anyhow::Error) -> bool {
    let is_of_the_kernel = err.downcast_ref().is_some_and(LoadError::is_of_the_kernel);
    let is_of_the_host = err.downcast_ref().is_some_and(Unsupported::is_of_the_host);
    if !is_of_the_kernel && !is_of_the_host {
        return false;
    }
    let (_, read) = settings.parser.load(std::slice::from_ref(&settings.policy), None, notify::alive);
    let policy = read.ok().and_then(|loaded| loaded.policy);
    if policy.is_none_or(|policy| policy.on_unsupported != OnUnsupported::Open) {
        return false;
    }
    let is_enforced = settings.staying.as_ref().is_some_and(|staying| Pins::may_be_in_use(&staying.pin_dir));
    if is_enforced {
        warn!("`on_unsupported: open` changes nothing: what an earlier daemon has attached goes on to judge");
    }
    !is_enforced
}

/// Says everywhere that nothing is enforced, since the policy prefers that to not running.
fn stand_open(settings: &Settings, err: &anyhow::Error) -> anyhow::Result<()> {
    let cause = format!("{err:#}");
    error!("nothing is enforced, as `on_unsupported: open` wants it: {cause}");
    let mut log =
        Log::open(&settings.audit).with_context(|| format!("open audit log {}", settings.audit.display()))?;
    notify::ready(&format!("DEGRADED, nothing is enforced: {}", cause.lines().next().unwrap_or_default()));
    log.write(SystemTime::now(), Body::Unprotected(Unprotected { cause })).context("write audit log")?;
    log.flush().context("write audit log")
}

/// Everything that may wake the daemon.
enum Input {
    Events,
    KernelLog,
    Cgroups,
    Network,
    Surveyed(Box<Surveyed>),
    TreeRead(Box<TreeRead>),
    TablesRead(u32, Result<(), MapError>),
    Bound(Vec<Bound>),
    Container(Box<Word>),
    Tick,
    Heartbeat,
    Connections(Report),
    Reload,
    Parsed(Box<Parsed>),
    PolicyFiles,
    PolicySettled,
    Reopen,
    Control(Request),
    Unconfirmed,
    Watchdog,
    Stop,
}

/// What a survey of the network namespaces has found.
struct Surveyed {
    surveyor: Surveyor,
    views: std::io::Result<Views>,
    /// Namespaces that the programs had told of before it.
    strangers: Vec<u64>,
}

/// What the cgroup tree was, to be compared with the kernel's table.
struct TreeRead {
    /// The policy that was in force.
    revision: u32,
    /// The ids in the table before the tree was read.
    before: HashSet<u64>,
    tree: std::io::Result<Tree>,
}

/// What was read from the policy directory.
struct Parsed {
    seen: Fingerprint,
    read: anyhow::Result<Loaded>,
    /// What was known before.
    known: Option<Loaded>,
}

/// A reload that is under way, or waits until the one before has come to its end.
struct Reload {
    cause: Prompt,
    /// Who asked for it through the control socket.
    by: Option<Peer>,
    /// The way to tell whoever did what came of it.
    answer: Option<oneshot::Sender<Result<u32, String>>>,
}

impl Reload {
    fn unasked(cause: Prompt) -> Self {
        Self { cause, by: None, answer: None }
    }
}

/// A policy that goes unless it is confirmed.
struct Unconfirmed {
    before: Arc<Revision>,
    by: Instant,
}

/// Policy files have changed, and are looked at when they come to rest.
#[derive(Clone, Copy)]
struct Unsettled {
    /// When the first of the changes was seen.
    since: Instant,
    /// When they are looked at, unless another change comes before.
    until: Instant,
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
    /// Whether decisions were lost, and no second has passed since in which none was.
    is_uneasy: bool,
    started: (Instant, SystemTime),
    /// The way from the control socket to the loop, until the loop takes it.
    requests: Option<mpsc::Receiver<Request>>,
    /// Held as long as the daemon runs.
    _control: Option<Socket>,
}

impl Daemon {
    fn start(settings: &Settings, reports: mpsc::Sender<Input>, lookups: Lookups) -> anyhow::Result<Self> {
        feature::require()?;
        let reading = || format!("read policy {}", settings.policy.display());
        // What changes from now on is seen.
        let files = if settings.watch { watch_policy(&settings.policy) } else { None };
        let (seen, on_disk) = read_policy(settings, None, notify::alive);
        let mount = feature::cgroup2()?;
        let root = settings.cgroup_root.clone().unwrap_or_else(|| mount.directory.clone());
        let path = feature::cgroup_path(&mount.directory, &root)?;
        let whole_tree = feature::is_whole_tree(&root);
        let (mut left, pins) = Left::open(settings.staying.as_ref())?;
        if !left.has_policy()
            && let Err(err) = on_disk
        {
            // What is wrong with a policy says itself where it is.
            return if err.is::<InvalidPolicy>() { Err(err) } else { Err(err).with_context(reading) };
        }
        // What another daemon has is told before anything is loaded.
        let control = settings.control.as_deref().map(Socket::bind).transpose()?;
        let mut log = Log::open(&settings.audit)
            .with_context(|| format!("open audit log {}", settings.audit.display()))?;
        let options = Options {
            cgroup_root: root.clone(),
            whole_tree,
            host_netns: netns::cookie().context("tell the network namespace")?,
            log_allowed: settings.log_allowed,
            kernel_log: settings.kernel_log,
        };
        let mut enforcement = Enforcement::load(options, pins)?;
        let top = cgroups::bytes(&path);
        let First { policy, documents, tables, identities, is_adopted } = left.first(
            &enforcement,
            &on_disk,
            |documents| parse(settings, documents),
            |policy, identities, revision| compile(policy, identities, revision, top),
        )?;
        let news = News::subscribe().context("watch addresses")?;
        let mut surveyor = Surveyor::new(&path);
        enforcement.set_views(&surveyor.views().context("survey network namespaces")?)?;
        failpoint::pass("addresses-told");
        let subtree = Subtree { directory: root, path: path.clone() };
        let mut names = Names::default();
        // Whoever was known stays who he is until his runtime says otherwise, also if it is down now.
        let mut containers = left.containers(&subtree, &tables.top);
        containers.take_change();
        install(&mut enforcement, &tables, None, &subtree, &mut names, &containers, || Ok(()))?;
        failpoint::pass("installed");
        let mut watch = None;
        if !enforcement.identifies_cgroups() {
            warn!(
                "new cgroups are identified by the daemon: a process is unknown for the first moment of its cgroup"
            );
            watch = Some(Watch::new(subtree.clone()).context("watch cgroups")?);
        }
        // Twice: so that hardly any socket is without a note when the hooks are attached, and none is afterwards.
        note_sockets(&mut enforcement, existing::bound(&subtree, &mount));
        enforcement.attach()?;
        note_sockets(&mut enforcement, existing::bound(&subtree, &mount));
        for (program, instructions, bytes) in enforcement.sizes() {
            debug!(program, instructions, bytes, "program attached");
        }
        let audited = audited(&tables);
        if !audited.is_empty() {
            warn!(
                services = audited.join(", "),
                "in audit mode: what is denied to these passes, unless the other end is a service in enforce mode"
            );
        }
        warn_of_ephemeral(&policy);
        let ledger = enforcement.ledger()?.unwrap_or_default();
        let tail = log
            .tail(staying::place(&ledger))
            .with_context(|| format!("read audit log {}", settings.audit.display()))?;
        let swept = left.swept().filter(|_| is_adopted);
        let older = swept.as_ref().map(|swept| swept.older.clone()).unwrap_or_default();
        let tally = enforcement.tally()?;
        let sweeper =
            Sweeper::start(path.clone(), older, tally.clone()).context("start the thread for connections")?;
        let start = Start {
            version: env!("CARGO_PKG_VERSION"),
            revision: tables.revision,
            cgroup_root: path.to_string_lossy().into_owned(),
            services: tables.services.len(),
            rules: tables.rules.len(),
            audited,
            adopted: is_adopted,
            cgroups_identified_by: if watch.is_none() { "kernel" } else { "daemon" },
        };
        let told = log.write(SystemTime::now(), Body::Start(start)).and_then(|()| log.flush());
        match told {
            // Who takes over enforces already; it is told when the log takes it.
            Err(err) if is_adopted => error!("write audit log {}: {err}", settings.audit.display()),
            told => told.with_context(|| format!("write audit log {}", settings.audit.display()))?,
        }
        enforcement.commit();
        info!(
            revision = tables.revision,
            services = tables.services.len(),
            rules = tables.rules.len(),
            cgroup_root = %subtree.path.display(),
            adopted = is_adopted,
            "enforcing"
        );
        // What is attached is not loaded again, and what was made is not given away.
        give_up_all_but(privileges::SERVING)?;
        let rules = VecDeque::from([(tables.revision, tables.rules.clone())]);
        let kept = left.keep(&ledger, tail, &tally, tables.revision);
        let (sender, requests) = mpsc::channel(REQUESTS_WAITING);
        if let Some(control) = &control {
            control
                .serve(sender, log.followed(), settings.parser, settings.control_lifetime)
                .context("serve control socket")?;
        }
        let (origin, since) = (Origin::Directory, (!is_adopted).then(SystemTime::now));
        let revision =
            Revision { origin, since, documents, policy, tables, identities, warnings: Vec::new() };
        let revision = Arc::new(revision);
        // What an earlier daemon has put in force was read from somewhere else.
        let (known, on_disk) = if is_adopted { (None, Some(on_disk)) } else { (on_disk.ok(), None) };
        let mut daemon = Self {
            settings: settings.clone(),
            enforcement,
            revision,
            unconfirmed: None,
            reloads: VecDeque::new(),
            refused: None,
            files,
            unsettled: None,
            seen,
            known,
            rules,
            subtree,
            names,
            is_word_lost: false,
            tree_read: None,
            is_tree_being_read: false,
            watch,
            containers,
            lookups,
            older: HashSet::new(),
            news,
            surveyor: Some(surveyor),
            reports,
            cgroups_repaired: 0,
            survey_again: false,
            strangers_forgotten: Instant::now(),
            met_unknown: false,
            executables: Executables::default(),
            sweeper,
            owed: BTreeSet::new(),
            connections_closed: 0,
            tally,
            log,
            kept,
            tampering: Vec::new(),
            is_checking: false,
            is_check_due: false,
            damaged: None,
            lost_in_ring: 0,
            lost_in_writing: 0,
            own_unwritten: 0,
            unreadable: 0,
            lost_before: 0,
            more_events: false,
            complained: false,
            is_uneasy: false,
            started: (Instant::now(), SystemTime::now()),
            requests: control.is_some().then_some(requests),
            _control: control,
        };
        daemon.ask_about_containers();
        daemon.older = daemon.pending_containers();
        // From now on it is told of what comes.
        daemon.update_cgroups(Watch::changes);
        // Before the first event is written: the next daemon counts what is in the log from here on.
        daemon.keep_ledger();
        daemon.close_books()?;
        let adopted = daemon.revision.tables.revision;
        if swept.is_none() {
            daemon.sweep(Cause::Start);
        }
        if let Some(on_disk) = on_disk {
            daemon.catch_up(on_disk);
        }
        // Otherwise they are being judged by the policy that has just come into force.
        if let Some(swept) = swept.filter(|_| daemon.revision.tables.revision == adopted) {
            // If the earlier daemon ended before it had closed what this policy denies, that is not older than the enforcer.
            let cause = if swept.revision == adopted { Cause::Start } else { Cause::Reload };
            daemon.sweep(cause);
        }
        // A namespace that came between the first survey and the hooks told nobody.
        daemon.survey();
        failpoint::pass("started");
        Ok(daemon)
    }

    /// Puts the policy on the disk in force where it is another than the one that was adopted.
    fn catch_up(&mut self, on_disk: anyhow::Result<Loaded>) {
        let revision = self.revision.tables.revision;
        let is_same = |documents: &[Document]| {
            self.kept.as_ref().is_some_and(|kept| kept.is_text_of(revision, documents))
        };
        match on_disk {
            Ok(loaded) if is_same(&loaded.documents) => {}
            on_disk => {
                if self.take_over(revision + 1, on_disk, Prompt::Start, None).is_ok() {
                    self.follow_up();
                }
            }
        }
    }

    /// Writes what earlier daemons have left in their rings and then, once the log has it all, one record that closes their
    /// books. Returns whether they are closed.
    fn close_books(&mut self) -> anyhow::Result<bool> {
        if !self.kept.as_ref().is_some_and(Kept::is_behind) {
            return Ok(true);
        }
        let clock = Clock::now()?;
        let (mut is_one, mut recovered, mut newly_lost, mut records_lost) = (false, 0, 0, 0);
        while self.enforcement.open_left_book()? {
            is_one = true;
            while let Some(message) = self.enforcement.next_left_message() {
                self.take(&message, &clock);
                if let (Ok(Message::Decision(_)), Some(kept)) = (&message, &mut self.kept) {
                    kept.recover();
                }
            }
            self.flush();
            failpoint::pass("old-events-read");
            if !self.log.is_written() {
                return Ok(false);
            }
            let left = self.enforcement.left_events()?;
            let Some(kept) = &self.kept else { break };
            let resume = match kept.closing() {
                // It was written before, and the file had no room for it.
                Some(resume) => resume.clone(),
                None => {
                    let resume = kept.resume(&self.log, left);
                    if !self.write(SystemTime::now(), Body::Resume(resume.clone())) {
                        return Ok(false);
                    }
                    resume
                }
            };
            self.flush();
            failpoint::pass("resume-written");
            if !self.log.is_written() {
                if let Some(kept) = &mut self.kept {
                    kept.begin_to_close(resume);
                }
                return Ok(false);
            }
            recovered += resume.events_recovered;
            newly_lost += resume.events_newly_lost;
            records_lost += resume.records_newly_lost;
            if let Some(kept) = &mut self.kept {
                kept.close(&self.log);
                // Which books are open from now on, the callee knows.
                let ledger = kept.ledger(&self.log, 0)?;
                self.enforcement.close_left_book(ledger)?;
            }
        }
        if let Some(kept) = &mut self.kept {
            kept.catch_up();
            if is_one {
                let unattended_ms = kept.unattended_ms();
                info!(unattended_ms, recovered, newly_lost, records_lost, "took over from an earlier daemon");
            }
        }
        Ok(true)
    }

    /// Tells of what somebody has done to programs and pins.
    fn look(&mut self) {
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

    /// Permits what the policy permits again when a second has passed in which every decision was written down; until then it is
    /// seen to that nothing new is.
    fn look_at_log(&mut self) {
        let lost = self.lost_in_ring + self.log.unwritten() + self.unreadable;
        let is_lossy = lost > self.lost_before || self.complained;
        self.lost_before = lost;
        self.is_uneasy = is_lossy;
        self.refuse_new(is_lossy);
    }

    /// Has nothing new permitted while decisions cannot be written down, where the policy in force wants that.
    fn refuse_new(&mut self, refuse: bool) {
        self.is_uneasy |= refuse;
        match self.enforcement.refuse_new(refuse) {
            Ok(false) => {}
            Ok(true) if refuse => {
                error!(
                    "decisions cannot be written down: until they can, nothing new is permitted to services"
                );
            }
            Ok(true) => info!("decisions are written down again: what the policy permits is permitted again"),
            Err(err) => error!("refuse new connections: {err}"),
        }
    }

    fn keep_ledger(&mut self) {
        let Some(kept) = &self.kept else { return };
        let result = self.enforcement.ledger().map_err(anyhow::Error::from).and_then(|ledger| {
            let first_open = ledger.map_or(0, |ledger| ledger.first_open);
            Ok(self.enforcement.set_ledger(kept.ledger(&self.log, first_open)?)?)
        });
        if let Err(err) = result {
            error!("keep the ledger: {err:#}");
        }
    }

    /// Leaves to the next daemon which containers are known.
    fn keep_containers(&mut self) {
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

    /// Has the network namespaces surveyed, beside this loop, which goes on meanwhile.
    fn survey(&mut self) {
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

    /// Has something done beside this loop, which takes the report of it like any other input.
    fn beside(&self, work: impl FnOnce() -> Input + Send + 'static) {
        let reports = self.reports.clone();
        tokio::task::spawn_blocking(move || {
            // Nobody takes it any more when the daemon is about to end.
            drop(reports.blocking_send(vital::done(work)));
        });
    }

    /// Has the cgroup tree read, to compare it with the kernel's table.
    fn read_tree(&mut self) {
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

    /// Has the verdicts forgotten that the programs keep, if there was no room for further ones.
    fn make_room_for_verdicts(&mut self) {
        match self.enforcement.make_room_for_verdicts() {
            Ok(true) => debug!("verdicts are kept anew: there was no room for all"),
            Ok(false) => {}
            Err(err) => error!("make room for verdicts: {err}"),
        }
    }

    /// Has the sockets found that wait for somebody, if a caller has met one that no program has seen being bound: a
    /// `listen` or `connect` without `bind` passes no hook.
    fn find_bound(&mut self) {
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

    /// Has the tree read if word of a cgroup was lost, but neither for each that is told of nor again and again.
    fn look_for_names(&mut self) {
        let is_recent = self.tree_read.is_some_and(|read| read.elapsed() < NAMES_AGAIN);
        if self.is_word_lost && !is_recent {
            self.read_tree();
        }
    }

    /// Takes in what the tree was.
    fn take_tree(&mut self, read: &TreeRead) {
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

    /// Has the tables in force read back as a whole, beside this loop. A reload writes only what has changed since the slot was
    /// last in force, and reads back only that: what somebody else has done to the rest comes out here.
    fn check_tables(&mut self) {
        if self.is_checking {
            return;
        }
        let Some(held) = self.enforcement.held() else { return };
        self.is_checking = true;
        let revision = self.revision.tables.revision;
        self.beside(move || Input::TablesRead(revision, held.check()));
    }

    /// Puts the policy in force again, written in full, if its tables are not what was written.
    fn take_tables(&mut self, revision: u32, read: Result<(), MapError>) {
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
    fn put_right(&mut self, map: &'static str) {
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

    fn take_survey(&mut self, surveyed: Surveyed) {
        self.surveyor = Some(surveyed.surveyor);
        let taken = surveyed.views.map_err(anyhow::Error::from).and_then(|views| {
            self.enforcement.set_views(&views)?;
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

    /// The daemon in a line, for whoever asks the service manager.
    fn status(&self) -> String {
        let (services, rules) = (self.revision.tables.services.len(), self.revision.tables.rules.len());
        format!("enforcing revision {}: {services} services, {rules} rules", self.revision.tables.revision)
    }

    /// Opens the audit log again, since the file may have been moved away. What waits belongs to the file before.
    fn reopen_log(&mut self) {
        if let Err(err) = self.write_events() {
            error!("write audit log: {err:#}");
        }
        match self.log.reopen(&self.settings.audit) {
            Ok(()) => info!("the audit log {} is opened again", self.settings.audit.display()),
            Err(err) => error!("open audit log {}: {err}", self.settings.audit.display()),
        }
    }

    /// Asks the watch on the policy's files whether they have changed. If so they are read when they have come to rest.
    fn look_at_files(&mut self, ask: impl FnOnce(&mut watch::Watch) -> std::io::Result<bool>) {
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
    fn reload_if_changed(&mut self) {
        self.unsettled = None;
        if self.seen.take(std::slice::from_ref(&self.settings.policy)) == self.seen {
            return;
        }
        self.reload(Reload::unasked(Prompt::Files));
    }

    /// Has the policy directory read again, beside this loop, as soon as the reloads before have come to their ends.
    fn reload(&mut self, reload: Reload) {
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
    fn make_ready(&mut self) {
        if let Err(err) = self.enforcement.make_ready() {
            debug!("make ready for the next policy: {err}");
        }
    }

    /// Puts in force what was read; if that cannot be used, the policy in force stays. Goes on to the next reload that waits.
    fn end_reload(&mut self, Parsed { seen, read, known }: Parsed) {
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
    fn take_over(
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
                error!(revision, "reload refused, the policy in force stays: {err:#}");
                Err(format!("{err:#}"))
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
    fn follow_up(&mut self) {
        warn_of_ephemeral(&self.revision.policy);
        self.sweep(Cause::Reload);
    }

    /// Has live connections judged by the policy in force.
    fn sweep(&mut self, cause: Cause) {
        self.owed.insert(cause);
        self.order_what_is_owed();
    }

    /// Orders what was to be judged; what cannot be ordered is tried again at the next tick, since connections that the policy
    /// denies stay open until then.
    fn order_what_is_owed(&mut self) {
        while let Some(cause) = self.owed.first().copied() {
            let owners = failpoint::read_owners().map_err(anyhow::Error::from);
            let ordered = owners
                .and_then(|()| Ok(self.enforcement.owners()?))
                .and_then(|owners| Ok(self.sweeper.order(cause, self.revision.clone(), owners)?));
            if let Err(err) = ordered {
                error!("judge live connections: {err:#}\nhint: it is tried again within {TICK:?}");
                return;
            }
            self.owed.remove(&cause);
        }
    }

    /// Does what the control socket asks for. Whoever asked may have gone meanwhile.
    fn answer(&mut self, request: Request) {
        let heard = match request {
            Request::Snapshot(answer) => match self.snapshot() {
                Ok(snapshot) => answer.send(snapshot).is_ok(),
                Err(err) => {
                    error!("read counters: {err:#}");
                    false
                }
            },
            Request::Reload(by, answer) => {
                self.reload(Reload { cause: Prompt::Control, by, answer: Some(answer) });
                true
            }
            Request::Apply(proposal, answer) => answer.send(self.apply(*proposal)).is_ok(),
            Request::Confirm(by, answer) => answer.send(self.confirm(by)).is_ok(),
        };
        if !heard {
            debug!("whoever asked through the control socket has gone");
        }
    }

    /// Whose each cgroup is in the kernel's table. One that goes meanwhile is left out.
    fn owners(&self) -> anyhow::Result<HashMap<u64, Owner>> {
        let ids = self.enforcement.cgroups()?.into_iter();
        Ok(ids.filter_map(|id| Some((id, self.enforcement.cgroup(id)?.owner))).collect())
    }

    /// Attempts that were left by earlier daemons and are in this one's log.
    fn recovered(&self) -> u64 {
        self.kept.as_ref().map_or(0, |kept| kept.recovered_attempts(&self.log))
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
            },
            records: Records {
                made: self.tally.since() + own_lost,
                written: self.log.own().written,
                lost: self.log.own_unwritten() + own_lost,
            },
        })
    }

    /// Puts a policy of the control socket in force. The directory stays as it is.
    fn apply(&mut self, proposal: Proposal) -> Result<Applied, Refusal> {
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
        self.unconfirmed = proposal.confirm_within.and_then(|within| {
            Some(Unconfirmed { before: before.clone(), by: Instant::now().checked_add(within)? })
        });
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

    fn confirm(&mut self, by: Option<Peer>) -> Result<u32, Refusal> {
        self.unconfirmed.take().ok_or(Refusal::NothingToConfirm)?;
        let revision = self.revision.tables.revision;
        info!(revision, "policy confirmed");
        self.tally.add(1);
        self.record_change("confirmed", Prompt::Control, by, None);
        self.sweep(Cause::Reload);
        Ok(revision)
    }

    /// Puts the policy back in force that was there before the one that nobody confirmed.
    fn roll_back(&mut self) {
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

    /// Asks about every container that is there and not known yet, if the policy selects any.
    fn ask_about_containers(&mut self) {
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
    fn look_for_container(&mut self, id: u64, path: &Path) {
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
    fn ask_again(&mut self, is_wanted: impl Fn(&Lookups, u64, &Container) -> bool) {
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
    fn pending_containers(&self) -> HashSet<u64> {
        let all = self.names.iter().map(|(id, _)| id).filter(|id| self.containers.get(*id).is_none());
        let is_pending = |id: &u64| {
            self.enforcement.cgroup(*id).is_some_and(|cgroup| cgroup.owner.identity() == Identity::PENDING)
        };
        all.filter(is_pending).collect()
    }

    /// Takes in what a runtime has told of a container.
    fn take_answer(&mut self, answer: Answer) -> anyhow::Result<()> {
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
        let service = self.name(owner);
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
    fn identify(&mut self, own: &Path) -> anyhow::Result<()> {
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
    fn container_around(&self, path: &Path) -> Option<PathBuf> {
        // On most hosts there is none, and the tree need not be asked.
        self.containers.iter().next()?;
        let is_known =
            |path: &&Path| self.subtree.id_at(path).is_some_and(|id| self.containers.get(id).is_some());
        path.ancestors().find(is_known).map(Path::to_path_buf)
    }

    /// Takes in what the watch has seen, where there is one.
    fn update_cgroups(&mut self, ask: impl FnOnce(&mut Watch) -> Changes) {
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
    fn take_cgroup(&mut self, event: &CgroupEvent) {
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

    /// Writes what waits, and under a flood at most as many as can wait at a time.
    fn write_events(&mut self) -> anyhow::Result<()> {
        for _ in 0..EVENTS_THAT_WAIT.div_ceil(EVENTS_AT_ONCE) {
            self.write_some_events()?;
            if !self.more_events {
                break;
            }
        }
        Ok(())
    }

    /// Writes what waits, but no more than [`EVENTS_AT_ONCE`].
    fn write_some_events(&mut self) -> anyhow::Result<()> {
        self.more_events = false;
        // What is older is written first, so that each event is in one book.
        if !self.close_books()? {
            return Ok(());
        }
        let clock = Clock::now()?;
        self.executables.forget();
        self.more_events = true;
        for _ in 0..EVENTS_AT_ONCE {
            match self.enforcement.next_message() {
                Some(message) => self.take(&message, &clock),
                None => {
                    self.more_events = false;
                    break;
                }
            }
        }
        self.tell_losses()?;
        self.flush();
        self.look_for_names();
        if !self.more_events {
            failpoint::pass("events-written");
        }
        Ok(())
    }

    /// Takes in what the programs tell, and writes it if it is a decision.
    fn take(&mut self, message: &Result<Message, InvalidEvent>, clock: &Clock) {
        match message {
            Ok(Message::Cgroup(event)) => self.take_cgroup(event),
            Ok(Message::Namespace(event)) => {
                debug!(cookie = event.cookie, pid = event.pid, "network namespace is not known yet");
                self.survey();
            }
            Ok(Message::Decision(event)) => {
                // An event may name a cgroup whose coming has not been read yet.
                if [event.caller_cgroup(), event.answerer_cgroup()]
                    .into_iter()
                    .flatten()
                    .any(|id| self.names.path(id).is_none())
                {
                    self.update_cgroups(Watch::changes);
                }
                let is_egress = event.hook().is_some_and(|hook| hook.direction() == Direction::Egress);
                self.met_unknown |= is_egress && event.reason() == Some(Reason::DestinationUnknown);
                let attempt = self.attempt(event);
                self.write(clock.wall(event.at), Body::Attempt(Box::new(attempt)));
            }
            Err(err) => {
                error!("{err}");
                self.unreadable += 1;
                let lost = Lost { cause: "unreadable", count: 1 };
                self.write(SystemTime::now(), Body::Lost(lost));
            }
        }
    }

    /// Writes a record of the events that were lost since the last one.
    fn tell_losses(&mut self) -> anyhow::Result<()> {
        let in_ring = self.enforcement.count(Counter::EVENTS_LOST)?;
        if in_ring > self.lost_in_ring {
            let lost = Lost { cause: "ring-full", count: in_ring - self.lost_in_ring };
            warn!(count = lost.count, "events lost: the ring buffer was full");
            self.refuse_new(true);
            if self.write(SystemTime::now(), Body::Lost(lost)) {
                self.lost_in_ring = in_ring;
            }
        }
        let in_writing = self.log.unwritten();
        if in_writing > self.lost_in_writing {
            let lost = Lost { cause: "write-failed", count: in_writing - self.lost_in_writing };
            if self.write(SystemTime::now(), Body::Lost(lost)) {
                self.lost_in_writing = in_writing;
            }
        }
        let own = self.log.own_unwritten();
        if own > self.own_unwritten {
            let lost = Lost { cause: audit::OWN_LOST, count: own - self.own_unwritten };
            if self.write(SystemTime::now(), Body::Lost(lost)) {
                self.own_unwritten = own;
            }
        }
        Ok(())
    }

    /// Writes a record; a failure is logged and, for an attempt, counted. Returns whether it was written.
    fn write(&mut self, time: SystemTime, body: Body) -> bool {
        let written = self.log.write(time, body);
        if let Err(err) = &written {
            self.complain(err);
        }
        written.is_ok()
    }

    fn flush(&mut self) {
        match self.log.flush() {
            Ok(()) if self.complained => {
                self.complained = false;
                info!("the audit log {} is written again", self.settings.audit.display());
            }
            Ok(()) => {}
            Err(err) => self.complain(&err),
        }
        self.keep_ledger();
    }

    /// Says once that the audit log takes nothing, and not for every record.
    fn complain(&mut self, err: &std::io::Error) {
        if !self.complained {
            self.complained = true;
            error!("write audit log {}: {err}", self.settings.audit.display());
            self.refuse_new(true);
        }
    }

    /// Writes what was found of live connections.
    fn write_connections(&mut self, report: Report) {
        match report {
            Report::Denied(cause, revision, denied) => {
                for told in denied {
                    self.connections_closed += u64::from(told.action == Action::Closed);
                    if let Some(err) = &told.error {
                        error!("{err}");
                    }
                    let record = self.connection(cause, revision, told);
                    self.write(SystemTime::now(), Body::Connection(Box::new(record)));
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

    fn connection(&mut self, cause: Cause, revision: u32, told: Told) -> audit::Connection {
        let Told { connection, action, error } = told;
        let decision = &connection.decision;
        let rule = self.rule(revision, decision.rule());
        let end = |identity, end: &connections::judge::End| {
            let cgroup = Some(end.party.cgroup_id()).filter(|id| *id != 0);
            self.end(identity, cgroup, Some((end.at.address, end.at.port)))
        };
        audit::Connection {
            action: action.name(),
            cause: cause.name(),
            error,
            verdict: audit::verdict(decision.verdict),
            mode: audit::mode(decision.mode),
            reason: decision.reason.code(),
            rule,
            revision,
            protocol: audit::protocol(connection.protocol),
            state: connection.state.name(),
            source: end(decision.from, &connection.caller),
            destination: end(decision.to, &connection.answerer),
        }
    }

    fn rule(&mut self, revision: u32, rule: Option<RuleId>) -> Option<Rule> {
        let number = usize::try_from(rule?.0).ok()?;
        if !self.rules.iter().any(|(known, _)| *known == revision) {
            let rules = self.recall(revision)?;
            self.rules.push_front((revision, rules));
        }
        let (_, rules) = self.rules.iter().find(|(known, _)| *known == revision)?;
        let rule = rules.get(number)?;
        Some(Rule {
            name: rule.name.to_string(),
            file: rule.location.file.to_string_lossy().into_owned(),
            line: rule.location.line,
        })
    }

    /// The rules of a policy that was in force under an earlier daemon, by which something was decided that is told only now;
    /// nothing if it is not remembered, and none if it cannot be read.
    fn recall(&self, revision: u32) -> Option<Rules> {
        let documents = self.kept.as_ref()?.documents(revision).map_err(anyhow::Error::from).transpose()?;
        let loaded = documents.and_then(|documents| parse(&self.settings, documents));
        let policy = loaded.map(|loaded| loaded.policy).unwrap_or_else(|err| {
            warn!("name the rules of revision {revision}: {err:#}");
            None
        });
        Some(policy.map(|policy| policy.rules).unwrap_or_default())
    }

    fn attempt(&mut self, event: &Event) -> Attempt {
        let process = event.process().map(|(pid, uid, comm)| Process {
            pid,
            uid,
            comm: String::from_utf8_lossy(comm).into_owned(),
            exe: self.executables.of(pid, comm),
        });
        let rule = self.rule(event.revision, event.rule());
        Attempt {
            verdict: event.verdict().map_or("unknown", audit::verdict),
            mode: audit::mode(event.mode()),
            reason: event.reason().map_or("unknown", |reason| reason.code()),
            rule,
            revision: event.revision,
            hook: event.hook().map_or("unknown", |hook| hook.name()),
            direction: event.hook().map_or("unknown", |hook| audit::direction(hook.direction())),
            protocol: audit::protocol(event.protocol()),
            source: self.end(event.caller(), event.caller_cgroup(), event.caller_endpoint()),
            destination: self.end(event.answerer(), event.answerer_cgroup(), event.answerer_endpoint()),
            process,
        }
    }

    fn end(&self, identity: Identity, cgroup: Option<u64>, endpoint: Option<(Address, Port)>) -> End {
        End {
            service: self.name(identity),
            cgroup: cgroup.and_then(|id| self.names.told(id)),
            cgroup_id: cgroup,
            address: endpoint.map(|(address, _)| audit::ip(address)),
            port: endpoint.map(|(_, port)| port.number()),
        }
    }

    fn name(&self, identity: Identity) -> String {
        self.revision
            .identities
            .name(identity)
            .map_or_else(|| format!("identity {}", identity.raw()), str::to_owned)
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

/// Says which reserved ports are not safe from whoever asks the kernel for any port.
fn warn_of_ephemeral(policy: &Policy) {
    match Ephemeral::read() {
        Ok(ephemeral) => {
            if let Some(advice) = ephemeral.advice(policy) {
                warn!("{advice}");
            }
        }
        Err(err) => debug!("read which ports the kernel chooses from: {err}"),
    }
}

/// Watches the policy's files, if the kernel does.
fn watch_policy(policy: &Path) -> Option<watch::Watch> {
    match watch::Watch::new(policy) {
        Ok(watch) => Some(watch),
        Err(err) => {
            warn!("watch policy: {err}; only SIGHUP and `enforcer reload` reload it");
            None
        }
    }
}

/// Reads the policy; says every warning, and every error if there is one.
fn read_policy(
    settings: &Settings,
    known: Option<&Loaded>,
    meanwhile: impl FnMut(),
) -> (Fingerprint, anyhow::Result<Loaded>) {
    let (fingerprint, loaded) =
        settings.parser.load(std::slice::from_ref(&settings.policy), known, meanwhile);
    (fingerprint, loaded.map_err(anyhow::Error::from).and_then(usable))
}

/// Parses a policy of which the text is known.
fn parse(settings: &Settings, documents: Vec<Document>) -> anyhow::Result<Loaded> {
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

fn compile(
    policy: &Policy,
    identities: &mut Identities,
    revision: u32,
    top: &[u8],
) -> anyhow::Result<Tables> {
    Tables::compile_below(policy, identities, revision, top)
        .map_err(|err| InvalidPolicy(err.to_string()).into())
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

/// Says whose the ports are that were bound while no program saw it.
fn note_sockets(enforcement: &mut Enforcement, bound: Vec<Bound>) {
    for bound in bound {
        let note = SocketNote::of(bound.cgroup, bound.netns);
        if let Err(err) = enforcement.note_socket(&bound.socket, note) {
            warn!("note the owner of a socket: {err}");
        }
    }
}

fn audited(tables: &Tables) -> Vec<String> {
    let audited = tables.services.iter().filter(|service| service.owner.mode() == Mode::Audit);
    audited.map(|service| service.name.clone()).collect()
}

/// Executables of processes, each asked for once among events that are written together: a process makes many calls.
#[derive(Default)]
struct Executables {
    /// By process and command name, since a process may become another program between two calls.
    known: HashMap<u32, (Vec<u8>, Option<String>)>,
}

impl Executables {
    /// Forgets all: numbers of processes are given again.
    fn forget(&mut self) {
        self.known.clear();
    }

    /// Path of the executable, if the process is still there to ask. Whoever made it may have put any bytes into it.
    fn of(&mut self, pid: u32, comm: &[u8]) -> Option<String> {
        if let Some((known, exe)) = self.known.get(&pid)
            && known == comm
        {
            return exe.clone();
        }
        let exe = i32::try_from(pid)
            .ok()
            .filter(|_| *IN_INITIAL_PID_NAMESPACE)
            .and_then(|pid| procfs::process::Process::new(pid).ok())
            .and_then(|process| process.exe().ok())
            .map(|exe| exe.to_string_lossy().into_owned());
        self.known.insert(pid, (comm.to_vec(), exe.clone()));
        exe
    }
}

/// Whether this process numbers processes as programs do. In a container a number is somebody else's.
static IN_INITIAL_PID_NAMESPACE: LazyLock<bool> = LazyLock::new(|| {
    // PROC_PID_INIT_INO of include/linux/proc_ns.h.
    const INITIAL: u64 = 0xeffffffc;
    std::fs::metadata("/proc/self/ns/pid").is_ok_and(|namespace| namespace.ino() == INITIAL)
});

/// The two clocks at one moment: programs have only the one that counts from boot.
struct Clock {
    wall: SystemTime,
    monotonic: u64,
}

impl Clock {
    fn now() -> anyhow::Result<Self> {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).context("read the clock")?;
        let monotonic = std::time::Duration::from(now).as_nanos();
        Ok(Self { wall: SystemTime::now(), monotonic: u64::try_from(monotonic).unwrap_or(u64::MAX) })
    }

    /// The wall-clock time of a moment that a program recorded.
    fn wall(&self, at: u64) -> SystemTime {
        let ago = std::time::Duration::from_nanos(self.monotonic.saturating_sub(at));
        let ahead = std::time::Duration::from_nanos(at.saturating_sub(self.monotonic));
        self.wall.checked_sub(ago).and_then(|time| time.checked_add(ahead)).unwrap_or(self.wall)
    }
}

/// The file descriptors and signals that [`Input`] comes from.
struct Inputs {
    events: AsyncFd<OwnedFd>,
    /// When events are looked for again, after some were read.
    events_from: Instant,
    kernel_log: Option<AsyncFd<OwnedFd>>,
    cgroups: Option<AsyncFd<OwnedFd>>,
    network: AsyncFd<OwnedFd>,
    files: Option<AsyncFd<OwnedFd>>,
    reports: mpsc::Receiver<Input>,
    answers: mpsc::Receiver<Word>,
    ticks: Timer,
    heartbeat: Timer,
    requests: Option<mpsc::Receiver<Request>>,
    signals: Signals,
    watchdog: Watchdog,
}

/// The signals that are taken for requests.
struct Signals {
    hangup: Signal,
    reopen: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn catch() -> anyhow::Result<Self> {
        let on = |kind| signal(kind).context("wait for signals");
        Ok(Self {
            hangup: on(SignalKind::hangup())?,
            reopen: on(SignalKind::user_defined1())?,
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }
}

impl Signals {
    /// Waits, with nothing to do, until a signal asks for another try to start, or for the end.
    async fn ask_for_another_try(&mut self, watchdog: &mut Watchdog) -> bool {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return false,
                _ = self.interrupt.recv() => return false,
                _ = self.hangup.recv() => return true,
                // There is no log that is written to.
                _ = self.reopen.recv() => {}
                () = watchdog.due() => notify::alive(),
            }
        }
    }
}

impl Inputs {
    fn new(
        daemon: &mut Daemon,
        signals: Signals,
        reports: mpsc::Receiver<Input>,
        answers: mpsc::Receiver<Word>,
        watchdog: Watchdog,
    ) -> anyhow::Result<Self> {
        let (mut ticks, heartbeat) =
            (Timer::every(Duration::ZERO, TICK)?, Timer::every(HEARTBEAT, HEARTBEAT)?);
        ticks.run(true)?;
        Ok(Self {
            events: readable(daemon.enforcement.events_fd())?,
            events_from: Instant::now(),
            kernel_log: daemon.enforcement.log_fd().map(readable).transpose()?,
            cgroups: daemon.watch.as_ref().map(|watch| readable(watch.fd())).transpose()?,
            network: readable(daemon.news.fd())?,
            files: daemon.files.as_ref().map(|files| readable(files.fd())).transpose()?,
            reports,
            answers,
            ticks,
            heartbeat,
            requests: daemon.requests.take(),
            signals,
            watchdog,
        })
    }

    /// The next input; with `more_events`, events if there is nothing else.
    async fn next(
        &mut self,
        more_events: bool,
        confirm_by: Option<Instant>,
        settled_at: Option<Instant>,
        sweeper: &mut Sweeper,
    ) -> anyhow::Result<Input> {
        // Cgroups come before events, so that events find the names of what they are about.
        let input = tokio::select! {
            biased;
            _ = self.signals.terminate.recv() => Input::Stop,
            _ = self.signals.interrupt.recv() => Input::Stop,
            () = self.watchdog.due() => Input::Watchdog,
            ready = if_ready(self.cgroups.as_ref()) => { ready?; Input::Cgroups }
            ready = self.network.readable() => { ready?.clear_ready(); Input::Network }
            // The daemon holds a sender for as long as it lives, so there is always one to come.
            report = self.reports.recv() => report.unwrap_or(Input::Tick),
            answer = self.answers.recv() => match answer {
                Some(word) => Input::Container(Box::new(word)),
                // Likewise.
                None => Input::Tick,
            },
            ticked = self.ticks.tick() => { ticked?; Input::Tick }
            _ = self.signals.hangup.recv() => Input::Reload,
            ready = if_ready(self.files.as_ref()) => { ready?; Input::PolicyFiles }
            () = moment(settled_at) => Input::PolicySettled,
            _ = self.signals.reopen.recv() => Input::Reopen,
            () = moment(confirm_by) => Input::Unconfirmed,
            request = next_request(&mut self.requests) => Input::Control(request),
            Some(report) = sweeper.report() => Input::Connections(report),
            ready = readable_from(self.events_from, &self.events) => {
                ready?;
                self.events_from = Instant::now() + EVENTS_GATHER;
                Input::Events
            }
            ready = if_ready(self.kernel_log.as_ref()) => { ready?; Input::KernelLog }
            ticked = self.heartbeat.tick() => { ticked?; Input::Heartbeat }
            // Through the runtime, which looks at clocks and descriptors only when nothing is ready in here.
            () = tokio::task::yield_now(), if more_events => Input::Events,
        };
        Ok(input)
    }
}

/// Waits for a descriptor through one of its own, which no one else can close.
#[expect(deprecated, reason = "its unsafe successor asks for an owned descriptor, which this is by its type")]
fn readable(fd: BorrowedFd<'_>) -> std::io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(fd.try_clone_to_owned()?, Interest::READABLE)
}

/// Waits for a moment, and then for a descriptor.
async fn readable_from(moment: Instant, fd: &AsyncFd<OwnedFd>) -> std::io::Result<()> {
    tokio::time::sleep_until(moment.into()).await;
    fd.readable().await?.clear_ready();
    Ok(())
}

/// Waits for a descriptor, for ever if there is none.
async fn if_ready(fd: Option<&AsyncFd<OwnedFd>>) -> std::io::Result<()> {
    match fd {
        Some(fd) => {
            fd.readable().await?.clear_ready();
            Ok(())
        }
        None => std::future::pending().await,
    }
}

/// Waits for a moment, for ever if there is none.
async fn moment(moment: Option<Instant>) {
    let Some(moment) = moment else { return std::future::pending().await };
    tokio::time::sleep_until(moment.into()).await;
}

/// Waits for a request of the control socket, for ever if there is none.
async fn next_request(requests: &mut Option<mpsc::Receiver<Request>>) -> Request {
    if let Some(receiver) = requests {
        match receiver.recv().await {
            Some(request) => return request,
            // The control socket has gone, so nobody asks any more.
            None => *requests = None,
        }
    }
    std::future::pending().await
}

/// Whether an error is the operator's input rather than the host's state.
pub fn is_bad_input(error: &anyhow::Error) -> bool {
    error.is::<InvalidPolicy>() || matches!(error.downcast_ref(), Some(Unsupported::NotACgroup { .. }))
}
