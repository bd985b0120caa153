//! Where the corpus is played: a sandbox with the service that must not be reached, and those that try.

use std::cell::Cell as Latch;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use enforcer::failpoint;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Cell, Fault, Run, Technique, Techniques};
use crate::bpftool;
use crate::sandbox::{Daemon, Finished, Killed, PYTHON, Sandbox, binary};
use crate::slowness::patience;

/// Who may call whom. `thief` may not call `vault`, but somebody who may; `bell` may call nobody, and does;
/// `prober` may call some addresses by what no hook of a call sees, and nobody else.
const POLICY: &str = "version: 1
services:
  thief: { match: [{ cgroup: ROOT/thief }, { cgroup: ROOT/pool/thief }] }
  clerk: { match: [{ cgroup: ROOT/clerk }, { cgroup: ROOT/pool/clerk }] }
  teller: { match: [{ cgroup: ROOT/teller }, { cgroup: ROOT/pool/teller }] }
  proxy: { match: [{ cgroup: ROOT/proxy }] }
  bell: { match: [{ cgroup: ROOT/bell }] }
  prober: { match: [{ cgroup: ROOT/prober }] }
  crate: { match: [{ container: { name: crate } }] }
  vault:
    match: [{ cgroup: ROOT/vault }]
    listens: [7001/tcp, 7001/udp, 7009/tcp, 7009/udp, 40001/tcp, 40001/udp]
networks:
  groups: { cidrs: [239.1.2.3/32, \"ff05::7/128\", 100.64.0.3/32, 255.255.255.255/32] }
  probed: { cidrs: [198.51.100.0/24, \"fd00:77::3/128\"] }
  partners: { cidrs: [\"fd00:99::/64\"] }
allow:
  - { name: errand, from: clerk, to: vault }
  - { name: shift, from: teller, to: vault }
  - { name: visit, from: teller, to: clerk }
  # More ports than one part of a list holds, so that the last of them is in the second.
  - { name: relay, from: proxy, to: vault, ports: [7001/tcp, 7021/tcp, 7031/tcp, 7041/tcp, 7001/udp] }
  - { name: ask, from: [thief, clerk, teller, vault], to: proxy, ports: [7100-7199/tcp, 7100-7199/udp] }
  - { name: announce, from: [thief, clerk], to: groups, ports: [7001/udp] }
  - { name: crossing, from: vault, to: clerk, ports: [7310/tcp] }
  - { name: probe, from: prober, to: probed, ports: [icmp, icmpv6, udplite] }
  - { name: partnership, from: partners, to: vault, ports: [7001/udp] }
  - { name: notice, from: vault, to: [thief, clerk, teller], ports: [7300/tcp, 7300/udp] }
";

/// What else is permitted while a technique has another policy in force.
const AMNESTY: &str = "  - { name: amnesty, from: thief, to: vault }\n";

/// The cgroup of a container of which no runtime has told.
const PENDING: &str = "docker/0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f0f";

/// Cgroups in the sandbox; that of a stranger is of no service.
const CGROUPS: [&str; 12] = [
    "thief",
    "clerk",
    "teller",
    "proxy",
    "bell",
    "prober",
    "vault",
    "stranger",
    PENDING,
    "pool/thief",
    "pool/clerk",
    "pool/teller",
];

/// How long an attempt may take. Reached only by a technique that is broken.
const DEADLINE: Duration = Duration::from_secs(15);

/// A sandbox with a stage for attempts in it.
pub struct Stage {
    sandbox: Sandbox,
    director: Program,
    techniques: Techniques,
    policies: Value,
    attempts: u64,
}

impl Stage {
    /// Furnishes one.
    ///
    /// # Errors
    ///
    /// Not root, or this host lacks Python, `ip` or `nft`.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let sandbox = Sandbox::new(name)?;
        for cgroup in CGROUPS {
            sandbox.make_cgroup(cgroup)?;
        }
        let root = sandbox.cgroup().display().to_string();
        // It is of the service `bell`, since it rings when an attempt has ended.
        let mut director = Program::start(&sandbox, "bell", "stage.py", &[root])?;
        let techniques = director.read().context("read what the techniques say of themselves")?;
        let policies = policies(&sandbox)?;
        Ok(Self { sandbox, director, techniques, policies, attempts: 0 })
    }

    /// What the techniques say of themselves.
    pub fn techniques(&self) -> &Techniques {
        &self.techniques
    }

    /// Sets the scene for a run: the vault, the proxy and the enforcer.
    ///
    /// # Errors
    ///
    /// One of them does not start.
    pub fn open(&mut self, run: Run) -> anyhow::Result<Scene<'_>> {
        let older = Program::serve(&self.sandbox, "vault", "answerer.py", &["7011"])?;
        let serve = |sandbox: &Sandbox| -> anyhow::Result<(Program, Program)> {
            let vault = Program::serve(sandbox, "vault", "answerer.py", &["7001"])?;
            Ok((vault, Program::serve(sandbox, "proxy", "proxy.py", &[])?))
        };
        let (daemon, (vault, proxy)) = match run {
            Run::Bare => (None, serve(&self.sandbox)?),
            Run::Forbidden | Run::Permitted => (Some(self.daemon(|_| {})?), serve(&self.sandbox)?),
            Run::Broken(Fault::Off(hook)) => {
                // After a while the daemon itself would find what the hook has not seen.
                let daemon = self.daemon(|command| {
                    command.env(failpoint::BLIND, "1");
                })?;
                let links = bpftool::links(self.sandbox.cgroup())?;
                let link = links.iter().find(|link| link.name == hook).context("link of the hook")?;
                bpftool::detach(link.link)?;
                (Some(daemon), serve(&self.sandbox)?)
            }
            Run::Broken(Fault::Negated(check)) => {
                // What is broken may be what lets a service bind its port.
                let served = serve(&self.sandbox)?;
                let object = option_env!("NEGATED_OBJECT").context(
                    "negate a check: this was built without the object for it\n\
                     hint: build with `--features enforcer-tests/e2e`",
                )?;
                let daemon = self.daemon(|command| {
                    command.env(failpoint::OBJECT, object);
                    command.env(failpoint::NEGATED, (check as u32).to_string());
                    command.env(failpoint::BLIND, "1");
                })?;
                (Some(daemon), served)
            }
        };
        Ok(Scene { stage: self, daemon, older, vault, proxy })
    }

    /// Starts the enforcer, perhaps with something broken.
    fn daemon(&self, break_something: impl FnOnce(&mut Command)) -> anyhow::Result<Daemon> {
        let mut command = self.sandbox.daemon_command(POLICY)?;
        // A runtime that never tells what a container is.
        let silent = self.sandbox.directory().join("no-runtime.sock");
        command.arg("--runtime").arg(format!("docker={}", silent.display()));
        break_something(&mut command);
        self.sandbox.start_daemon(command)
    }
}

/// The commands that put the usual policy in force, and the one that permits more.
fn policies(sandbox: &Sandbox) -> anyhow::Result<Value> {
    let (enforcer, control) = (binary("enforcer")?, sandbox.control());
    let mut commands = BTreeMap::new();
    for (name, text) in [("usual", POLICY.to_owned()), ("amnesty", format!("{POLICY}{AMNESTY}"))] {
        let policy = sandbox.write_other_policy(name, &text)?;
        commands.insert(name, json!([enforcer, "policy", "apply", policy, "--control", control]));
    }
    Ok(json!(commands))
}

/// Whether a record tells of a live connection that neither end was about to close.
fn is_open(record: &Value) -> bool {
    record["kind"] == "connection" && record["state"] == "open"
}

/// A scene that is set.
pub struct Scene<'a> {
    stage: &'a mut Stage,
    daemon: Option<Daemon>,
    older: Program,
    vault: Program,
    proxy: Program,
}

impl Scene<'_> {
    /// Has an attempt made, by those who may call or by those who may not.
    ///
    /// # Errors
    ///
    /// A program has ended.
    pub fn attempt(
        &mut self,
        cell: &Cell,
        techniques: &[&Technique],
        permitted: bool,
        waits: Duration,
    ) -> anyhow::Result<Outcome> {
        let other = techniques.iter().find_map(|technique| technique.caller.as_deref());
        let cast = if permitted {
            Cast { caller: "clerk", helper: "teller", client: "teller" }
        } else {
            let caller = match other {
                Some("pending") => "pending",
                Some("prober") => "prober",
                Some(_) => "stranger",
                None => "thief",
            };
            Cast { caller, helper: "clerk", client: "clerk" }
        };
        let bell = format!("bell-{}", self.stage.attempts + 1);
        let before = self.daemon.as_ref().map_or(0, |daemon| daemon.records().len());
        self.stage.attempts += 1;
        let order = json!({
            "techniques": cell.techniques,
            "path": cell.path,
            "caller": cast.caller,
            "helper": cast.helper,
            "client": cast.client,
            "patience": u64::try_from(patience(waits).as_millis())?,
            "deadline": u64::try_from(patience(DEADLINE).as_millis())?,
            "token": format!("token-{}", self.stage.attempts),
            "bell": self.daemon.is_some().then_some(&bell),
            "apply": self.daemon.is_some().then_some(&self.stage.policies),
        });
        self.stage.director.write(&order)?;
        let told: Told = self.stage.director.read()?;
        let mut got: Vec<Value> = self.vault.ask()?;
        got.extend(self.older.ask::<Vec<Value>>()?);
        let mut records = Vec::new();
        if let Some(daemon) = &mut self.daemon {
            // What closes live connections tells of them when it has done so.
            let (rung, heard) = (Latch::new(false), Latch::new(!told.closed));
            daemon.wait_for(|record| {
                rung.set(rung.get() || record["process"]["comm"] == bell.as_str());
                heard.set(heard.get() || is_open(record));
                rung.get() && heard.get()
            })?;
            let new = daemon.records().iter().skip(before);
            // The servers may be answering somebody who has not asked, or is gone.
            let servers =
                [&self.older, &self.vault, &self.proxy].map(|server| u64::from(server.child.0.id()));
            let is_its = |record: &&Value| {
                let answers = record["process"]["pid"].as_u64().is_some_and(|pid| servers.contains(&pid));
                // What closes live connections may find some that an attempt before has left behind.
                let is_told = record["kind"] == "attempt" || (told.closed && is_open(record));
                // The bell's raw socket may be handed somebody else's datagram: the kernel enters a socket of a protocol
                // in its list (`inet_create`) before it asks whether it may be made.
                let is_bell = ["source", "destination"].iter().any(|end| record[*end]["service"] == "bell");
                is_told && !is_bell && !answers
            };
            records.extend(new.filter(is_its).cloned());
        }
        Ok(Outcome { cast, told, got, records })
    }

    /// How many refusals the enforcer has counted, by reason; none without one.
    ///
    /// # Errors
    ///
    /// It does not tell.
    pub fn refusals(&self) -> anyhow::Result<BTreeMap<String, u64>> {
        let mut counted = BTreeMap::new();
        if self.daemon.is_none() {
            return Ok(counted);
        }
        let status = self.stage.sandbox.ask_daemon(&["status"])?;
        for decisions in status["decisions"].as_array().context("status without decisions")? {
            if decisions["outcome"] != "allowed" {
                let reason = decisions["reason"].as_str().context("decisions without a reason")?;
                let count = decisions["count"].as_u64().context("decisions without a number")?;
                *counted.entry(reason.to_owned()).or_default() += count;
            }
        }
        Ok(counted)
    }

    /// Ends everything, and returns what the enforcer leaves behind.
    ///
    /// # Errors
    ///
    /// It does not end well.
    pub fn close(self) -> anyhow::Result<Option<Finished>> {
        self.daemon.map(Daemon::stop).transpose()
    }
}

/// Who plays what.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cast {
    /// Who tries.
    pub caller: &'static str,
    /// Somebody else, who may call.
    pub helper: &'static str,
    /// Who calls the vault and is to be intercepted.
    pub client: &'static str,
}

/// What the attempt itself saw.
#[derive(Clone, PartialEq, Debug, Deserialize)]
pub struct Told {
    /// `errno`, `silent`, `answered`, `absent`, `broken`, or a sentence on what should not be.
    pub end: String,
    /// The call that was judged last.
    pub call: String,
    /// How long it took, in milliseconds.
    pub ms: f64,
    /// Processes that took part.
    pub pids: Vec<u64>,
    /// Whether what it had open was closed under it.
    pub closed: bool,
    /// Name of the errno.
    pub errno: Option<String>,
    /// More on what went wrong.
    pub text: Option<String>,
}

/// How an attempt ended, for everybody.
#[derive(Clone, PartialEq, Debug)]
pub struct Outcome {
    /// Who played what.
    pub cast: Cast,
    /// What the attempt itself saw.
    pub told: Told,
    /// What the vault got.
    pub got: Vec<Value>,
    /// What the enforcer recorded.
    pub records: Vec<Value>,
}

impl Outcome {
    /// Whether it was answered.
    pub fn is_answered(&self) -> bool {
        self.told.end == "answered"
    }

    /// Whether anything got to where it was meant to.
    pub fn reached(&self) -> bool {
        !self.got.is_empty() || self.is_answered()
    }

    /// Whether the enforcer had a say in it: it got through, a hook refused it, or one let it go to where nobody listens.
    pub fn is_judged(&self) -> bool {
        self.reached() || !self.records.is_empty() || self.told.errno.as_deref() == Some("ECONNREFUSED")
    }

    /// What a change of shows that something else has decided.
    pub fn signature(&self) -> (&str, Option<&str>, BTreeSet<[String; 3]>) {
        // Whether an answer was waited for long enough says nothing about who decided.
        let end = if self.reached() { "reached" } else { self.told.end.as_str() };
        let word = |record: &Value, name: &str| record[name].as_str().unwrap_or_default().to_owned();
        let told = self.records.iter();
        let decided = told.map(|record| ["hook", "reason", "mode"].map(|name| word(record, name)));
        (end, self.told.errno.as_deref(), decided.collect())
    }
}

/// A Python program that is spoken to in lines.
struct Program {
    child: Killed,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    fn start(sandbox: &Sandbox, cgroup: &str, name: &str, arguments: &[String]) -> anyhow::Result<Self> {
        let script = corpus().join(name);
        let mut command = sandbox.command(cgroup, PYTHON)?;
        // -B: no compiled files beside the sources.
        command.arg("-B").arg(script).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = Killed(sandbox.spawn(command)?);
        let stdin = child.0.stdin.take().context("program without stdin")?;
        let stdout = child.0.stdout.take().context("program without stdout")?;
        Ok(Self { child, stdin, stdout: BufReader::new(stdout) })
    }

    fn serve(sandbox: &Sandbox, cgroup: &str, name: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let arguments: Vec<String> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut program = Self::start(sandbox, cgroup, name, &arguments)?;
        let line = program.line()?;
        ensure!(line == "ready\n", "start {name}: it said {line:?}");
        Ok(program)
    }

    fn ask<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        self.stdin.write_all(b"\n").context("ask program")?;
        self.read()
    }

    fn write(&mut self, order: &Value) -> anyhow::Result<()> {
        writeln!(self.stdin, "{order}").context("tell program what to do")
    }

    fn read<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let line = self.line()?;
        serde_json::from_str(&line).with_context(|| format!("read {line:?}"))
    }

    fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line)?;
        Ok(line)
    }
}

/// The directory of the techniques.
pub fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bypass")
}
