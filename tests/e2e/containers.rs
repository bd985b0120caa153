//! Containers of real engines, by name, image and label: pending until the engine tells, and then who they are.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use enforcer_tests::actor::{Request, Transport};
use enforcer_tests::engine::{Engine, Kind};
use enforcer_tests::sandbox::{Daemon, Sandbox};
use enforcer_tests::slowness::patience;
use nix::sys::signal::Signal;
use serde_json::Value;

const POLICY: &str = "version: 1
services:
  web: { match: [{ container: { name: 'web-*', runtime: KIND } }] }
  tiny: { match: [{ container: { image: '*tiny:*', label: { tier: data } } }] }
  orders: { match: [{ cgroup: ROOT/orders }] }
allow:
  - { name: checkout, from: [web, tiny], to: orders, ports: [8080/tcp] }
";

/// Sends a word to the port every tenth of a second, whatever comes of it, until the container ends.
const CALL: &str = "while :; do echo x | busybox nc -w 1 127.0.0.1 8080; busybox usleep 20000; done";

fn policy(kind: Kind) -> String {
    POLICY.replace("KIND", kind.name())
}

fn is_known(record: &Value, id: &str) -> bool {
    record["kind"] == "container" && record["id"] == id
}

fn await_known(daemon: &mut Daemon, id: &str) -> anyhow::Result<Value> {
    // The record may have come while the client was waited for.
    match daemon.records().iter().rev().find(|record| is_known(record, id)) {
        Some(record) => Ok(record.clone()),
        None => daemon.wait_for(|record| is_known(record, id)),
    }
}

/// Waits for an attempt of a cgroup with this outcome.
fn await_attempt(daemon: &mut Daemon, cgroup: &str, verdict: &str, reason: &str) -> anyhow::Result<Value> {
    daemon.wait_for(|record| {
        record["kind"] == "attempt"
            && record["source"]["cgroup"].as_str().is_some_and(|path| path.starts_with(cgroup))
            && record["verdict"] == verdict
            && record["reason"] == reason
    })
}

fn run(container: &[&str], engine: &Engine<'_>) -> anyhow::Result<String> {
    let (name, options) = container.split_first().context("a name")?;
    engine.container(name, options, &["/bin/busybox", "sh", "-c", CALL])
}

fn who_is_who(kind: Kind) -> anyhow::Result<()> {
    let sandbox = Sandbox::new(&format!("{}-who", kind.name()))?;
    let engine = Engine::start(&sandbox, kind)?;
    let mut orders = sandbox.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    ensure!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    // Older than the enforcer.
    let old = run(&["web-old"], &engine)?;
    let mut daemon = sandbox.daemon_with(&policy(kind), &["--log-allowed", &engine.argument()])?;
    let old_known = await_known(&mut daemon, &old)?;
    ensure!(old_known["service"] == "web", "{old_known}");

    for (container, service, reason) in [
        (&["web-1"][..], "web", "rule"),
        (&["db", "--label=tier=data"], "tiny", "rule"),
        (&["other", "--label=tier=web"], "unmanaged", "no-rule"),
        // Both selectors are true of it.
        (&["web-2", "--label=tier=data"], "unknown", "source-unknown"),
    ] {
        let id = run(container, &engine)?;
        let known = await_known(&mut daemon, &id)?;
        ensure!(known["service"] == service && known["runtime"] == kind.name(), "{known}");
        ensure!(known["name"] == container[0] && known["cgroup_id"].as_u64() > Some(0), "{known}");
        let cgroup = sandbox.path_of(&engine.cgroup_of(&id));
        ensure!(known["cgroup"] == cgroup.as_str(), "{known}");
        let verdict = if reason == "rule" { "allow" } else { "deny" };
        let attempt = await_attempt(&mut daemon, &cgroup, verdict, reason)?;
        ensure!(attempt["source"]["service"] == service, "{attempt}");
        ensure!(attempt["destination"]["service"] == "orders", "{attempt}");
    }

    // What lies in a container is the container's, made before or after it became known.
    let nested = format!("{}/inner/deep", engine.cgroup_of(&old));
    let connect = Request::Connect { to: at, transport: Transport::Tcp, mapped: false };
    let reply = sandbox.actor(&nested)?.ask(&connect)?;
    ensure!(reply.text == "hello", "{reply:?}");

    // A policy that calls them otherwise does so at once, without asking anybody.
    engine.signal(Signal::SIGSTOP)?;
    let renamed = policy(kind).replace("web: {", "front: {").replace("[web, tiny]", "[front, tiny]");
    let change = daemon.reload(&sandbox, &renamed)?;
    ensure!(change["result"] == "applied", "{change}");
    let cgroup = sandbox.path_of(&engine.cgroup_of(&old));
    let attempt = daemon.wait_for(|record| {
        record["source"]["cgroup"] == cgroup.as_str() && record["revision"] == change["revision"]
    })?;
    ensure!(attempt["source"]["service"] == "front" && attempt["reason"] == "rule", "{attempt}");
    engine.signal(Signal::SIGCONT)?;
    daemon.stop()?.check_totals()
}

fn pending_until_told(kind: Kind) -> anyhow::Result<()> {
    let sandbox = Sandbox::new(&format!("{}-wait", kind.name()))?;
    let mut engine = Engine::start(&sandbox, kind)?;
    let mut orders = sandbox.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    ensure!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let mut daemon = sandbox.daemon_with(&policy(kind), &["--log-allowed", &engine.argument()])?;
    let id = run(&["web-1"], &engine)?;
    let first = await_known(&mut daemon, &id)?;
    ensure!(first["service"] == "web", "{first}");
    let cgroup = sandbox.path_of(&engine.cgroup_of(&id));
    await_attempt(&mut daemon, &cgroup, "allow", "rule")?;

    // A stopped engine tells nothing, and a cgroup that looks like a container's is pending from its first moment on.
    engine.signal(Signal::SIGSTOP)?;
    let look_alike = engine.cgroup_of(&"0f".repeat(32));
    let connect = Request::Connect { to: at, transport: Transport::Tcp, mapped: false };
    let mut inside = sandbox.actor(&look_alike)?;
    let reply = inside.ask(&connect)?;
    ensure!(reply.is_refused(), "{reply:?}");
    let reply = inside.ask(&Request::Create { domain: 2, kind: 3, protocol: 1 })?;
    ensure!(reply.is_refused(), "a raw socket: {reply:?}");
    let pending = await_attempt(&mut daemon, &sandbox.path_of(&look_alike), "deny", "source-pending")?;
    ensure!(pending["source"]["service"] == "pending", "{pending}");
    let status = sandbox.ask_daemon(&["status"])?;
    ensure!(
        status["coverage"]["pending_containers"] == serde_json::json!([sandbox.path_of(&look_alike)]),
        "{status}"
    );
    let services = sandbox.ask_daemon(&["services"])?;
    ensure!(services.to_string().contains(&format!("\"{cgroup}\"")), "{cgroup} is not in {services}");
    // Who is known already stays who he is.
    await_attempt(&mut daemon, &cgroup, "allow", "rule")?;

    // The daemon comes new, while the engine is stopped: nobody can tell what the container is.
    daemon.stop()?.check_totals()?;
    let mut daemon = sandbox.daemon_with(&policy(kind), &["--log-allowed", &engine.argument()])?;
    let pending = await_attempt(&mut daemon, &cgroup, "deny", "source-pending")?;
    ensure!(pending["source"]["service"] == "pending", "{pending}");
    engine.signal(Signal::SIGCONT)?;
    let going_on = Instant::now();
    let known = daemon.wait_for(|record| is_known(record, &id))?;
    let after = going_on.elapsed();
    ensure!(known["service"] == "web", "{known}");
    ensure!(after < patience(Duration::from_millis(100)), "resolved {after:?} after the engine went on");
    await_attempt(&mut daemon, &cgroup, "allow", "rule")?;
    let reply = inside.ask(&connect)?;
    ensure!(reply.is_refused(), "no engine knows it: {reply:?}");

    // A container that starts again has a new cgroup, which is asked about again.
    engine.docker(&["restart", "-t", "0", "web-1"])?;
    let again = daemon.wait_for(|record| is_known(record, &id))?;
    ensure!(again["service"] == "web" && again["cgroup_id"] != known["cgroup_id"], "{again}");

    // A killed engine takes no identity with it.
    engine.kill()?;
    await_attempt(&mut daemon, &cgroup, "allow", "rule")?;
    drop(inside);
    let finished = daemon.stop()?;
    let told: Vec<&Value> = finished.records.iter().filter(|record| record["kind"] == "container").collect();
    ensure!(told.len() == 2, "{told:?}");
    finished.check_totals()
}

fn renamed_while_it_runs(kind: Kind) -> anyhow::Result<()> {
    let sandbox = Sandbox::new(&format!("{}-name", kind.name()))?;
    let engine = Engine::start(&sandbox, kind)?;
    let mut orders = sandbox.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    ensure!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let mut daemon = sandbox.daemon_with(&policy(kind), &["--log-allowed", &engine.argument()])?;
    let id = run(&["web-1"], &engine)?;
    ensure!(await_known(&mut daemon, &id)?["service"] == "web");
    let cgroup = sandbox.path_of(&engine.cgroup_of(&id));
    await_attempt(&mut daemon, &cgroup, "allow", "rule")?;

    for (name, service, verdict, reason) in [
        ("other", "unmanaged", "deny", "no-rule"),
        ("web-2", "web", "allow", "rule"),
        ("last", "unmanaged", "deny", "no-rule"),
    ] {
        let before = engine.docker(&["container", "ls", "-q", "--no-trunc"])?;
        ensure!(before.trim() == id, "{before}");
        engine.docker(&["rename", &id, name])?;
        let renaming = Instant::now();
        let told = daemon.wait_for(|record| is_known(record, &id) && record["name"] == name)?;
        let after = renaming.elapsed();
        // Well before anything is asked again by the clock.
        ensure!(after < patience(Duration::from_secs(5)), "renamed {after:?} after the engine said so");
        ensure!(told["service"] == service && told["pending_ms"].is_null(), "{told}");
        let attempt = await_attempt(&mut daemon, &cgroup, verdict, reason)?;
        ensure!(attempt["source"]["service"] == service, "{attempt}");
    }
    daemon.stop()?.check_totals()
}

/// Of a daemon that comes while the engine does not answer.
fn known_through_a_restart(kind: Kind) -> anyhow::Result<()> {
    let sandbox = Sandbox::new(&format!("{}-again", kind.name()))?;
    let engine = Engine::start(&sandbox, kind)?;
    let mut orders = sandbox.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    ensure!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let directory = sandbox.write_policy(&policy(kind))?;
    let start = || {
        let mut command = sandbox.staying_command(&directory)?;
        command.args(["--log-allowed", &engine.argument()]);
        sandbox.start_daemon(command)
    };
    let mut daemon = start()?;
    let id = run(&["web-1"], &engine)?;
    let first = await_known(&mut daemon, &id)?;
    ensure!(first["service"] == "web" && first["pending_ms"].is_u64(), "{first}");
    let cgroup = sandbox.path_of(&engine.cgroup_of(&id));
    await_attempt(&mut daemon, &cgroup, "allow", "rule")?;
    // What is known is written down within a second or so.
    let (file, waiting) = (sandbox.state().join("containers.json"), Instant::now());
    while !fs::read_to_string(&file).is_ok_and(|text| text.contains(&id)) {
        ensure!(waiting.elapsed() < patience(Duration::from_secs(10)), "{} has no {id}", file.display());
        std::thread::yield_now();
    }

    engine.signal(Signal::SIGSTOP)?;
    daemon.signal(Signal::SIGKILL)?;
    daemon.wait()?;
    let mut daemon = start()?;
    let attempt = await_attempt(&mut daemon, &cgroup, "allow", "rule")?;
    ensure!(attempt["source"]["service"] == "web", "{attempt}");
    let look_alike = engine.cgroup_of(&"0f".repeat(32));
    let connect = Request::Connect { to: at, transport: Transport::Tcp, mapped: false };
    let reply = sandbox.actor(&look_alike)?.ask(&connect)?;
    ensure!(reply.is_refused(), "a new one: {reply:?}");
    engine.signal(Signal::SIGCONT)?;

    // A name that it got while no daemon ran counts as soon as one does.
    daemon.stop()?;
    engine.docker(&["rename", &id, "other"])?;
    let mut daemon = start()?;
    let renamed = await_known(&mut daemon, &id)?;
    ensure!(renamed["service"] == "unmanaged" && renamed["name"] == "other", "{renamed}");
    ensure!(renamed["pending_ms"].is_null(), "{renamed}");
    await_attempt(&mut daemon, &cgroup, "deny", "no-rule")?;
    let finished = daemon.stop()?;
    let mut own = finished.attempts().filter(|attempt| attempt["source"]["cgroup"] == cgroup.as_str());
    ensure!(own.all(|attempt| attempt["reason"] != "source-pending"), "it was pending");
    Ok(())
}

#[test]
fn docker_containers_stay_who_they_are_when_the_daemon_comes_before_the_engine() -> anyhow::Result<()> {
    known_through_a_restart(Kind::Docker)
}

#[test]
fn podman_containers_stay_who_they_are_when_the_daemon_comes_before_the_engine() -> anyhow::Result<()> {
    known_through_a_restart(Kind::Podman)
}

const BRIDGED: &str = "version: 1
services:
  web: { match: [{ container: { name: 'web-*' } }] }
  db: { match: [{ container: { name: 'db-*' } }] }
allow:
  - { name: ledger, from: web, to: db, ports: [5432/tcp] }
";

/// Containers on a bridge of the engine's, with a published port: between them as on the host, and through whatever the
/// engine publishes the port with never by somebody else's right.
fn on_the_engines_bridge(kind: Kind) -> anyhow::Result<()> {
    let sandbox = Sandbox::new(&format!("{}-net", kind.name()))?;
    let engine = Engine::start_bridged(&sandbox, kind)?;
    let mut daemon = sandbox.daemon_with(BRIDGED, &["--log-allowed", &engine.argument()])?;
    let serve = ["/bin/busybox", "httpd", "-f", "-p", "5432", "-h", "/"];
    let idle = ["/bin/busybox", "sleep", "1000000"];
    let db = engine.container("db-1", &["-p", "15432:5432"], &serve)?;
    let web = engine.container("web-1", &[], &idle)?;
    let other = engine.container("other", &[], &idle)?;
    let cgroups: Vec<(String, &str)> = [(&db, "db"), (&web, "web"), (&other, "unmanaged")]
        .map(|(id, service)| (sandbox.path_of(&engine.cgroup_of(id)), service))
        .into();
    for (id, (_, service)) in [&db, &web, &other].into_iter().zip(&cgroups) {
        let known = await_known(&mut daemon, id)?;
        ensure!(known["service"] == *service, "{known}");
    }
    let address = |name| -> anyhow::Result<String> {
        let told = engine.docker(&[
            "inspect",
            "-f",
            "{{.NetworkSettings.IPAddress}} {{.NetworkSettings.Gateway}}",
            name,
        ])?;
        Ok(told.trim().to_owned())
    };
    let told = address("db-1")?;
    let (ip, gateway) = told.split_once(' ').context("an address and a gateway")?;
    let get = |from: &str, at: &str| {
        let url = format!("http://{at}/bin/busybox");
        engine.docker(&[
            "exec",
            from,
            "/bin/busybox",
            "timeout",
            "3",
            "/bin/busybox",
            "wget",
            "-q",
            "-O",
            "/dev/null",
            &url,
        ])
    };
    // Until the daemon has looked at the new namespaces, what comes from them is nobody's.
    let start = Instant::now();
    while let Err(err) = get("web-1", &format!("{ip}:5432")) {
        ensure!(start.elapsed() < patience(Duration::from_secs(20)), "web is not let through: {err:#}");
    }
    ensure!(get("other", &format!("{ip}:5432")).is_err(), "who may not call gets through");

    // Published: whoever calls for others calls in its own name, or what is translated leads to whom it leads.
    let published: std::net::SocketAddr = "127.0.0.1:15432".parse()?;
    let mut caller = sandbox.actor("caller")?;
    let reply = caller.ask(&Request::Connect { to: published, transport: Transport::Tcp, mapped: false })?;
    ensure!(reply.text != "hello", "{reply:?}");
    let reached = ["web-1", "other"].map(|from| get(from, &format!("{gateway}:15432")).is_ok());
    ensure!(!reached[1], "who may not call gets through the published port");
    let status = sandbox.ask_daemon(&["status"])?;
    let proxies = status["coverage"]["proxies"].to_string();
    ensure!(kind != Kind::Docker || proxies.contains("docker-proxy"), "{proxies}");

    let finished = daemon.stop()?;
    for record in finished.attempts() {
        for end in [&record["source"], &record["destination"]] {
            let Some(cgroup) = end["cgroup"].as_str() else { continue };
            let named = cgroups.iter().find(|(own, _)| cgroup.starts_with(own.as_str()));
            let service = named.map_or("unmanaged", |(_, service)| *service);
            // A container is pending at first, and then never anybody but who it is.
            ensure!(end["service"] == service || end["service"] == "pending", "{record}");
        }
        let to_db = record["destination"]["service"] == "db";
        let from = record["source"]["service"].as_str().unwrap_or_default();
        ensure!(!to_db || (record["verdict"] == "allow") == (from == "web"), "{record}");
    }
    let refused = finished.attempts().any(|record| {
        record["source"]["cgroup"] == cgroups[2].0.as_str() && record["destination"]["service"] == "db"
    });
    ensure!(refused, "the refusal of `other` is not in the records");
    finished.check_totals()
}

#[test]
fn docker_containers_on_its_bridge_are_who_they_are() -> anyhow::Result<()> {
    on_the_engines_bridge(Kind::Docker)
}

#[test]
fn podman_containers_on_its_bridge_are_who_they_are() -> anyhow::Result<()> {
    on_the_engines_bridge(Kind::Podman)
}

/// A container whose cgroup is where none is looked for is who the engine says as soon as it says so, and what only looks
/// like one is not.
fn elsewhere(kind: Kind) -> anyhow::Result<()> {
    let sandbox = Sandbox::new(&format!("{}-place", kind.name()))?;
    let engine = Engine::start(&sandbox, kind)?;
    let mut orders = sandbox.actor("orders")?;
    let at = "127.0.0.1:8080".parse()?;
    ensure!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let mut daemon = sandbox.daemon_with(&policy(kind), &["--log-allowed", &engine.argument()])?;
    let prefix = kind.parent().1;
    let mut look_alike = sandbox.actor(&format!("shop/{prefix}{}", "0f".repeat(32)))?;
    let parent = format!("--cgroup-parent={}", sandbox.path_of("shop/floor"));
    let id = run(&["web-1", &parent], &engine)?;
    let known = await_known(&mut daemon, &id)?;
    let cgroup = sandbox.path_of(&format!("shop/floor/{prefix}{id}"));
    ensure!(known["service"] == "web" && known["cgroup"] == cgroup.as_str(), "{known}");
    await_attempt(&mut daemon, &cgroup, "allow", "rule")?;
    let connect = Request::Connect { to: at, transport: Transport::Tcp, mapped: false };
    let nested = sandbox.actor(&format!("shop/floor/{prefix}{id}/inner"))?.ask(&connect)?;
    ensure!(nested.is_ok(), "{nested:?}");
    let reply = look_alike.ask(&connect)?;
    ensure!(reply.is_refused(), "{reply:?}");
    let status = sandbox.ask_daemon(&["status"])?;
    ensure!(status["coverage"]["pending_containers"] == serde_json::json!([]), "{status}");
    let finished = daemon.stop()?;
    let mut refused = finished.attempts().filter(|attempt| attempt["verdict"] == "deny");
    // A moment of the container's before the engine has told, and the look-alike.
    ensure!(refused.all(|attempt| attempt["source"]["service"] == "unmanaged"), "somebody else was refused");
    finished.check_totals()?;

    // A daemon that comes before the engine listens asks when it does.
    let hidden = engine.socket().with_extension("away");
    fs::rename(engine.socket(), &hidden)?;
    let mut daemon = sandbox.daemon_with(&policy(kind), &["--log-allowed", &engine.argument()])?;
    await_attempt(&mut daemon, &cgroup, "deny", "no-rule")?;
    fs::rename(&hidden, engine.socket())?;
    let known = daemon.wait_for(|record| is_known(record, &id))?;
    ensure!(known["service"] == "web", "{known}");
    await_attempt(&mut daemon, &cgroup, "allow", "rule")?;
    daemon.stop()?.check_totals()
}

#[test]
fn a_docker_container_in_a_cgroup_of_somebodys_choice_is_found() -> anyhow::Result<()> {
    elsewhere(Kind::Docker)
}

#[test]
fn a_podman_container_in_a_cgroup_of_somebodys_choice_is_found() -> anyhow::Result<()> {
    elsewhere(Kind::Podman)
}

#[test]
fn a_docker_container_follows_its_new_name() -> anyhow::Result<()> {
    renamed_while_it_runs(Kind::Docker)
}

#[test]
fn a_podman_container_follows_its_new_name() -> anyhow::Result<()> {
    renamed_while_it_runs(Kind::Podman)
}

#[test]
fn docker_containers_are_who_the_engine_says() -> anyhow::Result<()> {
    who_is_who(Kind::Docker)
}

#[test]
fn podman_containers_are_who_the_engine_says() -> anyhow::Result<()> {
    who_is_who(Kind::Podman)
}

#[test]
fn docker_containers_are_pending_until_the_engine_tells() -> anyhow::Result<()> {
    pending_until_told(Kind::Docker)
}

#[test]
fn podman_containers_are_pending_until_the_engine_tells() -> anyhow::Result<()> {
    pending_until_told(Kind::Podman)
}
