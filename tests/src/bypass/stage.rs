//! Where the corpus is played: a sandbox with the service that must not be reached, and those that try.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::{Cell, Run, Technique, Techniques};
use crate::bpftool;
use crate::sandbox::{Daemon, Finished, Sandbox};
use crate::slowness::patience;

/// Who may call whom. `thief` may not call `vault`, but somebody who may; `bell` may call nobody, and does.
const POLICY: &str = "version: 1
services:
  thief: { match: [{ cgroup: ROOT/thief }, { cgroup: ROOT/pool/thief }] }
  clerk: { match: [{ cgroup: ROOT/clerk }, { cgroup: ROOT/pool/clerk }] }
  teller: { match: [{ cgroup: ROOT/teller }, { cgroup: ROOT/pool/teller }] }
  proxy: { match: [{ cgroup: ROOT/proxy }] }
  bell: { match: [{ cgroup: ROOT/bell }] }
  vault:
    match: [{ cgroup: ROOT/vault }]
    listens: [7001/tcp, 7001/udp, 7009/tcp, 7009/udp, 40001/tcp, 40001/udp]
allow:
  - { name: errand, from: clerk, to: vault }
  - { name: shift, from: teller, to: vault }
  - { name: visit, from: teller, to: clerk }
  - { name: relay, from: proxy, to: vault, ports: [7001/tcp, 7001/udp] }
  - { name: ask, from: [thief, clerk, teller, vault], to: proxy, ports: [7100-7199/tcp, 7100-7199/udp] }
  - { name: notice, from: vault, to: [thief, clerk], ports: [7300/tcp, 7300/udp] }
";

/// Cgroups in the sandbox; that of a stranger is of no service.
const CGROUPS: [&str; 10] = [
    "thief",
    "clerk",
    "teller",
    "proxy",
    "bell",
    "vault",
    "stranger",
    "pool/thief",
    "pool/clerk",
    "pool/teller",
];

/// Debian's own interpreter: another one in the PATH may be a wrapper that starts slowly.
const PYTHON: &str = "/usr/bin/python3";

/// A sandbox with a stage for attempts in it.
pub struct Stage {
    sandbox: Sandbox,
    director: Program,
    techniques: Techniques,
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
        Ok(Self { sandbox, director, techniques, attempts: 0 })
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
        let daemon = match run {
            Run::Bare => None,
            Run::Forbidden | Run::Permitted | Run::Without(_) => Some(self.sandbox.daemon(POLICY)?),
        };
        if let Run::Without(hook) = run {
            let links = bpftool::links(self.sandbox.cgroup())?;
            let link = links.iter().find(|link| link.name == hook.0).context("link of the hook")?;
            bpftool::detach(link.link)?;
        }
        let vault = Program::serve(&self.sandbox, "vault", "answerer.py", &["7001"])?;
        let proxy = Program::serve(&self.sandbox, "proxy", "proxy.py", &[])?;
        // What is broken may be what lets the bell be heard.
        let bell = matches!(run, Run::Forbidden | Run::Permitted);
        Ok(Scene { stage: self, daemon, older, vault, bell, _proxy: proxy })
    }
}

/// A scene that is set.
pub struct Scene<'a> {
    stage: &'a mut Stage,
    daemon: Option<Daemon>,
    older: Program,
    vault: Program,
    bell: bool,
    _proxy: Program,
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
        let other = techniques.iter().find_map(|technique| technique.caller.as_ref());
        let cast = if permitted {
            Cast { caller: "clerk", helper: "teller", client: "teller" }
        } else {
            let caller = if other.is_some() { "stranger" } else { "thief" };
            Cast { caller, helper: "clerk", client: "clerk" }
        };
        let before = self.daemon.as_ref().map_or(0, |daemon| daemon.records().len());
        self.stage.attempts += 1;
        let order = json!({
            "techniques": cell.techniques,
            "path": cell.path,
            "caller": cast.caller,
            "helper": cast.helper,
            "client": cast.client,
            "patience": u64::try_from(patience(waits).as_millis())?,
            "token": format!("token-{}", self.stage.attempts),
            "bell": self.bell,
        });
        self.stage.director.write(&order)?;
        let told: Told = self.stage.director.read()?;
        let mut got: Vec<Value> = self.vault.ask()?;
        got.extend(self.older.ask::<Vec<Value>>()?);
        let mut records = Vec::new();
        if let Some(daemon) = self.daemon.as_mut().filter(|_| self.bell) {
            daemon.wait_for(|record| record["source"]["service"] == "bell")?;
            let new = daemon.records().iter().skip(before);
            records.extend(new.filter(|record| record["source"]["service"] != "bell").cloned());
        }
        Ok(Outcome { cast, told, got, records })
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

    /// What a change of shows that something else has decided.
    pub fn signature(&self) -> (bool, &str, Option<&str>) {
        // Whether an answer was waited for long enough says nothing about who decided.
        let end = if self.reached() { "reached" } else { self.told.end.as_str() };
        (self.reached(), end, self.told.errno.as_deref())
    }
}

/// A Python program that is spoken to in lines.
struct Program {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Program {
    fn start(sandbox: &Sandbox, cgroup: &str, name: &str, arguments: &[String]) -> anyhow::Result<Self> {
        let script = corpus().join(name);
        let mut command = sandbox.command(cgroup, PYTHON)?;
        // -B: no compiled files beside the sources.
        command.arg("-B").arg(script).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = sandbox.spawn(command)?;
        let stdin = child.stdin.take().context("program without stdin")?;
        let stdout = child.stdout.take().context("program without stdout")?;
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

impl Drop for Program {
    fn drop(&mut self) {
        let ended = self.child.kill().and_then(|()| self.child.wait());
        if let Err(err) = ended {
            tracing::error!("end process {}: {err}", self.child.id());
        }
    }
}

/// The directory of the techniques.
pub fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("bypass")
}
