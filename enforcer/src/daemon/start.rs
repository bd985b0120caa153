//! From a policy on the disk to a daemon that enforces it.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, bail};
use enforcer_common::Mode;
use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use super::events::Executables;
use super::inputs::Input;
use super::policy::{compile, parse, read_policy, warn_of_ephemeral};
use super::upkeep::note_sockets;
use super::{Daemon, Settings, give_up_all_but};
use crate::audit::{Body, Log, Prompt, Start, Unprotected};
use crate::cgroups::{self, Names, Subtree, Watch};
use crate::connections::{Cause, Sweeper};
use crate::containers::lookup::Lookups;
use crate::control::server::Socket;
use crate::existing;
use crate::failpoint;
use crate::install::install;
use crate::kernel::feature::{self, Unsupported};
use crate::kernel::{Enforcement, LoadError, Options, Pins};
use crate::namespaces::Neighbours;
use crate::namespaces::news::News;
use crate::namespaces::survey::Surveyor;
use crate::netns;
use crate::notify;
use crate::policy::{Loaded, OnUnsupported};
use crate::privileges;
use crate::revision::{InvalidPolicy, Origin, Revision};
use crate::staying::{self, First, Left, Staying};
use crate::tables::Tables;
use crate::watch;

/// Requests of the control socket that may wait for the loop.
const REQUESTS_WAITING: usize = 16;

impl Daemon {
    pub(super) fn start(
        settings: &Settings,
        reports: mpsc::Sender<Input>,
        lookups: Lookups,
    ) -> anyhow::Result<Self> {
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
        if let Some((pins, staying)) = pins.as_ref().zip(settings.staying.as_ref()) {
            stay_where_attached(pins, staying, &root)?;
        }
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
        let views = surveyor.views().context("survey network namespaces")?;
        enforcement.set_views(&views)?;
        let neighbours = Arc::new(Neighbours::of(&views));
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
        // While a start may still fail: judged at a later try, what has come since would pass for older than the enforcer.
        let owners = enforcement.owners()?;
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
        // It is told when the log takes it: without a start nothing would be refused, which is worse than what is not told.
        if let Err(err) = log.write(SystemTime::now(), Body::Start(start)).and_then(|()| log.flush()) {
            error!("write audit log {}: {err}", settings.audit.display());
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
        let is_text = |loaded: &Loaded| {
            kept.as_ref().is_some_and(|kept| kept.is_text_of(tables.revision, &loaded.documents))
        };
        let is_of_directory = !is_adopted || on_disk.as_ref().is_ok_and(is_text);
        let origin = if is_of_directory { Origin::Directory } else { Origin::Adopted };
        let since = (!is_adopted).then(SystemTime::now);
        let revision =
            Revision { origin, since, documents, policy, tables, identities, warnings: Vec::new() };
        let revision = Arc::new(revision);
        // What an earlier daemon has put in force was read from somewhere else.
        let (known, on_disk) = if is_of_directory { (on_disk.ok(), None) } else { (None, Some(on_disk)) };
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
            neighbours,
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
            not_opened: None,
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
        match swept {
            None => {
                daemon.order_sweep(Cause::Start, owners)?;
                daemon.catch_up(on_disk);
            }
            Some(swept) => {
                // Otherwise they are being judged by the policy that has just come into force.
                if !daemon.catch_up(on_disk) {
                    // If the earlier daemon ended before it had closed what this policy denies, that is not older than the enforcer.
                    let is_done = swept.revision == daemon.revision.tables.revision;
                    daemon.order_sweep(if is_done { Cause::Start } else { Cause::Reload }, owners)?;
                }
            }
        }
        // A namespace that came between the first survey and the hooks told nobody.
        daemon.survey();
        failpoint::pass("started");
        Ok(daemon)
    }

    /// Puts the policy on the disk in force if it is another than the one that was adopted. Returns whether it is.
    fn catch_up(&mut self, on_disk: Option<anyhow::Result<Loaded>>) -> bool {
        let next = self.revision.tables.revision + 1;
        let Some(on_disk) = on_disk else { return false };
        let is_in_force = self.take_over(next, on_disk, Prompt::Start, None).is_ok();
        if is_in_force {
            self.follow_up();
        }
        is_in_force
    }
}

/// Whether the host cannot enforce, nothing of an earlier daemon does, and the policy says that the daemon is to run all the same.
pub(super) fn may_run_open(settings: &Settings, err: &anyhow::Error) -> bool {
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
pub(super) fn stand_open(settings: &Settings, err: &anyhow::Error) -> anyhow::Result<()> {
    let cause = format!("{err:#}");
    error!("nothing is enforced, as `on_unsupported: open` wants it: {cause}");
    let mut log =
        Log::open(&settings.audit).with_context(|| format!("open audit log {}", settings.audit.display()))?;
    notify::ready(&format!("DEGRADED, nothing is enforced: {}", cause.lines().next().unwrap_or_default()));
    log.write(SystemTime::now(), Body::Unprotected(Unprotected { cause })).context("write audit log")?;
    log.flush().context("write audit log")
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

fn audited(tables: &Tables) -> Vec<String> {
    let audited = tables.services.iter().filter(|service| service.owner.mode() == Mode::Audit);
    audited.map(|service| service.name.clone()).collect()
}

/// Holds whoever starts to the cgroup that an earlier daemon's programs are attached to: with another one, nothing would be enforced any
/// longer in what is below theirs alone.
fn stay_where_attached(pins: &Pins, staying: &Staying, root: &Path) -> anyhow::Result<()> {
    let own = root.metadata().with_context(|| format!("open cgroup {}", root.display()))?.ino();
    let Some(found) = pins.attached_to()?.filter(|found| *found != own) else { return Ok(()) };
    if staying.takeover {
        warn!(
            cgroup = found,
            "enforcement moves to {}: it ends where only the earlier one was judged",
            root.display()
        );
        return Ok(());
    }
    bail!(
        "adopt pins in {}: their programs are attached to another cgroup than {}, the one of inode {found}\n\
         hint: give the --cgroup-root that they were started with; `enforcer run --takeover` ends enforcement there, and begins here",
        staying.pin_dir.display(),
        root.display()
    );
}
