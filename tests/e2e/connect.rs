//! Connections between services: permitted ones work, forbidden ones are refused at once, and both are told.

use enforcer_tests::actor::{Request, Transport};
use enforcer_tests::sandbox::Sandbox;

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
