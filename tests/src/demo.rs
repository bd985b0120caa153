//! The main job before one's eyes: services that call each other under the shipped policy, and what becomes of it.

use std::io::Write;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use enforcer::kernel::feature;
use enforcer::policy::{self, Document, Peer, Policy, PortRange, Ports};
use serde::Serialize;
use serde_json::Value;
use tokio::signal::unix::{SignalKind, signal};

use crate::actor::{Reply, Request, Transport};
use crate::sandbox::{Actor, Daemon, Sandbox, binary, kill_tree};
use crate::slowness::patience;

/// The policy that is shown, and where the reader finds it.
const POLICY: &str = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../policies/demo/policy.yaml"));
const POLICY_FILE: &str = "policies/demo/policy.yaml";

/// The rule that the reload adds. The file ends with its list of rules.
const ADDED: &str = "  - { name: report, from: web, to: db, ports: [5432/tcp] }";

/// A refusal takes less: it is an answer, not a time-out.
const AT_ONCE: Duration = Duration::from_millis(1);

/// How often a call is made until its time is that of the enforcer, and not of a machine with something else to do.
const TRIES: u32 = 10;

/// The services, and where each answers over TCP and UDP.
const SERVICES: [(&str, u16, u16); 3] = [("web", 8000, 8000), ("orders", 8080, 8080), ("db", 5432, 5353)];

/// A process in no service.
const OTHER: &str = "other";

/// What the policy permits besides calling oneself, by caller, answerer and transport; the last is of [`ADDED`].
const PERMITTED: [(&str, &str, Transport); 4] = [
    ("web", "orders", Transport::Tcp),
    ("orders", "db", Transport::Tcp),
    ("orders", "db", Transport::Udp),
    ("web", "db", Transport::Tcp),
];

/// What is refused before the eyes: to go around the middle, to go backwards, and to come from nowhere.
const FORBIDDEN: [(&str, &str, Transport); 5] = [
    ("web", "db", Transport::Tcp),
    ("web", "db", Transport::Udp),
    ("db", "orders", Transport::Tcp),
    ("web", "orders", Transport::Udp),
    (OTHER, "orders", Transport::Tcp),
];

/// Shows it all on `out`, and leaves nothing behind.
///
/// # Errors
///
/// What is missing on this host, or the first thing that is not as it should be.
pub fn run(out: &mut impl Write, interrupt: &Interrupt) -> anyhow::Result<()> {
    feature::require()?;
    let sandbox = Sandbox::demo().context(
        "prepare the demo\nhint: it needs a writable cgroup v2 tree and the right to make network namespaces; \
         in a container it has both only if that is privileged",
    )?;
    let cgroup = sandbox.cgroup().to_path_buf();
    interrupt.guard(&cgroup);
    let shown = Demo::start(out, &sandbox, interrupt).and_then(Demo::show);
    drop(sandbox);
    ensure!(!cgroup.exists(), LeftBehind(cgroup));
    let totals = shown?;
    writeln!(out, "stopped    {totals}; nothing is left behind")?;
    Ok(())
}

/// Something that could not be removed.
#[derive(Debug)]
pub struct LeftBehind(PathBuf);

impl std::fmt::Display for LeftBehind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "remove {}: it is still there\nhint: run `cargo xtask clean-kernel`", self.0.display())
    }
}

impl std::error::Error for LeftBehind {}

struct Demo<'a, W> {
    out: &'a mut W,
    sandbox: &'a Sandbox,
    interrupt: &'a Interrupt,
    daemon: Daemon,
    actors: Vec<(&'static str, Actor)>,
}

/// A call that was made.
struct Call {
    reply: Reply,
    record: Value,
}

impl<'a, W: Write> Demo<'a, W> {
    fn start(out: &'a mut W, sandbox: &'a Sandbox, interrupt: &'a Interrupt) -> anyhow::Result<Self> {
        writeln!(out, "policy     {POLICY_FILE}")?;
        for line in rules(&compiled(POLICY)?) {
            writeln!(out, "           {line}")?;
        }
        // In the subtree it ends together with everything else, however the demo ends.
        let mut command = sandbox.command("enforcer", binary("enforcer")?)?;
        command.arg("run").arg("--policy").arg(sandbox.write_policy(POLICY)?).args(["--control", "none"]);
        command.arg("--cgroup-root").arg(sandbox.cgroup()).args([
            "--log-allowed",
            "--detach-on-exit",
            "--no-watch",
        ]);
        let daemon = sandbox.start_daemon(command)?;
        let root = sandbox.path_of("");
        let root = root.trim_end_matches('/');
        writeln!(out, "enforcing  revision 1, pid {}, over the cgroup {root}", daemon.pid())?;
        let mut actors = Vec::new();
        for name in SERVICES.iter().map(|(name, ..)| *name).chain([OTHER]) {
            interrupt.check()?;
            let actor = sandbox.actor(name)?;
            writeln!(out, "started    {name:<7} (pid {}) in {}", actor.pid(), sandbox.path_of(name))?;
            actors.push((name, actor));
        }
        let mut demo = Self { out, sandbox, interrupt, daemon, actors };
        for (name, tcp, udp) in SERVICES {
            demo.serve(name, tcp, Transport::Tcp)?;
            demo.serve(name, udp, Transport::Udp)?;
        }
        Ok(demo)
    }

    /// Goes through all of it; returns the totals.
    fn show(mut self) -> anyhow::Result<String> {
        let (added, permitted) = PERMITTED.split_last().context("no call is permitted")?;
        writeln!(self.out, "\npermitted")?;
        let mut records = Vec::new();
        for (from, to, transport) in permitted {
            records.push(self.shown(from, to, *transport, true)?.record);
        }
        writeln!(self.out, "\nforbidden")?;
        for (from, to, transport) in FORBIDDEN {
            records.push(self.shown(from, to, transport, false)?.record);
        }
        writeln!(self.out, "\naudit records (some fields left out)")?;
        for record in [records.first(), records.get(permitted.len())].into_iter().flatten() {
            writeln!(self.out, "  {}", brief(record)?)?;
        }

        writeln!(self.out, "\nreload with one rule more")?;
        writeln!(self.out, "+{ADDED}")?;
        let more = format!("{}\n{ADDED}\n", POLICY.trim_end());
        let change = self.daemon.reload(self.sandbox, &more)?;
        ensure!(change["result"] == "applied", "reload: {change}");
        writeln!(self.out, "  in force as revision {}", change["revision"])?;
        let (from, to, transport) = *added;
        self.shown(from, to, transport, true)?;

        self.table()?;
        let finished = self.daemon.stop()?;
        finished.check_totals()?;
        let stop = &finished.stop;
        ensure!(stop["events_lost"] == 0, "records were lost: {stop}");
        Ok(format!("{} decisions permitted, {} refused; no record was lost", stop["allowed"], stop["denied"]))
    }

    /// Everyone calls everyone, over both transports.
    fn table(&mut self) -> anyhow::Result<()> {
        writeln!(self.out, "\ncaller     answerer")?;
        write!(self.out, "          ")?;
        for (to, ..) in SERVICES {
            write!(self.out, " {:<15}", format!("{to} tcp/udp"))?;
        }
        writeln!(self.out)?;
        for from in SERVICES.iter().map(|(name, ..)| *name).chain([OTHER]) {
            write!(self.out, "{from:<10}")?;
            for (to, ..) in SERVICES {
                let mut verdicts = Vec::new();
                for transport in [Transport::Tcp, Transport::Udp] {
                    let permitted = from == to || PERMITTED.contains(&(from, to, transport));
                    self.call(from, to, transport, permitted)?;
                    verdicts.push(if permitted { "allow" } else { "deny" });
                }
                write!(self.out, " {:<15}", verdicts.join(" / ").trim_end())?;
                self.out.flush()?;
            }
            writeln!(self.out)?;
        }
        writeln!(self.out)?;
        Ok(())
    }

    /// Makes a call and shows what became of it.
    fn shown(&mut self, from: &str, to: &str, transport: Transport, permitted: bool) -> anyhow::Result<Call> {
        let call = self.call(from, to, transport, permitted)?;
        let outcome = if permitted { "answered" } else { "EPERM" };
        let why = match call.record["rule"]["name"].as_str() {
            Some(rule) => format!("rule {rule}"),
            None => call.record["reason"].as_str().unwrap_or_default().to_owned(),
        };
        let port = format!("{}/{}", port(to, transport), word(transport));
        let micros = call.reply.micros;
        writeln!(self.out, "  {from:<6} -> {to:<6} {port:<8}  {outcome:<8} {micros:>6} us  {why}")?;
        self.out.flush()?;
        Ok(call)
    }

    /// Makes a call, and fails unless it goes as it should and its record says so.
    fn call(&mut self, from: &str, to: &str, transport: Transport, permitted: bool) -> anyhow::Result<Call> {
        let mut call = self.try_call(from, to, transport, permitted)?;
        for _ in 1..TRIES {
            if permitted || Duration::from_micros(call.reply.micros) < patience(AT_ONCE) {
                break;
            }
            call = self.try_call(from, to, transport, permitted)?;
        }
        let micros = call.reply.micros;
        ensure!(
            permitted || Duration::from_micros(micros) < patience(AT_ONCE),
            "{from} to {to}: refused only after {micros} us, in each of {TRIES} tries"
        );
        Ok(call)
    }

    fn try_call(
        &mut self,
        from: &str,
        to: &str,
        transport: Transport,
        permitted: bool,
    ) -> anyhow::Result<Call> {
        self.interrupt.check()?;
        let at = ([127, 0, 0, 1], port(to, transport)).into();
        let request = match transport {
            Transport::Tcp => Request::Connect { to: at, transport, mapped: false },
            Transport::Udp => Request::Send { to: at, mapped: false, from_port: 0 },
        };
        let reply = self.actor(from)?.ask(&request)?;
        let word = word(transport);
        let as_expected = if permitted { reply.is_ok() } else { reply.is_refused() };
        ensure!(
            as_expected,
            "{from} to {to} over {word}: should have been permitted: {permitted}; {reply:?}"
        );
        let caller = if from == OTHER { "unmanaged" } else { from };
        let verdict = if permitted { "allow" } else { "deny" };
        let record = self.daemon.wait_for(|record| {
            record["direction"] == "egress"
                && record["source"]["service"] == caller
                && record["destination"]["service"] == to
                && record["destination"]["port"] == at.port()
                && record["protocol"] == word
        })?;
        ensure!(record["verdict"] == verdict, "{from} to {to}: recorded otherwise: {record}");
        Ok(Call { reply, record })
    }

    fn serve(&mut self, name: &str, port: u16, transport: Transport) -> anyhow::Result<()> {
        self.interrupt.check()?;
        let at = ([127, 0, 0, 1], port).into();
        let reply = self.actor(name)?.ask(&Request::Serve { at, transport })?;
        ensure!(reply.is_ok(), "serve {name} at {at}: {reply:?}");
        Ok(())
    }

    fn actor(&mut self, name: &str) -> anyhow::Result<&mut Actor> {
        let actor = self.actors.iter_mut().find(|(known, _)| *known == name);
        actor.map(|(_, actor)| actor).with_context(|| format!("no process is named {name}"))
    }
}

fn port(service: &str, transport: Transport) -> u16 {
    let found = SERVICES.iter().find(|(name, ..)| *name == service);
    found.map_or(0, |(_, tcp, udp)| match transport {
        Transport::Tcp => *tcp,
        Transport::Udp => *udp,
    })
}

const fn word(transport: Transport) -> &'static str {
    match transport {
        Transport::Tcp => "tcp",
        Transport::Udp => "udp",
    }
}

fn compiled(text: &str) -> anyhow::Result<Policy> {
    let loaded = policy::compile_documents(&[Document::new(POLICY_FILE, text.to_owned())]);
    match loaded.policy {
        Some(policy) => Ok(policy),
        None => bail!("{}", loaded.findings.iter().map(policy::Finding::render).collect::<String>()),
    }
}

/// One line for each rule.
fn rules(policy: &Policy) -> Vec<String> {
    let names = |peers: &[Peer]| {
        let place = |index: u32| usize::try_from(index).unwrap_or(usize::MAX);
        let name = |peer: &Peer| match peer {
            Peer::Service(index) => {
                policy.services.get(place(*index)).map_or("?", |service| service.name.as_str())
            }
            Peer::Network(index) => {
                policy.networks.get(place(*index)).map_or("?", |network| network.name.as_str())
            }
            Peer::Unmanaged => "unmanaged",
            Peer::World => "world",
        };
        peers.iter().map(name).collect::<Vec<_>>().join(", ")
    };
    let line = |rule: &policy::Rule| {
        let ports = match &rule.ports {
            Ports::Everything => String::from("every port"),
            Ports::Listed(ports) => ports.iter().map(range).collect::<Vec<_>>().join(", "),
        };
        format!("{:<9} {:<6} -> {:<6} {ports}", rule.name, names(&rule.from), names(&rule.to))
    };
    policy.rules.iter().map(line).collect()
}

fn range(ports: &PortRange) -> String {
    use enforcer::audit::protocol as word;
    match ports {
        PortRange::Protocol(protocol) => word(*protocol).into_owned(),
        PortRange::Ports { protocol, low, high } if low == high => format!("{low}/{}", word(*protocol)),
        PortRange::Ports { protocol, low, high } => format!("{low}-{high}/{}", word(*protocol)),
    }
}

/// The fields of a record that fit on a line.
#[derive(Serialize)]
struct Brief<'a> {
    verdict: &'a Value,
    reason: &'a Value,
    rule: &'a Value,
    hook: &'a Value,
    source: &'a Value,
    destination: &'a Value,
    pid: &'a Value,
    revision: &'a Value,
}

fn brief(record: &Value) -> serde_json::Result<String> {
    serde_json::to_string(&Brief {
        verdict: &record["verdict"],
        reason: &record["reason"],
        rule: &record["rule"]["name"],
        hook: &record["hook"],
        source: &record["source"]["cgroup"],
        destination: &record["destination"]["cgroup"],
        pid: &record["process"]["pid"],
        revision: &record["revision"],
    })
}

/// Word of SIGINT, SIGTERM and SIGHUP, which end the demo early but not untidily.
#[derive(Clone, Default)]
pub struct Interrupt {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    signal: Option<u8>,
    cgroup: Option<PathBuf>,
}

impl Interrupt {
    /// Handles these signals from now on.
    ///
    /// # Errors
    ///
    /// They cannot be handled.
    pub fn watch() -> anyhow::Result<Self> {
        let this = Self::default();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (mut interrupt, mut terminate, mut hangup) = {
            let _runtime = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            )
        };
        let watcher = this.clone();
        thread::spawn(move || {
            runtime.block_on(async {
                loop {
                    let kind = tokio::select! {
                        _ = interrupt.recv() => SignalKind::interrupt(),
                        _ = terminate.recv() => SignalKind::terminate(),
                        _ = hangup.recv() => SignalKind::hangup(),
                    };
                    watcher.note(kind);
                }
            });
        });
        Ok(this)
    }

    /// The exit code of a demo that was ended by a signal.
    pub fn exit_code(&self) -> Option<u8> {
        self.locked().signal.map(|number| 128 + number)
    }

    /// Has everything in `cgroup` end at once when a signal comes, so that nobody waits for it.
    fn guard(&self, cgroup: &std::path::Path) {
        self.locked().cgroup = Some(cgroup.to_path_buf());
    }

    fn check(&self) -> anyhow::Result<()> {
        match self.exit_code() {
            None => Ok(()),
            Some(_) => bail!("a signal came"),
        }
    }

    fn note(&self, kind: SignalKind) {
        let mut state = self.locked();
        state.signal = u8::try_from(kind.as_raw_value()).ok();
        if let Some(cgroup) = &state.cgroup
            && let Err(err) = kill_tree(cgroup)
        {
            // The tree is being removed already.
            tracing::debug!("end {}: {err:#}", cgroup.display());
        }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
