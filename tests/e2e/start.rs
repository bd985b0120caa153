//! Starting and ending: every hook or none, and nothing is left behind however the daemon ends.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Output;
use std::thread;
use std::time::{Duration, Instant};

use enforcer_common::Hook;
use enforcer_tests::bpftool;
use enforcer_tests::sandbox::{Sandbox, binary};
use enforcer_tests::slowness::patience;
use nix::sys::signal::Signal;

const POLICY: &str = "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
";

/// How long the kernel may take to notice that the last holder of a link is gone.
const DEADLINE: Duration = Duration::from_secs(5);

fn hooks() -> Vec<String> {
    let mut names: Vec<String> = Hook::ALL.iter().map(|hook| hook.name().to_owned()).collect();
    names.sort();
    names
}

#[test]
fn every_hook_is_attached_while_it_runs_and_none_after_it_has_ended() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("start")?;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGKILL] {
        let mut daemon = sandbox.daemon(POLICY)?;
        assert_eq!(bpftool::programs(sandbox.cgroup())?, hooks());
        let links: Vec<String> =
            bpftool::links(sandbox.cgroup())?.into_iter().map(|attached| attached.name).collect();
        assert_eq!(links, hooks(), "each by a link, which no other kind of attachment outlives");
        daemon.signal(signal)?;
        if signal == Signal::SIGKILL {
            assert!(!daemon.wait()?.success());
        } else {
            daemon.wait_for(|record| record["kind"] == "stop")?;
            assert!(daemon.wait()?.success(), "{signal}");
        }
        let end = Instant::now();
        while !bpftool::programs(sandbox.cgroup())?.is_empty() {
            assert!(
                end.elapsed() < patience(DEADLINE),
                "after {signal}: {:?}",
                bpftool::programs(sandbox.cgroup())?
            );
            thread::yield_now();
        }
        assert_eq!(bpftool::links(sandbox.cgroup())?, [], "after {signal}");
    }
    Ok(())
}

#[test]
fn a_policy_with_an_error_ends_it_with_64_and_nothing_attached() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("invalid")?;
    let output = sandbox.output(sandbox.daemon_command("version: 1\nservicse: {}\n")?)?;
    fails(&output, 64, &["policy.yaml:2", "servicse", "services"]);
    assert_eq!(bpftool::programs(sandbox.cgroup())?, [""; 0]);
    Ok(())
}

#[test]
fn a_root_that_is_no_cgroup_is_told_by_its_path() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("no-cgroup")?;
    let policy = sandbox.write_policy(POLICY)?;
    for root in ["/proc", "/no/such/directory"] {
        let mut command = std::process::Command::new(binary("enforcer")?);
        command.arg("run").arg("--policy").arg(&policy).args(["--cgroup-root", root, "--detach-on-exit"]);
        fails(&sandbox.output(command)?, 64, &[&format!("use cgroup root {root}: not a cgroup below")]);
    }
    Ok(())
}

#[test]
fn without_privilege_it_says_what_is_missing() -> anyhow::Result<()> {
    const NOBODY: u32 = 65534;
    let sandbox = Sandbox::new("nobody")?;
    // Somebody without privilege must reach the program and the policy to begin with.
    fs::set_permissions(sandbox.directory(), fs::Permissions::from_mode(0o755))?;
    let program = sandbox.directory().join("enforcer");
    fs::copy(binary("enforcer")?, &program)?;
    let mut command = std::process::Command::new(program);
    let policy = sandbox.write_policy(POLICY)?;
    command.arg("run").arg("--policy").arg(policy).arg("--cgroup-root").arg(sandbox.cgroup());
    command.arg("--detach-on-exit").uid(NOBODY).gid(NOBODY);
    fails(&sandbox.output(command)?, 1, &["CAP_BPF", "hint: run enforcer as root"]);
    assert_eq!(bpftool::programs(sandbox.cgroup())?, [""; 0]);
    Ok(())
}

fn fails(output: &Output, code: i32, words: &[&str]) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{said}");
    for word in words {
        assert!(said.contains(word), "no `{word}` in: {said}");
    }
}
