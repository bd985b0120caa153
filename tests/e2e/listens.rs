//! Reserved ports: nobody but their service binds one, however he tries, and its callers do not notice that he does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, ensure};
use enforcer_tests::actor::{Options, Request, Transport};
use enforcer_tests::sandbox::{Actor, Sandbox};
use enforcer_tests::slowness::patience;

const POLICY: &str = "version: 1
services:
  db: { match: [{ cgroup: ROOT/db }], listens: [5432/tcp, 5353/udp] }
  web: { match: [{ cgroup: ROOT/web }] }
  thief: { match: [{ cgroup: ROOT/thief }] }
allow:
  - { name: ledger, from: web, to: db, ports: [5432/tcp, 5353/udp] }
";

/// How often others try to take the port while its service is as it is; five times as often in all.
const ATTEMPTS: usize = 334;

const TRANSPORTS: [Transport; 2] = [Transport::Tcp, Transport::Udp];

/// The port that is reserved.
fn port(transport: Transport) -> u16 {
    match transport {
        Transport::Tcp => 5432,
        Transport::Udp => 5353,
    }
}

/// Every way to bind a reserved port, for each of those who have none.
fn thefts() -> Vec<(&'static str, SocketAddr, Transport, Options)> {
    let v4 = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 2), Ipv4Addr::UNSPECIFIED];
    let mapped = v4.map(|address| IpAddr::from(address.to_ipv6_mapped()));
    let v6 = [Ipv6Addr::LOCALHOST, Ipv6Addr::UNSPECIFIED];
    let addresses: Vec<IpAddr> =
        v4.map(IpAddr::from).into_iter().chain(mapped).chain(v6.map(IpAddr::from)).collect();
    let mut thefts = Vec::new();
    for flags in 0..8 {
        let options =
            Options { reuse_address: flags & 1 != 0, reuse_port: flags & 2 != 0, only_v6: flags & 4 != 0 };
        for address in &addresses {
            let mapped = matches!(address, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
            if options.only_v6 && (mapped || address.is_ipv4()) {
                // A socket of IPv6 alone cannot have such an address.
                continue;
            }
            for transport in TRANSPORTS {
                let at = SocketAddr::new(*address, port(transport));
                thefts.extend(["thief", "web", "other"].map(|who| (who, at, transport, options)));
            }
        }
    }
    thefts
}

/// Has the others try again and again, and tells how often they got the port and how often they were refused.
fn steal(
    who: &mut [(&'static str, Actor)],
    thefts: &mut impl Iterator<Item = (&'static str, SocketAddr, Transport, Options)>,
    attempts: usize,
) -> anyhow::Result<(usize, usize)> {
    let (mut taken, mut refused) = (0, 0);
    for (name, at, transport, options) in thefts.take(attempts) {
        let (_, thief) = who.iter_mut().find(|(one, _)| *one == name).ok_or_else(|| anyhow!("no {name}"))?;
        let reply = thief.ask(&Request::Take { at, transport, options })?;
        ensure!(reply.is_ok() || reply.call == "bind" || reply.call == "listen", "{name} at {at}: {reply:?}");
        taken += usize::from(reply.is_ok());
        refused += usize::from(reply.is_refused() && reply.call == "bind");
    }
    Ok((taken, refused))
}

/// Starts the service at both ports, of both families at once.
fn hold(sandbox: &Sandbox, shared: bool) -> anyhow::Result<Actor> {
    let mut db = sandbox.actor("db")?;
    for transport in TRANSPORTS {
        let at = SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port(transport));
        let serve =
            if shared { Request::ServeShared { at, transport } } else { Request::Serve { at, transport } };
        let served = db.ask(&serve)?;
        ensure!(served.is_ok(), "serve {at}: {served:?}");
    }
    Ok(db)
}

/// Calls the service over and over until told to stop; tells how often, and fails at the first call that is not answered.
fn call(caller: &mut Actor, stop: &AtomicBool) -> anyhow::Result<usize> {
    let mut calls = 0;
    while !stop.load(Ordering::Relaxed) {
        for transport in TRANSPORTS {
            for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
                let to = SocketAddr::new(address, port(transport));
                let reply = caller.ask(&Request::Connect { to, transport, mapped: false })?;
                ensure!(reply.text == "hello", "call {calls} at {to}: {reply:?}");
                calls += 1;
            }
        }
    }
    Ok(calls)
}

/// The same while the others try to take the port.
fn steal_under_load(
    who: &mut [(&'static str, Actor)],
    thefts: &mut (impl Iterator<Item = (&'static str, SocketAddr, Transport, Options)> + Send),
    caller: &mut Actor,
) -> anyhow::Result<(usize, usize)> {
    let stop = AtomicBool::new(false);
    let (stolen, calls) = thread::scope(|scope| {
        let calls = scope.spawn(|| call(caller, &stop));
        let stolen = steal(who, thefts, ATTEMPTS);
        stop.store(true, Ordering::Relaxed);
        (stolen, calls.join())
    });
    let calls = calls.map_err(|_panic| anyhow!("the caller panicked"))??;
    ensure!(calls > 0, "the service was not called");
    stolen
}

#[test]
fn nobody_else_binds_a_reserved_port_in_a_thousand_attempts() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("steals")?;
    let mut who = Vec::new();
    for name in ["thief", "web", "other"] {
        who.push((name, sandbox.actor(name)?));
    }
    let mut caller = sandbox.actor("web")?;
    let all = thefts();

    // Without an enforcer each of them gets it while nobody has it, and some do while it is shared.
    let (taken, refused) = steal(&mut who, &mut all.iter().copied(), all.len())?;
    assert_eq!((taken, refused), (all.len(), 0));
    let db = hold(&sandbox, true)?;
    let (taken, refused) = steal(&mut who, &mut all.iter().copied(), all.len())?;
    assert!(taken > all.len() / 4 && refused == 0, "{taken} of {}", all.len());
    drop(db);

    let daemon = sandbox.daemon(POLICY)?;
    let mut thefts = all.iter().copied().cycle();
    // While it is held, while it is shared, and while nobody has it since its service has been killed.
    for shared in [false, true] {
        let db = hold(&sandbox, shared)?;
        assert_eq!(steal_under_load(&mut who, &mut thefts, &mut caller)?, (0, ATTEMPTS), "shared: {shared}");
        drop(db);
    }
    assert_eq!(steal(&mut who, &mut thefts, ATTEMPTS)?, (0, ATTEMPTS));
    // Its service gets it back, as often as it likes.
    for shared in [false, true] {
        let db = hold(&sandbox, shared)?;
        assert_eq!(steal_under_load(&mut who, &mut thefts, &mut caller)?, (0, ATTEMPTS), "shared: {shared}");
        drop(db);
    }

    let finished = daemon.stop()?;
    finished.check_totals()?;
    assert_eq!(finished.stop["denied"], 5 * ATTEMPTS, "{}", finished.stop);
    for record in finished.attempts() {
        assert_eq!(record["reason"], "port-reserved", "{record}");
        assert_eq!(record["destination"]["service"], "db", "{record}");
        let from = record["source"]["service"].as_str().unwrap_or_default();
        assert!(["thief", "web", "unmanaged"].contains(&from), "{record}");
    }
    Ok(())
}

/// Asks for whatever port the kernel chooses, again and again, and tells which were given and how many askers were refused.
fn take_any(actor: &mut Actor, times: usize) -> anyhow::Result<(Vec<u16>, usize)> {
    let wildcards = [IpAddr::from(Ipv4Addr::UNSPECIFIED), Ipv6Addr::UNSPECIFIED.into()];
    let loopbacks = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
    let (mut given, mut refused) = (Vec::new(), 0);
    for (number, address) in wildcards.iter().chain(&loopbacks).cycle().take(times).enumerate() {
        let transport = TRANSPORTS[number / 4 % 2];
        let at = SocketAddr::new(*address, 0);
        let reply = actor.ask(&Request::Take { at, transport, options: Options::default() })?;
        match reply.text.parse::<SocketAddr>() {
            Ok(bound) if reply.is_ok() => given.push(bound.port()),
            _ if reply.is_refused() => refused += 1,
            _ => anyhow::bail!("take any port: {reply:?}"),
        }
    }
    Ok((given, refused))
}

#[test]
fn whoever_asks_for_any_port_gets_one_that_nobody_reserves() -> anyhow::Result<()> {
    const TIMES: usize = 400;
    let reserved = 40000..=40007_u16;
    let sandbox = Sandbox::new("ephemeral")?;
    let mut other = sandbox.actor("other")?;

    // A reserved port that the kernel does not choose is nobody's business who asks for any.
    let daemon = sandbox.daemon(POLICY)?;
    let (given, refused) = take_any(&mut other, TIMES)?;
    assert_eq!((given.len(), refused), (TIMES, 0));
    let told = sandbox.ask_daemon(&["status"])?;
    assert_eq!(told["degraded"], serde_json::json!([]));
    let finished = daemon.stop()?;
    finished.check_totals()?;
    assert_eq!(finished.stop["events_produced"], 0, "{}", finished.stop);

    // One that it chooses is refused, and the daemon tells how to spare it.
    let policy = POLICY.replace("5432/tcp, 5353/udp] }\n  web", "40000-40007/tcp, 40000-40007/udp] }\n  web");
    sandbox.set("net/ipv4/ip_local_port_range", "40000 40031")?;
    let mut daemon = sandbox.daemon(&policy)?;
    let (given, refused) = take_any(&mut other, TIMES)?;
    assert!(!given.iter().any(|port| reserved.contains(port)), "{given:?}");
    assert!(refused > 0, "{given:?}");
    let told = sandbox.ask_daemon(&["status"])?;
    assert_eq!(told["degraded"][0]["code"], "reserved-ports-ephemeral", "{told}");
    let advice = told["degraded"][0]["text"].as_str().unwrap_or_default();
    let (_, setting) = advice.split_once("ip_local_reserved_ports=").context("no advice")?;
    let (setting, _) = setting.split_once('`').context("no advice")?;

    // Which works.
    sandbox.set("net/ipv4/ip_local_reserved_ports", setting)?;
    let (given, refused_then) = take_any(&mut other, TIMES)?;
    assert_eq!((given.len(), refused_then), (TIMES, 0));
    assert!(!given.iter().any(|port| reserved.contains(port)), "{given:?}");
    // Connecting without a port of one's own included, and its service still gets what it asks for.
    let mut db = sandbox.actor("db")?;
    let mut caller = sandbox.actor("web")?;
    daemon.reload(&sandbox, &policy.replace("[5432/tcp, 5353/udp]", "[40000/tcp, 40007/udp]"))?;
    for (transport, port) in [(Transport::Tcp, 40000), (Transport::Udp, 40007)] {
        let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
        assert!(db.ask(&Request::Serve { at, transport })?.is_ok());
        // A connection that was closed keeps its port for a while, and there are 24.
        for _ in 0..8 {
            let reply = caller.ask(&Request::Connect { to: at, transport, mapped: false })?;
            assert_eq!(reply.text, "hello", "{reply:?}");
        }
    }
    let told = sandbox.ask_daemon(&["status"])?;
    assert_eq!(told["degraded"], serde_json::json!([]));
    let finished = daemon.stop()?;
    finished.check_totals()?;
    assert_eq!(finished.stop["denied"], refused, "{}", finished.stop);
    assert!(finished.words.contains("ip_local_reserved_ports=40000-40007"), "{}", finished.words);
    Ok(())
}

#[test]
fn a_listener_that_nobody_bound_is_known_before_long() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("unbound")?;
    let mut daemon = sandbox.daemon(
        "version: 1
services:
  db: { match: [{ cgroup: ROOT/db }] }
  web: { match: [{ cgroup: ROOT/web }] }
  thief: { match: [{ cgroup: ROOT/thief }] }
allow:
  - { name: ledger, from: web, to: db, ports: [tcp] }
",
    )?;
    let mut db = sandbox.actor("db")?;
    let served = db.ask(&Request::ServeUnbound)?;
    ensure!(served.is_ok(), "{served:?}");
    let port = served.text.parse::<SocketAddr>()?.port();
    let connect = Request::Connect {
        to: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port),
        transport: Transport::Tcp,
        mapped: false,
    };
    // No hook has seen it, so that it may be anybody's; the daemon looks whose when somebody has been refused.
    let mut caller = sandbox.actor("web")?;
    let reply = caller.ask(&connect)?;
    assert!(reply.is_refused(), "{reply:?}");
    let record = daemon.wait_for(|record| record["verdict"] == "deny")?;
    assert_eq!(record["reason"], "destination-unknown", "{record}");
    let start = Instant::now();
    let mut reply = caller.ask(&connect)?;
    while reply.is_refused() && start.elapsed() < patience(Duration::from_secs(30)) {
        daemon.wait_for(|record| record["reason"] == "destination-unknown")?;
        reply = caller.ask(&connect)?;
    }
    assert_eq!(reply.text, "hello", "{reply:?}");
    // Known is not permitted.
    let reply = sandbox.actor("thief")?.ask(&connect)?;
    assert!(reply.is_refused(), "{reply:?}");
    let record = daemon.wait_for(|record| record["source"]["service"] == "thief")?;
    assert_eq!((&record["reason"], &record["destination"]["service"]), (&"no-rule".into(), &"db".into()));
    daemon.stop()?.check_totals()
}
