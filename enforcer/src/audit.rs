//! The audit log: one JSON object per line for every decision that is to be read, and for what happens to the log.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ops::AddAssign;
use std::os::fd::{AsFd as _, AsRawFd as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use enforcer_common::{Address, Direction, Mode, Protocol, Verdict};
use serde::{Deserialize, Serialize, Serializer};
use tokio::sync::broadcast;
use tracing::debug;

use writer::Writer;

mod writer;

/// One line of the audit log.
#[derive(Clone, Debug, Serialize)]
pub struct Record<'a> {
    /// When it happened: RFC 3339, nanoseconds, UTC.
    #[serde(serialize_with = "rfc3339")]
    pub time: SystemTime,
    /// Counts the lines of one run of the daemon from 1; a gap is a line that somebody removed.
    pub sequence: u64,
    /// What happened.
    #[serde(flatten)]
    pub body: Body<'a>,
}

fn rfc3339<S: Serializer>(time: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_nanos(*time))
}

/// What a line tells of.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Body<'a> {
    /// The programs are attached and the policy is in force.
    Start(Start),
    /// A process tried to reach another.
    Attempt(&'a Attempt<'a>),
    /// Events for which there was no room in the ring buffer, or lines that could not be written.
    Lost(Lost),
    /// A runtime has told what a container is.
    Container(Box<ContainerKnown>),
    /// A policy was put in force, or refused.
    Policy(PolicyChange),
    /// The daemon has taken over from one that ended while enforcement went on.
    Resume(Resume),
    /// Somebody has taken away what keeps enforcement up, or added to it.
    Tamper(Tamper),
    /// The host cannot enforce, and the policy wants the daemon to run all the same.
    Unprotected(Unprotected),
    /// The policy in force denies a connection that was live already.
    Connection(&'a Connection<'a>),
    /// The daemon ends.
    Stop(Stop),
}

/// Written once every hook is attached.
#[derive(Clone, Debug, Serialize)]
pub struct Start {
    /// Version of the daemon.
    pub version: &'static str,
    /// Revision of the policy in force.
    pub revision: u32,
    /// The cgroup whose subtree is judged.
    pub cgroup_root: String,
    /// Services of the policy.
    pub services: usize,
    /// Rules of the policy.
    pub rules: usize,
    /// Services that are in audit mode, by name.
    pub audited: Vec<String>,
    /// Whether an earlier daemon's policy and programs were found and taken over.
    pub adopted: bool,
    /// `kernel`: no process ever runs unidentified; `daemon`: it is unknown for the first moment of its cgroup.
    pub cgroups_identified_by: &'static str,
}

/// Written for every denial, and for permitted attempts if asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Attempt<'a> {
    /// `allow` or `deny`.
    pub verdict: &'static str,
    /// `enforce`, or `audit` where a denial was let through.
    pub mode: &'static str,
    /// Why.
    pub reason: &'static str,
    /// The rule that allows it.
    pub rule: Option<Rule<'a>>,
    /// Revision of the policy that decided.
    pub revision: u32,
    /// The hook that decided.
    pub hook: &'static str,
    /// `egress` at the caller, `ingress` at the answerer, `local` for a socket.
    pub direction: &'static str,
    /// `tcp`, `udp`, …, or the number.
    pub protocol: Cow<'static, str>,
    /// Who calls, creates or binds.
    pub source: End<'a>,
    /// Who would answer, or who reserves the port.
    pub destination: End<'a>,
    /// The process that makes the attempt; unknown where a packet is judged.
    pub process: Option<Process<'a>>,
}

/// Written for every live connection that is denied when the enforcer starts or a new policy is in force.
#[derive(Clone, Debug, Serialize)]
pub struct Connection<'a> {
    /// `closed`; `kept` and `would-close` where it was let live; `failed` where the kernel did not close it.
    pub action: &'static str,
    /// `start` or `reload`.
    pub cause: &'static str,
    /// Why it failed.
    pub error: Option<String>,
    /// `deny`.
    pub verdict: &'static str,
    /// `enforce`, or `audit` where every declared end is in that mode.
    pub mode: &'static str,
    /// Why.
    pub reason: &'static str,
    /// The rule that allows it: none does.
    pub rule: Option<Rule<'a>>,
    /// Revision of the policy that decided.
    pub revision: u32,
    /// `tcp` or `udp`.
    pub protocol: Cow<'static, str>,
    /// How far it had come: `opening`, `answering`, `open`, `closing`.
    pub state: &'static str,
    /// Who opened it, as far as can be told.
    pub source: End<'a>,
    /// Who answers.
    pub destination: End<'a>,
}

/// A rule by its name and place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Rule<'a> {
    /// Its name.
    pub name: &'a str,
    /// The file it is written in.
    pub file: Cow<'a, str>,
    /// The line in that file.
    pub line: u32,
}

/// One end of an attempt.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct End<'a> {
    /// Name of the service or networks, or `unmanaged`, `world`, `unknown`.
    pub service: Cow<'a, str>,
    /// Path of the cgroup from the top of the tree.
    pub cgroup: Option<Cow<'a, str>>,
    /// Id of the cgroup.
    pub cgroup_id: Option<u64>,
    /// IP address.
    pub address: Option<IpAddr>,
    /// Port.
    pub port: Option<u16>,
}

/// A process, as the hook saw it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Process<'a> {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Real user id.
    pub uid: u32,
    /// Command name.
    pub comm: Cow<'a, str>,
    /// Path of the executable, if the process was still there to ask.
    pub exe: Option<&'a str>,
}

/// Written as soon as a loss is noticed.
#[derive(Clone, Debug, Serialize)]
pub struct Lost {
    /// `ring-full`, `unreadable` or `write-failed`; [`OWN_LOST`] of records of what the daemon itself did, which are no events.
    pub cause: &'static str,
    /// How many since the last such record.
    pub count: u64,
}

/// The cause of the loss of [records of what the daemon itself did](Body::is_own).
pub const OWN_LOST: &str = "record-write-failed";

/// Written once a container's runtime has told of it, for every cgroup that is a container's own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct ContainerKnown {
    /// Who it is from now on: a service or `unmanaged`; `unknown` if two services claim it.
    pub service: String,
    /// Path of its own cgroup.
    pub cgroup: String,
    /// Id of that cgroup.
    pub cgroup_id: u64,
    /// Its id.
    pub id: String,
    /// The runtime that told.
    pub runtime: &'static str,
    /// Its name.
    pub name: Option<String>,
    /// Its image.
    pub image: Option<String>,
    /// Its Kubernetes pod.
    pub pod: Option<String>,
    /// The Kubernetes namespace of the pod.
    pub namespace: Option<String>,
    /// Milliseconds from the moment that the daemon learned of the cgroup; none if the container was known already and is
    /// now called or labelled otherwise.
    pub pending_ms: Option<u64>,
}

/// Written for every reload, and for every policy that comes through the control socket.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyChange {
    /// `applied`, `refused`, `confirmed` or `rolled-back`.
    pub result: &'static str,
    /// What made the daemon do it.
    pub cause: Prompt,
    /// Who asked for it through the control socket.
    pub by: Option<Peer>,
    /// Revision that is in force after it.
    pub revision: u32,
    /// Why it was refused.
    pub error: Option<String>,
}

/// What makes the daemon put a policy in force, or try to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prompt {
    /// It has started, and the policy on the disk is another than the one that it found in force.
    Start,
    /// A signal.
    Signal,
    /// The files of the policy have changed.
    Files,
    /// Somebody at the control socket.
    Control,
    /// Nobody has confirmed the one before in time.
    Timeout,
}

/// A process at the control socket, as the kernel says who it was when it connected.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
pub struct Peer {
    /// Its id.
    pub pid: i32,
    /// Its user.
    pub uid: u32,
}

/// Written when it is noticed, which takes up to a second.
#[derive(Clone, Debug, Serialize)]
pub struct Tamper {
    /// `link-detached`, `pin-removed`, `directory-gone`, `foreign-program` or `table-changed`.
    pub deed: &'static str,
    /// To what: pins by their paths, hooks and tables by their names.
    pub objects: Vec<String>,
    /// Whether everything is again as it was. A foreign program is left alone: it can refuse more, not permit more.
    pub repaired: bool,
    /// Why not.
    pub error: Option<String>,
}

/// Written when everything has been written that waited in the ring of a daemon that has ended: closes its book. Of it,
/// `events_produced` = `events_written` + `events_lost`, and each event is in one book.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Resume {
    /// How long nobody listened, in milliseconds; the daemon before is seen alive once a second. None if that is not known.
    pub unattended_ms: Option<u64>,
    /// Revision of the policy that was in force meanwhile.
    pub revision: u32,
    /// Events that waited and are now written.
    pub events_recovered: u64,
    /// Events that are lost and that no `lost` record tells of, so that this one does.
    pub events_newly_lost: u64,
    /// Events that the programs wanted to tell of.
    pub events_produced: u64,
    /// Attempts written, by whichever daemon.
    pub events_written: u64,
    /// Events lost, whatever the cause and whoever told of it.
    pub events_lost: u64,
    /// [Records of what earlier daemons themselves did](Body::is_own) that went with them, and that no `lost` record tells of.
    pub records_newly_lost: u64,
}

/// Written instead of [`Start`] where `on_unsupported: open` lets the daemon run without enforcing anything.
#[derive(Clone, Debug, Serialize)]
pub struct Unprotected {
    /// What the host lacks or the kernel refused.
    pub cause: String,
}

/// Written last. `events_produced` = attempts written + `events_lost` + `events_waiting`, and `records_made` =
/// `records_written` + `records_lost`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Stop {
    /// Decisions that permitted.
    pub allowed: u64,
    /// Decisions that refused.
    pub denied: u64,
    /// Decisions that would have refused outside of audit mode.
    pub would_deny: u64,
    /// Events that the programs wanted to tell of.
    pub events_produced: u64,
    /// Attempts written to this log.
    pub events_written: u64,
    /// Events lost, whatever the cause.
    pub events_lost: u64,
    /// Events left to the next daemon, since enforcement goes on.
    pub events_waiting: u64,
    /// Whether the policy stays in force.
    pub enforcing: bool,
    /// Cgroups that the kernel's table held.
    pub cgroups: u64,
    /// Cgroups that could not be entered into it when they were made, and so stayed unknown.
    pub cgroups_failed: u64,
    /// Entries of it that were put right when they were compared with the tree.
    pub cgroups_repaired: u64,
    /// Live connections that were closed because the policy denies them.
    pub connections_closed: u64,
    /// [Records of what this daemon itself did](Body::is_own).
    pub records_made: u64,
    /// Those that are in this log.
    pub records_written: u64,
    /// Those that could not be written.
    pub records_lost: u64,
}

/// Bytes that wait before the file is given them unasked.
const BATCH: usize = 1 << 18;

/// Bytes that hardly any line has more than.
const LINE: usize = 1024;

/// Bytes that may wait for a file that takes nothing.
const MOST_WAITING: usize = 1 << 20;

/// Lines that a follower may be behind before it loses some.
const FOLLOWED: usize = 4096;

/// Where records go.
pub struct Log {
    sink: Arc<File>,
    writer: Writer,
    waiting: Waiting,
    /// Whether the file ends within a line that was given up, so that the next one begins with a line feed.
    is_cut: bool,
    sequence: u64,
    attempts: u64,
    losses: u64,
    unwritten: u64,
    own: Own,
    own_unwritten: u64,
    followed: broadcast::Sender<Arc<[u8]>>,
}

/// Lines on their way to the file, and what it has taken of those that went before.
#[derive(Default)]
struct Waiting {
    lines: VecDeque<Line>,
    /// Bytes of the lines.
    size: usize,
    /// Attempts that the file has taken since these were handed over.
    attempts: u64,
    /// Losses that it tells of since then.
    losses: u64,
    /// Likewise, of what the daemon itself did.
    own: Own,
}

/// A line that the file has not taken, or not whole.
struct Line {
    bytes: Vec<u8>,
    taken: usize,
    is_attempt: bool,
    /// Losses that it is the first to tell of.
    losses: u64,
    own: Own,
}

/// [Records of what daemons themselves did](Body::is_own), as a log tells of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Own {
    /// Those that are there.
    pub written: u64,
    /// Those of which it says that they are lost.
    pub lost: u64,
}

impl Own {
    /// All that it tells of.
    pub fn told(self) -> u64 {
        self.written + self.lost
    }
}

impl AddAssign for Own {
    fn add_assign(&mut self, other: Self) {
        self.written += other.written;
        self.lost += other.lost;
    }
}

/// A log that is a file, and how far it has been written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Place {
    /// The file's device.
    pub device: u64,
    /// The file's inode.
    pub inode: u64,
    /// Bytes that are in it.
    pub length: u64,
}

/// What an earlier daemon wrote to a log before it ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Tail {
    /// Attempts, each on a line that is whole.
    pub attempts: u64,
    /// Losses that were told.
    pub losses: u64,
    /// What was told of what daemons themselves did.
    pub own: Own,
}

impl Body<'_> {
    /// Whether it tells of what the daemon itself did or noticed, and so is no event that a program has counted. Such records
    /// are counted [when they are made](crate::kernel::Tally). Those that are left out tell of the log itself.
    pub fn is_own(&self) -> bool {
        match self {
            Self::Container(_) | Self::Policy(_) | Self::Connection(_) | Self::Tamper(_) => true,
            Self::Start(_)
            | Self::Attempt(_)
            | Self::Lost(_)
            | Self::Resume(_)
            | Self::Unprotected(_)
            | Self::Stop(_) => false,
        }
    }

    fn own(&self) -> Own {
        let lost = match self {
            Self::Lost(lost) if lost.cause == OWN_LOST => lost.count,
            Self::Resume(resume) => resume.records_newly_lost,
            _ => 0,
        };
        Own { written: u64::from(self.is_own()), lost }
    }

    fn losses(&self) -> u64 {
        match self {
            Self::Lost(lost) if lost.cause == OWN_LOST => 0,
            Self::Lost(lost) => lost.count,
            Self::Resume(resume) => resume.events_newly_lost,
            Self::Start(_)
            | Self::Attempt(_)
            | Self::Container(_)
            | Self::Policy(_)
            | Self::Connection(_)
            | Self::Tamper(_)
            | Self::Unprotected(_)
            | Self::Stop(_) => 0,
        }
    }
}

impl Log {
    /// Opens `path` for appending, or standard output for `-`, and starts the thread that writes to it.
    ///
    /// # Errors
    ///
    /// The file cannot be opened, or there is no such thread.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::to(open(path)?)
    }

    fn to(sink: File) -> io::Result<Self> {
        Ok(Self {
            sink: Arc::new(sink),
            writer: Writer::start()?,
            waiting: Waiting::default(),
            is_cut: false,
            sequence: 0,
            attempts: 0,
            losses: 0,
            unwritten: 0,
            own: Own::default(),
            own_unwritten: 0,
            followed: broadcast::Sender::new(FOLLOWED),
        })
    }

    /// Where every line can be followed as it is added, with its line feed.
    pub fn followed(&self) -> broadcast::Sender<Arc<[u8]>> {
        self.followed.clone()
    }

    /// Opens the file again, since the one that is open may have been moved away. What waits goes to the new one.
    ///
    /// # Errors
    ///
    /// The file cannot be opened; the log goes on with the one it had.
    pub fn reopen(&mut self, path: &Path) -> io::Result<()> {
        if path == Path::new(STDOUT) {
            return Ok(());
        }
        self.sink = Arc::new(open(path)?);
        if let Some(cut) = self.waiting.lines.front_mut().filter(|line| line.taken > 0) {
            // It is written once more and whole, on a line of its own, since this may be the same file.
            cut.bytes.insert(0, b'\n');
            cut.taken = 0;
            self.waiting.size += 1;
        }
        Ok(())
    }

    /// Attempts that the file has taken.
    pub fn attempts(&self) -> u64 {
        self.attempts
    }

    /// Losses that the file tells of.
    pub fn losses(&self) -> u64 {
        self.losses
    }

    /// What the file tells of what daemons themselves did.
    pub fn own(&self) -> Own {
        self.own
    }

    /// How far the file is written; all zeros if the log is no file.
    ///
    /// # Errors
    ///
    /// The file cannot be asked.
    pub fn place(&self) -> io::Result<Place> {
        let metadata = self.sink.metadata()?;
        if !metadata.is_file() {
            return Ok(Place::default());
        }
        // A line of which the file has a part may yet be ended.
        let cut = self.waiting.lines.front().map_or(0, |line| u64::try_from(line.taken).unwrap_or(u64::MAX));
        let length = metadata.len().saturating_sub(cut);
        Ok(Place { device: metadata.dev(), inode: metadata.ino(), length })
    }

    /// Reads what an earlier daemon wrote beyond `place`, where it last said how far it had come; nothing if the file is
    /// another one. A line that it did not come to end is not counted, and the next one begins on a line of its own.
    ///
    /// # Errors
    ///
    /// The file cannot be read.
    pub fn tail(&mut self, place: Place) -> io::Result<Tail> {
        let now = self.place()?;
        let mut tail = Tail::default();
        if now.inode == 0 {
            return Ok(tail);
        }
        let is_same = (now.device, now.inode) == (place.device, place.inode);
        let counted = if is_same { place.length.min(now.length) } else { now.length };
        // The file that is written to, whatever it is called, and to be read.
        let mut file = File::open(format!("/proc/self/fd/{}", self.sink.as_raw_fd()))?;
        // One byte more, which tells whether what was counted ends with a line.
        let from = counted.saturating_sub(1);
        file.seek(io::SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        self.is_cut = bytes.last().is_some_and(|last| *last != b'\n');
        if !is_same {
            return Ok(tail);
        }
        #[derive(Deserialize)]
        struct Told {
            kind: String,
            cause: Option<String>,
            count: Option<u64>,
            events_newly_lost: Option<u64>,
            records_newly_lost: Option<u64>,
        }
        let beyond = if counted > from { bytes.get(1..).unwrap_or_default() } else { &bytes };
        for line in beyond.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n")) {
            // What is no record was cut by an earlier end.
            let Ok(told) = serde_json::from_slice::<Told>(line) else { continue };
            match told.kind.as_str() {
                "attempt" => tail.attempts += 1,
                "container" | "policy" | "connection" | "tamper" => tail.own.written += 1,
                "lost" if told.cause.as_deref() == Some(OWN_LOST) => tail.own.lost += told.count.unwrap_or(0),
                "lost" => tail.losses += told.count.unwrap_or(0),
                "resume" => {
                    tail.losses += told.events_newly_lost.unwrap_or(0);
                    tail.own.lost += told.records_newly_lost.unwrap_or(0);
                }
                _ => {}
            }
        }
        Ok(tail)
    }

    /// Attempts that could not be written.
    pub fn unwritten(&self) -> u64 {
        self.unwritten
    }

    /// Records of what the daemon itself did that could not be written.
    pub fn own_unwritten(&self) -> u64 {
        self.own_unwritten
    }

    /// Whether the file has taken everything.
    pub fn is_written(&self) -> bool {
        self.waiting.lines.is_empty()
    }

    /// Adds a record; it is on its way to the file after [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// The file takes nothing, and too much waits for it already; or the record is none that JSON can tell. An attempt, or what
    /// the daemon itself did, is counted then.
    pub fn write(&mut self, time: SystemTime, body: Body<'_>) -> io::Result<()> {
        let (is_attempt, losses, own) = (matches!(body, Body::Attempt(_)), body.losses(), body.own());
        if self.waiting.size >= BATCH
            && let Err(err) = self.flush()
            && self.waiting.size >= MOST_WAITING
        {
            self.unwritten += u64::from(is_attempt);
            self.own_unwritten += own.written;
            return Err(err);
        }
        let record = Record { time, sequence: self.sequence + 1, body };
        let mut bytes = Vec::with_capacity(LINE);
        if self.is_cut {
            bytes.push(b'\n');
        }
        if let Err(err) = serde_json::to_writer(&mut bytes, &record) {
            self.unwritten += u64::from(is_attempt);
            self.own_unwritten += own.written;
            return Err(err.into());
        }
        bytes.push(b'\n');
        if self.followed.receiver_count() > 0 {
            let line = bytes.strip_prefix(b"\n").unwrap_or(&bytes);
            if self.followed.send(Arc::from(line)).is_err() {
                debug!("the last follower has just left");
            }
        }
        self.is_cut = false;
        self.waiting.size += bytes.len();
        self.waiting.lines.push_back(Line { bytes, taken: 0, is_attempt, losses, own });
        self.sequence += 1;
        Ok(())
    }

    /// Hands everything to the file.
    ///
    /// # Errors
    ///
    /// The file does not take it. What it has not taken goes on waiting.
    pub fn flush(&mut self) -> io::Result<()> {
        if self.is_written() {
            return Ok(());
        }
        let waiting = std::mem::take(&mut self.waiting);
        let number = |of: fn(&Line) -> u64| waiting.lines.iter().map(of).sum::<u64>();
        let (attempts, own) = (number(|line| u64::from(line.is_attempt)), number(|line| line.own.written));
        let Some((waiting, written)) = self.writer.write(self.sink.clone(), waiting) else {
            self.unwritten += attempts;
            self.own_unwritten += own;
            return Err(io::Error::other("the thread that writes has ended"));
        };
        self.waiting = waiting;
        self.attempts += std::mem::take(&mut self.waiting.attempts);
        self.losses += std::mem::take(&mut self.waiting.losses);
        self.own += std::mem::take(&mut self.waiting.own);
        written
    }

    /// Counts what still waits as unwritten and forgets it, so that the totals are of what the file has.
    pub fn give_up(&mut self) {
        self.is_cut |= self.waiting.lines.front().is_some_and(|line| line.taken > 0);
        for line in self.waiting.lines.drain(..) {
            self.unwritten += u64::from(line.is_attempt);
            self.own_unwritten += line.own.written;
            self.sequence -= 1;
        }
        self.waiting.size = 0;
    }
}

/// The name that stands for standard output.
const STDOUT: &str = "-";

fn open(path: &Path) -> io::Result<File> {
    if path == Path::new(STDOUT) {
        return Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?));
    }
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

/// The word for a verdict.
pub const fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Allow => "allow",
        Verdict::Deny => "deny",
    }
}

/// The word for a mode.
pub const fn mode(mode: Mode) -> &'static str {
    match mode {
        Mode::Enforce => "enforce",
        Mode::Audit => "audit",
    }
}

/// The word for a direction.
pub const fn direction(direction: Direction) -> &'static str {
    match direction {
        Direction::Egress => "egress",
        Direction::Ingress => "ingress",
        Direction::Local => "local",
    }
}

/// The word for a protocol, or its number.
pub fn protocol(protocol: Protocol) -> Cow<'static, str> {
    match protocol {
        Protocol::ICMP => "icmp".into(),
        Protocol::TCP => "tcp".into(),
        Protocol::UDP => "udp".into(),
        Protocol::DCCP => "dccp".into(),
        Protocol::ICMPV6 => "icmpv6".into(),
        Protocol::SCTP => "sctp".into(),
        Protocol::UDPLITE => "udplite".into(),
        Protocol(number) => number.to_string().into(),
    }
}

/// What somebody has named something by, as JSON can tell it. Hardly any name is no UTF-8, which is told faster than what to put in the
/// place of one that is not.
pub fn text(name: &(impl AsRef<OsStr> + ?Sized)) -> Cow<'_, str> {
    let bytes = name.as_ref().as_bytes();
    str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// The address in the form that people write: a mapped one as IPv4.
pub fn ip(address: Address) -> IpAddr {
    match address.to_v4() {
        Some(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
        None => IpAddr::V6(Ipv6Addr::from(address.bytes())),
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::fs::File;
    use std::io::{self, Read as _};
    use std::os::fd::OwnedFd;
    use std::os::unix::net::UnixStream;
    use std::time::SystemTime;

    use serde_json::Value;

    use super::{
        Attempt, Body, Connection, End, Log, Lost, MOST_WAITING, OWN_LOST, Own, Place, Resume, Tail,
    };

    const NOBODY: End<'_> =
        End { service: Cow::Borrowed(""), cgroup: None, cgroup_id: None, address: None, port: None };

    fn attempt() -> Body<'static> {
        Body::Attempt(&Attempt {
            verdict: "deny",
            mode: "enforce",
            reason: "no-rule",
            rule: None,
            revision: 1,
            hook: "connect4",
            direction: "egress",
            protocol: Cow::Borrowed("tcp"),
            source: NOBODY,
            destination: NOBODY,
            process: None,
        })
    }

    /// A log whose file takes only so much, and the other end of that file.
    fn narrow() -> io::Result<(Log, UnixStream)> {
        let (near, far) = UnixStream::pair()?;
        near.set_nonblocking(true)?;
        far.set_nonblocking(true)?;
        Ok((Log::to(File::from(OwnedFd::from(near)))?, far))
    }

    /// Writes until a record is refused; returns how many were asked for.
    fn fill(log: &mut Log) -> u64 {
        let mut asked = 1;
        while log.write(SystemTime::UNIX_EPOCH, attempt()).is_ok() {
            asked += 1;
        }
        asked
    }

    fn read(far: &mut UnixStream, text: &mut Vec<u8>) -> io::Result<()> {
        match far.read_to_end(text) {
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => Ok(()),
            other => other.map(|_| ()),
        }
    }

    fn records(text: &[u8]) -> Vec<Option<Value>> {
        text.split_inclusive(|byte| *byte == b'\n').map(|line| serde_json::from_slice(line).ok()).collect()
    }

    #[test]
    fn what_an_earlier_daemon_wrote_is_counted_from_where_it_had_counted_to() -> io::Result<()> {
        let path = std::env::temp_dir().join(format!("enforcer-tail-{}", std::process::id()));
        let mut log = Log::open(&path)?;
        log.write(SystemTime::UNIX_EPOCH, attempt())?;
        log.flush()?;
        let place = log.place()?;
        log.write(SystemTime::UNIX_EPOCH, attempt())?;
        log.write(SystemTime::UNIX_EPOCH, Body::Lost(Lost { cause: "ring-full", count: 7 }))?;
        log.write(SystemTime::UNIX_EPOCH, Body::Lost(Lost { cause: OWN_LOST, count: 11 }))?;
        log.write(SystemTime::UNIX_EPOCH, Body::Resume(resume()))?;
        log.write(SystemTime::UNIX_EPOCH, connection())?;
        log.write(SystemTime::UNIX_EPOCH, attempt())?;
        log.flush()?;
        let whole = std::fs::metadata(&path)?.len();
        let own = Own { written: 1, lost: 11 + 13 };
        for (length, attempts, losses, own, is_cut) in [
            (whole, 2, 7 + 5, own, false),
            // The last line is there and not its end: it does not count.
            (whole - 1, 1, 7 + 5, own, true),
            (place.length, 0, 0, Own::default(), false),
            // Somebody has cut the file short.
            (place.length - 1, 0, 0, Own::default(), true),
        ] {
            std::fs::OpenOptions::new().write(true).open(&path)?.set_len(length)?;
            let mut next = Log::open(&path)?;
            let tail = next.tail(place)?;
            assert_eq!((tail, next.is_cut), (Tail { attempts, losses, own }, is_cut), "{length}");
        }
        // Of a file that is another one nothing is known but whether it ends with a line.
        let other = Place { inode: place.inode + 1, ..place };
        for (length, is_cut) in [(place.length - 1, true), (0, false)] {
            std::fs::OpenOptions::new().write(true).open(&path)?.set_len(length)?;
            let mut next = Log::open(&path)?;
            assert_eq!((next.tail(other)?, next.is_cut), (Tail::default(), is_cut), "{length}");
        }
        std::fs::remove_file(&path)
    }

    #[test]
    fn what_waited_for_the_file_is_written_whole_once_it_takes_it() -> io::Result<()> {
        let (mut log, mut far) = narrow()?;
        let asked = fill(&mut log);
        assert_eq!(log.unwritten(), 1);
        assert!(log.attempts() < asked - 1, "the file has them all");
        assert!(log.waiting.size >= MOST_WAITING);
        let mut text = Vec::new();
        while !log.is_written() {
            read(&mut far, &mut text)?;
            match log.flush() {
                Err(err) if err.kind() == io::ErrorKind::WouldBlock => {}
                other => other?,
            }
        }
        read(&mut far, &mut text)?;
        assert_eq!((log.attempts(), log.waiting.size), (asked - 1, 0));
        let sequences: Vec<u64> =
            records(&text).iter().filter_map(|record| record.as_ref()?["sequence"].as_u64()).collect();
        assert_eq!(sequences, (1..asked).collect::<Vec<_>>());
        Ok(())
    }

    fn connection() -> Body<'static> {
        Body::Connection(&Connection {
            action: "closed",
            cause: "reload",
            error: None,
            verdict: "deny",
            mode: "enforce",
            reason: "no-rule",
            rule: None,
            revision: 2,
            protocol: Cow::Borrowed("tcp"),
            state: "open",
            source: NOBODY,
            destination: NOBODY,
        })
    }

    fn resume() -> Resume {
        Resume {
            unattended_ms: None,
            revision: 1,
            events_recovered: 0,
            events_newly_lost: 5,
            events_produced: 5,
            events_written: 0,
            events_lost: 5,
            records_newly_lost: 13,
        }
    }

    #[test]
    fn a_live_connection_that_is_not_written_is_counted_and_is_no_event() -> io::Result<()> {
        let (mut log, mut far) = narrow()?;
        let mut asked = 1_u64;
        while log.write(SystemTime::UNIX_EPOCH, connection()).is_ok() {
            asked += 1;
        }
        assert_eq!((log.own_unwritten(), log.unwritten()), (1, 0));
        log.give_up();
        let mut text = Vec::new();
        read(&mut far, &mut text)?;
        let whole = records(&text).iter().flatten().filter(|record| record["kind"] == "connection").count();
        let whole = u64::try_from(whole).map_err(io::Error::other)?;
        assert_eq!(whole + log.own_unwritten(), asked);
        // The books are of events alone.
        log.write(SystemTime::UNIX_EPOCH, Body::Lost(Lost { cause: OWN_LOST, count: log.own_unwritten() }))?;
        log.flush()?;
        assert_eq!((log.losses(), log.own()), (0, Own { written: whole, lost: asked - whole }));
        Ok(())
    }

    #[test]
    fn what_is_given_up_is_counted_and_leaves_the_next_line_whole() -> io::Result<()> {
        let (mut log, mut far) = narrow()?;
        let asked = fill(&mut log);
        log.give_up();
        assert_eq!(log.attempts() + log.unwritten(), asked);
        let mut text = Vec::new();
        read(&mut far, &mut text)?;
        let lost = Lost { cause: "write-failed", count: log.unwritten() };
        log.write(SystemTime::UNIX_EPOCH, Body::Lost(lost))?;
        log.flush()?;
        read(&mut far, &mut text)?;
        let records = records(&text);
        let attempts = records.iter().flatten().filter(|record| record["kind"] == "attempt").count();
        assert_eq!(u64::try_from(attempts).ok(), Some(log.attempts()));
        let last = records.last().and_then(Option::as_ref).expect("the last line is whole");
        assert_eq!((&last["kind"], &last["sequence"]), (&"lost".into(), &(log.attempts() + 1).into()));
        Ok(())
    }
}
