//! What is enclosed for a tunnel of this host by a process of this host is no other host's.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use enforcer_tests::actor::Request;
use enforcer_tests::sandbox::{PYTHON, Sandbox};

const POLICY: &str = "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
  db: { match: [{ cgroup: ROOT/db }] }
networks:
  overlay: { cidrs: [10.200.0.0/24] }
allow:
  - { name: lookup, from: web, to: db, ports: [5353/udp] }
  - { name: peers, from: overlay, to: db, ports: [5353/udp] }
";

/// Says what comes, up to the last.
const SERVER: &str = "import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(('0.0.0.0', 5353))
print('ready', flush=True)
while True:
    word = server.recv(64).decode()
    print(word, flush=True)
    if word != 'forged':
        break
";

/// Sends a datagram of the other host 10.200.0.9 inside of one to the tunnel's port.
const FORGER: &str = "import socket, struct
def total(header):
    sum_ = sum(struct.unpack('!10H', header))
    sum_ = (sum_ >> 16) + (sum_ & 0xffff)
    return ~(sum_ + (sum_ >> 16)) & 0xffff
datagram = struct.pack('!HHHH', 9000, 5353, 8 + 6, 0) + b'forged'
near, far = socket.inet_aton('10.200.0.9'), socket.inet_aton('10.200.0.1')
fields = (0x45, 0, 20 + len(datagram), 1, 0, 64, 17)
header = struct.pack('!BBHHHBBH4s4s', *fields, 0, near, far)
header = struct.pack('!BBHHHBBH4s4s', *fields, total(header), near, far)
frame = bytes.fromhex('020000000001 020000000009 0800') + header + datagram
vxlan = struct.pack('!II', 0x08000000, 42 << 8)
print(socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(vxlan + frame, ('127.0.0.1', 4789)), flush=True)
";

#[test]
fn what_a_process_of_this_host_encloses_for_a_tunnel_is_not_another_hosts() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("tunnel")?;
    sandbox.ip("link add vxlan0 address 02:00:00:00:00:01 type vxlan id 42 dstport 4789 nolearning
addr add 10.200.0.1/24 dev vxlan0
link set vxlan0 up")?;
    let mut web = sandbox.actor("web")?;
    let mut daemon = sandbox.daemon(POLICY)?;
    let mut command = sandbox.command("db", PYTHON)?;
    command.args(["-c", SERVER]).stdout(Stdio::piped());
    let mut server = sandbox.spawn(command)?;
    let mut said = BufReader::new(server.stdout.take().context("no stdout")?).lines();
    assert_eq!(said.next().transpose()?.as_deref(), Some("ready"));

    // Neither is one who is no service kept from calling who is none.
    let mut command = sandbox.command("other", PYTHON)?;
    command.args(["-c", FORGER]).stdout(Stdio::piped());
    let sent = sandbox.spawn(command)?.wait_with_output()?;
    ensure!(sent.status.success() && sent.stdout == b"56\n", "{sent:?}");
    let denied = daemon.wait_for(|record| record["kind"] == "attempt" && record["verdict"] == "deny")?;
    ensure!(denied["reason"] == "source-unknown" && denied["hook"] == "ingress", "{denied}");
    ensure!(
        denied["source"]["service"] == "unknown" && denied["source"]["address"] == "10.200.0.9",
        "{denied}"
    );
    ensure!(denied["destination"]["service"] == "db", "{denied}");

    // Nothing of it has come.
    web.ask(&Request::Send { to: "127.0.0.1:5353".parse()?, mapped: false, from_port: 0 })?;
    let word = said.next().transpose()?;
    ensure!(word.as_deref().is_some_and(|word| word != "forged"), "{word:?}");
    server.wait()?;
    let finished = daemon.stop()?;
    finished.check_totals()?;
    assert_eq!(finished.attempts().count(), 1, "{:#?}", finished.records);
    Ok(())
}
