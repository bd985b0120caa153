//! The unit that is shipped: boot, reload, rotation, failure, the end.

use std::path::Path;

use anyhow::{Context as _, ensure};
use enforcer_tests::machine::{ACTOR, Machine};

use super::{AUDIT, enforcing, finish, finish_rotated, prepare};

const UNIT: &str = "enforcer.service";

const POLICY: &str = "version: 1
services:
  web: { match: [{ systemd: web.service }] }
  orders: { match: [{ systemd: orders.service }], listens: [8080/tcp] }
allow:
  - { name: checkout, from: web, to: orders, ports: [8080/tcp] }
";

const WITHOUT_RULE: &str = "version: 1
services:
  web: { match: [{ systemd: web.service }] }
  orders: { match: [{ systemd: orders.service }], listens: [8080/tcp] }
";

fn monotonic(machine: &Machine, unit: &str, property: &str) -> anyhow::Result<u64> {
    Ok(machine.property(unit, property)?.parse()?)
}

#[test]
fn it_enforces_before_the_network_comes_up_and_is_reloaded_rotated_and_stopped() -> anyhow::Result<()> {
    let machine = enforcing("unit", POLICY)?;
    let ready = monotonic(&machine, UNIT, "ActiveEnterTimestampMonotonic")?;
    let network = monotonic(&machine, "network-pre.target", "ActiveEnterTimestampMonotonic")?;
    ensure!(0 < ready && ready < network, "{ready} is not before {network}");
    assert_eq!(machine.property(UNIT, "Type")?, "notify-reload");
    assert_eq!(machine.property(UNIT, "StatusText")?, "enforcing revision 1: 2 services, 1 rules");
    // 0 is best, 100 is worst.
    machine.run("systemd-analyze", &["--no-pager", "security", "--threshold=20", UNIT])?;

    machine.serve_as("orders", "127.0.0.1:8080")?;
    let reply = machine.connect_as("web", "127.0.0.1:8080")?;
    assert_eq!(reply.text, "hello", "{reply:?}");

    // A member of the group may read and not change; somebody else may do neither.
    let asked = |groups: &str, verb: &str| -> anyhow::Result<(bool, String)> {
        let nobody = ["--reuid=65534", "--regid=65534", groups, "/usr/bin/enforcer", verb];
        let output = machine.output("setpriv", &nobody)?;
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    let (is_answered, said) = asked("--groups=enforcer", "status")?;
    ensure!(is_answered, "{said}");
    let (is_answered, said) = asked("--groups=enforcer", "reload")?;
    ensure!(!is_answered && said.contains("only root may"), "{said}");
    let (is_answered, said) = asked("--clear-groups", "status")?;
    ensure!(!is_answered && said.contains("Permission denied"), "{said}");

    // When `systemctl reload` returns, the new policy is in force.
    machine.write("/etc/enforcer/policy.yaml", WITHOUT_RULE)?;
    machine.systemctl(&["reload", UNIT])?;
    let reply = machine.connect_as("web", "127.0.0.1:8080")?;
    ensure!(reply.is_refused(), "{reply:?}");
    // The files are watched too, so that it may have been reloaded twice.
    let status = machine.property(UNIT, "StatusText")?;
    ensure!(status.ends_with(": 2 services, 0 rules"), "{status}");

    // A policy that is not valid is refused, and the unit goes on with the one that it has.
    machine.write("/etc/enforcer/policy.yaml", "version: 2\n")?;
    machine.systemctl(&["reload", UNIT])?;
    assert_eq!(machine.property(UNIT, "ActiveState")?, "active");
    assert_eq!(machine.property(UNIT, "StatusText")?, status);

    // The log is rotated as the packaging has it, and nothing is lost or torn between the two files.
    machine.run("logrotate", &["--force", "/etc/logrotate.d/enforcer"])?;
    machine.wait_until("the log is opened again", |machine| Ok(machine.path(AUDIT).exists()))?;
    let reply = machine.connect_as("web", "127.0.0.1:8080")?;
    ensure!(reply.is_refused(), "{reply:?}");
    let mode = machine.run("stat", &["--format=%a %U %G", AUDIT])?;
    assert_eq!(mode.trim(), "640 enforcer enforcer");

    let finished = finish_rotated(&machine)?;
    assert_eq!(machine.property(UNIT, "Result")?, "success");
    finished.check_totals()?;
    let verdicts: Vec<_> = finished
        .attempts()
        .filter(|record| record["source"]["service"] == "web" && record["direction"] == "egress")
        .map(|record| record["verdict"].as_str().unwrap_or_default())
        .collect();
    assert_eq!(verdicts, ["allow", "deny", "deny"]);
    let mut changes: Vec<_> = finished
        .records
        .iter()
        .filter(|record| record["kind"] == "policy")
        .map(|record| record["result"].as_str().unwrap_or_default())
        .collect();
    changes.dedup();
    assert_eq!(changes, ["applied", "refused"]);
    Ok(())
}

#[test]
fn a_daemon_that_hangs_is_replaced() -> anyhow::Result<()> {
    let machine = prepare("hang", POLICY)?
        .write("/etc/systemd/system/enforcer.service.d/test.conf", "[Service]\nWatchdogSec=1s\n")?
        .wants(UNIT)
        .boot()?;
    assert_eq!(machine.property(UNIT, "NRestarts")?, "0");
    // Idle for longer than the watchdog's patience, it says that it lives.
    let since = monotonic(&machine, UNIT, "ActiveEnterTimestampMonotonic")?;
    machine.wait_until("the watchdog was fed three times", |machine| {
        Ok(monotonic(machine, UNIT, "WatchdogTimestampMonotonic")? > since + 2_000_000)
    })?;
    machine.systemctl(&["kill", "--signal=STOP", UNIT])?;
    machine.wait_until("it is replaced", |machine| {
        Ok(machine.property(UNIT, "NRestarts")? != "0" && machine.property(UNIT, "ActiveState")? == "active")
    })?;
    let journal = machine.run("journalctl", &["--no-pager", "--unit", UNIT])?;
    ensure!(journal.contains("Watchdog timeout"), "{journal}");
    machine.serve_as("orders", "127.0.0.1:8080")?;
    let reply = machine.connect_as("other", "127.0.0.1:8080")?;
    ensure!(reply.is_refused(), "{reply:?}");
    Ok(())
}

#[test]
fn a_host_that_cannot_enforce_fails_the_unit_before_the_network_unless_the_policy_says_open()
-> anyhow::Result<()> {
    let incapable = "[Service]\nCapabilityBoundingSet=~CAP_BPF\nRestart=no\n";
    let machine = prepare("incapable", POLICY)?
        .write("/etc/systemd/system/enforcer.service.d/test.conf", incapable)?
        .wants(UNIT)
        .boot_degraded()?;
    assert_eq!(machine.property(UNIT, "ActiveState")?, "failed");
    assert_eq!(machine.property(UNIT, "ExecMainStatus")?, "1");
    let failed = monotonic(&machine, UNIT, "InactiveEnterTimestampMonotonic")?;
    let network = monotonic(&machine, "network-pre.target", "ActiveEnterTimestampMonotonic")?;
    ensure!(0 < failed && failed <= network, "{failed} is not before {network}");
    let journal = machine.run("journalctl", &["--no-pager", "--unit", UNIT])?;
    ensure!(journal.contains("CAP_BPF nor CAP_SYS_ADMIN is in effect"), "{journal}");

    let open = POLICY.replace("services:", "defaults: { on_unsupported: open }\nservices:");
    machine.write("/etc/enforcer/policy.yaml", &open)?;
    machine.systemctl(&["start", UNIT])?;
    machine.systemctl(&["reload", UNIT])?;
    let status = machine.property(UNIT, "StatusText")?;
    ensure!(status.starts_with("DEGRADED, nothing is enforced: load programs: "), "{status}");
    let journal = machine.run("journalctl", &["--no-pager", "--unit", UNIT])?;
    ensure!(journal.contains("nothing is enforced, as `on_unsupported: open` wants it"), "{journal}");
    let records = machine.records(AUDIT)?;
    assert_eq!(records.len(), 2, "one for the start and one for the reload: {records:?}");
    for record in &records {
        assert_eq!(record["kind"], "unprotected");
        let cause = record["cause"].as_str().context("no cause")?;
        ensure!(cause.contains("CAP_BPF"), "{record}");
    }
    machine.serve_as("orders", "127.0.0.1:8080")?;
    let reply = machine.connect_as("other", "127.0.0.1:8080")?;
    assert_eq!(reply.text, "hello", "{reply:?}");
    machine.systemctl(&["stop", UNIT])?;
    assert_eq!(machine.property(UNIT, "Result")?, "success");
    Ok(())
}

#[test]
fn a_policy_that_cannot_be_used_fails_the_unit_once() -> anyhow::Result<()> {
    let machine = prepare("invalid", "version: 1\nservicse: {}\n")?.wants(UNIT).boot_degraded()?;
    assert_eq!(machine.property(UNIT, "ActiveState")?, "failed");
    assert_eq!(machine.property(UNIT, "ExecMainStatus")?, "64");
    assert_eq!(machine.property(UNIT, "NRestarts")?, "0");
    let journal = machine.run("journalctl", &["--no-pager", "--unit", UNIT])?;
    ensure!(journal.contains("policy.yaml:2:1") && journal.contains("services"), "{journal}");
    machine.write("/etc/enforcer/policy.yaml", POLICY)?;
    machine.systemctl(&["start", UNIT])?;
    finish(&machine)?.check_totals()
}

#[test]
fn its_capabilities_are_enough_for_sockets_of_any_user_that_are_older_than_it() -> anyhow::Result<()> {
    let machine = prepare("older", POLICY)?.boot()?;
    let serve = ["--quiet", "--unit=orders", "--service-type=notify", "--uid=nobody"];
    machine.run("systemd-run", &[&serve[..], &[ACTOR, "unit", "serve", "127.0.0.1:8080"]].concat())?;
    machine.systemctl(&["start", UNIT])?;
    let status = machine.run("grep", &["--no-messages", "^CapEff", &status_file(&machine)?])?;
    // CAP_DAC_READ_SEARCH, CAP_NET_ADMIN, CAP_SYS_PTRACE, CAP_BPF: only starting takes CAP_PERFMON.
    assert_eq!(status.trim(), "CapEff:\t0000008000081004");
    // Without CAP_SETPCAP the bounding set stays, and is worth nothing to a thread that may gain nothing by `execve`.
    let command = format!("cat /proc/{}/task/*/status", machine.property(UNIT, "MainPID")?);
    let threads = machine.run("sh", &["-c", &command])?;
    let all = threads.matches("Name:\t").count();
    for nothing in ["CapInh:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert_eq!(threads.matches(nothing).count(), all, "{nothing}: {threads}");
    }
    let log = threads.split("Name:\t").find(|status| status.starts_with("log\n")).context("no log thread")?;
    for nothing in ["CapPrm:\t0000000000000000", "CapEff:\t0000000000000000"] {
        ensure!(log.contains(nothing), "{log}");
    }
    let reply = machine.connect_as("other", "127.0.0.1:8080")?;
    ensure!(reply.is_refused(), "{reply:?}");
    let reply = machine.connect_as("web", "127.0.0.1:8080")?;
    assert_eq!(reply.text, "hello", "{reply:?}");
    let finished = finish(&machine)?;
    finished.check_totals()?;
    let told: Vec<_> = finished.attempts().collect();
    assert_eq!(told.len(), 1, "{told:?}");
    // The hook at the caller knew who would answer.
    assert_eq!(told[0]["direction"], "egress");
    assert_eq!(told[0]["destination"]["service"], "orders");
    Ok(())
}

#[test]
fn with_the_drop_in_for_containers_it_looks_into_other_network_namespaces() -> anyhow::Result<()> {
    const WARNING: &str = "other network namespaces are not looked into";
    let drop_in = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("packaging").join("containers.conf");
    let inside = "/etc/systemd/system/enforcer.service.d/containers.conf";
    let journal = |machine: &Machine| machine.run("journalctl", &["--no-pager", "--unit", UNIT]);
    for (prepared, looks) in
        [(prepare("alone", POLICY)?, false), (prepare("containers", POLICY)?.bind(drop_in, inside), true)]
    {
        let machine = prepared.wants(UNIT).boot()?;
        machine.systemctl(&["is-active", UNIT])?;
        let journal = journal(&machine)?;
        ensure!(journal.contains(WARNING) != looks, "{journal}");
        finish(&machine)?.check_totals()?;
    }
    Ok(())
}

fn status_file(machine: &Machine) -> anyhow::Result<String> {
    Ok(format!("/proc/{}/status", machine.property(UNIT, "MainPID")?))
}
