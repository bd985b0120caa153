//! A cgroup subtree and a network namespace of a test's own, with processes in them, gone when it is dropped.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use enforcer::kernel::feature::cgroup2_mount;
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tempfile::TempDir;

use crate::actor::{Reply, Request};
use crate::slowness::patience;

/// How long an event may take that is awaited. Reached only when a test fails.
const DEADLINE: Duration = Duration::from_secs(20);

/// A cgroup subtree, a network namespace with its loopback device up, and a directory.
pub struct Sandbox {
    cgroup: PathBuf,
    /// The subtree's path from the top of the tree.
    path: String,
    netns: File,
    directory: TempDir,
}

impl Sandbox {
    /// Makes one, named after the test and this process.
    ///
    /// # Errors
    ///
    /// This process is not root, or cgroup v2 is not mounted.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        let path = format!("/enforcer-test-{name}-{}", std::process::id());
        let cgroup = cgroup2_mount()?.join(path.trim_start_matches('/'));
        fs::create_dir(&cgroup).with_context(|| format!("create cgroup {}", cgroup.display()))?;
        let directory = TempDir::with_prefix("enforcer-test-")?;
        // From here on a failure is cleaned up by `Drop`, but for the namespace, which the kernel closes itself.
        let netns = network_namespace()?;
        Ok(Self { cgroup, path, netns, directory })
    }

    /// The directory of the subtree's root.
    pub fn cgroup(&self) -> &Path {
        &self.cgroup
    }

    /// The path of a cgroup below the root, from the top of the tree, as policies and records have it.
    pub fn path_of(&self, name: &str) -> String {
        format!("{}/{name}", self.path)
    }

    /// A directory for files of the test.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Makes a cgroup below the root, if it is not there yet.
    ///
    /// # Errors
    ///
    /// The directory cannot be made.
    pub fn make_cgroup(&self, name: &str) -> anyhow::Result<PathBuf> {
        let cgroup = self.cgroup.join(name);
        fs::create_dir_all(&cgroup).with_context(|| format!("create cgroup {}", cgroup.display()))?;
        Ok(cgroup)
    }

    /// Writes the policy of this sandbox, and returns the directory it is in. `ROOT` in it stands for the path of the
    /// subtree.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write_policy(&self, text: &str) -> anyhow::Result<PathBuf> {
        let directory = self.directory().join("policy");
        fs::create_dir_all(&directory)?;
        // A reload must never see half a file.
        let fresh = directory.join(".policy.yaml");
        fs::write(&fresh, text.replace("ROOT", &self.path))?;
        fs::rename(&fresh, directory.join("policy.yaml"))?;
        Ok(directory)
    }

    /// Starts an actor in the cgroup `name` below the root.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn actor(&self, name: &str) -> anyhow::Result<Actor> {
        let cgroup = self.make_cgroup(name)?;
        let mut command = Command::new(binary("enforcer-actor")?);
        command.arg(&cgroup).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = self.spawn(command)?;
        let stdin = child.stdin.take().context("actor without stdin")?;
        let stdout = child.stdout.take().context("actor without stdout")?;
        Ok(Actor { child: Killed(child), stdin, stdout: BufReader::new(stdout) })
    }

    /// A command that runs `program` in the cgroup `name` below the root; to be given to [`Sandbox::spawn`].
    ///
    /// # Errors
    ///
    /// The cgroup cannot be made.
    pub fn command(&self, name: &str, program: impl AsRef<std::ffi::OsStr>) -> anyhow::Result<Command> {
        let cgroup = self.make_cgroup(name)?;
        let mut command = Command::new(binary("enforcer-actor")?);
        command.arg(cgroup).arg("exec").arg(program);
        Ok(command)
    }

    /// Starts a command in this sandbox's network namespace.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn spawn(&self, mut command: Command) -> anyhow::Result<Child> {
        let netns = self.netns.try_clone()?;
        // A namespace is a thread's, and passes to what the thread starts.
        let spawned = thread::spawn(move || {
            setns(netns, CloneFlags::CLONE_NEWNET)?;
            command.spawn().with_context(|| format!("start {command:?}"))
        });
        spawned.join().map_err(|_panic| anyhow!("start command: the thread panicked"))?
    }

    /// Runs a command in the cgroup `name` to its end, with its output.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn output(&self, mut command: Command) -> anyhow::Result<std::process::Output> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(self.spawn(command)?.wait_with_output()?)
    }

    /// Starts the daemon over this sandbox's subtree, and waits until it enforces.
    ///
    /// # Errors
    ///
    /// It does not start; its words are in the error.
    pub fn daemon(&self, policy: &str) -> anyhow::Result<Daemon> {
        self.daemon_with(policy, &[])
    }

    /// The same, with further arguments.
    ///
    /// # Errors
    ///
    /// It does not start; its words are in the error.
    pub fn daemon_with(&self, policy: &str, arguments: &[&str]) -> anyhow::Result<Daemon> {
        let policy = self.write_policy(policy)?;
        let mut command = Command::new(binary("enforcer")?);
        command.arg("run").arg("--policy").arg(policy).arg("--cgroup-root").arg(&self.cgroup).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn(command)?;
        let stdout = child.stdout.take().context("daemon without stdout")?;
        let stderr = child.stderr.take().context("daemon without stderr")?;
        let words = thread::spawn(move || std::io::read_to_string(stderr).unwrap_or_default());
        let mut daemon =
            Daemon { child: Killed(child), incoming: lines(stdout), records: Vec::new(), words: Some(words) };
        match daemon.wait_for(|record| record["kind"] == "start") {
            Ok(_) => Ok(daemon),
            Err(err) => {
                drop(daemon.child);
                let words = daemon.words.and_then(|words| words.join().ok()).unwrap_or_default();
                Err(err.context(format!("start daemon: it said:\n{words}")))
            }
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Err(err) = remove_tree(&self.cgroup) {
            // A panic in here would hide the failure that is being unwound; the log of the run keeps the word.
            tracing::error!("remove {}: {err:#}", self.cgroup.display());
        }
    }
}

/// Kills what is left in a subtree and removes it.
///
/// # Errors
///
/// Something in it does not go away.
pub fn remove_tree(cgroup: &Path) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        // 5.14 and later; before, the processes are signalled one by one.
        if fs::write(cgroup.join("cgroup.kill"), "1").is_err() {
            signal_tree(cgroup)?;
        }
        match remove_directories(cgroup) {
            Ok(()) => return Ok(()),
            Err(err) if start.elapsed() > patience(DEADLINE) => return Err(err.into()),
            // A killed process leaves its cgroup a moment later, and nothing tells when.
            Err(_) => thread::yield_now(),
        }
    }
}

fn signal_tree(cgroup: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            signal_tree(&entry.path())?;
        }
    }
    for pid in fs::read_to_string(cgroup.join("cgroup.procs"))?.lines() {
        match kill(Pid::from_raw(pid.parse()?), Signal::SIGKILL) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(())
}

fn remove_directories(cgroup: &Path) -> std::io::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            remove_directories(&entry.path())?;
        }
    }
    fs::remove_dir(cgroup)
}

/// A process that is killed when it is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let ended = self.0.kill().and_then(|()| self.0.wait());
        if let Err(err) = ended {
            tracing::error!("end process {}: {err}", self.0.id());
        }
    }
}

/// A process in a cgroup that does with sockets what it is told.
pub struct Actor {
    child: Killed,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Actor {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Has it do something, and returns what it saw.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn ask(&mut self, request: &Request) -> anyhow::Result<Reply> {
        let mut line = serde_json::to_vec(request)?;
        line.push(b'\n');
        self.stdin.write_all(&line).context("ask actor")?;
        let mut answer = String::new();
        ensure!(self.stdout.read_line(&mut answer)? > 0, "ask actor: it has ended");
        Ok(serde_json::from_str(&answer)?)
    }
}

/// A running enforcer, and the records it writes.
pub struct Daemon {
    child: Killed,
    incoming: Receiver<String>,
    records: Vec<Value>,
    words: Option<thread::JoinHandle<String>>,
}

impl Daemon {
    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.0.id()
    }

    /// Every record read so far.
    pub fn records(&self) -> &[Value] {
        &self.records
    }

    /// Waits for a record that was not there before the call, and returns it; also one that is written meanwhile.
    ///
    /// # Errors
    ///
    /// It does not come.
    pub fn wait_for(&mut self, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let start = Instant::now();
        loop {
            let left = patience(DEADLINE).saturating_sub(start.elapsed());
            match self.incoming.recv_timeout(left) {
                Ok(line) => {
                    let record: Value =
                        serde_json::from_str(&line).with_context(|| format!("read record {line}"))?;
                    self.records.push(record.clone());
                    if wanted(&record) {
                        return Ok(record);
                    }
                }
                Err(RecvTimeoutError::Timeout) => {
                    bail!("wait for a record: it did not come; there are:\n{}", self.told());
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("wait for a record: the daemon has ended; there are:\n{}", self.told());
                }
            }
        }
    }

    /// Replaces the policy, has it reloaded, and waits until it is in force or refused.
    ///
    /// # Errors
    ///
    /// The daemon does not answer.
    pub fn reload(&mut self, sandbox: &Sandbox, policy: &str) -> anyhow::Result<Value> {
        sandbox.write_policy(policy)?;
        self.signal(Signal::SIGHUP)?;
        self.wait_for(|record| record["kind"] == "policy")
    }

    /// Sends a signal.
    ///
    /// # Errors
    ///
    /// The daemon has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill(Pid::from_raw(i32::try_from(self.pid())?), signal)?)
    }

    /// Stops the daemon, and returns everything it wrote and said.
    ///
    /// # Errors
    ///
    /// It does not stop, or not well.
    pub fn stop(mut self) -> anyhow::Result<Finished> {
        self.signal(Signal::SIGTERM)?;
        let stop = self.wait_for(|record| record["kind"] == "stop")?;
        let status = self.child.0.wait()?;
        let words = self.words.take().and_then(|words| words.join().ok()).unwrap_or_default();
        ensure!(status.success(), "stop daemon: {status}; it said:\n{words}");
        Ok(Finished { records: std::mem::take(&mut self.records), stop, words })
    }

    fn told(&self) -> String {
        self.records.iter().map(|record| format!("{record}\n")).collect()
    }
}

/// What a daemon leaves behind.
pub struct Finished {
    /// Every record, in their order.
    pub records: Vec<Value>,
    /// The last one, with the totals.
    pub stop: Value,
    /// What it logged.
    pub words: String,
}

impl Finished {
    /// The records of attempts.
    pub fn attempts(&self) -> impl Iterator<Item = &Value> {
        self.records.iter().filter(|record| record["kind"] == "attempt")
    }

    /// Fails unless the records and the kernel's counters tell the same story: every event that was produced was
    /// written or counted as lost, sequence numbers have no gap, and denials number as many as their records.
    ///
    /// # Errors
    ///
    /// What does not add up.
    pub fn check_totals(&self) -> anyhow::Result<()> {
        let total =
            |name: &str| self.stop[name].as_u64().with_context(|| format!("stop record without {name}"));
        let attempts = u64::try_from(self.attempts().count())?;
        ensure!(total("events_written")? == attempts, "{attempts} attempts, but {}", self.stop);
        ensure!(
            total("events_produced")? == attempts + total("events_lost")?,
            "produced is not written plus lost: {}",
            self.stop
        );
        let mut kinds: HashMap<(&str, &str), u64> = HashMap::new();
        for record in self.attempts() {
            let key = (record["verdict"].as_str().unwrap_or(""), record["mode"].as_str().unwrap_or(""));
            *kinds.entry(key).or_default() += 1;
        }
        if total("events_lost")? == 0 {
            let count = |verdict, mode| kinds.get(&(verdict, mode)).copied().unwrap_or(0);
            ensure!(total("denied")? == count("deny", "enforce"), "{kinds:?}, but {}", self.stop);
            ensure!(total("would_deny")? == count("deny", "audit"), "{kinds:?}, but {}", self.stop);
        }
        for (number, record) in (1_u64..).zip(&self.records) {
            ensure!(record["sequence"].as_u64() == Some(number), "sequence {number} is not {record}");
        }
        Ok(())
    }
}

fn lines(stream: ChildStdout) -> Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    receiver
}

fn network_namespace() -> anyhow::Result<File> {
    let made = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
        let up = Command::new("ip").args(["link", "set", "lo", "up"]).status().context("run ip")?;
        ensure!(up.success(), "bring the loopback device up: {up}");
        File::open("/proc/thread-self/ns/net").context("open the network namespace")
    });
    made.join().map_err(|_panic| anyhow!("make a network namespace: the thread panicked"))?
}

/// A program of this workspace, beside the one that runs.
///
/// # Errors
///
/// It has not been built.
pub fn binary(name: &str) -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let found =
        this.ancestors().skip(1).take(2).map(|directory| directory.join(name)).find(|path| path.is_file());
    found.with_context(|| format!("find program {name}: run `cargo build --workspace --bins` first"))
}
