//! Each way of enforcing a policy, set up in a sandbox of its own, with the processes that call and answer in it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Serialize;

use super::floor::{Floor, Lookups};
use super::load::{Deed, Done, Request};
use super::workload::{CLIENT, CONNECTIONS, Place, SERVER, STRANGER, UNMANAGED, Workload};
use super::{peers, singles, stats};
use crate::sandbox::{Killed, Sandbox};

/// The CPU that callers and answerers share. One is enough, and wake-ups from one CPU to another would be measured
/// otherwise.
pub const CPU: usize = 0;

/// How long a daemon may take until it enforces a million rules.
const PATIENCE: Duration = Duration::from_secs(120);

/// A way of enforcing, in the order of tables.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// Nothing is enforced.
    None,
    /// An empty program on each hook of enforcer: less cannot be had there.
    Floor,
    /// Programs of enforcer that find both ends of a connection and let it pass: less cannot be had by who wants to know them.
    Lookups,
    /// nftables, one set, asked for the first packet alone.
    NftSet,
    /// nftables, one line for each rule; the rules that are used stand in the middle.
    NftLinear,
    /// The same; they stand at the end.
    NftLinearLast,
    /// enforcer, which writes refusals.
    Enforcer,
    /// enforcer, which writes every attempt.
    EnforcerAudit,
    /// Two proxies with TLS and certificates on both sides.
    Proxies,
    /// A process that gives a verdict on each first packet.
    Nfqueue,
}

impl Variant {
    /// Whether it is enforcer.
    pub const fn is_ours(self) -> bool {
        matches!(self, Self::Enforcer | Self::EnforcerAudit)
    }

    /// As tables have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Floor => "empty programs",
            Self::Lookups => "look-ups only",
            Self::NftSet => "nft set",
            Self::NftLinear => "nft linear",
            Self::NftLinearLast => "nft linear, last",
            Self::Enforcer => "enforcer",
            Self::EnforcerAudit => "enforcer+audit",
            Self::Proxies => "mTLS proxies",
            Self::Nfqueue => "NFQUEUE loop",
        }
    }
}

/// A variant under a policy, with its processes.
pub struct Fixture {
    /// Which one it is.
    pub variant: Variant,
    clients: BTreeMap<&'static str, Worker>,
    /// Kept for as long as the fixture is.
    _server: Worker,
    /// The daemon of enforcer.
    pub daemon: Option<Daemon>,
    floor: Option<Floor>,
    /// Proxies and verdict loops.
    peers: Vec<Killed>,
    /// Where the client connects: the server, or the proxy before it.
    ports: BTreeMap<u16, SocketAddr>,
    /// The last to be dropped: its cgroups are those of the processes.
    pub sandbox: Sandbox,
}

impl Fixture {
    /// Sets up a variant under a policy of so many rules.
    ///
    /// # Errors
    ///
    /// What is missing, or did not start.
    pub fn new(variant: Variant, rules: usize) -> anyhow::Result<Self> {
        let place = if variant == Variant::NftLinearLast { Place::Last } else { Place::Middle };
        let workload = Workload::new(rules, place);
        let sandbox = Sandbox::new(&format!("bench-{rules}-{}", variant.name().replace([' ', ','], "")))?;
        // nft names cgroups by their directories, so that those of a set have to be there.
        for name in &workload.services {
            sandbox.make_cgroup(name)?;
        }
        sandbox.make_cgroup(UNMANAGED)?;
        let server = Worker::start(&sandbox, SERVER)?;
        let mut fixture = Self {
            variant,
            clients: BTreeMap::new(),
            _server: server,
            daemon: None,
            floor: None,
            peers: Vec::new(),
            ports: BTreeMap::new(),
            sandbox,
        };
        fixture.enforce(&workload)?;
        // After the hooks are there, as it is for every process that is younger than the enforcer.
        fixture._server.ask(&Request::Serve(Workload::server()))?;
        for name in [CLIENT, STRANGER, UNMANAGED] {
            let client = Worker::start(&fixture.sandbox, name)?;
            fixture.clients.insert(name, client);
        }
        let unmanaged = fixture.clients.get_mut(UNMANAGED).context("just started")?;
        unmanaged.ask(&Request::Serve(Workload::unmanaged()))?;
        Ok(fixture)
    }

    fn enforce(&mut self, workload: &Workload) -> anyhow::Result<()> {
        let sandbox = &self.sandbox;
        match self.variant {
            Variant::None => {}
            Variant::Floor => self.floor = Some(Floor::attach(sandbox.cgroup(), Lookups::Nothing)?),
            Variant::Lookups => self.floor = Some(Floor::attach(sandbox.cgroup(), Lookups::BothEnds)?),
            Variant::NftSet => sandbox.nft(&workload.nft_set(&nft_root(sandbox)?, 2))?,
            Variant::NftLinear | Variant::NftLinearLast => {
                sandbox.nft(&workload.nft_linear(&nft_root(sandbox)?, 2))?;
            }
            Variant::Enforcer | Variant::EnforcerAudit => {
                let root = sandbox.path_of("");
                let policy = workload.yaml(root.trim_end_matches('/'), false);
                let every = self.variant == Variant::EnforcerAudit;
                self.daemon = Some(Daemon::start(sandbox, &policy, every)?);
            }
            Variant::Proxies => {
                let (peers, ports) = peers::proxies(sandbox, workload)?;
                (self.peers, self.ports) = (peers, ports);
            }
            Variant::Nfqueue => self.peers = peers::verdict_loop(sandbox, workload)?,
        }
        Ok(())
    }

    /// Where a client finds a port of the server.
    pub fn at(&self, port: u16) -> SocketAddr {
        let direct = SocketAddr::new(IpAddr::V4(Workload::server()), port);
        self.ports.get(&port).copied().unwrap_or(direct)
    }

    /// Has a client do something for so long.
    ///
    /// # Errors
    ///
    /// It failed: what was measured is worth nothing.
    pub fn repeat(&mut self, client: &str, deed: Deed, time: Duration) -> anyhow::Result<Done> {
        self.ask(client, &Request::Repeat(deed, time))
    }

    /// Has a client do something.
    ///
    /// # Errors
    ///
    /// It failed: what was measured is worth nothing.
    pub fn ask(&mut self, client: &str, request: &Request) -> anyhow::Result<Done> {
        let variant = self.variant;
        let worker = self.clients.get_mut(client).context("a client that was not started")?;
        worker.ask(request).with_context(|| format!("{}: {client}", variant.name()))
    }

    /// Fails unless the variant does what it is there for: the client gets through, and a stranger does not.
    ///
    /// # Errors
    ///
    /// It does not.
    pub fn check(&mut self) -> anyhow::Result<()> {
        let once = Duration::from_millis(1);
        let to = self.at(CONNECTIONS);
        self.repeat(CLIENT, Deed::Connect(to), once)?;
        if self.refuses() {
            self.repeat(STRANGER, Deed::BeRefused(to), once)?;
        }
        Ok(())
    }

    /// Whether it refuses a connection in the call of `connect`, and tells callers apart.
    pub const fn refuses(&self) -> bool {
        matches!(self.variant, Variant::NftSet | Variant::Enforcer | Variant::EnforcerAudit)
    }

    /// Whether it has programs in the kernel that are counted.
    pub const fn has_programs(&self) -> bool {
        self.daemon.is_some() || self.floor.is_some()
    }

    /// What the kernel has counted of the programs of this variant.
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub fn programs(&self) -> anyhow::Result<BTreeMap<String, stats::Runs>> {
        match (&self.daemon, &self.floor) {
            (Some(daemon), _) => stats::of_process(daemon.pid()),
            (None, Some(floor)) => floor.programs(),
            (None, None) => Ok(BTreeMap::new()),
        }
    }
}

/// The path of a sandbox's subtree as nft names cgroups: from `/sys/fs/cgroup`, also where v2 is mounted below that.
pub(super) fn nft_root(sandbox: &Sandbox) -> anyhow::Result<String> {
    let below = sandbox.cgroup().strip_prefix("/sys/fs/cgroup").context("name the cgroup for nft")?;
    Ok(below.to_str().context("a cgroup without a printable path")?.to_owned())
}

/// A process that calls or answers.
struct Worker {
    _child: Killed,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Worker {
    fn start(sandbox: &Sandbox, cgroup: &str) -> anyhow::Result<Self> {
        let mut command = sandbox.command(cgroup, std::env::current_exe()?)?;
        command.args(["load", &CPU.to_string()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = sandbox.spawn(command)?;
        let stdin = child.stdin.take().context("worker without stdin")?;
        let stdout = child.stdout.take().context("worker without stdout")?;
        Ok(Self { _child: Killed(child), stdin, stdout: BufReader::new(stdout) })
    }

    fn ask(&mut self, request: &Request) -> anyhow::Result<Done> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stdin.write_all(&line).context("ask worker")?;
        let mut answer = String::new();
        ensure!(self.stdout.read_line(&mut answer)? > 0, "ask worker: it has ended, and said why above");
        Ok(serde_json::from_str(&answer)?)
    }
}

/// A running enforcer.
pub struct Daemon {
    child: Killed,
    /// Where it says that it enforces.
    told: UnixDatagram,
    /// Its audit log.
    pub log: PathBuf,
    /// How long it took from its start until it enforced.
    pub started_in: Duration,
}

impl Daemon {
    /// Starts one over a sandbox, and waits until it enforces.
    ///
    /// # Errors
    ///
    /// It does not.
    pub fn start(sandbox: &Sandbox, policy: &str, log_allowed: bool) -> anyhow::Result<Self> {
        let mut command = sandbox.daemon_command(policy)?;
        if log_allowed {
            command.arg("--log-allowed");
        }
        Self::of(sandbox, command)
    }

    /// The same of one as it is installed: with a directory of many policy files, and what outlives it.
    ///
    /// # Errors
    ///
    /// It does not enforce.
    pub fn start_staying(sandbox: &Sandbox, policy: &Path) -> anyhow::Result<Self> {
        Self::of(sandbox, sandbox.staying_command(policy)?)
    }

    fn of(sandbox: &Sandbox, mut command: Command) -> anyhow::Result<Self> {
        let notify = sandbox.directory().join("notify");
        if notify.exists() {
            // That of an earlier one.
            fs::remove_file(&notify)?;
        }
        let told = UnixDatagram::bind(&notify).context("listen to the daemon")?;
        told.set_read_timeout(Some(PATIENCE))?;
        let log = sandbox.directory().join("audit.jsonl");
        let words = sandbox.directory().join("words");
        command.arg("--audit").arg(&log).env("NOTIFY_SOCKET", &notify);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&words)?);
        let start = Instant::now();
        let child = Killed(sandbox.spawn(command)?);
        let mut daemon = Self { child, told, log, started_in: Duration::ZERO };
        daemon
            .await_ready()
            .with_context(|| format!("start daemon: {}", fs::read_to_string(&words).unwrap_or_default()))?;
        daemon.started_in = start.elapsed();
        Ok(daemon)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Has it read its policy again, and waits until that is in force.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn reload(&mut self) -> anyhow::Result<Duration> {
        let start = Instant::now();
        self.signal(Signal::SIGHUP)?;
        self.await_ready()?;
        Ok(start.elapsed())
    }

    /// Sends it a signal.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.pid())?), signal)?)
    }

    /// Stops it, and returns its last record, with the totals.
    ///
    /// # Errors
    ///
    /// It does not stop, or not well.
    pub fn stop(mut self) -> anyhow::Result<serde_json::Value> {
        self.signal(Signal::SIGTERM)?;
        let status = self.child.0.wait()?;
        ensure!(status.success(), "stop daemon: {status}");
        singles::last_record(&self.log)
    }

    fn await_ready(&self) -> anyhow::Result<()> {
        let mut message = [0; 4096];
        loop {
            let size = self.told.recv(&mut message).context("wait for the daemon")?;
            let text = String::from_utf8_lossy(message.get(..size).unwrap_or_default()).into_owned();
            if text.lines().any(|line| line == "READY=1") {
                return Ok(());
            }
            if text.lines().any(|line| line == "STOPPING=1") {
                bail!("wait for the daemon: it has stopped");
            }
        }
    }
}

/// Memory of a process from a file of `/proc`, in bytes.
///
/// # Errors
///
/// It has ended.
pub fn memory(pid: u32, field: &str) -> anyhow::Result<f64> {
    let path = Path::new("/proc").join(pid.to_string()).join("status");
    let status = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let found = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kilobytes = found.and_then(|rest| rest.trim().strip_suffix(" kB")).context("a field of memory")?;
    Ok(kilobytes.trim().parse::<f64>()? * 1024.0)
}
