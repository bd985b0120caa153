//! The demo shows what it promises, and leaves nothing behind however it ends.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Command, Stdio};

use anyhow::Context as _;
use enforcer::kernel::feature::cgroup2_mount;
use enforcer::kernel::leftovers;
use enforcer_tests::sandbox::binary;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

#[test]
fn the_demo_shows_the_main_job() -> anyhow::Result<()> {
    let output = Command::new(binary("enforcer-demo")?).stdin(Stdio::null()).output()?;
    let (out, err) = (String::from_utf8(output.stdout)?, String::from_utf8(output.stderr)?);
    assert!(output.status.success(), "{}\n{out}\n{err}", output.status);
    let lines: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
    for expected in [
        "policy policies/demo/policy.yaml",
        "web -> orders 8080/tcp answered * us rule checkout",
        "orders -> db 5353/udp answered * us rule lookup",
        "web -> db 5432/tcp EPERM * us no-rule",
        "web -> db 5353/udp EPERM * us no-rule",
        "other -> orders 8080/tcp EPERM * us no-rule",
        "+ - { name: report, from: web, to: db, ports: [5432/tcp] }",
        "web -> db 5432/tcp answered * us rule report",
        "web allow / allow allow / deny allow / deny",
        "orders deny / deny allow / allow allow / allow",
        "db deny / deny deny / deny allow / allow",
        "other deny / deny deny / deny deny / deny",
    ] {
        let words: Vec<&str> = expected.split(' ').collect();
        let fits = |line: &Vec<&str>| {
            line.len() == words.len()
                && line.iter().zip(&words).all(|(word, like)| *like == "*" || word == like)
        };
        assert!(lines.iter().any(fits), "no line is: {expected}\n{out}");
    }
    let records: Vec<&str> = out.lines().filter(|line| line.trim_start().starts_with('{')).collect();
    let verdicts: Vec<String> = records
        .iter()
        .map(|line| Ok(serde_json::from_str::<serde_json::Value>(line)?["verdict"].to_string()))
        .collect::<anyhow::Result<_>>()?;
    assert_eq!(verdicts, ["\"allow\"", "\"deny\""], "{out}");
    assert!(out.trim_end().ends_with("nothing is left behind"), "{out}");
    Ok(())
}

#[test]
fn a_demo_that_is_interrupted_leaves_nothing() -> anyhow::Result<()> {
    // In the middle of starting, of calling, and of the table; the last by a terminal that goes away.
    for (line, signal) in [
        ("started    web", Signal::SIGINT),
        ("forbidden", Signal::SIGTERM),
        ("caller     answerer", Signal::SIGHUP),
    ] {
        interrupted_at(line, signal).with_context(|| format!("{signal} at: {line}"))?;
    }
    Ok(())
}

fn interrupted_at(line: &str, signal: Signal) -> anyhow::Result<()> {
    let mut demo = Command::new(binary("enforcer-demo")?)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let id = demo.id();
    let mut out = BufReader::new(demo.stdout.take().context("no stdout")?);
    let mut started = Vec::new();
    loop {
        let mut read = String::new();
        anyhow::ensure!(out.read_line(&mut read)? > 0, "the demo ended before that line");
        started.extend(pid_in(&read));
        if read.starts_with(line) {
            break;
        }
    }
    assert!(started.len() >= 2, "the daemon and a service have been started: {started:?}");
    kill(Pid::from_raw(i32::try_from(id)?), signal)?;
    let mut rest = String::new();
    out.read_to_string(&mut rest)?;
    started.extend(rest.lines().filter_map(pid_in));
    let output = demo.wait_with_output()?;
    let err = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(128 + signal as i32), "{rest}{err}");
    assert!(err.contains("interrupted: nothing is left behind"), "{err}");

    let cgroup = cgroup2_mount()?.join(format!("enforcer-demo-{id}"));
    assert!(!cgroup.exists(), "{} is left", cgroup.display());
    for pid in &started {
        assert!(!std::path::Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is left");
    }
    let held = leftovers::attachments()?;
    let ours = held.iter().find(|found| found.holders.iter().any(|pid| started.contains(pid)));
    assert_eq!(ours, None, "an attachment is left");
    Ok(())
}

/// The number after the word `pid`.
fn pid_in(line: &str) -> Option<u32> {
    let (_, after) = line.split_once("pid ")?;
    after.split(|character: char| !character.is_ascii_digit()).next()?.parse().ok()
}
