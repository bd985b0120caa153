//! Connections between services: permitted ones work, forbidden ones are refused at once, and both are told.

use enforcer_tests::actor::{Request, Transport};
use enforcer_tests::sandbox::{Neighbour, Sandbox};

#[test]
fn a_rule_lets_its_callers_through_and_nobody_else() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("plain")?;
    // A cgroup that comes while the daemon runs is unknown for a moment.
    sandbox.make_cgroup("other")?;
    let mut daemon = sandbox.daemon(
        "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
  orders: { match: [{ cgroup: ROOT/orders }] }
allow:
  - { name: checkout, from: web, to: orders, ports: [8080/tcp] }
",
    )?;
    let mut web = sandbox.actor("web")?;
    let mut orders = sandbox.actor("orders")?;
    let mut other = sandbox.actor("other")?;
    let at = "127.0.0.1:8080".parse()?;
    assert!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let connect = Request::Connect { to: at, transport: Transport::Tcp, mapped: false };

    let permitted = web.ask(&connect)?;
    assert_eq!(permitted.text, "hello", "{permitted:?}");
    let refused = other.ask(&connect)?;
    assert!(refused.is_refused() && refused.call == "connect", "{refused:?}");
    let record = daemon.wait_for(|record| record["kind"] == "attempt")?;
    assert_eq!(record["source"]["service"], "unmanaged");
    assert_eq!(record["destination"]["service"], "orders");
    assert_eq!(record["destination"]["cgroup"], sandbox.path_of("orders"));
    assert_eq!(record["process"]["pid"], other.pid());

    let finished = daemon.stop()?;
    finished.check_totals()?;
    assert_eq!(finished.stop["denied"], 1);
    Ok(())
}

#[test]
fn what_the_host_broadcasts_does_not_come_from_the_world() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("broadcast")?;
    let neighbour = sandbox.neighbour(&[])?;
    let mut daemon = sandbox.daemon(
        "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
allow:
  - { name: public, from: world, to: web, ports: [5353/udp] }
",
    )?;
    let mut web = sandbox.actor("web")?;
    let at = "0.0.0.0:5353".parse()?;
    assert!(web.ask(&Request::Serve { at, transport: Transport::Udp })?.is_ok());
    let send = |to| Request::Send { to, mapped: false, from_port: 0 };

    // The world may call, so that the port is known to answer.
    let near = std::net::SocketAddr::new(Neighbour::NEAR.into(), 5353);
    assert_eq!(neighbour.actor()?.ask(&send(near))?.text, "hello");
    // The last address of the /30 between the two hosts is everybody on it.
    let everybody = "100.64.0.3:5353".parse()?;
    let reply = sandbox.actor("other")?.ask(&send(everybody))?;
    assert!(!reply.is_ok(), "{reply:?}");
    let record = daemon.wait_for(|record| record["kind"] == "attempt")?;
    assert_eq!((&record["hook"], &record["verdict"]), (&"ingress".into(), &"deny".into()), "{record}");
    assert_eq!(record["source"]["service"], "unmanaged", "{record}");
    assert_eq!(record["source"]["cgroup"], sandbox.path_of("other"), "{record}");
    daemon.stop()?.check_totals()
}
