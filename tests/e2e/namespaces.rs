//! Services in network namespaces of their own, as containers have: who calls and who answers is told as on the host.

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use enforcer_tests::actor::{Reply, Request, Transport};
use enforcer_tests::kept;
use enforcer_tests::sandbox::{Actor, Container, Killed, Neighbour, Sandbox, without_sys_admin};
use enforcer_tests::slowness::patience;
use serde_json::Value;

use crate::connections::{ask, tally_within};

/// Longer than the daemon takes to look at a namespace that it was told of.
const DEADLINE: Duration = Duration::from_secs(10);

/// The world may call everybody, so that whoever is taken for it gets through.
const POLICY: &str = "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
  db: { match: [{ cgroup: ROOT/db }] }
allow:
  - { name: ledger, from: web, to: db, ports: [5432/tcp, 5353/udp] }
  - { name: public, from: world, to: [web, db] }
";

fn serve(at: SocketAddr, transport: Transport) -> Request {
    Request::Serve { at, transport }
}

fn connect(to: SocketAddr, transport: Transport) -> Request {
    Request::Connect { to, transport, mapped: false }
}

fn send(to: SocketAddr) -> Request {
    Request::Send { to, mapped: false, from_port: 0 }
}

/// Asks again and again until the answer is there: what comes from a namespace that was made a moment ago is refused
/// until the daemon has looked at it.
fn until_answered(actor: &mut Actor, request: &Request) -> anyhow::Result<Reply> {
    let start = Instant::now();
    loop {
        let reply = actor.ask(request)?;
        if reply.is_ok() {
            return Ok(reply);
        }
        ensure!(start.elapsed() < patience(DEADLINE), "{request:?}: {reply:?}");
    }
}

fn addresses(container: &Container<'_>) -> [IpAddr; 2] {
    [container.address().into(), container.address6().into()]
}

/// Has `db` answer at both addresses and transports.
fn serve_all(db: &mut Actor) -> anyhow::Result<()> {
    for (at, transport) in [
        ("0.0.0.0:5432", Transport::Tcp),
        ("[::]:5432", Transport::Tcp),
        ("0.0.0.0:5353", Transport::Udp),
        ("[::]:5353", Transport::Udp),
    ] {
        let at: SocketAddr = at.parse()?;
        // A wildcard of IPv6 takes both families where the caller does not say otherwise.
        if at.is_ipv6() && transport == Transport::Tcp {
            continue;
        }
        let reply = db.ask(&serve(at, transport))?;
        ensure!(reply.is_ok() || at.is_ipv6(), "{at}: {reply:?}");
    }
    Ok(())
}

fn denials(records: &[Value]) -> Vec<&Value> {
    let attempts = records.iter().filter(|record| record["kind"] == "attempt");
    attempts.filter(|record| record["verdict"] == "deny").collect()
}

#[test]
fn two_containers_and_the_host_know_each_other() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("containers")?;
    let (one, two) = (sandbox.container(2)?, sandbox.container(3)?);
    // Before the daemon, so that every namespace is looked at before the first attempt.
    let mut db = one.actor("db")?;
    serve_all(&mut db)?;
    let (mut web, mut other) = (two.actor("web")?, two.actor("other")?);
    let (mut web_at_host, mut other_at_host) = (sandbox.actor("web")?, sandbox.actor("other")?);
    let daemon = sandbox.daemon_with(POLICY, &["--log-allowed"])?;

    let [v4, _] = addresses(&one);
    let (tcp, udp) = (SocketAddr::new(v4, 5432), SocketAddr::new(v4, 5353));
    let mut refused = 0;
    for caller in [&mut web, &mut web_at_host] {
        for request in [connect(tcp, Transport::Tcp), connect(udp, Transport::Udp), send(udp)] {
            let reply = caller.ask(&request)?;
            assert_eq!(reply.text, "hello", "{request:?}: {reply:?}");
        }
    }
    for caller in [&mut other, &mut other_at_host] {
        for request in [connect(tcp, Transport::Tcp), connect(udp, Transport::Udp), send(udp)] {
            let reply = caller.ask(&request)?;
            assert!(reply.is_refused(), "{request:?}: {reply:?}");
            refused += 1;
        }
    }
    // Another port of the same service, and the way back.
    let reply = web.ask(&connect(SocketAddr::new(v4, 5433), Transport::Tcp))?;
    assert!(!reply.is_ok(), "{reply:?}");
    let finished = daemon.stop()?;
    finished.check_totals()?;
    let mut seen = 0;
    for record in finished.attempts().filter(|record| record["destination"]["port"] != 5433) {
        let (service, cgroup) =
            if record["verdict"] == "deny" { ("unmanaged", "other") } else { ("web", "web") };
        assert_eq!(record["source"]["service"], service, "{record}");
        assert_eq!(record["source"]["cgroup"], sandbox.path_of(cgroup), "{record}");
        assert_eq!(record["destination"]["service"], "db", "{record}");
        assert_eq!(record["destination"]["cgroup"], sandbox.path_of("db"), "{record}");
        seen += 1;
    }
    // Each once, by the hook at the caller, which knows both ends.
    assert_eq!(seen, 12);
    let denied = denials(&finished.records);
    assert!(denied.iter().all(|record| record["hook"] != "ingress"), "{denied:?}");
    assert_eq!(denied.len(), refused + 1, "with the one to another port");
    Ok(())
}

#[test]
fn a_namespace_that_was_made_a_moment_ago_is_never_the_world() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("new-netns")?;
    let daemon = sandbox.daemon_with(POLICY, &["--log-allowed"])?;
    let one = sandbox.container(2)?;
    let mut db = one.actor("db")?;
    serve_all(&mut db)?;
    let tcp = SocketAddr::new(one.address().into(), 5432);
    let udp = SocketAddr::new(one.address().into(), 5353);
    // Each caller is in a namespace of its own, and calls as the first thing that it does there.
    for number in 10..20 {
        let container = sandbox.container(number)?;
        let mut other = container.actor("other")?;
        let (tcp_reply, udp_reply) = (other.ask(&connect(tcp, Transport::Tcp))?, other.ask(&send(udp))?);
        assert!(!tcp_reply.is_ok() && !udp_reply.is_ok(), "{number}: {tcp_reply:?} {udp_reply:?}");
        let mut web = container.actor("web")?;
        assert_eq!(until_answered(&mut web, &connect(tcp, Transport::Tcp))?.text, "hello");
        assert_eq!(until_answered(&mut web, &send(udp))?.text, "hello");
        // By now it is known, so the refusal is prompt.
        let reply = other.ask(&connect(tcp, Transport::Tcp))?;
        assert!(reply.is_refused(), "{number}: {reply:?}");
    }
    let finished = daemon.stop()?;
    finished.check_totals()?;
    for record in finished.attempts() {
        assert_ne!(record["source"]["service"], "world", "{record}");
        let verdict = if record["source"]["service"] == "web" { "allow" } else { "deny" };
        // A namespace of the answerer's that is not known yet tells nobody.
        if record["destination"]["service"] == "db" {
            assert_eq!(record["verdict"], verdict, "{record}");
        }
    }
    Ok(())
}

#[test]
fn who_is_called_in_a_namespace_that_was_not_looked_at_is_never_the_world() -> anyhow::Result<()> {
    let policy = format!("{POLICY}  - {{ name: out, from: web, to: world }}\n");
    let sandbox = Sandbox::new("dark-netns")?;
    let neighbour = sandbox.neighbour(&[])?;
    let at_host = sandbox.container(2)?;
    let mut web = sandbox.actor("web")?;
    let daemon = sandbox.daemon_with(&policy, &["--log-allowed"])?;
    // There is nobody in it who could be found, and nobody opens a socket there.
    let dark = sandbox.container(3)?;
    let mut refused = 0;
    for address in addresses(&dark) {
        let to = SocketAddr::new(address, 7777);
        for request in [connect(to, Transport::Tcp), connect(to, Transport::Udp), send(to)] {
            let reply = web.ask(&request)?;
            assert!(reply.is_refused(), "{request:?}: {reply:?}");
            refused += 1;
        }
    }
    // Whoever comes there is who he is, and until that is known nobody.
    let mut other = dark.actor("other")?;
    let at = SocketAddr::new(dark.address().into(), 7777);
    assert!(other.ask(&serve(at, Transport::Tcp))?.is_ok());
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(1) {
        let reply = web.ask(&connect(at, Transport::Tcp))?;
        assert!(reply.is_refused(), "{reply:?}");
        refused += 1;
    }
    // A caller in a namespace of that age reaches nobody either, and then who it may.
    let late = sandbox.container(4)?;
    let mut within = late.actor("web")?;
    let host = SocketAddr::new(Container::HOST.into(), 7778);
    let mut at_bridge = sandbox.actor("other")?;
    assert!(at_bridge.ask(&serve(host, Transport::Tcp))?.is_ok());
    let reply = within.ask(&connect(host, Transport::Tcp))?;
    assert!(reply.is_refused(), "{reply:?}");
    refused += 1;
    // The world is elsewhere.
    let mut far = neighbour.actor()?;
    let far_at = SocketAddr::new(Neighbour::FAR.into(), 7779);
    assert!(far.ask(&serve(far_at, Transport::Tcp))?.is_ok());
    assert_eq!(web.ask(&connect(far_at, Transport::Tcp))?.text, "hello");
    drop(at_host);
    let finished = daemon.stop()?;
    finished.check_totals()?;
    let (mut denied, mut allowed) = (0, 0);
    for record in finished.attempts().filter(|record| record["source"]["service"] == "web") {
        let is_far = record["destination"]["port"] == 7779;
        let service = record["destination"]["service"].as_str().unwrap_or_default();
        if is_far {
            assert_eq!((service, &record["verdict"]), ("world", &"allow".into()), "{record}");
            allowed += 1;
        } else {
            assert_eq!(record["verdict"], "deny", "{record}");
            assert!(["unknown", "unmanaged"].contains(&service), "{record}");
            denied += 1;
        }
    }
    assert_eq!((denied, allowed), (refused, 1));
    Ok(())
}

/// Callers behind a cable to which nothing but a route leads, and behind a bridge from an address that is not of its subnet.
fn callers<'a>(sandbox: &'a Sandbox) -> anyhow::Result<[(Container<'a>, SocketAddr, SocketAddr); 2]> {
    /// An address that the policy's network has too.
    const STRANGE: &str = "10.30.2.9";
    let (routed, bridged) = (sandbox.routed_container(2)?, sandbox.container(9)?);
    sandbox.ip(&format!("route add {STRANGE}/32 dev bridge\n"))?;
    bridged.ip(&format!(
        "address add {STRANGE}/32 dev eth0\nroute replace {}/32 dev eth0 src {STRANGE}\n",
        Container::HOST
    ))?;
    let at = |host: Ipv4Addr| (SocketAddr::new(host.into(), 5432), SocketAddr::new(host.into(), 5353));
    let (behind, host) = (at(Container::BEHIND), at(Container::HOST));
    Ok([(routed, behind.0, behind.1), (bridged, host.0, host.1)])
}

#[test]
fn a_connection_whose_caller_has_left_its_namespace_is_nobodys_and_closed() -> anyhow::Result<()> {
    let without = "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
  db: { match: [{ cgroup: ROOT/db }] }
allow:
  - { name: public, from: world, to: db }
";
    let sandbox = Sandbox::new("left-netns")?;
    let container = sandbox.container(2)?;
    let mut daemon = sandbox
        .daemon(&format!("{without}  - {{ name: ledger, from: web, to: db, ports: [5432/tcp] }}\n"))?;
    let (mut web, mut db) = (container.actor("web")?, sandbox.actor("db")?);
    let at = SocketAddr::new(Container::HOST.into(), 5432);
    ask(&mut db, &kept::Request::Serve { at, accept: true })?;
    let open = kept::Request::Connect { to: at, transport: Transport::Tcp, number: 1 };
    let start = Instant::now();
    while let Err(err) = ask(&mut web, &open) {
        ensure!(start.elapsed() < patience(DEADLINE), "{err:#}");
    }
    ask(&mut db, &kept::Request::AwaitKept(1))?;
    let left = web.ask(&Request::Leave)?;
    ensure!(left.is_ok(), "{left:?}");

    // Nobody is seen in that namespace now, and no rule for the world is one for whoever may be there.
    let changed = daemon.reload(&sandbox, without)?;
    assert_eq!(changed["result"], "applied", "{changed}");
    for actor in [&mut web, &mut db] {
        let tally = tally_within(actor, 1, DEADLINE)?;
        assert_eq!((tally.alive, tally.dead()), (0, 1), "{tally:?}");
    }
    let record = daemon.wait_for(|record| record["kind"] == "connection")?;
    assert_eq!(
        (&record["action"], &record["reason"]),
        (&"closed".into(), &"source-unknown".into()),
        "{record}"
    );
    assert_eq!(record["destination"]["service"], "db", "{record}");
    daemon.stop()?.check_totals()
}

#[test]
fn who_calls_from_a_namespace_that_cannot_be_entered_is_never_the_world_or_a_network() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("shut-netns")?;
    let neighbour = sandbox.neighbour(&[])?;
    let callers = callers(&sandbox)?;
    let mut db = sandbox.actor("db")?;
    serve_all(&mut db)?;
    let policy = format!(
        "{POLICY}  - {{ name: office, from: office, to: db }}\nnetworks:\n  office: {{ cidrs: [10.30.0.0/16] }}\n"
    );
    let mut command = without_sys_admin(&sandbox.daemon_command(&policy)?);
    command.arg("--log-allowed");
    let daemon = sandbox.start_daemon(command)?;
    let mut dropped = 0;
    for (container, tcp, udp) in &callers {
        let (mut other, mut web) = (container.actor("other")?, container.actor("web")?);
        for request in [connect(*tcp, Transport::Tcp), connect(*udp, Transport::Udp), send(*udp)] {
            // Nobody judges what it calls, but its packets do not arrive.
            let reply = other.ask(&request)?;
            assert!(!reply.is_ok() && !reply.is_refused(), "{request:?}: {reply:?}");
            dropped += 1;
            // A service is judged where it calls too.
            let reply = web.ask(&request)?;
            assert!(!reply.is_ok(), "{request:?}: {reply:?}");
        }
    }
    // The world is behind other devices, and comes in.
    let near = SocketAddr::new(Neighbour::NEAR.into(), 5432);
    let reply = neighbour.actor()?.ask(&connect(near, Transport::Tcp))?;
    assert_eq!(reply.text, "hello", "{reply:?}");
    let finished = daemon.stop()?;
    finished.check_totals()?;
    let of_db = finished.attempts().filter(|record| record["destination"]["service"] == "db");
    let (mut denied, mut allowed) = (0, 0);
    for record in of_db.filter(|record| record["hook"] == "ingress") {
        let source = &record["source"];
        if source["address"] == Neighbour::FAR.to_string().as_str() {
            assert_eq!(
                (&record["verdict"], &source["service"]),
                (&"allow".into(), &"world".into()),
                "{record}"
            );
            allowed += 1;
        } else {
            assert_eq!(
                (&record["verdict"], &source["service"]),
                (&"deny".into(), &"unknown".into()),
                "{record}"
            );
            assert_eq!(record["reason"], "source-unknown", "{record}");
            denied += 1;
        }
    }
    assert_eq!(allowed, 1);
    // A call over TCP is tried again by the kernel until the caller gives up.
    assert!(denied >= dropped, "{denied} of {dropped}");
    Ok(())
}

#[test]
fn namespaces_of_a_user_take_neither_all_descriptors_nor_the_place_of_others() -> anyhow::Result<()> {
    /// More than there are descriptors for two of each.
    const OF_USER: usize = 80;
    const DESCRIPTORS: &str = "--nofile=160:160";
    let sandbox = Sandbox::new("crowded")?;
    let mut command = sandbox.command("user", "setpriv")?;
    let script = format!(
        "for i in $(seq {OF_USER}); do unshare -rn sh -c 'echo up; exec sleep infinity' & done; wait"
    );
    command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "sh", "-c", &script]);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut user = Killed(sandbox.spawn(command)?);
    let up = BufReader::new(user.0.stdout.take().context("no output")?).lines().take(OF_USER);
    for line in up {
        ensure!(line? == "up");
    }
    // Later than those, so that it has the higher process id.
    let one = sandbox.container(2)?;
    let mut db = sandbox.actor("db")?;
    serve_all(&mut db)?;
    let (mut web, mut other) = (one.actor("web")?, one.actor("other")?);
    let plain = sandbox.daemon_command(POLICY)?;
    let mut command = Command::new("prlimit");
    command.args([DESCRIPTORS, "--"]).arg(plain.get_program()).args(plain.get_args()).arg("--log-allowed");
    let mut daemon = sandbox.start_daemon(command)?;
    let tcp = SocketAddr::new(Container::HOST.into(), 5432);
    for _ in 0..2 {
        let reply = until_answered(&mut web, &connect(tcp, Transport::Tcp))?;
        assert_eq!(reply.text, "hello", "{reply:?}");
        let reply = other.ask(&connect(tcp, Transport::Tcp))?;
        assert!(reply.is_refused(), "{reply:?}");
        // Which has the namespaces surveyed again.
        sandbox.ip("address add 10.30.3.1/32 dev lo\naddress del 10.30.3.1/32 dev lo\n")?;
        let policy = daemon.reload(&sandbox, &format!("{POLICY}# again\n"))?;
        assert_ne!(policy["result"], "refused", "{policy}");
    }
    let finished = daemon.stop()?;
    finished.check_totals()?;
    for record in finished.attempts().filter(|record| record["verdict"] == "allow") {
        assert_eq!(record["source"]["service"], "web", "{record}");
    }
    let told = finished.words.matches("network namespaces are unknown").count();
    assert_eq!(told, 1, "{}", finished.words);
    let descriptors = finished.words.matches("Too many open files").count();
    assert_eq!(descriptors, 0, "{}", finished.words);
    Ok(())
}

#[test]
fn behind_a_route_callers_are_known_where_their_namespace_can_be_entered() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("routed-netns")?;
    let callers = callers(&sandbox)?;
    let mut db = sandbox.actor("db")?;
    serve_all(&mut db)?;
    let mut actors = Vec::new();
    for (container, tcp, udp) in &callers {
        actors.push((container.actor("other")?, container.actor("web")?, *tcp, *udp));
    }
    let daemon = sandbox.daemon_with(POLICY, &["--log-allowed"])?;
    for (other, web, tcp, udp) in &mut actors {
        for request in [connect(*tcp, Transport::Tcp), connect(*udp, Transport::Udp), send(*udp)] {
            let reply = web.ask(&request)?;
            assert_eq!(reply.text, "hello", "{request:?}: {reply:?}");
            let reply = other.ask(&request)?;
            assert!(reply.is_refused(), "{request:?}: {reply:?}");
        }
    }
    let finished = daemon.stop()?;
    finished.check_totals()?;
    for record in finished.attempts() {
        let expected = if record["verdict"] == "deny" { "unmanaged" } else { "web" };
        assert_eq!(record["source"]["service"], expected, "{record}");
    }
    assert_eq!(denials(&finished.records).len(), 2 * 3);
    Ok(())
}

#[test]
fn translated_addresses_end_in_a_denial_or_in_the_right_name() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("nat")?;
    let (one, two) = (sandbox.container(2)?, sandbox.container(3)?);
    let mut db = one.actor("db")?;
    serve_all(&mut db)?;
    // As a published port, and as masquerading of what comes from one container to another.
    sandbox.nft(&format!(
        "table ip nat {{
           chain pre {{ type nat hook prerouting priority dstnat; ip daddr {host} tcp dport 15432 dnat to {db}:5432; }}
           chain out {{ type nat hook output priority -100; ip daddr {host} tcp dport 15432 dnat to {db}:5432; }}
           chain post {{ type nat hook postrouting priority srcnat; ip saddr {web} tcp dport 5432 masquerade; }}
         }}",
        host = Container::HOST,
        db = one.address(),
        web = two.address(),
    ))?;
    let daemon = sandbox.daemon_with(POLICY, &["--log-allowed"])?;
    let published = SocketAddr::new(Container::HOST.into(), 15432);
    let mut answers = Vec::new();
    for (mut actor, name) in [
        (two.actor("web")?, "web"),
        (two.actor("other")?, "other"),
        (sandbox.actor("web")?, "web at the host"),
        (sandbox.actor("other")?, "other at the host"),
    ] {
        let reply = actor.ask(&connect(published, Transport::Tcp))?;
        // Only who may call gets through, if anybody does.
        assert!(name.starts_with("web") || !reply.is_ok(), "{name}: {reply:?}");
        answers.push((name, reply.is_ok()));
    }
    let finished = daemon.stop()?;
    finished.check_totals()?;
    for record in finished.attempts().filter(|record| record["hook"] == "ingress") {
        assert!(
            ["unknown", "web", "unmanaged"].iter().any(|name| record["source"]["service"] == *name),
            "{answers:?}: {record}"
        );
    }
    Ok(())
}

#[test]
fn an_address_of_two_namespaces_is_nobodys() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("twice")?;
    let (one, two, three) = (sandbox.container(2)?, sandbox.container(3)?, sandbox.container(4)?);
    let mut db = one.actor("db")?;
    serve_all(&mut db)?;
    // Somebody who runs a container gives it another one's address too.
    three.ip(&format!("address add {}/32 dev lo\n", two.address()))?;
    let mut web = two.actor("web")?;
    let _third = three.actor("other")?;
    let daemon = sandbox.daemon(POLICY)?;
    let reply = web.ask(&connect(SocketAddr::new(one.address().into(), 5432), Transport::Tcp))?;
    assert!(!reply.is_ok(), "{reply:?}");
    let finished = daemon.stop()?;
    finished.check_totals()?;
    let denied = denials(&finished.records);
    assert!(!denied.is_empty());
    assert!(denied.iter().all(|record| record["source"]["service"] == "unknown"), "{denied:?}");
    Ok(())
}
