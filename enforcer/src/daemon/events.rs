//! What the programs tell, and how it gets into the audit log.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::sync::LazyLock;
use std::time::SystemTime;

use anyhow::Context as _;
use enforcer_common::counter::Counter;
use enforcer_common::event::{Event, InvalidEvent, Message};
use enforcer_common::limits::RING_BYTES;
use enforcer_common::{Address, Direction, Identity, Port, Reason, RuleId};
use nix::time::{ClockId, clock_gettime};
use tracing::{debug, error, info, warn};

use super::Daemon;
use super::policy::parse;
use crate::audit::{self, Attempt, Body, End, Lost, Process, Rule};
use crate::cgroups::{Names, Watch};
use crate::failpoint;
use crate::identities::Identities;
use crate::policy::Rules;
use crate::revision::Revision;
use crate::staying::Kept;

/// Events that are written between two looks at the other inputs.
const EVENTS_AT_ONCE: usize = 4096;

/// More events than the ring buffer holds.
const EVENTS_THAT_WAIT: usize = RING_BYTES as usize / size_of::<Event>();

/// Executables of processes, each asked for once among events that are written together: a process makes many calls.
#[derive(Default)]
pub(super) struct Executables {
    /// By process and command name, since a process may become another program between two calls.
    known: HashMap<u32, (Vec<u8>, Option<String>)>,
}

impl Executables {
    /// Forgets all: numbers of processes are given again.
    fn forget(&mut self) {
        self.known.clear();
    }

    /// Asks for the executable of a process that is not known yet, if it is still there to ask.
    fn learn(&mut self, pid: u32, comm: &[u8]) {
        if self.known.get(&pid).is_some_and(|(known, _)| known == comm) {
            return;
        }
        let exe = i32::try_from(pid)
            .ok()
            .filter(|_| *IN_INITIAL_PID_NAMESPACE)
            .and_then(|pid| procfs::process::Process::new(pid).ok())
            .and_then(|process| process.exe().ok())
            .map(|exe| exe.to_string_lossy().into_owned());
        self.known.insert(pid, (comm.to_vec(), exe));
    }

    /// Path of the executable of a process that was [learned](Self::learn). Whoever made it may have put any bytes into it.
    fn of(&self, pid: u32) -> Option<&str> {
        self.known.get(&pid)?.1.as_deref()
    }
}

/// What numbers in events stand for. What is told by it is no copy, as there may be hundreds of thousands of events in a second.
pub(super) struct Words<'a> {
    identities: &'a Identities,
    names: &'a Names,
    rules: &'a VecDeque<(u32, Rules)>,
}

impl<'a> Words<'a> {
    pub(super) fn of(revision: &'a Revision, names: &'a Names, rules: &'a VecDeque<(u32, Rules)>) -> Self {
        Self { identities: &revision.identities, names, rules }
    }

    fn attempt(&self, event: &'a Event, executables: &'a Executables) -> Attempt<'a> {
        let process = event.process().map(|(pid, uid, comm)| Process {
            pid,
            uid,
            comm: audit::text(OsStr::from_bytes(comm)),
            exe: executables.of(pid),
        });
        Attempt {
            verdict: event.verdict().map_or("unknown", audit::verdict),
            mode: audit::mode(event.mode()),
            reason: event.reason().map_or("unknown", |reason| reason.code()),
            rule: self.rule(event.revision, event.rule()),
            revision: event.revision,
            hook: event.hook().map_or("unknown", |hook| hook.name()),
            direction: event.hook().map_or("unknown", |hook| audit::direction(hook.direction())),
            protocol: audit::protocol(event.protocol()),
            source: self.end(event.caller(), event.caller_cgroup(), event.caller_endpoint()),
            destination: self.end(event.answerer(), event.answerer_cgroup(), event.answerer_endpoint()),
            process,
        }
    }

    pub(super) fn end(
        &self,
        identity: Identity,
        cgroup: Option<u64>,
        endpoint: Option<(Address, Port)>,
    ) -> End<'a> {
        End {
            service: self.name(identity),
            cgroup: cgroup.and_then(|id| self.names.told(id)),
            cgroup_id: cgroup,
            address: endpoint.map(|(address, _)| audit::ip(address)),
            port: endpoint.map(|(_, port)| port.number()),
        }
    }

    pub(super) fn name(&self, identity: Identity) -> Cow<'a, str> {
        let name = self.identities.name(identity);
        name.map_or_else(|| format!("identity {}", identity.raw()).into(), Cow::Borrowed)
    }

    /// A rule of a revision, if that is remembered.
    pub(super) fn rule(&self, revision: u32, rule: Option<RuleId>) -> Option<Rule<'a>> {
        let number = usize::try_from(rule?.0).ok()?;
        let (_, rules) = self.rules.iter().find(|(known, _)| *known == revision)?;
        let rule = rules.get(number)?;
        Some(Rule { name: &rule.name, file: audit::text(&*rule.location.file), line: rule.location.line })
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

impl Daemon {
    /// Writes what earlier daemons have left in their rings and then, once the log has it all, one record that closes their
    /// books. Returns whether they are closed.
    pub(super) fn close_books(&mut self) -> anyhow::Result<bool> {
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

    /// Permits what the policy permits again when a second has passed in which every decision was written down; until then it is
    /// seen to that nothing new is.
    pub(super) fn look_at_log(&mut self) {
        let lost = self.lost_in_ring + self.log.unwritten() + self.unreadable;
        let is_lossy = lost > self.lost_before || self.complained;
        self.lost_before = lost;
        self.is_uneasy = is_lossy;
        self.refuse_new(is_lossy);
    }

    /// Has nothing new permitted while decisions cannot be written down, where the policy in force wants that.
    pub(super) fn refuse_new(&mut self, refuse: bool) {
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

    pub(super) fn keep_ledger(&mut self) {
        let Some(kept) = &self.kept else { return };
        let result = self.enforcement.ledger().map_err(anyhow::Error::from).and_then(|ledger| {
            let first_open = ledger.map_or(0, |ledger| ledger.first_open);
            Ok(self.enforcement.set_ledger(kept.ledger(&self.log, first_open)?)?)
        });
        if let Err(err) = result {
            error!("keep the ledger: {err:#}");
        }
    }

    /// Opens the audit log again, since the file may have been moved away. What waits belongs to the file before.
    pub(super) fn reopen_log(&mut self) {
        if let Err(err) = self.write_events() {
            error!("write audit log: {err:#}");
        }
        match self.log.reopen(&self.settings.audit) {
            Ok(()) => {
                self.not_opened = None;
                info!("the audit log {} is opened again", self.settings.audit.display());
            }
            Err(err) => {
                error!("open audit log {}: {err}", self.settings.audit.display());
                self.not_opened = Some(err.to_string());
            }
        }
    }

    /// Attempts that were left by earlier daemons and are in this one's log.
    pub(super) fn recovered(&self) -> u64 {
        self.kept.as_ref().map_or(0, |kept| kept.recovered_attempts(&self.log))
    }

    /// Writes what waits, and under a flood at most as many as can wait at a time.
    pub(super) fn write_events(&mut self) -> anyhow::Result<()> {
        for _ in 0..EVENTS_THAT_WAIT.div_ceil(EVENTS_AT_ONCE) {
            self.write_some_events()?;
            if !self.more_events {
                break;
            }
        }
        Ok(())
    }

    /// Writes what waits, but no more than [`EVENTS_AT_ONCE`].
    pub(super) fn write_some_events(&mut self) -> anyhow::Result<()> {
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
                self.remember_rules(event.revision, event.rule());
                if let Some((pid, _, comm)) = event.process() {
                    self.executables.learn(pid, comm);
                }
                let words = Words::of(&self.revision, &self.names, &self.rules);
                let attempt = words.attempt(event, &self.executables);
                let written = self.log.write(clock.wall(event.at), Body::Attempt(&attempt));
                self.complain_of(&written);
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
    pub(super) fn write(&mut self, time: SystemTime, body: Body<'_>) -> bool {
        let written = self.log.write(time, body);
        self.complain_of(&written);
        written.is_ok()
    }

    /// Says so if a record could not be written.
    pub(super) fn complain_of(&mut self, written: &std::io::Result<()>) {
        if let Err(err) = written {
            self.complain(err);
        }
    }

    pub(super) fn flush(&mut self) {
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

    /// Sees to it that the rules of a revision are remembered if one of them is about to be named.
    pub(super) fn remember_rules(&mut self, revision: u32, rule: Option<RuleId>) {
        if rule.is_some()
            && !self.rules.iter().any(|(known, _)| *known == revision)
            && let Some(rules) = self.recall(revision)
        {
            self.rules.push_front((revision, rules));
        }
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
}
