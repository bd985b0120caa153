//! A wall clock that jumps: what is decided and what has a time limit does not go by it, and records do.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;
use enforcer_tests::run::Run;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::pins::{EVEN, Scene, wait_for};

/// libfaketime, where Debian puts it: the loader knows the directory of the machine's own libraries.
const PRELOADED: &str = "/usr/$LIB/faketime/libfaketimeMT.so.1";

/// Days by which the clock is set forward and back.
const FAR: i64 = 400;

/// A scene in which the daemon's clock may be wrong.
struct Clocked {
    scene: Scene,
    calls: usize,
}

impl Clocked {
    fn new() -> anyhow::Result<Self> {
        let clocked = Self { scene: Scene::new("clock", EVEN)?, calls: 0 };
        clocked.set(0)?;
        Ok(clocked)
    }

    /// Where it is written by how much.
    fn clock(&self) -> PathBuf {
        self.scene.sandbox.directory().join("clock")
    }

    fn set(&self, days: i64) -> anyhow::Result<()> {
        let fresh = self.clock().with_extension("new");
        fs::write(&fresh, format!("{days:+}d\n"))?;
        Ok(fs::rename(fresh, self.clock())?)
    }

    fn start(&self) -> anyhow::Result<Run> {
        let mut command = self.scene.command()?;
        command.env("LD_PRELOAD", PRELOADED).env("FAKETIME_TIMESTAMP_FILE", self.clock());
        command.env("FAKETIME_NO_CACHE", "1").env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
        Run::spawn(&self.scene.sandbox, command)?.ready()
    }

    /// One call that is permitted and one that is not, of which nobody may be there to make a record.
    fn call_unseen(&mut self) -> anyhow::Result<()> {
        assert_eq!(self.scene.in_force()?, "even");
        self.calls += 1;
        Ok(())
    }

    /// The same, and the record, which has the clock of its writing.
    fn call(&mut self) -> anyhow::Result<()> {
        let written = self.scene.records()?.len();
        self.call_unseen()?;
        wait_for(&self.scene, written, |record| record["kind"] == "attempt")?;
        Ok(())
    }

    fn ask(&self, verb: &[&str]) -> anyhow::Result<Value> {
        self.scene.sandbox.ask_daemon(verb)
    }
}

#[test]
fn a_clock_that_jumps_changes_no_decision_and_no_time_limit() -> anyhow::Result<()> {
    let mut clocked = Clocked::new()?;
    let run = clocked.start()?;
    clocked.call()?;
    let directory = clocked.scene.sandbox.directory().join("policy").display().to_string();
    let apply = clocked.ask(&["policy", "apply", &directory, "--confirm-timeout", "1h"])?;
    assert_eq!(apply["revision"], 2, "{apply}");

    // More than a year is more than an hour.
    clocked.set(FAR)?;
    clocked.call()?;
    let status = clocked.ask(&["status"])?;
    let left = status["policy"]["confirm_within_seconds"].as_u64().context("it waits no longer")?;
    assert!((1..=3600).contains(&left), "{status}");
    clocked.set(-FAR)?;
    clocked.call()?;
    let confirmed = clocked.ask(&["policy", "confirm"])?;
    assert_eq!(confirmed["revision"], 2, "{confirmed}");
    let apply = clocked.ask(&["policy", "apply", &directory, "--confirm-timeout", "1s"])?;
    assert_eq!(apply["revision"], 3, "{apply}");
    // A second is a second, whatever year it is.
    let mut run = run;
    run.read_until("nobody confirmed it")?;
    clocked.call()?;
    assert!(run.end(Signal::SIGKILL).is_ok());

    // The next daemon comes before the one that it follows, by its clock.
    clocked.call_unseen()?;
    clocked.set(-2 * FAR)?;
    let mut run = clocked.start()?;
    run.read_until("took over")?;
    clocked.call()?;
    assert!(run.end(Signal::SIGTERM)?);

    let records = clocked.scene.records()?;
    let resume = records.iter().find(|record| record["kind"] == "resume").context("no resume record")?;
    let unattended = resume["unattended_ms"].as_u64().context("a daemon that does not know how long")?;
    assert!(unattended < 3_600_000, "{resume}");
    assert_eq!(resume["events_lost"], 0, "{resume}");
    let refused: Vec<&Value> = records.iter().filter(|record| record["kind"] == "attempt").collect();
    assert_eq!(refused.len(), clocked.calls, "{refused:?}");
    // Records tell what the clock said: 400 days are another year in any case.
    let time = |call: usize| refused.get(call).and_then(|record| record["time"].as_str()).context("no time");
    let (before, forward, back, last) = (time(0)?, time(1)?, time(2)?, time(5)?);
    assert!(last < back && back < before && before < forward, "{last} {back} {before} {forward}");
    let years: BTreeSet<&str> = [last, back, before, forward].map(|time| &time[..4]).into();
    assert_eq!(years.len(), 4, "{years:?}");
    Ok(())
}
