//! Raw sockets that are older than what refuses them: a service that has one sends nothing by it.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use anyhow::Context as _;
use enforcer_tests::actor::{Request, Transport};
use enforcer_tests::sandbox::{PYTHON, Sandbox};
use serde_json::{Value, json};

const POLICY: &str = "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
  db: { match: [{ cgroup: ROOT/db }] }
  late: { match: [{ cgroup: ROOT/late }] }
allow:
  - { name: lookup, from: web, to: db, ports: [5353/udp] }
";

/// Opens raw sockets, and once it is told to sends by each a datagram in the name of port 6600, and one of a protocol of its own; says of
/// each what came of it.
const SENDER: &str = "import socket, struct, sys
any, udp, own = (socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol) for protocol in (255, 17, 253))
udp6 = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 17)
udp6.setsockopt(socket.IPPROTO_IPV6, 7, 6)
print('ready', flush=True)
sys.stdin.readline()
datagram = struct.pack('!HHHH', 6600, 5353, 12, 0) + b'evil'
home = socket.inet_aton('127.0.0.1')
header = struct.pack('!BBHHHBBH4s4s', 0x45, 0, 20 + len(datagram), 1, 0, 64, 17, 0, home, home)
for sender, packet, to in (
    (any, header + datagram, '127.0.0.1'),
    (udp, datagram, '127.0.0.1'),
    (udp6, datagram, '::1'),
    (own, b'evil', '127.0.0.1'),
):
    try:
        sender.sendto(packet, (to, 0))
        print('sent', flush=True)
    except PermissionError:
        print('refused', flush=True)
";

/// Has a process of the cgroup `name` open its sockets, does something, and has it send; returns what it says of each.
fn send_late(
    sandbox: &Sandbox,
    name: &str,
    meanwhile: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<Vec<String>> {
    let mut command = sandbox.command(name, PYTHON)?;
    command.args(["-c", SENDER]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut sender = sandbox.spawn(command)?;
    let mut lines = BufReader::new(sender.stdout.take().context("no stdout")?).lines();
    assert_eq!(lines.next().transpose()?.as_deref(), Some("ready"));
    meanwhile()?;
    sender.stdin.take().context("no stdin")?.write_all(b"\n")?;
    let said = lines.collect::<Result<Vec<_>, _>>()?;
    assert!(sender.wait()?.success());
    Ok(said)
}

#[test]
fn a_raw_socket_that_is_older_than_the_enforcer_or_the_service_sends_nothing() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("old-raw")?;
    let (mut web, mut db) = (sandbox.actor("web")?, sandbox.actor("db")?);
    for at in ["127.0.0.1:5353", "[::1]:5353"] {
        assert!(db.ask(&Request::Serve { at: at.parse()?, transport: Transport::Udp })?.is_ok());
    }
    // In whose name it is sent.
    assert!(web.ask(&Request::Bind { at: "127.0.0.1:6600".parse()?, transport: Transport::Udp })?.is_ok());
    let mut daemon = None;
    let said = send_late(&sandbox, "late", || {
        daemon = Some(sandbox.daemon(POLICY)?);
        Ok(())
    })?;
    assert_eq!(said, ["refused"; 4]);
    let daemon = daemon.context("it was not started")?;
    // Of one that becomes a service while it has them.
    let said = send_late(&sandbox, "other", || {
        sandbox.write_policy(
            &POLICY.replace("allow:", "  other: { match: [{ cgroup: ROOT/other }] }\nallow:"),
        )?;
        assert!(sandbox.ask(&["reload"])?.status.success());
        Ok(())
    })?;
    assert_eq!(said, ["refused"; 4]);
    let finished = daemon.stop()?;
    finished.check_totals()?;
    let of = |service: &str| -> Vec<&Value> {
        finished.attempts().filter(|record| record["source"]["service"] == service).collect()
    };
    for service in ["late", "other"] {
        let records = of(service);
        assert_eq!(records.len(), 4, "{records:?}");
        for record in records {
            let told =
                [&record["verdict"], &record["reason"], &record["hook"], &record["destination"]["service"]];
            assert_eq!(
                told,
                [&json!("deny"), &json!("raw-socket"), &json!("egress"), &json!("unknown")],
                "{record}"
            );
        }
    }
    Ok(())
}
