//! The audit log: every field of every kind of record, where it is written, and that nothing is lost uncounted.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use enforcer_common::event::Event;
use enforcer_common::limits::RING_BYTES;
use enforcer_tests::actor::{Reply, Request, Transport};
use enforcer_tests::sandbox::{Actor, Neighbour, Sandbox, binary};
use enforcer_tests::slowness::patience;
use nix::libc;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::{Value, json};

const POLICY: &str = "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
  db: { match: [{ cgroup: ROOT/db }], listens: [5432/tcp] }
  worker: { match: [{ cgroup: ROOT/worker }], mode: audit }
allow:
  - { name: ledger, from: web, to: db, ports: [5433/tcp] }
";

const CGROUPS: [&str; 4] = ["web", "db", "worker", "other"];

/// The fields of every record of an attempt.
const FIELDS: [&str; 14] = [
    "time",
    "sequence",
    "kind",
    "verdict",
    "mode",
    "reason",
    "rule",
    "revision",
    "hook",
    "direction",
    "protocol",
    "source",
    "destination",
    "process",
];

fn local(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn connect(to: SocketAddr) -> Request {
    Request::Connect { to, transport: Transport::Tcp, mapped: false }
}

#[test]
fn every_kind_of_attempt_is_told_with_every_field() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("audit")?;
    for name in CGROUPS {
        sandbox.make_cgroup(name)?;
    }
    let neighbour = sandbox.neighbour(&[])?;
    let mut daemon = sandbox.daemon_with(POLICY, &["--log-allowed"])?;
    let actor = |name| sandbox.actor(name);
    let (mut web, mut db, mut worker, mut other) =
        (actor("web")?, actor("db")?, actor("worker")?, actor("other")?);
    let mut far = neighbour.actor()?;
    for at in [local(5433), local(5434), SocketAddr::new(Neighbour::NEAR.into(), 5433)] {
        assert!(db.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    }
    let at = SocketAddr::new(Neighbour::FAR.into(), 7000);
    assert!(far.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());

    let id = |name: &str| anyhow::Ok(sandbox.make_cgroup(name)?.metadata()?.ino());
    let end = |name: &str, address: Option<SocketAddr>| {
        anyhow::Ok(json!({
            "service": if name == "other" { "unmanaged" } else { name },
            "cgroup": sandbox.path_of(name),
            "cgroup_id": id(name)?,
            "address": address.map(|address| address.ip()),
            "port": address.map(|address| address.port()),
        }))
    };
    let world = |address: SocketAddr| {
        json!({
            "service": "world", "cgroup": null, "cgroup_id": null,
            "address": address.ip(), "port": address.port(),
        })
    };
    let exe = binary("enforcer-actor")?;
    let process = |pid: u32| json!({ "pid": pid, "uid": 0, "comm": "enforcer-actor", "exe": exe });
    let rule = json!({ "name": "ledger", "file": sandbox.directory().join("policy/policy.yaml"), "line": 7 });
    let mut check = |what: &str, wanted: Value| -> anyhow::Result<Value> {
        let record = daemon.wait_for(|record| record["kind"] == "attempt").context(what.to_owned())?;
        let fields: BTreeSet<&str> =
            record.as_object().context("object")?.keys().map(String::as_str).collect();
        assert_eq!(fields, BTreeSet::from(FIELDS), "{what}");
        for (field, value) in wanted.as_object().context("object")? {
            assert_eq!(&record[field], value, "{what}: {field} of {record}");
        }
        let time = record["time"].as_str().context("time")?;
        assert!(time.len() == "2026-01-01T00:00:00.000000000Z".len() && time.ends_with('Z'), "{time}");
        Ok(record)
    };

    assert_eq!(web.ask(&connect(local(5433)))?.text, "hello");
    check(
        "an allow",
        json!({
            "verdict": "allow", "mode": "enforce", "reason": "rule", "rule": rule, "revision": 1,
            "hook": "connect4", "direction": "egress", "protocol": "tcp",
            "source": end("web", None)?, "destination": end("db", Some(local(5433)))?, "process": process(web.pid()),
        }),
    )?;

    assert!(web.ask(&connect(local(5434)))?.is_refused());
    check(
        "an egress deny",
        json!({
            "verdict": "deny", "mode": "enforce", "reason": "port-not-listed", "rule": null, "revision": 1,
            "hook": "connect4", "direction": "egress", "protocol": "tcp",
            "source": end("web", None)?, "destination": end("db", Some(local(5434)))?, "process": process(web.pid()),
        }),
    )?;

    let from = SocketAddr::new(Neighbour::FAR.into(), 40_001);
    let to = SocketAddr::new(Neighbour::NEAR.into(), 5433);
    let call = Request::CallFrom { from, to, transport: Transport::Tcp, connected: true };
    assert!(!far.ask(&call)?.is_ok());
    check(
        "an ingress deny",
        json!({
            "verdict": "deny", "mode": "enforce", "reason": "no-rule", "rule": null, "revision": 1,
            "hook": "ingress", "direction": "ingress", "protocol": "tcp",
            "source": world(from), "destination": end("db", Some(to))?, "process": null,
        }),
    )?;

    assert!(other.ask(&Request::Bind { at: local(5432), transport: Transport::Tcp })?.is_refused());
    check(
        "a bind deny",
        json!({
            "verdict": "deny", "mode": "enforce", "reason": "port-reserved", "rule": null, "revision": 1,
            "hook": "bind4", "direction": "local", "protocol": "tcp",
            "source": end("other", None)?,
            "destination": {
                "service": "db", "cgroup": null, "cgroup_id": null, "address": "127.0.0.1", "port": 5432,
            },
            "process": process(other.pid()),
        }),
    )?;

    let (domain, kind, protocol) = (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP);
    assert!(web.ask(&Request::Create { domain, kind, protocol })?.is_refused());
    check(
        "a raw socket deny",
        json!({
            "verdict": "deny", "mode": "enforce", "reason": "raw-socket", "rule": null, "revision": 1,
            "hook": "sock_create", "direction": "local", "protocol": "icmp",
            "source": end("web", None)?,
            "destination": { "service": "web", "cgroup": null, "cgroup_id": null, "address": null, "port": null },
            "process": process(web.pid()),
        }),
    )?;

    assert_eq!(worker.ask(&connect(at))?.text, "hello");
    check(
        "a would-deny",
        json!({
            "verdict": "deny", "mode": "audit", "reason": "no-rule", "rule": null, "revision": 1,
            "hook": "connect4", "direction": "egress", "protocol": "tcp",
            "source": end("worker", None)?, "destination": world(at), "process": process(worker.pid()),
        }),
    )?;

    let finished = daemon.stop()?;
    finished.check_totals()?;
    assert_eq!(finished.attempts().count(), 6, "{:?}", finished.records);
    // What is permitted between two local ends is decided at both, and told once.
    for (total, count) in [("allowed", 2), ("denied", 4), ("would_deny", 1), ("events_lost", 0)] {
        assert_eq!(finished.stop[total], count, "{total} of {}", finished.stop);
    }
    Ok(())
}

#[test]
fn what_is_permitted_is_told_only_if_asked_for() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("quiet")?;
    for name in CGROUPS {
        sandbox.make_cgroup(name)?;
    }
    let daemon = sandbox.daemon(POLICY)?;
    let (mut web, mut db) = (sandbox.actor("web")?, sandbox.actor("db")?);
    assert!(db.ask(&Request::Serve { at: local(5433), transport: Transport::Tcp })?.is_ok());
    assert_eq!(web.ask(&connect(local(5433)))?.text, "hello");
    let finished = daemon.stop()?;
    assert_eq!(finished.attempts().count(), 0, "{:?}", finished.records);
    assert_ne!(finished.stop["allowed"], 0, "it is counted all the same");
    finished.check_totals()
}

#[test]
fn a_file_is_appended_to_and_begins_anew_with_each_start() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("file")?;
    for name in CGROUPS {
        sandbox.make_cgroup(name)?;
    }
    let file = sandbox.directory().join("audit.jsonl");
    let mut other = sandbox.actor("other")?;
    fs::write(&file, "what stood there before\n")?;
    for run in 1..=2 {
        let mut command = sandbox.daemon_command(POLICY)?;
        command.arg("--audit").arg(&file).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let child = sandbox.spawn(command)?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        let lines = |wanted: usize| {
            let start = Instant::now();
            loop {
                let text = fs::read_to_string(&file)?;
                if text.lines().count() >= wanted {
                    return anyhow::Ok(text);
                }
                anyhow::ensure!(
                    start.elapsed() < patience(Duration::from_secs(20)),
                    "wait for line {wanted} of:\n{text}"
                );
                thread::yield_now();
            }
        };
        let before = 1 + (run - 1) * 3;
        let begun = lines(before + 1);
        let refused = other.ask(&Request::Bind { at: local(5432), transport: Transport::Tcp });
        let told = lines(before + 2);
        kill(pid, Signal::SIGTERM)?;
        let output = child.wait_with_output()?;
        assert!(output.status.success() && output.stdout.is_empty(), "{output:?}");
        begun?;
        assert!(refused?.is_refused());
        told?;
        let text = fs::read_to_string(&file)?;
        assert!(text.starts_with("what stood there before\n"), "{text}");
        let (_, fresh) = text.split_at(text.lines().take(before).map(|line| line.len() + 1).sum());
        let records: Vec<Value> = fresh.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
        let kinds: Vec<_> = records.iter().map(|record| (&record["kind"], &record["sequence"])).collect();
        let wanted =
            [("start", 1), ("attempt", 2), ("stop", 3)].map(|(kind, number)| (json!(kind), json!(number)));
        assert_eq!(kinds, wanted.iter().map(|(kind, number)| (kind, number)).collect::<Vec<_>>());
    }
    Ok(())
}

#[test]
fn what_the_ring_had_no_room_for_is_counted_to_the_last_event() -> anyhow::Result<()> {
    // An entry has a header of eight bytes.
    let capacity = u64::from(RING_BYTES) / (u64::try_from(Event::SIZE)? + 8);
    let times = capacity + 5_000;
    let sandbox = Sandbox::new("loss")?;
    for name in CGROUPS {
        sandbox.make_cgroup(name)?;
    }
    let neighbour = sandbox.neighbour(&[])?;
    let mut daemon = sandbox.daemon(POLICY)?;
    let mut web = sandbox.actor("web")?;
    daemon.signal(Signal::SIGSTOP)?;
    let to = SocketAddr::new(Neighbour::FAR.into(), 7000);
    let flood = web.ask(&Request::Flood { to, times })?;
    assert_eq!(flood.text, times.to_string(), "every one is refused, told or not: {flood:?}");
    daemon.signal(Signal::SIGCONT)?;
    let lost = daemon.wait_for(|record| record["kind"] == "lost")?;
    assert_eq!(lost["cause"], "ring-full", "{lost}");
    let finished = daemon.stop()?;
    finished.check_totals()?;
    let total = |name: &str| finished.stop[name].as_u64().with_context(|| name.to_owned());
    assert_eq!(total("denied")?, times);
    assert_eq!(total("events_produced")?, times);
    assert_eq!(total("events_written")? + total("events_lost")?, times);
    assert!(total("events_lost")? >= times - capacity, "{}", finished.stop);
    let told: u64 = finished
        .records
        .iter()
        .filter(|record| record["kind"] == "lost")
        .filter_map(|record| record["count"].as_u64())
        .sum();
    assert_eq!(told, total("events_lost")?);
    drop(neighbour);
    Ok(())
}

#[test]
fn an_executable_may_be_called_anything() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("exe")?;
    for name in CGROUPS {
        sandbox.make_cgroup(name)?;
    }
    let mut daemon = sandbox.daemon(POLICY)?;
    let mut db = sandbox.actor("db")?;
    assert!(db.ask(&Request::Serve { at: local(5432), transport: Transport::Tcp })?.is_ok());
    // No text, and characters that JSON and a terminal have a meaning for.
    let odd = sandbox.directory().join(OsStr::from_bytes(b"\xff\"\n\x1b[31m"));
    fs::copy("/bin/bash", &odd)?;
    let mut command = sandbox.command("web", "/bin/sh")?;
    // It is there still when the daemon asks what it is.
    let calls = ": <> /dev/tcp/127.0.0.1/5432; read _";
    let becomes = r#"exec "$0/$(printf '\377"\n\033[31m')" -c "$1""#;
    command.args(["-c", becomes]).arg(sandbox.directory()).arg(calls);
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let caller = sandbox.spawn(command)?;
    let record = daemon.wait_for(|record| record["kind"] == "attempt")?;
    assert_eq!(
        (&record["verdict"], &record["reason"]),
        (&"deny".into(), &"port-not-listed".into()),
        "{record}"
    );
    let exe = record["process"]["exe"].as_str().context("no executable")?;
    assert_eq!(exe, odd.to_string_lossy(), "{record}");
    let output = caller.wait_with_output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    assert!(words.contains("Operation not permitted"), "{words}");
    let finished = daemon.stop()?;
    assert_eq!(finished.attempts().count(), 1);
    finished.check_totals()
}

#[test]
fn a_daemon_goes_on_with_the_file_that_is_its_standard_output() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("stdout")?;
    for name in CGROUPS {
        sandbox.make_cgroup(name)?;
    }
    let policy = sandbox.write_policy(POLICY)?;
    let file = sandbox.directory().join("audit.jsonl");
    let mut web = sandbox.actor("web")?;
    for run in 1..=3 {
        let mut command = sandbox.staying_command(&policy)?;
        let log = fs::OpenOptions::new().create(true).append(true).open(&file)?;
        command.stdin(Stdio::null()).stdout(log).stderr(Stdio::piped());
        let child = sandbox.spawn(command)?;
        let pid = Pid::from_raw(i32::try_from(child.id())?);
        wait_for_lines(&file, "start", run)?;
        assert!(web.ask(&Request::Bind { at: local(5432), transport: Transport::Tcp })?.is_refused());
        // One writes how it has ended, and the other cannot.
        wait_for_lines(&file, "attempt", run)?;
        kill(pid, if run == 2 { Signal::SIGKILL } else { Signal::SIGTERM })?;
        let output = child.wait_with_output()?;
        assert_eq!(output.status.success(), run != 2, "{output:?}");
    }
    let text = fs::read_to_string(&file)?;
    let records: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let of = |kind: &str| records.iter().filter(|record| record["kind"] == kind).collect::<Vec<_>>();
    assert_eq!(of("attempt").len(), 3, "{text}");
    let losses: Vec<&Value> = of("resume").iter().map(|record| &record["events_newly_lost"]).collect();
    assert_eq!(losses, [0, 0], "{text}");
    Ok(())
}

/// The policy of which nothing new is permitted while decisions cannot be written down.
fn strict() -> String {
    POLICY.replacen("services:", "defaults: { on_audit_loss: deny_new }\nservices:", 1)
}

/// Calls until the answer is what is wanted, and not faster than the daemon can answer too: refusals are events as well.
fn await_call(sandbox: &Sandbox, web: &mut Actor, wanted: fn(&Reply) -> bool) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        let reply = web.ask(&connect(local(5433)))?;
        if wanted(&reply) {
            return Ok(());
        }
        anyhow::ensure!(start.elapsed() < patience(Duration::from_secs(20)), "it is still {reply:?}");
        sandbox.ask_daemon(&["status"])?;
    }
}

#[test]
fn with_deny_new_nothing_new_is_permitted_once_the_ring_is_full_until_it_is_read() -> anyhow::Result<()> {
    let capacity = u64::from(RING_BYTES) / (u64::try_from(Event::SIZE)? + 8);
    let sandbox = Sandbox::new("strict-ring")?;
    for name in CGROUPS {
        sandbox.make_cgroup(name)?;
    }
    let neighbour = sandbox.neighbour(&[])?;
    let daemon = sandbox.daemon(&strict())?;
    let (mut web, mut db) = (sandbox.actor("web")?, sandbox.actor("db")?);
    assert!(db.ask(&Request::Serve { at: local(5433), transport: Transport::Tcp })?.is_ok());
    assert_eq!(web.ask(&connect(local(5433)))?.text, "hello");
    daemon.signal(Signal::SIGSTOP)?;
    let to = SocketAddr::new(Neighbour::FAR.into(), 7000);
    let times = capacity + 1000;
    assert_eq!(web.ask(&Request::Flood { to, times })?.text, times.to_string());
    // The kernel itself refuses it: nobody else is awake.
    let reply = web.ask(&connect(local(5433)))?;
    assert!(reply.is_refused(), "{reply:?}");
    daemon.signal(Signal::SIGCONT)?;
    await_call(&sandbox, &mut web, |reply| reply.text == "hello")?;
    let finished = daemon.stop()?;
    assert!(finished.words.contains("permitted again"), "{}", finished.words);
    drop(neighbour);
    finished.check_totals()
}

/// A small file system in memory, unmounted when it is dropped.
pub(crate) struct SmallDisk(pub(crate) PathBuf);

impl SmallDisk {
    pub(crate) fn mount(at: PathBuf, options: &str) -> anyhow::Result<Self> {
        fs::create_dir(&at)?;
        mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::MS_NOSUID | MsFlags::MS_NODEV, Some(options))?;
        Ok(Self(at))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(err) = umount2(&self.0, MntFlags::MNT_DETACH) {
            tracing::error!("unmount {}: {err}", self.0.display());
        }
    }
}

/// A daemon whose log is on a small disk, and who calls beside it.
struct Full<'a> {
    sandbox: &'a Sandbox,
    /// A file that can take what room the disk has.
    filler: &'a Path,
    web: &'a mut Actor,
    other: &'a mut Actor,
}

/// Has something done while such a daemon enforces this policy and `db` waits at the port that `web` may call. Returns the log.
fn with_small_disk(
    name: &str,
    policy: &str,
    act: impl FnOnce(Full<'_>) -> anyhow::Result<()>,
) -> anyhow::Result<String> {
    let sandbox = Sandbox::new(name)?;
    for name in CGROUPS {
        sandbox.make_cgroup(name)?;
    }
    let (mut web, mut db) = (sandbox.actor("web")?, sandbox.actor("db")?);
    let mut other = sandbox.actor("other")?;
    assert!(db.ask(&Request::Serve { at: local(5433), transport: Transport::Tcp })?.is_ok());
    let disk = SmallDisk::mount(sandbox.directory().join("disk"), "size=8m")?;
    let (file, filler) = (disk.0.join("audit.jsonl"), disk.0.join("filler"));
    let mut command = sandbox.daemon_command(policy)?;
    command.arg("--audit").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = sandbox.spawn(command)?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let acted = wait_for_line(&file, "start")
        .and_then(|()| act(Full { sandbox: &sandbox, filler: &filler, web: &mut web, other: &mut other }));
    kill(pid, Signal::SIGTERM)?;
    let output = child.wait_with_output()?;
    acted?;
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(&file)?;
    drop(disk);
    Ok(text)
}

#[test]
fn deny_new_that_comes_into_force_while_the_disk_is_full_holds_at_once() -> anyhow::Result<()> {
    let text = with_small_disk("strict-later", POLICY, |Full { sandbox, filler, web, other }| {
        assert!(fs::write(filler, vec![0; 16 << 20]).is_err());
        let start = Instant::now();
        while sandbox.ask_daemon(&["status"])?["degraded"] == json!([]) {
            assert!(other.ask(&Request::Bind { at: local(5432), transport: Transport::Tcp })?.is_refused());
            anyhow::ensure!(start.elapsed() < patience(Duration::from_secs(20)), "nothing is noticed");
        }
        // The policy in force lets it be.
        assert_eq!(web.ask(&connect(local(5433)))?.text, "hello");
        sandbox.write_policy(&strict())?;
        sandbox.ask_daemon(&["reload"])?;
        let reply = web.ask(&connect(local(5433)))?;
        assert!(reply.is_refused(), "{reply:?}");
        fs::remove_file(filler)?;
        await_call(sandbox, web, |reply| reply.text == "hello")?;
        Ok(())
    })?;
    let refused = text.lines().filter(|line| line.contains(r#""reason":"audit-lost""#)).count();
    assert!(refused >= 1, "{text}");
    Ok(())
}

#[test]
fn with_deny_new_nothing_new_is_permitted_while_the_disk_is_full() -> anyhow::Result<()> {
    let text = with_small_disk("strict-disk", &strict(), |Full { sandbox, filler, web, other }| {
        assert_eq!(web.ask(&connect(local(5433)))?.text, "hello");
        // Until there is room for nothing more.
        assert!(fs::write(filler, vec![0; 16 << 20]).is_err());
        // Some of a page may be left; each of these is a line.
        for _ in 0..16 {
            assert!(other.ask(&Request::Bind { at: local(5432), transport: Transport::Tcp })?.is_refused());
        }
        await_call(sandbox, web, Reply::is_refused)?;
        let status = sandbox.ask_daemon(&["status"])?;
        let codes: BTreeSet<&str> = status["degraded"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|what| what["code"].as_str())
            .collect();
        assert!(codes.contains("audit-log") && codes.contains("refusing-new"), "{status}");
        fs::remove_file(filler)?;
        await_call(sandbox, web, |reply| reply.text == "hello")?;
        let status = sandbox.ask_daemon(&["status"])?;
        assert_eq!(status["degraded"], json!([]), "{status}");
        Ok(())
    })?;
    let records: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let refused = records.iter().filter(|record| record["reason"] == "audit-lost");
    let refused: Vec<&Value> = refused.collect();
    let first = refused.first().context("no refusal says why")?;
    assert_eq!((&first["verdict"], &first["mode"]), (&"deny".into(), &"enforce".into()), "{first}");
    assert_eq!(
        (&first["source"]["service"], &first["destination"]["service"]),
        (&"web".into(), &"db".into()),
        "{first}"
    );
    // Everything waited and nothing is lost.
    let stop = records.last().context("no record")?;
    assert_eq!((&stop["kind"], &stop["events_lost"]), (&"stop".into(), &0.into()), "{stop}");
    let attempts = records.iter().filter(|record| record["kind"] == "attempt").count();
    assert_eq!(stop["events_written"], u64::try_from(attempts)?, "{stop}");
    Ok(())
}

#[test]
fn a_file_that_was_moved_away_is_opened_again_with_a_reload() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("rotation")?;
    for name in CGROUPS {
        sandbox.make_cgroup(name)?;
    }
    let (file, moved) = (sandbox.directory().join("audit.jsonl"), sandbox.directory().join("audit.jsonl.1"));
    let mut other = sandbox.actor("other")?;
    let mut command = sandbox.daemon_command(POLICY)?;
    command.arg("--audit").arg(&file).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let child = sandbox.spawn(command)?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let mut act = || {
        wait_for_line(&file, "start")?;
        fs::rename(&file, &moved)?;
        kill(pid, Signal::SIGHUP)?;
        wait_for_line(&file, "policy")?;
        assert!(other.ask(&Request::Bind { at: local(5432), transport: Transport::Tcp })?.is_refused());
        wait_for_line(&file, "attempt")
    };
    let acted = act();
    kill(pid, Signal::SIGTERM)?;
    let output = child.wait_with_output()?;
    acted?;
    assert!(output.status.success(), "{output:?}");
    let text = fs::read_to_string(&moved)? + &fs::read_to_string(&file)?;
    let records: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let kinds: Vec<_> =
        records.iter().map(|record| (record["kind"].as_str(), record["sequence"].as_u64())).collect();
    let wanted = [("start", 1), ("policy", 2), ("attempt", 3), ("stop", 4)];
    assert_eq!(kinds, wanted.map(|(kind, number)| (Some(kind), Some(number))));
    Ok(())
}

/// Waits until a file has a record of this kind.
fn wait_for_line(file: &Path, kind: &str) -> anyhow::Result<()> {
    wait_for_lines(file, kind, 1)
}

/// Waits until a log has so many records of a kind.
fn wait_for_lines(file: &Path, kind: &str, number: usize) -> anyhow::Result<()> {
    let (wanted, start) = (format!(r#""kind":"{kind}""#), Instant::now());
    loop {
        let text = match fs::read_to_string(file) {
            Err(err) if err.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        if text.lines().filter(|line| line.contains(&wanted)).count() >= number {
            return Ok(());
        }
        anyhow::ensure!(start.elapsed() < patience(Duration::from_secs(20)), "wait for {wanted} in:\n{text}");
        thread::yield_now();
    }
}

#[test]
fn a_log_that_nobody_reads_any_more_is_said_once_and_every_record_counted_as_lost() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("unread")?;
    for name in CGROUPS {
        sandbox.make_cgroup(name)?;
    }
    let mut other = sandbox.actor("other")?;
    let mut command = sandbox.daemon_command(POLICY)?;
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = sandbox.spawn(command)?;
    let pid = Pid::from_raw(i32::try_from(child.id())?);
    let mut act = || {
        let mut start = String::new();
        BufReader::new(child.stdout.take().context("daemon without stdout")?).read_line(&mut start)?;
        assert!(start.contains(r#""kind":"start""#), "{start}");
        for _ in 0..3 {
            let reply = other.ask(&Request::Bind { at: local(5432), transport: Transport::Tcp })?;
            assert!(reply.is_refused(), "{reply:?}");
        }
        anyhow::Ok(())
    };
    let acted = act();
    kill(pid, Signal::SIGTERM)?;
    let output = child.wait_with_output()?;
    acted?;
    let words = String::from_utf8(output.stderr)?;
    assert_eq!(output.status.code(), Some(1), "{words}");
    assert_eq!(words.matches("ERROR write audit log -: Broken pipe").count(), 1, "{words}");
    assert!(words.contains("denied=3 would_deny=0 events_lost=3"), "{words}");
    Ok(())
}
