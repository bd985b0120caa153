//! Datagrams that pretend to come from somebody else: a source port is nobody's name.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::ensure;
use enforcer_tests::actor::{Request, Transport};
use enforcer_tests::sandbox::{Neighbour, Sandbox};
use enforcer_tests::slowness::patience;

fn serve(at: SocketAddr) -> Request {
    Request::Serve { at, transport: Transport::Udp }
}

fn call_from(from: SocketAddr, to: SocketAddr) -> Request {
    Request::CallFrom { from, to, transport: Transport::Udp, connected: false }
}

fn any(port: u16) -> SocketAddr {
    (Ipv4Addr::UNSPECIFIED, port).into()
}

#[test]
fn a_caller_on_the_same_port_of_another_namespace_is_not_the_service_itself() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("same-port")?;
    let cgroup = sandbox.make_cgroup("web")?;
    let neighbour = sandbox.neighbour(&[])?;
    let mut daemon = sandbox.daemon(
        "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
allow:
  - { name: public, from: world, to: web, ports: [5353/udp] }
  - { name: local, from: unmanaged, to: web, ports: [5354/udp] }
",
    )?;
    // The service lives in a network namespace of its own, as in a container.
    let mut web = neighbour.actor()?;
    assert!(web.ask(&Request::Move(cgroup))?.is_ok());
    assert!(web.ask(&serve(any(5353)))?.is_ok());
    assert!(web.ask(&serve(any(5354)))?.is_ok());
    let mut other = sandbox.actor("other")?;

    // Whoever calls from this host is no part of the world, which may call the other port.
    let permitted = SocketAddr::new(Neighbour::FAR.into(), 5354);
    // What comes from a namespace that was made a moment ago is refused until the daemon has looked at it.
    let start = Instant::now();
    while other.ask(&call_from(any(0), permitted))?.text != "hello" {
        ensure!(start.elapsed() < patience(Duration::from_secs(10)), "the namespace stays unknown");
    }
    assert_eq!(other.ask(&call_from(any(5354), permitted))?.text, "hello");
    let forbidden = SocketAddr::new(Neighbour::FAR.into(), 5353);
    let reply = other.ask(&call_from(any(5353), forbidden))?;
    assert!(!reply.is_ok(), "{reply:?}");
    let record = daemon.wait_for(|record| record["destination"]["port"] == 5353)?;
    assert_eq!(record["verdict"], "deny", "{record}");
    assert_eq!(record["source"]["service"], "unmanaged", "{record}");
    assert_eq!(record["destination"]["service"], "web", "{record}");
    daemon.stop()?.check_totals()
}

#[test]
fn an_answer_from_a_shared_port_is_refused_to_whoever_was_not_asked() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("shared-port")?;
    let mut daemon = sandbox.daemon(
        "version: 1
services:
  db: { match: [{ cgroup: ROOT/db }] }
  web: { match: [{ cgroup: ROOT/web }] }
allow:
  - { name: lookup, from: web, to: db, ports: [5353/udp] }
",
    )?;
    let mut other = sandbox.actor("other")?;
    let at = SocketAddr::from((Ipv4Addr::LOCALHOST, 5353));
    // Both ask for the port to be shared, and the one who came last is found by a look-up.
    let mut db = sandbox.actor("db")?;
    assert!(db.ask(&serve(any(5353)))?.is_ok());
    let mut web = sandbox.actor("web")?;
    // Not bound by hand, so that nothing but the connect itself tells whose the socket is.
    let asked = web.ask(&Request::AwaitFrom(at))?;
    assert!(asked.is_ok(), "{asked:?}");
    let web_at: SocketAddr = asked.text.parse()?;

    let reply = other.ask(&call_from(any(5353), web_at))?;
    assert!(reply.is_refused(), "{reply:?}");
    let record = daemon.wait_for(|record| record["kind"] == "attempt")?;
    assert_eq!((&record["hook"], &record["reason"]), (&"sendmsg4".into(), &"no-rule".into()), "{record}");
    assert_eq!(record["source"]["service"], "unmanaged", "{record}");
    assert_eq!(record["destination"]["service"], "web", "{record}");
    // The one that was asked may answer, also from the shared port. Nobody takes that answer for a call.
    let reply = db.ask(&call_from(at, web_at))?;
    assert!(!reply.is_refused(), "{reply:?}");
    let finished = daemon.stop()?;
    assert_eq!(finished.stop["denied"], 1, "{}", finished.stop);
    finished.check_totals()
}

#[test]
fn a_server_that_answers_has_not_asked() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("answers")?;
    let mut daemon = sandbox.daemon(
        "version: 1
services:
  db: { match: [{ cgroup: ROOT/db }] }
  web: { match: [{ cgroup: ROOT/web }] }
  cache: { match: [{ cgroup: ROOT/cache }] }
allow:
  - { name: lookup, from: web, to: db, ports: [5353/udp] }
  - { name: notify, from: db, to: web, ports: [udp] }
  - { name: store, from: db, to: cache, ports: [6000/udp] }
",
    )?;
    let (at, cache_at) = (SocketAddr::from((Ipv4Addr::LOCALHOST, 5353)), any(6000));
    let mut db = sandbox.actor("db")?;
    assert!(db.ask(&serve(at))?.is_ok());
    // The answer goes to a port that `db` may call of its own accord, so that a rule covers it as a call.
    let mut web = sandbox.actor("web")?;
    assert_eq!(web.ask(&call_from(any(0), at))?.text, "hello");

    // `db` may call `cache` at the port that this comes from, but it has asked `web` alone.
    let mut cache = sandbox.actor("cache")?;
    let reply = cache.ask(&call_from(cache_at, at))?;
    assert!(reply.is_refused() && reply.call == "sendto", "{reply:?}");
    let record = daemon.wait_for(|record| record["verdict"] == "deny")?;
    assert_eq!((&record["hook"], &record["reason"]), (&"sendmsg4".into(), &"no-rule".into()), "{record}");
    assert_eq!(record["source"]["service"], "cache", "{record}");
    assert_eq!(record["destination"]["service"], "db", "{record}");
    let reply = cache.ask(&Request::CallFrom {
        from: cache_at,
        to: at,
        transport: Transport::Udp,
        connected: true,
    })?;
    assert!(reply.is_refused() && reply.call == "connect", "{reply:?}");
    assert_eq!(web.ask(&call_from(any(0), at))?.text, "hello");

    let finished = daemon.stop()?;
    assert_eq!(finished.stop["denied"], 2, "{}", finished.stop);
    finished.check_totals()
}
