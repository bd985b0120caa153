//! What one daemon leaves to the next on the disk and in the ledger, and what the next makes of it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::time::{ClockId, clock_gettime};
use tracing::warn;

use crate::audit::{Log, Place, Resume, Tail};
use crate::cgroups::{self, Subtree};
use crate::connections::Older;
use crate::containers::{Containers, cgroup};
use crate::failpoint;
use crate::identities::Identities;
use crate::kernel::{Enforcement, Ledger, Pins, Tally};
use crate::policy::{Document, Loaded, Policy};
use crate::state::{self, KnownContainer, KnownContainers, State, StateError, Swept};
use crate::tables::Tables;

/// Where that is kept which outlives the daemon.
#[derive(Clone, Debug)]
pub struct Staying {
    /// A directory on a BPF file system.
    pub pin_dir: PathBuf,
    /// A directory on a disk.
    pub state_dir: PathBuf,
    /// Whether maps and state of an earlier daemon that cannot be used are replaced.
    pub takeover: bool,
}

/// What an earlier daemon has left; nothing where nothing outlives the daemon.
#[derive(Default)]
pub(crate) struct Left {
    state: State,
    directory: Option<state::Directory>,
    is_adopting: bool,
    is_replacing: bool,
    /// Whether what cannot be read is replaced.
    is_afresh: bool,
}

/// The policy that a start puts in force before it attaches anything.
pub(crate) struct First {
    /// What its documents mean.
    pub(crate) policy: Policy,
    /// Its text.
    pub(crate) documents: Vec<Document>,
    pub(crate) tables: Tables,
    pub(crate) identities: Identities,
    /// Whether it is in force already, by an earlier daemon.
    pub(crate) is_adopted: bool,
}

impl Left {
    /// Opens what an earlier daemon has left, or makes room for what this one will.
    ///
    /// # Errors
    ///
    /// It is in use, of a newer version, or damaged.
    pub(crate) fn open(staying: Option<&Staying>) -> anyhow::Result<(Self, Option<Pins>)> {
        let Some(staying) = staying else { return Ok((Self::default(), None)) };
        let directory = state::Directory::open(&staying.state_dir)?;
        let mut pins = Pins::open(&staying.pin_dir)?;
        let read = match directory.read() {
            Err(err @ StateError::Damaged { .. }) if staying.takeover => {
                warn!("start afresh: {err}");
                None
            }
            read => read?,
        };
        failpoint::pass("state-read");
        if staying.takeover {
            pins.start_afresh();
        } else if read.is_none() && (pins.is_adoptable() || pins.is_in_use()) {
            bail!(
                "adopt pins in {}: {} has no state that tells what their numbers mean\n\
                 hint: give the --state-dir that they were made with, or `enforcer run --takeover` to start afresh",
                staying.pin_dir.display(),
                staying.state_dir.display()
            );
        }
        let state = read.unwrap_or_default();
        let is_replacing = pins.is_in_use() && state.latest() > 0;
        let (is_adopting, is_afresh) = (pins.is_adoptable(), staying.takeover);
        let left = Self { state, directory: Some(directory), is_adopting, is_replacing, is_afresh };
        Ok((left, Some(pins)))
    }

    /// Whether a policy is in force that does not depend on what is on the disk now.
    pub(crate) fn has_policy(&self) -> bool {
        self.is_adopting || self.is_replacing
    }

    /// Chooses the policy to begin with, and writes the state. It is the one in force where there is one, so that programs of
    /// two daemons never judge by two policies.
    ///
    /// # Errors
    ///
    /// The one in force cannot be told from the state, or that on the disk is needed and invalid.
    pub(crate) fn first(
        &mut self,
        enforcement: &Enforcement,
        on_disk: &anyhow::Result<Loaded>,
        parse: impl Fn(Vec<Document>) -> anyhow::Result<Loaded>,
        compile: impl Fn(&Policy, &mut Identities, u32) -> anyhow::Result<Tables>,
    ) -> anyhow::Result<First> {
        let mut identities = self.state.identities.clone();
        let in_force = match (self.is_adopting, self.is_replacing) {
            (true, _) => Some(enforcement.revision()?),
            (false, true) => Some(self.state.latest()),
            (false, false) => None,
        };
        if let Some(revision) = in_force {
            let documents = match self.documents(revision) {
                Err(err @ StateError::Damaged { .. }) if self.is_afresh => {
                    warn!("start afresh: {err}");
                    None
                }
                documents => Some(documents?.with_context(|| {
                    format!(
                        "adopt pins: revision {revision} is in force, and its text is not in the state\n\
                         hint: `enforcer run --takeover` puts the policy of --policy in its place"
                    )
                })?),
            };
            if let Some(documents) = documents {
                let Loaded { policy, documents, .. } = parse(documents)?;
                if let Some(policy) = policy {
                    let tables = compile(&policy, &mut identities, revision)?;
                    return Ok(First { policy, documents, tables, identities, is_adopted: true });
                }
                // The version that put it in force took what this one does not.
                warn!(
                    revision,
                    "the policy in force cannot be read by this version: that of --policy takes its place"
                );
            }
        }
        let (policy, documents) = match on_disk {
            Ok(Loaded { policy: Some(policy), documents, .. }) => (policy, documents),
            Ok(_) => bail!("read policy: nothing of it can be used"),
            Err(err) => bail!("{err:#}"),
        };
        // After a boot nothing is in force, and what was before it is the same revision again.
        let is_same = in_force.is_none() && self.state.is_text_of(self.state.latest(), documents);
        let revision = in_force.unwrap_or(self.state.latest()) + u32::from(!is_same);
        let tables = compile(policy, &mut identities, revision)?;
        if let Some(directory) = &self.directory {
            self.state.remember(revision, documents, &identities);
            directory.write(&mut self.state)?;
        }
        let (policy, documents) = (policy.clone(), documents.clone());
        Ok(First { policy, documents, tables, identities, is_adopted: in_force.is_some() })
    }

    /// The containers that an earlier daemon knew and whose cgroups are the same still.
    pub(crate) fn containers(&self, subtree: &Subtree, top: &[u8]) -> Containers {
        let mut containers = Containers::default();
        let known = self.directory.as_ref().and_then(state::Directory::read_containers);
        let Some(known) = known.filter(|known| boot().is_some_and(|boot| boot == known.boot)) else {
            return containers;
        };
        for KnownContainer { cgroup, path, container } in known.containers {
            // A cgroup's id is not given out again before the next boot, and its path does not change.
            let is_its = found_at(&path, top).is_some_and(|found| found.id == container.id);
            if is_its && subtree.id_at(&path) == Some(cgroup) {
                containers.insert(cgroup, container);
            }
        }
        containers
    }

    /// What the last look at all live connections has come to, if there was one since the machine was started.
    pub(crate) fn swept(&self) -> Option<Swept> {
        self.directory.as_ref()?.swept()
    }

    fn documents(&self, revision: u32) -> Result<Option<Vec<Document>>, StateError> {
        self.directory.as_ref().map_or(Ok(None), |directory| directory.documents(&self.state, revision))
    }

    /// What the daemon keeps from now on, given what the last one had told of its events and of what it did; `None` where
    /// nothing outlives it.
    pub(crate) fn keep(self, ledger: &Ledger, tail: Tail, tally: &Tally, revision: u32) -> Option<Kept> {
        let heard_at = (ledger.heard_at > 0).then(|| Duration::from_nanos(ledger.heard_at));
        let made = tally.before();
        // The lines of a version that did not count its records yet are more than were counted.
        let own_told = made.min(ledger.own_told + tail.own.told());
        Some(Kept {
            directory: self.directory?,
            state: self.state,
            told_before: (ledger.written + tail.attempts, ledger.lost + tail.losses),
            told_at_closing: (0, 0),
            own_told,
            own_lost: made - own_told,
            own_untold: made - own_told,
            is_behind: true,
            recovered: 0,
            closing: None,
            unattended: heard_at.and_then(|heard_at| since_boot().ok()?.checked_sub(heard_at)),
            revision,
        })
    }
}

/// The place in the audit log up to which an earlier daemon had counted.
pub(crate) fn place(ledger: &Ledger) -> Place {
    Place { device: ledger.device, inode: ledger.inode, length: ledger.length }
}

/// What is kept for the next daemon.
pub(crate) struct Kept {
    directory: state::Directory,
    state: State,
    /// Attempts and losses in the open books that the log has told of before this daemon began to write.
    told_before: (u64, u64),
    /// Attempts and losses that this daemon had written when the books of earlier ones were closed.
    told_at_closing: (u64, u64),
    /// Records of what daemons themselves did that were told of before this daemon began to write, or told to be lost.
    own_told: u64,
    /// Those that are lost with earlier daemons.
    own_lost: u64,
    /// How many of them are to be told yet.
    own_untold: u64,
    /// Whether books of earlier daemons are open.
    is_behind: bool,
    recovered: u64,
    /// The record that closes the oldest book, if it waits for the file to take it.
    closing: Option<Resume>,
    /// How long nobody listened.
    unattended: Option<Duration>,
    /// The revision that was in force meanwhile.
    revision: u32,
}

impl Kept {
    /// Whether books of earlier daemons are open.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// Counts an event of an earlier daemon's ring.
    pub(crate) fn recover(&mut self) {
        self.recovered += 1;
    }

    /// Attempts of this daemon's log that are of earlier daemons' events.
    pub(crate) fn recovered_attempts(&self, log: &Log) -> u64 {
        // Until the last of their books is closed it writes of nothing else.
        if self.is_behind { log.attempts() } else { self.told_at_closing.0 }
    }

    /// Records of what earlier daemons themselves did that went with them.
    pub(crate) fn own_lost(&self) -> u64 {
        self.own_lost
    }

    /// Whether this is the text of that revision.
    pub(crate) fn is_text_of(&self, revision: u32, documents: &[Document]) -> bool {
        self.state.is_text_of(revision, documents)
    }

    /// Writes down a policy that is about to be put in force: before it is, so that a number that it uses always has a name.
    ///
    /// # Errors
    ///
    /// The disk does not take it.
    pub(crate) fn remember(
        &mut self,
        revision: u32,
        documents: &[Document],
        identities: &Identities,
    ) -> Result<(), StateError> {
        self.state.remember(revision, documents, identities);
        self.directory.write(&mut self.state)
    }

    /// Forgets a policy that was written down and has not come into force.
    ///
    /// # Errors
    ///
    /// The disk does not take it.
    pub(crate) fn forget(&mut self, revision: u32) -> Result<(), StateError> {
        self.state.forget(revision);
        self.directory.write(&mut self.state)
    }

    /// The text of a policy that is or was in force; nothing if it is not remembered.
    ///
    /// # Errors
    ///
    /// It is not what was written.
    pub(crate) fn documents(&self, revision: u32) -> Result<Option<Vec<Document>>, StateError> {
        self.directory.documents(&self.state, revision)
    }

    /// Writes down what a look at all live connections has come to, so that the next daemon knows which are older than the
    /// enforcer.
    ///
    /// # Errors
    ///
    /// The disk does not take it.
    pub(crate) fn swept(&self, revision: u32, older: Older) -> Result<(), StateError> {
        self.directory.write_swept(revision, older)
    }

    /// Writes down which containers are known, so that the next daemon knows them before their runtimes answer it.
    ///
    /// # Errors
    ///
    /// The disk does not take it.
    pub(crate) fn remember_containers(&self, containers: Vec<KnownContainer>) -> Result<(), StateError> {
        let Some(boot) = boot() else { return Ok(()) };
        self.directory.write_containers(&KnownContainers { boot, containers })
    }

    /// The record that closes the book of an earlier daemon, of which `in_ring` events reached the ring and `no_room` did not:
    /// what is neither written nor told to be lost is lost, and told by this.
    pub(crate) fn resume(&self, log: &Log, (in_ring, no_room): (u64, u64)) -> Resume {
        let events_produced = in_ring + no_room;
        let (events_written, told) = self.told(log);
        let events_newly_lost = events_produced.saturating_sub(events_written + told);
        Resume {
            unattended_ms: self.unattended_ms(),
            revision: self.revision,
            events_recovered: self.recovered,
            events_newly_lost,
            events_produced,
            events_written,
            events_lost: told + events_newly_lost,
            records_newly_lost: self.own_untold,
        }
    }

    /// That record, if it waits for the file to take it.
    pub(crate) fn closing(&self) -> Option<&Resume> {
        self.closing.as_ref()
    }

    /// Says that it does: the book is closed when the file has it, so that a loss that it tells of is told.
    pub(crate) fn begin_to_close(&mut self, resume: Resume) {
        self.closing = Some(resume);
    }

    /// Attempts and losses that the log tells of, of the events in open books.
    fn told(&self, log: &Log) -> (u64, u64) {
        let told = |before: u64, now: u64, at_closing: u64| before + now.saturating_sub(at_closing);
        (
            told(self.told_before.0, log.attempts(), self.told_at_closing.0),
            told(self.told_before.1, log.losses(), self.told_at_closing.1),
        )
    }

    /// How long nobody listened, in milliseconds.
    pub(crate) fn unattended_ms(&self) -> Option<u64> {
        self.unattended.and_then(|time| u64::try_from(time.as_millis()).ok())
    }

    /// Says that everything in the oldest book is told. What this daemon writes from now on is of the next one's events:
    /// only the oldest had a daemon that came to write of it, since each closes those before it first.
    pub(crate) fn close(&mut self, log: &Log) {
        self.told_before = (0, 0);
        self.told_at_closing = (log.attempts(), log.losses());
        self.recovered = 0;
        self.own_untold = 0;
        self.closing = None;
    }

    /// Says that no book of an earlier daemon is open any longer.
    pub(crate) fn catch_up(&mut self) {
        self.is_behind = false;
    }

    /// What the next daemon has to know of what this one has told.
    ///
    /// # Errors
    ///
    /// The log cannot be asked how long it is.
    pub(crate) fn ledger(&self, log: &Log, first_open: u64) -> anyhow::Result<Ledger> {
        let place = log.place().context("read audit log")?;
        let (written, lost) = self.told(log);
        Ok(Ledger {
            first_open,
            written,
            lost,
            heard_at: u64::try_from(since_boot()?.as_nanos()).unwrap_or(u64::MAX),
            device: place.device,
            inode: place.inode,
            length: place.length,
            own_told: self.own_told + log.own().told(),
        })
    }
}

fn found_at<'a>(path: &'a Path, top: &[u8]) -> Option<cgroup::Found<'a>> {
    let bytes = cgroups::bytes(path);
    cgroup::exactly(bytes, top).or_else(|| cgroup::candidate(bytes, top))
}

/// What the kernel calls this boot.
fn boot() -> Option<String> {
    Some(std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().to_owned())
}

/// Time since the machine was started, when it slept included.
fn since_boot() -> anyhow::Result<Duration> {
    Ok(clock_gettime(ClockId::CLOCK_BOOTTIME).context("read the clock")?.into())
}
