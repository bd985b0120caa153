//! A network namespace behind the real pasta, as rootless Podman has it: a program that carries what others say in and out.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use enforcer_tests::actor::{Reply, Request, Transport};
use enforcer_tests::sandbox::{Actor, Killed, Neighbour, Sandbox};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use serde_json::Value;

/// `front` is pasta where it is a service; anybody of another host may call the database.
const POLICY: &str = "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
  front: { match: [{ cgroup: ROOT/front }] }
  db: { match: [{ cgroup: ROOT/db }] }
allow:
  - { name: visit, from: web, to: front, ports: [18080/tcp] }
  - { name: forward, from: front, to: db, ports: [8080/tcp] }
  - { name: public, from: world, to: db, ports: [8080/tcp] }
  - { name: abroad, from: world, to: front, ports: [18080/tcp] }
";

/// A namespace that pasta has made, and pasta.
struct Pasta {
    _child: Killed,
    inside: u32,
}

impl Pasta {
    /// Starts it in a cgroup as an ordinary user, with port 18080 of every address published as 8080 inside.
    fn start(sandbox: &Sandbox, cgroup: &str) -> anyhow::Result<Self> {
        let device = sandbox.directory().join("tun");
        // Its own, since the machine's may be root's alone; a device's numbers are in Documentation/admin-guide/devices.txt.
        mknod(&device, SFlag::S_IFCHR, Mode::from_bits_truncate(0o666), makedev(10, 200))?;
        fs::set_permissions(&device, fs::Permissions::from_mode(0o666))?;
        let script = format!(
            "mount --bind {} /dev/net/tun && exec setpriv --reuid 65534 --regid 65534 --clear-groups \
             pasta --foreground --ipv4-only --config-net -t 18080:8080 -T none -u none -U none -- \
             sh -c 'echo $$ up; exec sleep infinity'",
            device.display()
        );
        let mut command = sandbox.command(cgroup, "unshare")?;
        command.args(["-m", "sh", "-c", &script]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = Killed(sandbox.spawn(command)?);
        let mut line = String::new();
        BufReader::new(child.0.stdout.take().context("pasta without stdout")?).read_line(&mut line)?;
        ensure!(line.ends_with(" up\n"), "start pasta: it said {line:?}");
        // What it starts may be in a namespace of processes of its own, where it has another number.
        let path = format!("/proc/{0}/task/{0}/children", child.0.id());
        let children = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let inside = children.split_whitespace().next().context("pasta has no child")?.parse()?;
        Ok(Self { _child: child, inside })
    }
}

fn connect(actor: &mut Actor, to: &str) -> anyhow::Result<Reply> {
    actor.ask(&Request::Connect { to: to.parse()?, transport: Transport::Tcp, mapped: false })
}

/// What becomes of calls to a database behind pasta, in the cgroup `of_pasta`.
fn behind(of_pasta: &str, check: impl FnOnce(&Calls<'_>) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let sandbox = Sandbox::new(&format!("pasta-{of_pasta}"))?;
    // A subnet that pasta gives to its device tells nobody: what it makes up for callers of this host lies in it too.
    let neighbour = sandbox.neighbour(&[IpAddr::V4(ABROAD)])?;
    let route = format!("route replace {}/32 dev far src {ABROAD}", Neighbour::NEAR);
    let output = neighbour.output("ip", &route.split(' ').collect::<Vec<_>>())?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let pasta = Pasta::start(&sandbox, of_pasta)?;
    let mut db = sandbox.actor_beside(pasta.inside, "db")?;
    let at: SocketAddr = "0.0.0.0:8080".parse()?;
    ensure!(db.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let daemon = sandbox.daemon_with(POLICY, &["--log-allowed"])?;

    check(&Calls { sandbox: &sandbox, neighbour: &neighbour })?;
    let status = sandbox.ask_daemon(&["status"])?;
    let proxies = status["coverage"]["proxies"].as_array().context("no proxies in the status")?;
    let is_pasta = |proxy: &&Value| {
        proxy["cgroup"] == sandbox.path_of(of_pasta).as_str()
            && proxy["name"].as_str().is_some_and(|name| name.starts_with("pas"))
    };
    ensure!(proxies.iter().any(|proxy| is_pasta(&proxy)), "pasta is not told: {proxies:#?}");

    let finished = daemon.stop()?;
    finished.check_totals()?;
    for record in finished.attempts().filter(|record| record["destination"]["service"] == "db") {
        let (source, verdict) = (&record["source"]["service"], &record["verdict"]);
        let is_true = match source.as_str().unwrap_or_default() {
            "front" => of_pasta == "front" && verdict == "allow",
            "unmanaged" => of_pasta != "front" && verdict == "deny",
            "unknown" => verdict == "deny",
            "world" => verdict == "allow" && record["source"]["address"] == ABROAD.to_string().as_str(),
            _ => false,
        };
        ensure!(is_true, "{record}");
    }
    Ok(())
}

struct Calls<'a> {
    sandbox: &'a Sandbox,
    neighbour: &'a Neighbour,
}

impl Calls<'_> {
    /// From a cgroup of this host.
    fn by(&self, cgroup: &str, to: &str) -> anyhow::Result<Reply> {
        connect(&mut self.sandbox.actor(cgroup)?, to)
    }

    /// From another host.
    fn abroad(&self, to: &str) -> anyhow::Result<Reply> {
        connect(&mut self.neighbour.actor()?, to)
    }
}

/// Another host's address.
const ABROAD: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 9);
const LOOPBACK: &str = "127.0.0.1:18080";
const ADDRESS: &str = "100.64.0.1:18080";

#[test]
fn a_pasta_that_is_a_service_calls_in_its_own_name_or_nobodys() -> anyhow::Result<()> {
    behind("front", |calls| {
        let reply = calls.by("web", LOOPBACK)?;
        ensure!(reply.text == "hello", "web: {reply:?}");
        // What it puts into the tunnel for somebody of this host names nobody of it.
        let reply = calls.by("web", ADDRESS)?;
        ensure!(reply.text != "hello", "web: {reply:?}");
        for to in [LOOPBACK, ADDRESS] {
            let reply = calls.by("other", to)?;
            ensure!(reply.is_refused(), "other at {to}: {reply:?}");
        }
        let reply = calls.abroad(ADDRESS)?;
        ensure!(reply.text == "hello", "from another host: {reply:?}");
        Ok(())
    })
}

#[test]
fn behind_a_pasta_that_is_no_service_nobody_of_this_host_passes_for_the_world() -> anyhow::Result<()> {
    behind("stray", |calls| {
        for caller in ["web", "other"] {
            for to in [LOOPBACK, ADDRESS] {
                let reply = calls.by(caller, to)?;
                ensure!(reply.text != "hello", "{caller} at {to}: {reply:?}");
            }
        }
        let reply = calls.abroad(ADDRESS)?;
        ensure!(reply.text == "hello", "from another host: {reply:?}");
        Ok(())
    })
}
