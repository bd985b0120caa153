//! Connections that are live already: what an earlier policy permitted, or nobody judged, is judged by the one in force.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use enforcer_tests::actor::{Request, Transport};
use enforcer_tests::kept::{self, Tally};
use enforcer_tests::sandbox::{Actor, Sandbox};
use enforcer_tests::slowness::patience;
use serde_json::Value;

const SERVICES: &str = "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
  shop: { match: [{ cgroup: ROOT/shop }] }
  orders: { match: [{ cgroup: ROOT/orders }] }
";

const BOTH: &str = "allow:
  - { name: checkout, from: web, to: orders, ports: [8080/tcp, 8081/udp] }
  - { name: browse, from: shop, to: orders, ports: [8080/tcp, 8081/udp] }
";

const ONE: &str = "allow:
  - { name: browse, from: shop, to: orders, ports: [8080/tcp, 8081/udp] }
";

/// How long a revoked connection may live.
const REVOKED_WITHIN: Duration = Duration::from_secs(1);

fn at(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Has an actor do something with what it keeps.
fn ask(actor: &mut Actor, request: &kept::Request) -> anyhow::Result<String> {
    let reply = actor.ask(&Request::Kept(request.clone()))?;
    ensure!(reply.is_ok(), "{request:?}: {reply:?}");
    Ok(reply.text)
}

fn open(actor: &mut Actor, to: SocketAddr, transport: Transport, number: usize) -> anyhow::Result<()> {
    ask(actor, &kept::Request::Connect { to, transport, number }).map(drop)
}

/// What an actor's connections are when `dead` of them have died, or when the time is over.
fn tally(actor: &mut Actor, dead: usize) -> anyhow::Result<Tally> {
    let millis = u64::try_from(patience(REVOKED_WITHIN).as_millis())?;
    Ok(serde_json::from_str(&ask(actor, &kept::Request::Await { dead, millis })?)?)
}

/// Sends a byte over every live connection and has the other end read them all.
fn all_speak(callers: &mut [&mut Actor], answerer: &mut Actor, number: usize) -> anyhow::Result<()> {
    let mut said = 0;
    for caller in callers {
        said += ask(caller, &kept::Request::Say)?.parse::<usize>()?;
    }
    let heard: usize = ask(answerer, &kept::Request::Hear)?.parse()?;
    ensure!((said, heard) == (number, number), "{said} said and {heard} heard of {number}");
    Ok(())
}

struct Three {
    sandbox: Sandbox,
    web: Actor,
    shop: Actor,
    orders: Actor,
}

impl Three {
    fn new(name: &str) -> anyhow::Result<Self> {
        let sandbox = Sandbox::new(name)?;
        let [web, shop, orders] = ["web", "shop", "orders"].map(|name| sandbox.actor(name));
        Ok(Self { sandbox, web: web?, shop: shop?, orders: orders? })
    }

    /// `web` and `shop` each open so many connections to `orders`.
    fn connect(&mut self, each: usize) -> anyhow::Result<()> {
        ask(&mut self.orders, &kept::Request::Serve { at: at(8080), accept: true })?;
        open(&mut self.web, at(8080), Transport::Tcp, each)?;
        open(&mut self.shop, at(8080), Transport::Tcp, each)?;
        ask(&mut self.orders, &kept::Request::AwaitKept(2 * each)).map(drop)
    }
}

fn check_record(record: &Value, action: &str, cause: &str, revision: u32) -> anyhow::Result<()> {
    let expected = [
        ("action", action.into()),
        ("cause", cause.into()),
        ("verdict", "deny".into()),
        ("mode", "enforce".into()),
        ("reason", "no-rule".into()),
        ("rule", Value::Null),
        ("revision", revision.into()),
        ("error", Value::Null),
    ];
    for (field, value) in expected {
        ensure!(record[field] == value, "{field} is not {value} in {record}");
    }
    ensure!(record["source"]["service"] == "web", "{record}");
    ensure!(record["destination"]["service"] == "orders", "{record}");
    ensure!(record["source"]["cgroup"].as_str().is_some_and(|path| path.ends_with("/web")), "{record}");
    ensure!(
        record["destination"]["cgroup"].as_str().is_some_and(|path| path.ends_with("/orders")),
        "{record}"
    );
    Ok(())
}

#[test]
fn a_reload_closes_what_it_forbids_at_both_ends_and_nothing_else() -> anyhow::Result<()> {
    let mut three = Three::new("revoke")?;
    let mut daemon = three.sandbox.daemon(&format!("{SERVICES}{BOTH}"))?;
    three.connect(3)?;
    let policy = daemon.reload(&three.sandbox, &format!("{SERVICES}{ONE}"))?;
    assert_eq!(policy["result"], "applied", "{policy}");
    let tallies = [tally(&mut three.web, 3)?, tally(&mut three.shop, 0)?, tally(&mut three.orders, 3)?];
    let counts = tallies.each_ref().map(|tally| (tally.alive, tally.dead()));
    assert_eq!(counts, [(0, 3), (3, 0), (3, 3)], "{tallies:?}");
    // Both ends learn of it at once, and not by a quiet end of the stream.
    for errno in tallies.iter().flat_map(|tally| tally.dead.keys()) {
        assert!([nix::libc::ECONNABORTED, nix::libc::ECONNRESET].contains(errno), "{tallies:?}");
    }
    all_speak(&mut [&mut three.shop], &mut three.orders, 3)?;
    // One record each.
    for _ in 0..3 {
        let record = daemon.wait_for(|record| record["kind"] == "connection")?;
        check_record(&record, "closed", "reload", 2)?;
        assert_eq!(record["destination"]["port"], 8080, "{record}");
    }
    let finished = daemon.stop()?;
    assert_eq!(finished.connections().count(), 3);
    assert_eq!(finished.stop["connections_closed"], 3, "{}", finished.stop);
    finished.check_totals()
}

#[test]
fn what_is_older_than_the_enforcer_is_treated_as_the_policy_says() -> anyhow::Result<()> {
    for (existing, action, dies) in
        [("close", "closed", true), ("keep", "kept", false), ("audit", "would-close", false)]
    {
        let mut three = Three::new(&format!("existing-{existing}"))?;
        three.connect(2)?;
        let services =
            SERVICES.replacen("services:", &format!("defaults: {{ existing: {existing} }}\nservices:"), 1);
        let mut daemon = three.sandbox.daemon(&format!("{services}{ONE}"))?;
        for _ in 0..2 {
            let record = daemon.wait_for(|record| record["kind"] == "connection")?;
            check_record(&record, action, "start", 1)?;
        }
        let dead = if dies { 2 } else { 0 };
        let counts = |three: &mut Three, dead: usize| -> anyhow::Result<_> {
            let tallies =
                [tally(&mut three.web, dead)?, tally(&mut three.shop, 0)?, tally(&mut three.orders, dead)?];
            Ok(tallies.map(|tally| (tally.alive, tally.dead())))
        };
        assert_eq!(counts(&mut three, dead)?, [(2 - dead, dead), (2, 0), (4 - dead, dead)], "{existing}");
        all_speak(&mut [&mut three.web, &mut three.shop], &mut three.orders, 4 - dead)?;
        // A reload does not close what was let live, unless the policy says so now.
        daemon.reload(&three.sandbox, &format!("{services}{ONE}"))?;
        assert_eq!(counts(&mut three, dead)?, [(2 - dead, dead), (2, 0), (4 - dead, dead)], "{existing}");
        let close = services.replace(existing, "close");
        daemon.reload(&three.sandbox, &format!("{close}{ONE}"))?;
        assert_eq!(counts(&mut three, 2)?, [(0, 2), (2, 0), (2, 2)], "{existing}");
        let finished = daemon.stop()?;
        assert_eq!(finished.stop["connections_closed"], 2, "{}", finished.stop);
        assert_eq!(finished.connections().count(), if dies { 2 } else { 4 });
        finished.check_totals()?;
    }
    Ok(())
}

#[test]
fn half_of_a_thousand_die_within_a_second_and_none_of_the_others() -> anyhow::Result<()> {
    const EACH: usize = 500;
    let mut three = Three::new("thousand")?;
    let mut daemon = three.sandbox.daemon(&format!("{SERVICES}{BOTH}"))?;
    three.connect(EACH)?;
    daemon.reload(&three.sandbox, &format!("{SERVICES}{ONE}"))?;
    let revoked = Instant::now();
    let tallies = [tally(&mut three.web, EACH)?, tally(&mut three.orders, EACH)?, tally(&mut three.shop, 0)?];
    let took = revoked.elapsed();
    let counts = tallies.each_ref().map(|tally| (tally.alive, tally.dead()));
    assert_eq!(counts, [(0, EACH), (EACH, EACH), (EACH, 0)], "{tallies:?}");
    assert!(took < patience(REVOKED_WITHIN), "dead at both ends after {took:?}");
    all_speak(&mut [&mut three.shop], &mut three.orders, EACH)?;
    let finished = daemon.stop()?;
    assert_eq!(finished.connections().count(), EACH);
    for record in finished.connections() {
        check_record(record, "closed", "reload", 2)?;
    }
    finished.check_totals()
}

#[test]
fn what_waits_to_be_accepted_and_connected_datagram_sockets_are_closed_too() -> anyhow::Result<()> {
    let mut three = Three::new("queued")?;
    let mut daemon = three.sandbox.daemon(&format!("{SERVICES}{BOTH}"))?;
    ask(&mut three.orders, &kept::Request::Serve { at: at(8080), accept: false })?;
    let serve = Request::Serve { at: at(8081), transport: Transport::Udp };
    assert!(three.orders.ask(&serve)?.is_ok());
    for caller in [&mut three.web, &mut three.shop] {
        open(caller, at(8080), Transport::Tcp, 2)?;
        open(caller, at(8081), Transport::Udp, 2)?;
    }
    daemon.reload(&three.sandbox, &format!("{SERVICES}{ONE}"))?;
    let tallies = [tally(&mut three.web, 4)?, tally(&mut three.shop, 0)?];
    let counts = tallies.each_ref().map(|tally| (tally.alive, tally.dead()));
    assert_eq!(counts, [(0, 4), (4, 0)], "{tallies:?}");
    let mut protocols = Vec::new();
    for _ in 0..4 {
        let record = daemon.wait_for(|record| record["kind"] == "connection")?;
        check_record(&record, "closed", "reload", 2)?;
        protocols.extend(record["protocol"].as_str().map(str::to_owned));
    }
    protocols.sort();
    assert_eq!(protocols, ["tcp", "tcp", "udp", "udp"]);
    daemon.stop()?.check_totals()
}
