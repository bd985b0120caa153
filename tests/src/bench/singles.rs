//! What is not measured by rounds: loading a policy, changing it, the audit log under a flood, and the daemon itself.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::signal::Signal;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::load::Request;
use super::variant::{Daemon, Fixture, Variant, memory, nft_root};
use super::workload::{DATAGRAMS, Place, STRANGER, Workload};
use crate::sandbox::Sandbox;

/// Putting a policy in force, once.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Load {
    /// By what.
    pub variant: Variant,
    /// Rules of the policy.
    pub rules: usize,
    /// Seconds from the text until it is in force.
    pub seconds: f64,
    /// The most memory that the process had, in bytes.
    pub memory: f64,
}

/// Changing one rule of a policy, once.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Change {
    /// By what.
    pub variant: Variant,
    /// Rules of the policy.
    pub rules: usize,
    /// Files that hold the rules.
    pub files: usize,
    /// Whether it is the first since the daemon was started.
    pub first: bool,
    /// Seconds until the change is in force.
    pub seconds: f64,
}

/// Events at some rate.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Audit {
    /// Refused datagrams in a second that were aimed at.
    pub aimed: f64,
    /// Events in a second that there were.
    pub events: f64,
    /// How long.
    pub seconds: f64,
    /// Events that the log has.
    pub written: f64,
    /// Events that were lost.
    pub lost: f64,
    /// CPUs that the daemon took.
    pub cpus: f64,
}

/// What the daemon takes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Use {
    /// Rules of the policy.
    pub rules: usize,
    /// Connections in a second, each of which it records; 0 when idle.
    pub connections: f64,
    /// CPUs that it took.
    pub cpus: f64,
    /// How often in a second it woke up.
    pub wakeups: f64,
    /// Its memory, in bytes.
    pub memory: f64,
}

/// Puts a policy in force by an enforcer that runs already, with a policy that says nothing.
///
/// # Errors
///
/// It does not take it.
pub fn load_enforcer(rules: usize) -> anyhow::Result<Load> {
    let (sandbox, workload) = prepare(rules, "load")?;
    let mut daemon = Daemon::start(&sandbox, "version: 1\n", false)?;
    sandbox.write_policy(&workload.yaml(root(&sandbox).as_str(), false))?;
    let seconds = daemon.reload()?.as_secs_f64();
    let memory = memory(daemon.pid(), "VmHWM")?;
    daemon.stop()?;
    Ok(Load { variant: Variant::Enforcer, rules, seconds, memory })
}

/// The same by nft.
///
/// # Errors
///
/// It does not take it.
pub fn load_nft(rules: usize) -> anyhow::Result<Load> {
    let (sandbox, workload) = prepare(rules, "load")?;
    let file = sandbox.directory().join("set.nft");
    fs::write(&file, workload.nft_set(&nft_root(&sandbox)?, 2))?;
    let mut command = Command::new(std::env::current_exe()?);
    command.args(["watch", "nft", "-f"]).arg(&file);
    let output = sandbox.output(command)?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "load a set into nft: {words}");
    let watched: Watched = serde_json::from_slice(&output.stdout)?;
    Ok(Load { variant: Variant::NftSet, rules, seconds: watched.seconds, memory: watched.memory })
}

/// Changes one of so many rules back and forth, with `each` of them in a file, under a daemon whose enforcement outlives it; each
/// time when it has done with the change before.
///
/// # Errors
///
/// The daemon does not take it.
pub fn change(rules: usize, each: usize, times: usize) -> anyhow::Result<Vec<Change>> {
    let (sandbox, workload) = prepare(rules, "change")?;
    let root = root(&sandbox);
    let [before, after] = [false, true].map(|change| workload.files(&root, each, change));
    let files = before.len() - 1;
    let directory = sandbox.directory().join("policy");
    fs::create_dir(&directory)?;
    for (name, text) in &before {
        fs::write(directory.join(name), text)?;
    }
    let mut changed = before.iter().zip(&after).filter(|(before, after)| before != after);
    let ((name, before), (_, after)) = changed.next().context("a change that changes something")?;
    let mut daemon = Daemon::start_staying(&sandbox, &directory)?;
    let mut changes = Vec::new();
    for time in 0..times {
        let fresh = directory.join(".fresh");
        fs::write(&fresh, if time.is_multiple_of(2) { after } else { before })?;
        fs::rename(&fresh, directory.join(name))?;
        await_quiet(daemon.pid())?;
        let seconds = daemon.reload()?.as_secs_f64();
        changes.push(Change { variant: Variant::Enforcer, rules, files, first: time == 0, seconds });
    }
    daemon.stop()?;
    Ok(changes)
}

/// Has datagrams refused at a rate, and looks whether each is in the log.
///
/// # Errors
///
/// The daemon does not start or stop.
pub fn audit(fixture_rules: usize, aimed: f64, time: Duration) -> anyhow::Result<Audit> {
    // Between two rotations of the log.
    const SLICE: Duration = Duration::from_secs(2);
    let mut fixture = Fixture::new(Variant::Enforcer, fixture_rules)?;
    let to = SocketAddr::new(IpAddr::V4(Workload::server()), DATAGRAMS);
    let pid = fixture.daemon.as_ref().context("a variant with a daemon")?.pid();
    let cpu = cpu_seconds(pid)?;
    let begin = Instant::now();
    let mut sent = 0.0;
    while begin.elapsed() < time {
        let slice = SLICE.min(time.saturating_sub(begin.elapsed()));
        sent += fixture.ask(STRANGER, &Request::Pace { to, per_second: aimed, time: slice })?.times;
        // As logrotate does; what is written is not kept, since it is gigabytes.
        let daemon = fixture.daemon.as_ref().context("a variant with a daemon")?;
        let old = daemon.log.with_extension("old");
        fs::rename(&daemon.log, &old)?;
        daemon.signal(Signal::SIGUSR1)?;
        while !daemon.log.exists() {
            std::thread::yield_now();
        }
        fs::remove_file(&old)?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let cpus = (cpu_seconds(pid)? - cpu) / seconds;
    let totals = fixture.daemon.take().context("a variant with a daemon")?.stop()?;
    let total = |name: &str| totals[name].as_f64().with_context(|| format!("{name} in {totals}"));
    let (written, lost) = (total("events_written")?, total("events_lost")?);
    let told = written + lost + total("events_waiting")?;
    ensure!(told >= sent, "{sent} were refused, and of {told} is told");
    Ok(Audit { aimed, events: sent / seconds, seconds, written, lost, cpus })
}

/// What the daemon takes while nothing happens.
///
/// # Errors
///
/// It does not start.
pub fn idle(rules: usize, time: Duration) -> anyhow::Result<Use> {
    let (sandbox, workload) = prepare(rules, "idle")?;
    let daemon = Daemon::start(&sandbox, &workload.yaml(&root(&sandbox), false), false)?;
    let pid = daemon.pid();
    let taken = watch(pid, rules, || {
        let begin = Instant::now();
        while begin.elapsed() < time {
            std::thread::park_timeout(time.saturating_sub(begin.elapsed()));
        }
        Ok(0.0)
    })?;
    daemon.stop()?;
    Ok(taken)
}

/// What a daemon takes while something is done, which tells how many connections it made.
///
/// # Errors
///
/// The daemon has ended, or it failed.
pub fn watch(pid: u32, rules: usize, deed: impl FnOnce() -> anyhow::Result<f64>) -> anyhow::Result<Use> {
    let (begin, cpu, wakeups) = (Instant::now(), cpu_seconds(pid)?, wakeups(pid)?);
    let connections = deed()?;
    let seconds = begin.elapsed().as_secs_f64();
    Ok(Use {
        rules,
        connections: connections / seconds,
        cpus: (cpu_seconds(pid)? - cpu) / seconds,
        wakeups: (self::wakeups(pid)? - wakeups) / seconds,
        memory: memory(pid, "VmRSS")?,
    })
}

/// What a program took.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub struct Watched {
    seconds: f64,
    memory: f64,
}

/// Runs a program to its end, and tells what it took. In a process of its own, since the kernel tells the most memory of
/// all children together.
///
/// # Errors
///
/// It fails.
pub fn run_watched(program: &[String]) -> anyhow::Result<Watched> {
    let (name, arguments) = program.split_first().context("no program was given")?;
    let begin = Instant::now();
    let status = Command::new(name).args(arguments).stdin(Stdio::null()).status()?;
    let seconds = begin.elapsed().as_secs_f64();
    ensure!(status.success(), "run {name}: {status}");
    let kilobytes = u32::try_from(getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss())?;
    Ok(Watched { seconds, memory: f64::from(kilobytes) * 1024.0 })
}

fn prepare(rules: usize, what: &str) -> anyhow::Result<(Sandbox, Workload)> {
    let workload = Workload::new(rules, Place::Middle);
    let sandbox = Sandbox::new(&format!("bench-{what}-{rules}"))?;
    for name in &workload.services {
        sandbox.make_cgroup(name)?;
    }
    Ok((sandbox, workload))
}

fn root(sandbox: &Sandbox) -> String {
    sandbox.path_of("").trim_end_matches('/').to_owned()
}

/// Waits until a process has done what it does after it has answered, which nothing tells of.
fn await_quiet(pid: u32) -> anyhow::Result<()> {
    let mut before = cpu_seconds(pid)?;
    loop {
        thread::park_timeout(Duration::from_millis(100));
        let now = cpu_seconds(pid)?;
        if now <= before {
            return Ok(());
        }
        before = now;
    }
}

/// CPU time of a process, in seconds.
fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"))?;
    // The name may hold spaces and ends with the last bracket; of proc(5), user and system time are the 14th and 15th.
    let (_, rest) = stat.rsplit_once(')').context("read what a process took")?;
    let fields: Vec<f64> =
        rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    // `USER_HZ` is 100.
    Ok(fields.iter().sum::<f64>() / 100.0)
}

fn wakeups(pid: u32) -> anyhow::Result<f64> {
    let mut all = 0.0;
    for task in fs::read_dir(Path::new("/proc").join(pid.to_string()).join("task"))? {
        // A thread that has ended meanwhile wakes up no more.
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
        let found = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        all += found.context("how often a process woke up")?.trim().parse::<f64>()?;
    }
    Ok(all)
}

/// The last record of a log.
///
/// # Errors
///
/// There is none.
pub(super) fn last_record(log: &Path) -> anyhow::Result<Value> {
    // More than the longest record.
    const END: u64 = 64 * 1024;
    let mut file = File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(END)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    let text = String::from_utf8_lossy(&end);
    Ok(serde_json::from_str(text.lines().last().context("the daemon wrote nothing")?)?)
}
