//! What a container runtime may do wrong, and cgroups within containers: the daemon goes on, and nobody is more than he
//! is known to be.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use enforcer_tests::actor::{Request, Transport};
use enforcer_tests::hostile::{Hostile, Manner};
use enforcer_tests::kept::{self, Tally};
use enforcer_tests::sandbox::{Actor, Daemon, Sandbox};
use enforcer_tests::slowness::patience;
use serde_json::{Value, json};

const POLICY: &str = "version: 1
services:
  web: { match: [{ container: { name: 'web-*' } }] }
  orders: { match: [{ cgroup: ROOT/orders }] }
allow:
  - { name: checkout, from: web, to: orders, ports: [8080/tcp] }
";

/// How long something may take that only a broken daemon never does.
const DEADLINE: Duration = Duration::from_secs(20);

/// More than all questions at one time may hold of answers.
const MOST_MEMORY: u64 = 160 << 20;

/// Containers that are asked about at once.
const CONTAINERS: usize = 24;

fn id(number: usize) -> String {
    format!("{number:064x}")
}

fn connect() -> anyhow::Result<Request> {
    Ok(Request::Connect { to: "127.0.0.1:8080".parse()?, transport: Transport::Tcp, mapped: false })
}

/// What Docker says of a container of this name with this first process.
fn container(name: &str, pid: i64, labels: &Value) -> Manner {
    Manner::Json(inspected("ID", name, pid, labels))
}

fn inspected(id: &str, name: &str, pid: i64, labels: &Value) -> String {
    let answer = json!({
        "Id": id,
        "Name": format!("/{name}"),
        "State": { "Pid": pid },
        "Config": { "Image": "tiny:1", "Labels": labels },
    });
    answer.to_string()
}

/// The most memory that the daemon ever had, in bytes.
fn peak(daemon: &Daemon) -> anyhow::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    let kilobytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kilobytes << 10)
}

/// Waits until the runtime has been asked so many times more.
fn await_asked(hostile: &Hostile, more: usize) -> anyhow::Result<()> {
    let (start, before) = (Instant::now(), hostile.asked());
    while hostile.asked() < before + more {
        ensure!(start.elapsed() < patience(DEADLINE), "asked {} times", hostile.asked() - before);
        std::thread::yield_now();
    }
    Ok(())
}

fn whatever_a_runtime_answers(runtime: &str, form: &str) -> anyhow::Result<()> {
    let sandbox = Sandbox::new(&format!("{runtime}-hostile"))?;
    let mut orders = sandbox.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    ensure!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let socket = sandbox.directory().join("runtime.sock");
    let hostile = Hostile::start(&socket, Manner::Closing)?;
    let argument = format!("--runtime={runtime}={}", socket.display());
    let mut daemon = sandbox.daemon_with(POLICY, &["--log-allowed", &argument])?;
    let mut inside = sandbox.actor(&form.replace("ID", &id(1)))?;
    for number in 2..=CONTAINERS {
        sandbox.make_cgroup(&form.replace("ID", &id(number)))?;
    }
    let before = peak(&daemon)?;
    let own = i64::from(inside.pid());
    let labels: Value = (0..400).map(|number| (number.to_string(), json!("x".repeat(1000)))).collect();
    for manner in [
        Manner::Closing,
        Manner::Huge,
        Manner::Chunks,
        Manner::Raw("SSH-2.0-OpenSSH_9.2\r\n"),
        Manner::Raw("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{\"Id\""),
        Manner::Raw("HTTP/1.1 302 Found\r\nLocation: http://localhost/\r\nContent-Length: 0\r\n\r\n"),
        Manner::Raw("HTTP/1.1 500 Oops\r\nContent-Length: 2\r\n\r\n{}"),
        Manner::Json(String::from("[]")),
        Manner::Json(String::from("{}")),
        Manner::Json("[".repeat(100_000)),
        Manner::Json(json!({ "Id": id(77), "Name": "/web-1", "State": { "Pid": own } }).to_string()),
        // Somebody else's process, and none.
        container("web-1", 1, &json!({})),
        container("web-1", i64::from(orders.pid()), &json!({})),
        container("web-1", 0, &json!({})),
        container("web-1", -1, &json!({})),
        container("web-1", i64::MAX, &json!({})),
        // More than is kept of a container.
        container("web-1", own, &labels),
        Manner::Silence,
    ] {
        hostile.change(manner.clone());
        await_asked(&hostile, if manner == Manner::Silence { 1 } else { 3 })?;
        let reply = inside.ask(&connect()?)?;
        ensure!(reply.is_refused(), "{manner:?}: {reply:?}");
        let asking = Instant::now();
        let status = sandbox.ask_daemon(&["status"])?;
        ensure!(asking.elapsed() < patience(Duration::from_secs(3)), "{manner:?}: {:?}", asking.elapsed());
        let pending = status["coverage"]["pending_containers"].as_array().map_or(0, Vec::len);
        ensure!(pending == CONTAINERS, "{manner:?}: {status}");
    }
    let grown = peak(&daemon)?.saturating_sub(before);
    ensure!(grown < MOST_MEMORY, "{} MiB", grown >> 20);

    if runtime == "docker" {
        // A name is only a text.
        let odd = "web-\u{1b}[31m\n\"}\u{202e}";
        hostile.change(container(odd, own, &json!({ "\u{7}": "\0" })));
        let told = daemon.wait_for(|record| record["kind"] == "container")?;
        ensure!(told["name"] == odd && told["service"] == "web" && told["id"] == id(1), "{told}");
        let reply = inside.ask(&connect()?)?;
        ensure!(reply.is_ok(), "{reply:?}");
        // Whoever is known stays who he is, also if the socket is gone.
        fs::remove_file(&socket)?;
        let reply = inside.ask(&connect()?)?;
        ensure!(reply.is_ok(), "{reply:?}");
    }
    let finished = daemon.stop()?;
    let told = finished.records.iter().filter(|record| record["kind"] == "container").count();
    ensure!(told == usize::from(runtime == "docker"), "{told} containers");
    for attempt in finished.attempts().filter(|attempt| attempt["verdict"] == "deny") {
        ensure!(attempt["reason"] == "source-pending", "{attempt}");
    }
    finished.check_totals()
}

#[test]
fn whatever_docker_answers_the_daemon_goes_on_and_a_container_stays_pending() -> anyhow::Result<()> {
    whatever_a_runtime_answers("docker", "docker/ID")
}

#[test]
fn whatever_containerd_answers_the_daemon_goes_on_and_a_container_stays_pending() -> anyhow::Result<()> {
    whatever_a_runtime_answers("containerd", "kubepods/pod0c9ba5d1-49a7-4d21-9d43-2a5d9e9d0f3b/ID")
}

fn start(sandbox: &Sandbox, socket: &Path, without_btf: bool) -> anyhow::Result<Daemon> {
    let mut command = sandbox.daemon_command(POLICY)?;
    command.arg("--log-allowed").arg(format!("--runtime=docker={}", socket.display()));
    if !without_btf {
        return sandbox.start_daemon(command);
    }
    // As on a kernel that was built without a description of its types.
    let mut hiding = sandbox.command("", "unshare")?;
    hiding.args(["-m", "sh", "-c", "mount --bind /dev/null /sys/kernel/btf/vmlinux && exec \"$@\"", "sh"]);
    hiding.arg(command.get_program()).args(command.get_args());
    sandbox.start_daemon(hiding)
}

/// What lies in a container is the container's: made while it is pending, at the very moment at which it becomes known, and
/// later.
fn what_lies_in_a_container(name: &str, without_btf: bool) -> anyhow::Result<()> {
    let sandbox = Sandbox::new(name)?;
    let mut orders = sandbox.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    ensure!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let socket = sandbox.directory().join("runtime.sock");
    let hostile = Hostile::start(&socket, Manner::Closing)?;
    let daemon = start(&sandbox, &socket, without_btf)?;
    let by = &daemon.records()[0]["cgroups_identified_by"];
    ensure!(*by == if without_btf { "daemon" } else { "kernel" }, "{by}");

    let own = format!("docker/{}", id(1));
    let mut inside = sandbox.actor(&own)?;
    let mut early = sandbox.actor(&format!("{own}/early/deep"))?;
    for actor in [&mut inside, &mut early] {
        let reply = actor.ask(&connect()?)?;
        ensure!(reply.is_refused(), "{reply:?}");
    }
    // The daemon has taken in what there is, so that all is pending and not just unknown.
    let pending = until_pending(&sandbox, 1)?;
    ensure!(pending == json!([sandbox.path_of(&own)]), "{pending}");
    let reply = early.ask(&connect()?)?;
    ensure!(reply.is_refused(), "{reply:?}");
    hostile.change(container("web-1", i64::from(inside.pid()), &json!({})));
    let mut made = 0;
    while !daemon_knows(&sandbox)? || made < 20 {
        sandbox.make_cgroup(&format!("{own}/while-{made}/deep"))?;
        made += 1;
        ensure!(made < 10_000, "never known");
    }
    let mut late = sandbox.actor(&format!("{own}/late/deep"))?;
    let mut between = sandbox.actor(&format!("{own}/while-{}/deep", made - 1))?;
    let pending = until_pending(&sandbox, 0)?;
    ensure!(pending == json!([]), "{pending}");
    for actor in [&mut inside, &mut early, &mut between, &mut late] {
        let reply = actor.ask(&connect()?)?;
        ensure!(reply.is_ok(), "{reply:?}");
    }
    let finished = daemon.stop()?;
    for attempt in finished.attempts() {
        let is_known = attempt["source"]["service"] == "web";
        ensure!((attempt["verdict"] == "allow") == is_known, "{attempt}");
    }
    let reasons = finished.attempts().filter(|attempt| attempt["reason"] == "source-pending").count();
    ensure!(reasons >= 1, "nobody was pending");
    finished.check_totals()
}

#[test]
fn the_daemon_identifies_cgroups_before_anybody_has_met_one() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("first-inotify")?;
    let daemon = start(&sandbox, &sandbox.directory().join("runtime.sock"), true)?;
    let known = || Ok::<_, anyhow::Error>(sandbox.ask_daemon(&["status"])?["cgroups"]["known"].clone());
    ensure!(known()? == 1, "the root of the subtree");
    sandbox.make_cgroup("late/deep")?;
    let start = Instant::now();
    while known()? != 3 {
        ensure!(start.elapsed() < patience(Duration::from_secs(5)), "they stay unknown");
    }
    daemon.stop()?.check_totals()
}

#[test]
fn a_container_elsewhere_is_known_where_the_daemon_identifies_cgroups() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("elsewhere-inotify")?;
    let mut orders = sandbox.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    ensure!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let own = format!("shop/floor/{}", id(1));
    let mut inside = sandbox.actor(&own)?;
    let socket = sandbox.directory().join("runtime.sock");
    let known = [(id(1), inspected(&id(1), "web-1", i64::from(inside.pid()), &json!({})))];
    let _hostile = Hostile::start(&socket, Manner::Honest(known.into()))?;
    let mut daemon = start(&sandbox, &socket, true)?;
    let told = daemon.wait_for(|record| record["kind"] == "container")?;
    ensure!(told["service"] == "web" && told["cgroup"] == sandbox.path_of(&own), "{told}");
    ensure!(inside.ask(&connect()?)?.is_ok());
    let mut late = sandbox.actor(&format!("{own}/late/deep"))?;
    let start = Instant::now();
    // For a moment the daemon does not know it.
    while !late.ask(&connect()?)?.is_ok() {
        ensure!(start.elapsed() < patience(Duration::from_secs(5)), "what lies in it is never its");
    }
    daemon.stop()?.check_totals()
}

/// Has an actor do something with the connections that it keeps.
fn keep(actor: &mut Actor, request: kept::Request) -> anyhow::Result<String> {
    let reply = actor.ask(&Request::Kept(request))?;
    ensure!(reply.is_ok(), "{reply:?}");
    Ok(reply.text)
}

/// How many connections live when so many have died, or when the time is over.
fn alive(actor: &mut Actor, dead: usize) -> anyhow::Result<usize> {
    let millis = u64::try_from(patience(Duration::from_secs(if dead > KEPT { 1 } else { 10 })).as_millis())?;
    let tally: Tally = serde_json::from_str(&keep(actor, kept::Request::Await { dead, millis })?)?;
    Ok(tally.alive)
}

/// Connections that each container holds.
const KEPT: usize = 5;

#[test]
fn what_a_container_holds_is_judged_when_it_is_known_and_when_it_is_somebody_else() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("held")?;
    let mut orders = sandbox.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    keep(&mut orders, kept::Request::Serve { at, accept: true })?;
    // Older than the enforcer.
    let (one, two) = (id(1), id(2));
    let mut web = sandbox.actor(&format!("docker/{one}"))?;
    let mut other = sandbox.actor(&format!("docker/{two}"))?;
    for actor in [&mut web, &mut other] {
        keep(actor, kept::Request::Connect { to: at, transport: Transport::Tcp, number: KEPT })?;
    }
    let socket = sandbox.directory().join("runtime.sock");
    let hostile = Hostile::start(&socket, Manner::Closing)?;
    let policy = format!("{POLICY}defaults: {{ existing: close }}\n");
    let mut daemon = sandbox.daemon_with(&policy, &[&format!("--runtime=docker={}", socket.display())])?;
    // Nobody knows who they are, so nobody can tell whether they may.
    for actor in [&mut web, &mut other] {
        ensure!(alive(actor, KEPT + 1)? == KEPT, "a connection was closed of one who is pending");
    }
    let (web_pid, other_pid) = (i64::from(web.pid()), i64::from(other.pid()));
    let named = |first: &str| {
        let known = [(&one, first, web_pid), (&two, "other", other_pid)];
        let known = known.map(|(id, name, pid)| (id.clone(), inspected(id, name, pid, &json!({}))));
        Manner::Honest(known.into())
    };
    hostile.change(named("web-1"));
    ensure!(alive(&mut other, KEPT)? == 0, "who may not call goes on");
    ensure!(alive(&mut web, KEPT + 1)? == KEPT, "who may call was cut off");
    hostile.change(named("former"));
    let told = daemon.wait_for(|record| record["kind"] == "container" && record["name"] == "former")?;
    ensure!(told["service"] == "unmanaged" && told["pending_ms"].is_null(), "{told}");
    ensure!(alive(&mut web, KEPT)? == 0, "who may not call any longer goes on");
    let finished = daemon.stop()?;
    let closed: Vec<&Value> = finished.connections().collect();
    ensure!(closed.len() == 2 * KEPT, "{closed:?}");
    for record in closed {
        ensure!(record["action"] == "closed" && record["cause"] == "container", "{record}");
        ensure!(record["source"]["service"] == "unmanaged" && record["reason"] == "no-rule", "{record}");
    }
    finished.check_totals()
}

fn daemon_knows(sandbox: &Sandbox) -> anyhow::Result<bool> {
    let services = sandbox.ask_daemon(&["services"])?;
    Ok(services.to_string().contains(&sandbox.path_of("docker/")))
}

/// The pending containers, once there are so many.
fn until_pending(sandbox: &Sandbox, number: usize) -> anyhow::Result<Value> {
    let start = Instant::now();
    loop {
        let status = sandbox.ask_daemon(&["status"])?;
        let pending = &status["coverage"]["pending_containers"];
        // Less than a look of the daemon at the whole tree would take, which puts everything right.
        let is_late = start.elapsed() > patience(Duration::from_secs(5));
        if is_late || pending.as_array().is_some_and(|pending| pending.len() == number) {
            return Ok(pending.clone());
        }
    }
}

#[test]
fn what_lies_in_a_container_is_the_containers_whenever_it_was_made() -> anyhow::Result<()> {
    what_lies_in_a_container("nested", false)
}

#[test]
fn containers_are_known_where_the_daemon_identifies_cgroups() -> anyhow::Result<()> {
    what_lies_in_a_container("nested-inotify", true)
}
