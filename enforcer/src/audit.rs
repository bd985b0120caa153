//! The audit log: one JSON object per line for every decision that is to be read, and for what happens to the log.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use enforcer_common::{Address, Direction, Mode, Protocol, Verdict};
use serde::Serialize;

/// One line of the audit log.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// When it happened: RFC 3339, nanoseconds, UTC.
    pub time: String,
    /// Counts the lines of one run of the daemon from 1; a gap is a line that somebody removed.
    pub sequence: u64,
    /// What happened.
    #[serde(flatten)]
    pub body: Body,
}

/// What a line tells of.
#[derive(Clone, Debug, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Body {
    /// The programs are attached and the policy is in force.
    Start(Start),
    /// A process tried to reach another.
    Attempt(Box<Attempt>),
    /// Events for which there was no room in the ring buffer, or lines that could not be written.
    Lost(Lost),
    /// A policy was put in force, or refused.
    Policy(PolicyChange),
    /// The programs are about to be detached.
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
    pub cgroup_root: PathBuf,
    /// Services of the policy.
    pub services: usize,
    /// Rules of the policy.
    pub rules: usize,
    /// Services that are in audit mode, by name.
    pub audited: Vec<String>,
    /// `kernel`: no process ever runs unidentified; `daemon`: it is unknown for the first moment of its cgroup.
    pub cgroups_identified_by: &'static str,
}

/// Written for every denial, and for permitted attempts if asked for.
#[derive(Clone, Debug, Serialize)]
pub struct Attempt {
    /// `allow` or `deny`.
    pub verdict: &'static str,
    /// `enforce`, or `audit` where a denial was let through.
    pub mode: &'static str,
    /// Why.
    pub reason: &'static str,
    /// The rule that allows it.
    pub rule: Option<Rule>,
    /// Revision of the policy that decided.
    pub revision: u32,
    /// The hook that decided.
    pub hook: &'static str,
    /// `egress` at the caller, `ingress` at the answerer, `local` for a socket.
    pub direction: &'static str,
    /// `tcp`, `udp`, …, or the number.
    pub protocol: String,
    /// Who calls, creates or binds.
    pub source: End,
    /// Who would answer, or who reserves the port.
    pub destination: End,
    /// The process that makes the attempt; unknown where a packet is judged.
    pub process: Option<Process>,
}

/// A rule by its name and place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// The file it is written in.
    pub file: PathBuf,
    /// The line in that file.
    pub line: u32,
}

/// One end of an attempt.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct End {
    /// Name of the service or networks, or `unmanaged`, `world`, `unknown`.
    pub service: String,
    /// Path of the cgroup from the top of the tree.
    pub cgroup: Option<String>,
    /// Id of the cgroup.
    pub cgroup_id: Option<u64>,
    /// IP address.
    pub address: Option<IpAddr>,
    /// Port.
    pub port: Option<u16>,
}

/// A process, as the hook saw it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Process {
    /// Process id in the initial pid namespace.
    pub pid: u32,
    /// Real user id.
    pub uid: u32,
    /// Command name.
    pub comm: String,
    /// Path of the executable, if the process was still there to ask.
    pub exe: Option<PathBuf>,
}

/// Written as soon as a loss is noticed.
#[derive(Clone, Debug, Serialize)]
pub struct Lost {
    /// `ring-full`, `unreadable` or `write-failed`.
    pub cause: &'static str,
    /// How many since the last such record.
    pub count: u64,
}

/// Written for every reload.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyChange {
    /// `applied` or `refused`.
    pub result: &'static str,
    /// Revision that is in force after it.
    pub revision: u32,
    /// Why it was refused.
    pub error: Option<String>,
}

/// Written last. Of a run that ends well, `events_produced` = attempts written + `events_lost`.
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
    /// Cgroups that the kernel's table held.
    pub cgroups: u64,
    /// Cgroups that could not be entered into it when they were made, and so stayed unknown.
    pub cgroups_failed: u64,
}

/// Where records go.
pub struct Log {
    sink: Sink,
    sequence: u64,
    /// Attempts that have reached the file.
    attempts: u64,
    /// Attempts that are on their way to it.
    pending: u64,
    unwritten: u64,
}

enum Sink {
    Stdout(BufWriter<io::Stdout>),
    File(BufWriter<File>),
}

impl Log {
    /// Opens `path` for appending, or standard output for `-`.
    ///
    /// # Errors
    ///
    /// The file cannot be opened.
    pub fn open(path: &Path) -> io::Result<Self> {
        let sink = if path == Path::new("-") {
            Sink::Stdout(BufWriter::new(io::stdout()))
        } else {
            let file = OpenOptions::new().append(true).create(true).mode(0o640).open(path)?;
            Sink::File(BufWriter::with_capacity(1 << 16, file))
        };
        Ok(Self { sink, sequence: 0, attempts: 0, pending: 0, unwritten: 0 })
    }

    /// Attempts written so far.
    pub fn attempts(&self) -> u64 {
        self.attempts
    }

    /// Attempts that could not be written.
    pub fn unwritten(&self) -> u64 {
        self.unwritten
    }

    /// Adds a record; it is on its way to the file after [`flush`](Self::flush).
    ///
    /// # Errors
    ///
    /// The record could not be written; if it is an attempt it is counted as unwritten.
    pub fn write(&mut self, time: SystemTime, body: Body) -> io::Result<()> {
        let is_attempt = matches!(body, Body::Attempt(_));
        let record = Record {
            time: humantime::format_rfc3339_nanos(time).to_string(),
            sequence: self.sequence + 1,
            body,
        };
        let mut line = serde_json::to_vec(&record)?;
        line.push(b'\n');
        let written = match &mut self.sink {
            Sink::Stdout(out) => out.write_all(&line),
            Sink::File(file) => file.write_all(&line),
        };
        match written {
            Ok(()) => {
                self.sequence += 1;
                self.pending += u64::from(is_attempt);
                Ok(())
            }
            Err(err) => {
                self.unwritten += u64::from(is_attempt);
                Err(err)
            }
        }
    }

    /// Hands everything to the file.
    ///
    /// # Errors
    ///
    /// The file does not take it.
    pub fn flush(&mut self) -> io::Result<()> {
        match &mut self.sink {
            Sink::Stdout(out) => out.flush(),
            Sink::File(file) => file.flush(),
        }?;
        self.attempts += std::mem::take(&mut self.pending);
        Ok(())
    }

    /// Counts what is still on its way as unwritten: the log is about to be closed, and the file does not take it.
    pub fn give_up(&mut self) {
        self.unwritten += std::mem::take(&mut self.pending);
    }
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
pub fn protocol(protocol: Protocol) -> String {
    match protocol {
        Protocol::ICMP => String::from("icmp"),
        Protocol::TCP => String::from("tcp"),
        Protocol::UDP => String::from("udp"),
        Protocol::DCCP => String::from("dccp"),
        Protocol::ICMPV6 => String::from("icmpv6"),
        Protocol::SCTP => String::from("sctp"),
        Protocol::UDPLITE => String::from("udplite"),
        Protocol(number) => number.to_string(),
    }
}

/// The address in the form that people write: a mapped one as IPv4.
pub fn ip(address: Address) -> IpAddr {
    match address.to_v4() {
        Some(v4) => IpAddr::V4(Ipv4Addr::from(v4)),
        None => IpAddr::V6(Ipv6Addr::from(address.bytes())),
    }
}
