//! What the kernel says of each part's capabilities, and what becomes of enforcement when a part without any fails.

use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use enforcer::failpoint;
use enforcer_tests::actor::{Reply, Request, Transport};
use enforcer_tests::sandbox::{Actor, Daemon, Sandbox, binary};
use enforcer_tests::slowness::patience;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};
use serde_json::Value;

use crate::shop::{RULE, SERVICES};

/// How long a process may take to appear or to go.
const DEADLINE: Duration = Duration::from_secs(20);

/// The sets of capabilities(7) that /proc tells of.
const SETS: [&str; 5] = ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"];

/// CAP_NET_ADMIN and CAP_BPF, as bits.
const NEEDED: u64 = 1 << 12 | BPF;
const BPF: u64 = 1 << 39;

/// CAP_CHOWN, CAP_FOWNER, CAP_SETGID, CAP_SETUID, CAP_SETPCAP, CAP_SYS_MODULE, CAP_SYS_RAWIO, CAP_SYS_RESOURCE, CAP_PERFMON:
/// what only starting takes, or nothing.
const GONE: u64 = 1 | 1 << 3 | 1 << 6 | 1 << 7 | 1 << 8 | 1 << 16 | 1 << 17 | 1 << 24 | 1 << 38;

struct Scene {
    sandbox: Sandbox,
    web: Actor,
    _orders: Actor,
    daemon: Daemon,
    /// While this pipe is there, whoever parses a policy waits.
    hold: PathBuf,
    /// While this file is there, whoever has parsed a policy closes its output and goes on.
    linger: PathBuf,
}

impl Scene {
    fn new(name: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let sandbox = Sandbox::new(name)?;
        let (web, mut orders) = (sandbox.actor("web")?, sandbox.actor("orders")?);
        assert!(orders.ask(&Request::Serve { at: at(), transport: Transport::Tcp })?.is_ok());
        let hold = sandbox.directory().join("hold");
        let mut command = sandbox.daemon_command(SERVICES)?;
        let linger = sandbox.directory().join("linger");
        command.args(arguments).env(failpoint::HELD, &hold).env(failpoint::LINGERING, &linger);
        let daemon = sandbox.start_daemon(command)?;
        Ok(Self { sandbox, web, _orders: orders, daemon, hold, linger })
    }

    fn call(&mut self) -> anyhow::Result<Reply> {
        self.web.ask(&Request::Connect { to: at(), transport: Transport::Tcp, mapped: false })
    }

    /// Has a policy with one rule more parsed, by a process that waits, and returns that.
    fn begin_reload(&self) -> anyhow::Result<u32> {
        mkfifo(&self.hold, Mode::S_IRUSR | Mode::S_IWUSR)?;
        self.sandbox.write_policy(&format!("{SERVICES}{RULE}"))?;
        self.daemon.signal(Signal::SIGHUP)?;
        self.parser()
    }

    /// The process that parses, once it has begun to wait.
    fn parser(&self) -> anyhow::Result<u32> {
        let start = Instant::now();
        while start.elapsed() < patience(DEADLINE) {
            for child in self.children()? {
                let is_open = fs::read_dir(format!("/proc/{child}/fd")).is_ok();
                // It waits where a pipe is opened that nobody writes to.
                let waits = fs::read_to_string(format!("/proc/{child}/wchan"));
                if is_open
                    && waits.is_ok_and(|place| place.contains("fifo") || place.contains("wait_for_partner"))
                {
                    return Ok(child);
                }
            }
            thread::yield_now();
        }
        bail!("no process parses: {:?}", self.children())
    }

    fn children(&self) -> anyhow::Result<Vec<u32>> {
        let pid = self.daemon.pid();
        let mut children = Vec::new();
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            // A thread that has ended meanwhile has no child any more.
            let listed = fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            for child in listed.split_whitespace() {
                children.push(child.parse()?);
            }
        }
        Ok(children)
    }
}

fn at() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 8080))
}

/// A line of a status file of /proc.
fn field(status: &str, name: &str) -> anyhow::Result<String> {
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(":\t"));
    Ok(value.with_context(|| format!("no {name} in {status}"))?.to_owned())
}

fn set(status: &str, name: &str) -> anyhow::Result<u64> {
    Ok(u64::from_str_radix(&field(status, name)?, 16)?)
}

fn has_none(status: &str) -> anyhow::Result<()> {
    for name in SETS {
        ensure!(set(status, name)? == 0, "{name} is not empty: {status}");
    }
    ensure!(field(status, "NoNewPrivs")? == "1", "{status}");
    Ok(())
}

#[test]
fn who_parses_holds_no_capability_and_when_it_dies_the_policy_in_force_stays() -> anyhow::Result<()> {
    let mut scene = Scene::new("parser", &[])?;
    let parser = scene.begin_reload()?;
    has_none(&fs::read_to_string(format!("/proc/{parser}/status"))?)?;
    let daemon = fs::read_to_string(format!("/proc/{}/status", scene.daemon.pid()))?;
    ensure!(set(&daemon, "CapEff")? & NEEDED == NEEDED, "{daemon}");
    // If memory runs out, it goes before what enforces.
    assert_eq!(fs::read_to_string(format!("/proc/{parser}/oom_score_adj"))?.trim(), "1000");

    // Meanwhile what is decided is written down.
    assert!(scene.call()?.is_refused());
    let record = scene.daemon.wait_for(|record| record["kind"] == "attempt")?;
    assert_eq!(record["revision"], 1, "{record}");

    kill(Pid::from_raw(i32::try_from(parser)?), Signal::SIGKILL)?;
    let policy = scene.daemon.wait_for(|record| record["kind"] == "policy")?;
    assert_eq!((&policy["result"], &policy["revision"]), (&"refused".into(), &1.into()), "{policy}");
    let error = policy["error"].as_str().context("no error")?;
    ensure!(error.starts_with("parse policy: the process for it ended with signal: 9"), "{error}");
    assert!(scene.call()?.is_refused());

    // The next one is read as if nothing had been.
    fs::remove_file(&scene.hold)?;
    scene.daemon.signal(Signal::SIGHUP)?;
    let policy = scene.daemon.wait_for(|record| record["kind"] == "policy")?;
    assert_eq!((&policy["result"], &policy["revision"]), (&"applied".into(), &2.into()), "{policy}");
    assert_eq!(scene.call()?.text, "hello");
    assert_eq!(scene.children()?, [0; 0], "it has gone, and nobody has to wait for it");
    scene.daemon.stop()?.check_totals()
}

#[test]
fn who_parses_too_long_is_ended_and_the_policy_in_force_stays() -> anyhow::Result<()> {
    let mut scene = Scene::new("parser-slow", &["--parse-timeout", "5s"])?;
    let parser = scene.begin_reload()?;
    let policy = scene.daemon.wait_for(|record| record["kind"] == "policy")?;
    assert_eq!(policy["result"], "refused", "{policy}");
    let error = policy["error"].as_str().context("no error")?;
    ensure!(error.starts_with("parse policy: it took more than 5s\nhint: `--parse-timeout`"), "{error}");
    ensure!(!fs::exists(format!("/proc/{parser}"))?, "it is still there");
    assert!(scene.call()?.is_refused());

    // Who asks through the control socket is told, and nothing changes either.
    let policy = scene.sandbox.directory().join("policy");
    let applied = scene.sandbox.ask(&["policy", "apply", &policy.to_string_lossy()])?;
    let said = String::from_utf8_lossy(&applied.stderr);
    ensure!(!applied.status.success() && said.contains("parse policy: it took more than 5s"), "{said}");
    fs::remove_file(&scene.hold)?;
    assert!(scene.call()?.is_refused());
    scene.daemon.stop()?.check_totals()
}

#[test]
fn who_closes_its_output_and_goes_on_is_ended_and_what_it_said_refused() -> anyhow::Result<()> {
    let mut scene = Scene::new("parser-lingers", &["--parse-timeout", "10m"])?;
    fs::write(&scene.linger, "")?;
    scene.sandbox.write_policy(&format!("{SERVICES}{RULE}"))?;
    scene.daemon.signal(Signal::SIGHUP)?;
    let policy = scene.daemon.wait_for(|record| record["kind"] == "policy")?;
    assert_eq!((&policy["result"], &policy["revision"]), (&"refused".into(), &1.into()), "{policy}");
    let error = policy["error"].as_str().context("no error")?;
    ensure!(error.starts_with("parse policy: the process for it ended with signal: 9"), "{error}");
    assert_eq!(scene.children()?, [0; 0], "it is still there");
    let status = scene.sandbox.ask_daemon(&["status"])?;
    let codes = status["degraded"].as_array().into_iter().flatten().map(|what| &what["code"]);
    ensure!(codes.collect::<Vec<_>>().contains(&&"reload-refused".into()), "{status}");
    assert_eq!(status["policy"]["revision"], 1, "{status}");
    assert!(scene.call()?.is_refused());

    fs::remove_file(&scene.linger)?;
    scene.daemon.signal(Signal::SIGHUP)?;
    let policy = scene.daemon.wait_for(|record| record["kind"] == "policy")?;
    assert_eq!((&policy["result"], &policy["revision"]), (&"applied".into(), &2.into()), "{policy}");
    assert_eq!(scene.call()?.text, "hello");
    scene.daemon.stop()?.check_totals()
}

#[test]
fn while_a_policy_is_parsed_whoever_asks_is_answered_and_a_stop_does_not_wait_for_it() -> anyhow::Result<()> {
    let mut scene = Scene::new("parser-beside", &["--parse-timeout", "10m"])?;
    let parser = scene.begin_reload()?;
    let status = scene.sandbox.ask_daemon(&["status"])?;
    assert_eq!((&status["policy"]["revision"], &status["degraded"]), (&1.into(), &Value::Array(Vec::new())));
    // A policy through the socket has another process, which waits likewise; a question needs none.
    let services = scene.sandbox.ask_daemon(&["services"])?;
    ensure!(services.to_string().contains("orders"), "{services}");
    assert!(scene.call()?.is_refused());
    assert_eq!(scene.parser()?, parser, "it parses still");

    let start = Instant::now();
    let finished = scene.daemon.stop()?;
    ensure!(start.elapsed() < patience(DEADLINE), "it ended after {:?}", start.elapsed());
    while fs::exists(format!("/proc/{parser}"))? {
        ensure!(start.elapsed() < patience(DEADLINE), "the process that parses is still there");
        thread::yield_now();
    }
    ensure!(finished.records.iter().all(|record| record["kind"] != "policy"), "nothing came of it");
    finished.check_totals()
}

#[test]
fn reloads_that_are_asked_for_while_a_policy_is_parsed_follow_in_their_order() -> anyhow::Result<()> {
    let mut scene = Scene::new("parser-order", &["--parse-timeout", "10m"])?;
    scene.begin_reload()?;
    let mut command = Command::new(binary("enforcer")?);
    command.arg("reload").arg("--control").arg(scene.sandbox.control()).args(["-o", "json"]);
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let asked = scene.sandbox.spawn(command)?;
    // This one too, so that what was asked before has most likely come to the daemon.
    scene.sandbox.ask_daemon(&["status"])?;
    // Whoever parses goes on when a writer has come and gone, and the next one does not wait.
    let writer = fs::OpenOptions::new().write(true).open(&scene.hold)?;
    fs::remove_file(&scene.hold)?;
    drop(writer);
    for (cause, revision) in [("signal", 2), ("control", 3)] {
        let policy = scene.daemon.wait_for(|record| record["kind"] == "policy")?;
        let found = [&policy["result"], &policy["cause"], &policy["revision"]];
        assert_eq!(found, [&"applied".into(), &Value::from(cause), &Value::from(revision)], "{policy}");
    }
    let told = asked.wait_with_output()?;
    let answer: Value = serde_json::from_slice(&told.stdout)
        .with_context(|| String::from_utf8_lossy(&told.stderr).into_owned())?;
    assert_eq!(answer["revision"], 3, "{answer}");
    assert_eq!(scene.call()?.text, "hello");
    scene.daemon.stop()?.check_totals()
}

#[test]
fn who_writes_the_log_holds_no_capability_and_the_others_what_they_need_to_go_on() -> anyhow::Result<()> {
    let mut scene = Scene::new("threads", &[])?;
    // Everything that a daemon does once it has started has been done once.
    assert!(scene.call()?.is_refused());
    scene.daemon.wait_for(|record| record["kind"] == "attempt")?;
    scene.daemon.reload(&scene.sandbox, &format!("{SERVICES}{RULE}"))?;
    assert_eq!(scene.call()?.text, "hello");
    scene.sandbox.ask_daemon(&["status"])?;
    let threads = threads(&scene.daemon)?;
    let of = |name: &str| -> Vec<&String> {
        threads.iter().filter(|(known, _)| known == name).map(|(_, status)| status).collect()
    };
    let (log, control, sweeper) = (of("log"), of("control"), of("connections"));
    assert_eq!((log.len(), control.len(), sweeper.len()), (1, 1, 1), "{threads:?}");
    has_none(log[0])?;
    ensure!(set(control[0], "CapPrm")? & BPF == 0, "it speaks with clients: {}", control[0]);
    ensure!(set(sweeper[0], "CapEff")? & NEEDED == NEEDED, "{}", sweeper[0]);
    let main = fs::read_to_string(format!("/proc/{}/status", scene.daemon.pid()))?;
    ensure!(set(&main, "CapEff")? & NEEDED == NEEDED, "{main}");
    for (name, status) in &threads {
        for kept in ["CapPrm", "CapEff"] {
            ensure!(set(status, kept)? & GONE == 0, "{name} holds too much: {status}");
        }
        // Nothing that any of them executes has one.
        for passed_on in ["CapInh", "CapBnd", "CapAmb"] {
            ensure!(set(status, passed_on)? == 0, "{name} hands on: {status}");
        }
        ensure!(field(status, "NoNewPrivs")? == "1", "{name}: {status}");
    }
    scene.daemon.stop()?.check_totals()
}

/// The names and status files of a daemon's threads.
fn threads(daemon: &Daemon) -> anyhow::Result<Vec<(String, String)>> {
    let mut threads = Vec::new();
    for task in fs::read_dir(format!("/proc/{}/task", daemon.pid()))? {
        // One that has ended meanwhile holds nothing.
        if let Ok(status) = fs::read_to_string(task?.path().join("status")) {
            threads.push((field(&status, "Name")?, status));
        }
    }
    Ok(threads)
}
