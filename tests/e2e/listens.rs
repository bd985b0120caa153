//! Reserved ports: nobody but their service binds one, however he tries, and its callers do not notice that he does.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use anyhow::{anyhow, ensure};
use enforcer_tests::actor::{Options, Request, Transport};
use enforcer_tests::sandbox::{Actor, Sandbox};

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
