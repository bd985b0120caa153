//! A wall clock that jumps: what is decided and what has a time limit does not go by it, and records do.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use enforcer_tests::actor::{Request, Transport};
use enforcer_tests::run::Run;
use enforcer_tests::sandbox::{Actor, Sandbox};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::shop::{RULE, SERVICES, address};

/// libfaketime, where Debian puts it: the loader knows the directory of the machine's own libraries.
const PRELOADED: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1";

/// Days by which the clock is set forward and back.
const FAR: i64 = 400;

struct Scene {
    sandbox: Sandbox,
    web: Actor,
    _orders: Actor,
    calls: u64,
}

impl Scene {
    fn new() -> anyhow::Result<Self> {
        let sandbox = Sandbox::new("clock")?;
        let (web, mut orders) = (sandbox.actor("web")?, sandbox.actor("orders")?);
        for port in [8080, 8081] {
            let serve = Request::Serve { at: address(port), transport: Transport::Tcp };
            ensure!(orders.ask(&serve)?.is_ok(), "serve {port}");
        }
        sandbox.write_policy(&format!("{SERVICES}{RULE}"))?;
        let scene = Self { sandbox, web, _orders: orders, calls: 0 };
        scene.set(0)?;
        Ok(scene)
    }

    /// Where it is written by how much the daemon's clock is wrong.
    fn clock(&self) -> PathBuf {
        self.sandbox.directory().join("clock")
    }

    fn log(&self) -> PathBuf {
        self.sandbox.directory().join("audit.jsonl")
    }

    fn set(&self, days: i64) -> anyhow::Result<()> {
        let fresh = self.clock().with_extension("new");
        fs::write(&fresh, format!("{days:+}d\n"))?;
        Ok(fs::rename(fresh, self.clock())?)
    }

    fn command(&self, policy: &Path) -> anyhow::Result<Command> {
        let mut command = self.sandbox.staying_command(policy)?;
        command.arg("--audit").arg(self.log());
        command.env("LD_PRELOAD", PRELOADED).env("FAKETIME_TIMESTAMP_FILE", self.clock());
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Ok(command)
    }

    fn start(&self) -> anyhow::Result<Run> {
        Run::spawn(&self.sandbox, self.command(&self.sandbox.directory().join("policy"))?)?.ready()
    }

    /// One call that is permitted and one that is not.
    fn call(&mut self) -> anyhow::Result<()> {
        for (port, is_permitted) in [(8080, true), (8081, false)] {
            let connect = Request::Connect { to: address(port), transport: Transport::Tcp, mapped: false };
            let reply = self.web.ask(&connect)?;
            ensure!(
                (reply.is_ok(), reply.is_refused()) == (is_permitted, !is_permitted),
                "{port}: {reply:?}"
            );
        }
        self.calls += 1;
        Ok(())
    }

    fn records(&self) -> anyhow::Result<Vec<Value>> {
        let text = fs::read_to_string(self.log())?;
        text.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
    }
}

#[test]
fn a_clock_that_jumps_changes_no_decision_and_no_time_limit() -> anyhow::Result<()> {
    let mut scene = Scene::new()?;
    let run = scene.start()?;
    scene.call()?;
    let directory = scene.sandbox.directory().join("policy").display().to_string();
    let apply = scene.sandbox.ask_daemon(&["policy", "apply", &directory, "--confirm-timeout", "1h"])?;
    assert_eq!(apply["revision"], 2, "{apply}");

    // More than a year is more than an hour.
    scene.set(FAR)?;
    scene.call()?;
    let status = scene.sandbox.ask_daemon(&["status"])?;
    let left = status["policy"]["confirm_within_seconds"].as_u64().context("it waits no longer")?;
    assert!((1..=3600).contains(&left), "{status}");
    scene.set(-FAR)?;
    scene.call()?;
    let confirmed = scene.sandbox.ask_daemon(&["policy", "confirm"])?;
    assert_eq!(confirmed["revision"], 2, "{confirmed}");
    let apply = scene.sandbox.ask_daemon(&["policy", "apply", &directory, "--confirm-timeout", "1s"])?;
    assert_eq!(apply["revision"], 3, "{apply}");
    // A second is a second, whatever year it is.
    let mut run = run;
    run.read_until("nobody confirmed it")?;
    scene.call()?;
    assert!(run.end(Signal::SIGKILL).is_ok());

    // The next daemon comes before the one that it follows, by its clock.
    scene.call()?;
    scene.set(-2 * FAR)?;
    let mut run = scene.start()?;
    run.read_until("took over")?;
    scene.call()?;
    assert!(run.end(Signal::SIGTERM)?);

    let records = scene.records()?;
    let resume = records.iter().find(|record| record["kind"] == "resume").context("no resume record")?;
    let unattended = resume["unattended_ms"].as_u64().context("a daemon that does not know how long")?;
    assert!(unattended < 3_600_000, "{resume}");
    assert_eq!(resume["events_lost"], 0, "{resume}");
    let refused: Vec<&Value> = records.iter().filter(|record| record["kind"] == "attempt").collect();
    assert_eq!(u64::try_from(refused.len())?, scene.calls, "{refused:?}");
    // Records tell what the clock said: 400 days are another year in any case.
    let time = |call: usize| refused.get(call).and_then(|record| record["time"].as_str()).context("no time");
    let (before, forward, back, last) = (time(0)?, time(1)?, time(2)?, time(5)?);
    assert!(last < back && back < before && before < forward, "{last} {back} {before} {forward}");
    let years: BTreeSet<&str> = [last, back, before, forward].map(|time| &time[..4]).into();
    assert_eq!(years.len(), 4, "{years:?}");
    Ok(())
}
