//! What enforcer is compared with that is a program: proxies with TLS on both sides, and a loop of verdicts.

use std::collections::{BTreeMap, HashSet};
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};
use nfq::{Queue, Verdict};

use super::variant::CPU;
use super::workload::{CLIENT, CONNECTIONS, ORDERLY, ROUND_TRIPS, SERVER, STREAM, Workload};
use crate::sandbox::{Killed, Sandbox};

/// Where the proxy beside the client is called for a port of the server, and how far the one beside the server is from
/// it.
const BESIDE_CLIENT: u16 = 100;
const BESIDE_SERVER: u16 = 200;

/// The cgroup of proxies and verdict loops.
const PEERS: &str = "peers";

/// The number of the queue; it is the network namespace's own.
const QUEUE: u16 = 0;

/// Processes, and where the client finds the ports of the server.
type Peers = (Vec<Killed>, BTreeMap<u16, SocketAddr>);

/// Starts one haproxy beside the client and one beside the server.
///
/// # Errors
///
/// One does not start; it said why.
pub(super) fn proxies(sandbox: &Sandbox, workload: &Workload) -> anyhow::Result<Peers> {
    let directory = sandbox.directory();
    certificates(directory)?;
    fs::write(directory.join("callers"), workload.callers().join("\n") + "\n")?;
    for (name, text) in [(SERVER, beside_server(directory)), (CLIENT, beside_client(directory))] {
        let file = directory.join(format!("{name}.cfg"));
        fs::write(&file, text)?;
        let said = directory.join(format!("{name}.said"));
        let mut command = sandbox.command(PEERS, "taskset")?;
        // It goes on in the background when it listens, and ends with its cgroup.
        command.args(["-c", &CPU.to_string(), "haproxy", "-D", "-f"]).arg(&file);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&said)?);
        let status = sandbox.spawn(command)?.wait()?;
        ensure!(status.success(), "start haproxy: {status}: {}", fs::read_to_string(&said)?);
    }
    let ports = [CONNECTIONS, ROUND_TRIPS, STREAM]
        .map(|port| (port, SocketAddr::from((Ipv4Addr::LOCALHOST, port + BESIDE_CLIENT))));
    Ok((Vec::new(), ports.into()))
}

const HEAD: &str = "global\n nbthread 1\ndefaults\n mode tcp\n timeout connect 5s\n timeout client 1m\n \
                    timeout server 1m\n";

fn beside_client(directory: &Path) -> String {
    let mut text = String::from(HEAD);
    let at = directory.display();
    for port in [CONNECTIONS, ROUND_TRIPS, STREAM] {
        let (here, there) = (port + BESIDE_CLIENT, port + BESIDE_SERVER);
        text += &format!(
            "listen p{port}\n bind 127.0.0.1:{here}\n server s {}:{there} ssl verify required crt {at}/{CLIENT}.pem \
             ca-file {at}/ca.crt\n",
            Workload::server()
        );
    }
    text
}

fn beside_server(directory: &Path) -> String {
    let mut text = String::from(HEAD);
    let (at, server) = (directory.display(), Workload::server());
    for port in [CONNECTIONS, ROUND_TRIPS, STREAM] {
        let here = port + BESIDE_SERVER;
        let to = if port == CONNECTIONS { ORDERLY } else { port };
        text += &format!(
            "listen p{port}\n bind {server}:{here} ssl verify required crt {at}/{SERVER}.pem ca-file {at}/ca.crt\n \
             tcp-request content reject unless {{ ssl_c_s_dn(CN) -m str -f {at}/callers }}\n server s {server}:{to}\n"
        );
    }
    text
}

/// An authority, and a certificate with a key of P-256 for each end.
fn certificates(directory: &Path) -> anyhow::Result<()> {
    let key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    openssl(
        directory,
        &[&["req", "-x509", "-subj", "/CN=ca", "-keyout", "ca.key", "-out", "ca.crt"], &key[..]],
    )?;
    for name in [CLIENT, SERVER] {
        let (subject, file) = (format!("/CN={name}"), |end: &str| format!("{name}.{end}"));
        let (request, certificate, private) = (file("csr"), file("crt"), file("key"));
        openssl(directory, &[&["req", "-subj", &subject, "-keyout", &private, "-out", &request], &key[..]])?;
        let authority = ["-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial"];
        openssl(directory, &[&["x509", "-req", "-in", &request, "-out", &certificate], &authority[..]])?;
        let read = |file: &str| fs::read_to_string(directory.join(file));
        fs::write(directory.join(file("pem")), read(&certificate)? + &read(&private)?)?;
    }
    Ok(())
}

fn openssl(directory: &Path, arguments: &[&[&str]]) -> anyhow::Result<()> {
    let mut command = Command::new("openssl");
    command.args(arguments.concat()).current_dir(directory);
    let output = command.output().context("run openssl")?;
    ensure!(output.status.success(), "run openssl: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// Starts a loop of verdicts, and sends it the first packet of every connection.
///
/// # Errors
///
/// The kernel has no such queue, or something does not start.
pub(super) fn verdict_loop(sandbox: &Sandbox, workload: &Workload) -> anyhow::Result<Vec<Killed>> {
    let places = sandbox.directory().join("places");
    let lines: String = workload.places().map(|(address, port)| format!("{address}:{port}\n")).collect();
    fs::write(&places, lines)?;
    let mut command = sandbox.command(PEERS, "taskset")?;
    command.args(["-c", &CPU.to_string()]).arg(std::env::current_exe()?).arg("verdicts").arg(&places);
    command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = sandbox.spawn(command)?;
    let stdout = child.stdout.take().context("a loop without stdout")?;
    let mut ready = String::new();
    ensure!(
        BufReader::new(stdout).read_line(&mut ready)? > 0,
        "start the loop of verdicts: it said why above"
    );
    let mut command = sandbox.command(PEERS, "iptables")?;
    command.args(["-A", "OUTPUT", "-p", "tcp", "--syn", "-j", "NFQUEUE", "--queue-num", &QUEUE.to_string()]);
    let output = sandbox.output(command)?;
    ensure!(output.status.success(), "send packets to a queue: {}", String::from_utf8_lossy(&output.stderr));
    Ok(vec![Killed(child)])
}

/// Is such a loop: packets to the places of a file pass, others are dropped. It does not even ask who sent them, which
/// takes those that do another look into `/proc`.
///
/// # Errors
///
/// The kernel has no such queue.
pub fn give_verdicts(places: &Path, ready: impl FnOnce() -> std::io::Result<()>) -> anyhow::Result<()> {
    let text = fs::read_to_string(places)?;
    let allowed = text.lines().map(str::parse).collect::<Result<HashSet<SocketAddr>, _>>()?;
    let mut queue = Queue::open().context("open the queue of packets")?;
    queue.bind(QUEUE).context("bind the queue of packets")?;
    ready()?;
    loop {
        let mut message = queue.recv()?;
        let passes = destination(message.get_payload()).is_some_and(|to| allowed.contains(&to));
        message.set_verdict(if passes { Verdict::Accept } else { Verdict::Drop });
        queue.verdict(message)?;
    }
}

/// Where an IPv4 packet with a TCP header goes.
fn destination(packet: &[u8]) -> Option<SocketAddr> {
    let words = usize::from(packet.first()? & 0x0f);
    let address: [u8; 4] = packet.get(16..20)?.try_into().ok()?;
    let port: [u8; 2] = packet.get(words * 4 + 2..words * 4 + 4)?.try_into().ok()?;
    Some(SocketAddr::from((Ipv4Addr::from(address), u16::from_be_bytes(port))))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{beside_client, beside_server, destination};

    #[test]
    fn the_place_of_a_packet_is_read() {
        let mut packet = vec![0x45; 40];
        packet[16..20].copy_from_slice(&[127, 1, 0, 1]);
        packet[22..24].copy_from_slice(&7001_u16.to_be_bytes());
        assert_eq!(destination(&packet), Some(([127, 1, 0, 1], 7001).into()));
        assert_eq!(destination(&packet[..21]), None);
    }

    #[test]
    fn each_proxy_shows_its_certificate_and_wants_one() {
        let there = Path::new("/d");
        for (text, own) in [(beside_client(there), "client"), (beside_server(there), "server")] {
            assert_eq!(text.matches("verify required").count(), 3);
            assert_eq!(text.matches(&format!("crt /d/{own}.pem ca-file /d/ca.crt")).count(), 3);
        }
        assert!(beside_client(there).contains("server s 127.1.0.1:7201 ssl"));
        assert!(beside_server(there).contains("bind 127.1.0.1:7201 ssl"));
    }
}
