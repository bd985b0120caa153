//! A cgroup subtree and a network namespace of a test's own, with processes in them, gone when it is dropped.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
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
use socket2::{Domain, Protocol, Socket, Type};
use tempfile::TempDir;

use crate::actor::{Reply, Request};
use crate::slowness::patience;

/// How long an event may take that is awaited. Reached only when a test fails.
const DEADLINE: Duration = Duration::from_secs(20);

/// Debian's own interpreter, which has the tests that Debian packages; another one in the PATH may be a wrapper that starts slowly.
pub const PYTHON: &str = "/usr/bin/python3";

/// A cgroup subtree, a network namespace with its loopback device up, and a directory.
pub struct Sandbox {
    cgroup: PathBuf,
    /// The subtree's path from the top of the tree.
    path: String,
    netns: File,
    directory: TempDir,
    /// Whether a Ctrl-C on the terminal is kept from the processes in here.
    shielded: bool,
}

impl Sandbox {
    /// Makes one, named after the test and this process.
    ///
    /// # Errors
    ///
    /// This process is not root, or cgroup v2 is not mounted.
    pub fn new(name: &str) -> anyhow::Result<Self> {
        Self::named(&format!("enforcer-test-{name}"), false)
    }

    /// Makes one named after the demo and this process. Its processes are no part of the terminal's foreground, so that
    /// a Ctrl-C is this process's alone to handle.
    ///
    /// # Errors
    ///
    /// This process is not root, or cgroup v2 is not mounted.
    pub fn demo() -> anyhow::Result<Self> {
        Self::named("enforcer-demo", true)
    }

    fn named(name: &str, shielded: bool) -> anyhow::Result<Self> {
        let path = format!("/{name}-{}", std::process::id());
        let cgroup = cgroup2_mount()?.join(path.trim_start_matches('/'));
        fs::create_dir(&cgroup).with_context(|| format!("create cgroup {}", cgroup.display()))?;
        let made = Self::fill(&cgroup, &path, name, shielded);
        if made.is_err() {
            remove_tree(&cgroup)?;
        }
        made
    }

    fn fill(cgroup: &Path, path: &str, name: &str, shielded: bool) -> anyhow::Result<Self> {
        let directory = TempDir::with_prefix(format!("{name}-"))?;
        let netns = network_namespace()?;
        Ok(Self { cgroup: cgroup.to_path_buf(), path: path.to_owned(), netns, directory, shielded })
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
        self.write_other_policy("policy", text)
    }

    /// The same, to a directory of this name.
    ///
    /// # Errors
    ///
    /// The file cannot be written.
    pub fn write_other_policy(&self, name: &str, text: &str) -> anyhow::Result<PathBuf> {
        let directory = self.directory().join(name);
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
        actor_in(&self.netns, &self.make_cgroup(name)?)
    }

    /// Starts an actor in a cgroup below the root, by its directory, whose name need be no text.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn actor_at(&self, cgroup: &Path) -> anyhow::Result<Actor> {
        actor_in(&self.netns, cgroup)
    }

    /// Starts an actor in the cgroup `name` below the root and in the network namespace of a process.
    ///
    /// # Errors
    ///
    /// It cannot be started, or that process has ended.
    pub fn actor_beside(&self, process: u32, name: &str) -> anyhow::Result<Actor> {
        let path = format!("/proc/{process}/ns/net");
        let netns = File::open(&path).with_context(|| format!("open {path}"))?;
        actor_in(&netns, &self.make_cgroup(name)?)
    }

    /// Makes another host and a cable to it: its addresses are reached through it alone. To be called before the daemon
    /// starts, so that it finds this end of the cable.
    ///
    /// # Errors
    ///
    /// This process is not root, or `ip` does not do what it is told.
    pub fn neighbour(&self, addresses: &[IpAddr]) -> anyhow::Result<Neighbour> {
        let name = self.path.trim_start_matches('/');
        let cgroup = self.cgroup.with_file_name(format!("{name}-neighbour"));
        fs::create_dir(&cgroup).with_context(|| format!("create cgroup {}", cgroup.display()))?;
        let neighbour = Neighbour { cgroup, netns: network_namespace()? };
        // A device is given to a namespace by a process in it.
        let there = neighbour.actor()?;
        let (near, near6) = (Neighbour::NEAR, Neighbour::NEAR6);
        let (far, far6) = (Neighbour::FAR, Neighbour::FAR6);
        // A device of a kind that leads out of a host, since the end of a cable would be one of this host. That end does not
        // answer for it, so that nothing comes by the cable itself.
        let mut script = format!(
            "link add cable type veth peer name far netns {}\nlink set cable arp off up\n\
             link add near link cable type macvlan mode bridge\nlink set near up\n\
             address add {near}/30 dev near\naddress add {near6}/64 dev near nodad\n",
            there.pid()
        );
        ip(&self.netns, &script)?;
        script =
            format!("link set far up\naddress add {far}/30 dev far\naddress add {far6}/64 dev far nodad\n");
        for address in addresses {
            script += &match address {
                IpAddr::V4(v4) => format!("address add {v4}/32 dev far\n"),
                IpAddr::V6(v6) => format!("address add {v6}/128 dev far nodad\n"),
            };
        }
        ip(&neighbour.netns, &script)?;
        ip(&self.netns, &format!("route add default via {far}\nroute add default via {far6}\n"))?;
        Ok(neighbour)
    }

    /// Makes a network namespace of this host, with a cable to a bridge, which is made with the first. `number` is the
    /// last part of its addresses, from 2 on.
    ///
    /// # Errors
    ///
    /// This process is not root, or `ip` does not do what it is told.
    pub fn container(&self, number: u8) -> anyhow::Result<Container<'_>> {
        let address = Ipv4Addr::new(172, 30, 0, number);
        let container = Container { sandbox: self, netns: network_namespace()?, address };
        let (host, host6, address6) = (Container::HOST, Container::HOST6, container.address6());
        if !self.output_of_ip(&["link", "show", "bridge"])? {
            ip(
                &self.netns,
                &format!(
                    "link add bridge type bridge\naddress add {host}/24 dev bridge\naddress add {host6}/64 dev bridge \
                     nodad\nlink set bridge up\n"
                ),
            )?;
        }
        container.join(&format!("cable{number}"))?;
        self.ip(&format!("link set cable{number} master bridge up\n"))?;
        container.ip(&format!(
            "link set eth0 up\naddress add {address}/24 dev eth0\naddress add {address6}/64 dev eth0 nodad\n\
             route add default via {host}\nroute add default via {host6}\n"
        ))?;
        Ok(container)
    }

    /// Makes a network namespace of this host that is reached by a route alone: this end of its cable has no address. It has
    /// none of IPv6, and knows the sandbox as [`Container::BEHIND`].
    ///
    /// # Errors
    ///
    /// This process is not root, or `ip` does not do what it is told.
    pub fn routed_container(&self, number: u8) -> anyhow::Result<Container<'_>> {
        let address = Ipv4Addr::new(10, 30, 0, number);
        let container = Container { sandbox: self, netns: network_namespace()?, address };
        let host = Container::BEHIND;
        container.join(&format!("route{number}"))?;
        self.ip(&format!(
            "address replace {host}/32 dev lo\nlink set route{number} up\nroute add {address}/32 dev route{number}\n"
        ))?;
        container.ip(&format!(
            "link set eth0 up\naddress add {address}/32 dev eth0\nroute add {host}/32 dev eth0\n"
        ))?;
        Ok(container)
    }

    /// Whether `ip` does what it is asked.
    fn output_of_ip(&self, arguments: &[&str]) -> anyhow::Result<bool> {
        let mut command = Command::new("ip");
        command.args(arguments);
        Ok(self.output(command)?.status.success())
    }

    /// Has `nft` take a rule set in this sandbox's namespace.
    ///
    /// # Errors
    ///
    /// It does not.
    pub fn nft(&self, rules: &str) -> anyhow::Result<()> {
        let mut command = Command::new("nft");
        command.args(["-f", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.spawn(command)?;
        child.stdin.take().context("nft without stdin")?.write_all(rules.as_bytes())?;
        let output = child.wait_with_output()?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "run nft: {}: {words}of:\n{rules}", output.status);
        Ok(())
    }

    /// Has `ip` do every line of `script` in this sandbox's namespace.
    ///
    /// # Errors
    ///
    /// It does not.
    pub fn ip(&self, script: &str) -> anyhow::Result<()> {
        ip(&self.netns, script)
    }

    /// Has what is sent over loopback in this sandbox's network namespace wait its turn: so many bits a second pass.
    ///
    /// # Errors
    ///
    /// The kernel has no such queue.
    pub fn slow_down(&self, bits_a_second: u32) -> anyhow::Result<()> {
        let rate = format!("{bits_a_second}bit");
        let mut tc = Command::new("tc");
        tc.args(["qdisc", "add", "dev", "lo", "root", "tbf", "rate", &rate]);
        tc.args(["burst", "1600", "latency", "60s", "mtu", "70000"]);
        ensure!(self.spawn(tc)?.wait()?.success(), "slow loopback down");
        Ok(())
    }

    /// Sets a kernel parameter, given by its path below `/proc/sys`, in this sandbox's network namespace.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub fn set(&self, parameter: &str, value: &str) -> anyhow::Result<()> {
        let mut tee = Command::new("tee");
        tee.arg(Path::new("/proc/sys").join(parameter)).stdin(Stdio::piped()).stdout(Stdio::null());
        let mut child = self.spawn(tee)?;
        child.stdin.take().context("tee without stdin")?.write_all(value.as_bytes())?;
        ensure!(child.wait()?.success(), "set {parameter} to {value}");
        Ok(())
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
        if self.shielded {
            command.process_group(0);
        }
        spawn_in(&self.netns, command)
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
        let mut command = self.daemon_command(policy)?;
        command.args(arguments);
        self.start_daemon(command)
    }

    /// Asks the daemon of this sandbox by a verb of the command line.
    ///
    /// # Errors
    ///
    /// It does not answer.
    pub fn ask_daemon(&self, verb: &[&str]) -> anyhow::Result<Value> {
        let mut command = Command::new(binary("enforcer")?);
        command.args(verb).arg("--control").arg(self.control()).args(["-o", "json"]);
        let output = self.output(command)?;
        let words = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "enforcer {verb:?}: {}: {words}", output.status);
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// The command that [`Sandbox::daemon`] runs, for tests that change it.
    ///
    /// # Errors
    ///
    /// The policy cannot be written.
    pub fn daemon_command(&self, policy: &str) -> anyhow::Result<Command> {
        let mut command = self.watching_command(policy)?;
        // Most tests say when a policy is to be reloaded.
        command.arg("--no-watch");
        Ok(command)
    }

    /// The same, of a daemon that notices by itself that the policy has changed.
    ///
    /// # Errors
    ///
    /// The policy cannot be written.
    pub fn watching_command(&self, policy: &str) -> anyhow::Result<Command> {
        let policy = self.write_policy(policy)?;
        let mut command = Command::new(binary("enforcer")?);
        command.arg("run").arg("--policy").arg(policy).arg("--cgroup-root").arg(&self.cgroup);
        command.arg("--detach-on-exit").arg("--control").arg(self.control());
        Ok(command)
    }

    /// The command of a daemon whose enforcement outlives it, until the sandbox is dropped. `policy` may be what is there
    /// already.
    ///
    /// # Errors
    ///
    /// The policy cannot be written.
    pub fn staying_command(&self, policy: &Path) -> anyhow::Result<Command> {
        let mut command = Command::new(binary("enforcer")?);
        command.arg("run").arg("--policy").arg(policy).arg("--cgroup-root").arg(&self.cgroup);
        command.arg("--pin-dir").arg(self.pins()).arg("--state-dir").arg(self.state());
        command.arg("--control").arg(self.control()).arg("--no-watch");
        Ok(command)
    }

    /// Where such a daemon pins.
    pub fn pins(&self) -> PathBuf {
        Path::new("/sys/fs/bpf").join(self.path.trim_start_matches('/'))
    }

    /// Where such a daemon keeps its state.
    pub fn state(&self) -> PathBuf {
        self.directory().join("state")
    }

    /// Where the control socket of this sandbox's daemon is.
    pub fn control(&self) -> PathBuf {
        self.directory().join("control.sock")
    }

    /// Runs `enforcer` with these arguments against this sandbox's daemon, to its end.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn ask(&self, arguments: &[&str]) -> anyhow::Result<std::process::Output> {
        let mut command = Command::new(binary("enforcer")?);
        command.args(arguments).arg("--control").arg(self.control());
        self.output(command)
    }

    /// Starts the daemon by a command, and waits until it enforces. Its audit log must be its standard output.
    ///
    /// # Errors
    ///
    /// It does not start; its words are in the error.
    pub fn start_daemon(&self, mut command: Command) -> anyhow::Result<Daemon> {
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
        // The pins first: a link would outlive its cgroup.
        let pins = self.pins();
        if pins.exists()
            && let Err(err) = fs::remove_dir_all(&pins)
        {
            tracing::error!("remove {}: {err}", pins.display());
        }
        if let Err(err) = remove_tree(&self.cgroup) {
            // A panic in here would hide the failure that is being unwound; the log of the run keeps the word.
            tracing::error!("remove {}: {err:#}", self.cgroup.display());
        }
    }
}

/// A network namespace of this host at a bridge, as containers have, with cgroups of the sandbox in it.
pub struct Container<'a> {
    sandbox: &'a Sandbox,
    netns: File,
    address: Ipv4Addr,
}

impl Container<'_> {
    /// The sandbox's address on the bridge.
    pub const HOST: Ipv4Addr = Ipv4Addr::new(172, 30, 0, 1);
    /// Likewise.
    pub const HOST6: Ipv6Addr = Ipv6Addr::new(0xfd00, 30, 0, 0, 0, 0, 0, 1);
    /// The sandbox's address where no bridge leads to it.
    pub const BEHIND: Ipv4Addr = Ipv4Addr::new(10, 30, 1, 1);

    /// Lays a cable from the sandbox, where its end is called `name`, to this namespace, where it is `eth0`.
    fn join(&self, name: &str) -> anyhow::Result<()> {
        // A device is given to a namespace by a process in it, which is of no part of the subtree.
        let mut command = Command::new("cat");
        command.stdin(Stdio::piped()).stdout(Stdio::null());
        let holder = Killed(spawn_in(&self.netns, command)?);
        self.sandbox.ip(&format!("link add {name} type veth peer name eth0 netns {}\n", holder.0.id()))
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        self.address
    }

    /// Likewise.
    pub fn address6(&self) -> Ipv6Addr {
        let [_, _, _, last] = self.address.octets();
        Ipv6Addr::new(0xfd00, 30, 0, 0, 0, 0, 0, last.into())
    }

    /// Starts an actor in this namespace, in the cgroup `name` of the sandbox.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn actor(&self, name: &str) -> anyhow::Result<Actor> {
        actor_in(&self.netns, &self.sandbox.make_cgroup(name)?)
    }

    /// Has `ip` do every line of `script` in this namespace.
    ///
    /// # Errors
    ///
    /// It does not.
    pub fn ip(&self, script: &str) -> anyhow::Result<()> {
        ip(&self.netns, script)
    }
}

/// Another host: a network namespace and a cgroup that are no part of the sandbox, at the other end of a cable.
pub struct Neighbour {
    cgroup: PathBuf,
    netns: File,
}

impl Neighbour {
    /// The sandbox's address on the cable.
    pub const NEAR: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 1);
    /// Likewise.
    pub const NEAR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 1);
    /// The neighbour's address on the cable.
    pub const FAR: Ipv4Addr = Ipv4Addr::new(100, 64, 0, 2);
    /// Likewise.
    pub const FAR6: Ipv6Addr = Ipv6Addr::new(0xfd00, 7, 0, 0, 0, 0, 0, 2);

    /// Starts an actor on this host.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn actor(&self) -> anyhow::Result<Actor> {
        actor_in(&self.netns, &self.cgroup)
    }

    /// Runs a program on this host to its end.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn output<S: AsRef<std::ffi::OsStr>>(
        &self,
        program: &str,
        arguments: &[S],
    ) -> anyhow::Result<std::process::Output> {
        let mut command = Command::new(binary("enforcer-actor")?);
        command.arg(&self.cgroup).arg("exec").arg(program).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Ok(spawn_in(&self.netns, command)?.wait_with_output()?)
    }
}

impl Drop for Neighbour {
    fn drop(&mut self) {
        if let Err(err) = remove_tree(&self.cgroup) {
            tracing::error!("remove {}: {err:#}", self.cgroup.display());
        }
    }
}

fn actor_in(netns: &File, cgroup: &Path) -> anyhow::Result<Actor> {
    let mut command = Command::new(binary("enforcer-actor")?);
    command.arg(cgroup).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = spawn_in(netns, command)?;
    let stdin = child.stdin.take().context("actor without stdin")?;
    let stdout = child.stdout.take().context("actor without stdout")?;
    Ok(Actor { child: Killed(child), stdin, stdout: BufReader::new(stdout) })
}

fn spawn_in(netns: &File, mut command: Command) -> anyhow::Result<Child> {
    let netns = netns.try_clone()?;
    // A namespace is a thread's, and passes to what the thread starts.
    let spawned = thread::spawn(move || {
        setns(netns, CloneFlags::CLONE_NEWNET)?;
        command.spawn().with_context(|| format!("start {command:?}"))
    });
    spawned.join().map_err(|_panic| anyhow!("start command: the thread panicked"))?
}

/// Has `ip` do every line of `script` in a namespace.
fn ip(netns: &File, script: &str) -> anyhow::Result<()> {
    let mut command = Command::new("ip");
    command.args(["-batch", "-"]).stdin(Stdio::piped()).stderr(Stdio::piped());
    let mut child = spawn_in(netns, command)?;
    child.stdin.take().context("ip without stdin")?.write_all(script.as_bytes())?;
    let output = child.wait_with_output()?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "run ip: {}: {words}of:\n{script}", output.status);
    Ok(())
}

/// A command of the daemon, run by a process that never has CAP_SYS_ADMIN.
pub fn without_sys_admin(command: &Command) -> Command {
    without("-sys_admin", command)
}

/// The same, run by a process that never has these capabilities, as `setpriv` takes them.
pub fn without(capabilities: &str, command: &Command) -> Command {
    let mut without = Command::new("setpriv");
    without
        .arg("--bounding-set")
        .args([capabilities, "--"])
        .arg(command.get_program())
        .args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => without.env(name, value),
            None => without.env_remove(name),
        };
    }
    without
}

/// Kills what is left in a subtree and removes it.
///
/// # Errors
///
/// Something in it does not go away.
pub fn remove_tree(cgroup: &Path) -> anyhow::Result<()> {
    let start = Instant::now();
    loop {
        kill_tree(cgroup)?;
        match remove_directories(cgroup) {
            Ok(()) => return Ok(()),
            Err(err) if start.elapsed() > patience(DEADLINE) => return Err(err.into()),
            // A killed process leaves its cgroup a moment later, and nothing tells when.
            Err(_) => thread::yield_now(),
        }
    }
}

/// Kills every process in a subtree; they are gone a moment later.
///
/// # Errors
///
/// The subtree cannot be read.
pub fn kill_tree(cgroup: &Path) -> anyhow::Result<()> {
    // 5.14 and later; before, the processes are signalled one by one.
    match fs::write(cgroup.join("cgroup.kill"), "1") {
        Ok(()) => Ok(()),
        Err(_) => signal_tree(cgroup),
    }
}

fn signal_tree(cgroup: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(cgroup)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            signal_tree(&entry.path())?;
        }
    }
    // The kernel lists no processes where threads have cgroups of their own; the signal ends a thread's process.
    for thread in fs::read_to_string(cgroup.join("cgroup.threads"))?.lines() {
        match kill(Pid::from_raw(thread.parse()?), Signal::SIGKILL) {
            Ok(()) | Err(nix::errno::Errno::ESRCH) => {}
            Err(err) => return Err(err.into()),
        }
    }
    Ok(())
}

/// Removes directories from the innermost on, one open at a time, since their paths may be longer than any call takes.
fn remove_directories(cgroup: &Path) -> std::io::Result<()> {
    let mut open = File::open(cgroup)?;
    let mut children = directories(&open)?;
    let mut above = Vec::new();
    loop {
        if let Some(child) = children.pop() {
            let below = File::open(within(&open).join(&child))?;
            let listed = directories(&below)?;
            above.push((child, std::mem::replace(&mut children, listed)));
            open = below;
        } else if let Some((emptied, others)) = above.pop() {
            open = File::open(within(&open).join(".."))?;
            fs::remove_dir(within(&open).join(emptied))?;
            children = others;
        } else {
            return fs::remove_dir(cgroup);
        }
    }
}

/// A short path of a directory that is open.
fn within(open: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", open.as_raw_fd()))
}

fn directories(open: &File) -> std::io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(within(open))? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            names.push(entry.file_name());
        }
    }
    Ok(names)
}

/// A process that is killed when it is dropped.
pub struct Killed(pub Child);

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

    /// Waits for the daemon to end after a signal that lets it say nothing more.
    ///
    /// # Errors
    ///
    /// It cannot be waited for.
    pub fn wait(mut self) -> anyhow::Result<std::process::ExitStatus> {
        Ok(self.child.0.wait()?)
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

    /// The records of connections that were live already.
    pub fn connections(&self) -> impl Iterator<Item = &Value> {
        self.records.iter().filter(|record| record["kind"] == "connection")
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
            total("events_produced")? == attempts + total("events_lost")? + total("events_waiting")?,
            "produced is not written plus lost plus waiting: {}",
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
        let closed = self.connections().filter(|record| record["action"] == "closed").count();
        ensure!(total("connections_closed")? == u64::try_from(closed)?, "{closed} closed, but {}", self.stop);
        let is_own = |record: &&Value| {
            ["container", "policy", "connection", "tamper"]
                .contains(&record["kind"].as_str().unwrap_or_default())
        };
        let own = u64::try_from(self.records.iter().filter(is_own).count())?;
        ensure!(total("records_written")? == own, "{own} of the daemon's own, but {}", self.stop);
        ensure!(
            total("records_made")? == own + total("records_lost")?,
            "made is not written plus lost: {}",
            self.stop
        );
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
        loopback_up().context("bring the loopback device up")?;
        File::open("/proc/thread-self/ns/net").context("open the network namespace")
    });
    made.join().map_err(|_panic| anyhow!("make a network namespace: the thread panicked"))?
}

/// Says `ip link set lo up` to the kernel, without need of that program.
fn loopback_up() -> anyhow::Result<()> {
    // Of include/uapi/linux/netlink.h, rtnetlink.h and if.h.
    const RTM_NEWLINK: u16 = 16;
    const NLM_F_REQUEST_ACK: u16 = 1 | 4;
    const NLMSG_ERROR: u16 = 2;
    const IFF_UP: u32 = 1;
    // The loopback device is the first of every namespace.
    const LOOPBACK: i32 = 1;
    let mut request = Vec::new();
    // struct nlmsghdr: length, type, flags, sequence, sender.
    request.extend(32_u32.to_ne_bytes());
    request.extend(RTM_NEWLINK.to_ne_bytes());
    request.extend(NLM_F_REQUEST_ACK.to_ne_bytes());
    request.extend([0; 8]);
    // struct ifinfomsg: family and type, index, flags, which of them to change.
    request.extend([0; 4]);
    request.extend(LOOPBACK.to_ne_bytes());
    request.extend(IFF_UP.to_ne_bytes());
    request.extend(IFF_UP.to_ne_bytes());

    let netlink = Domain::from(nix::libc::AF_NETLINK);
    let socket = Socket::new(netlink, Type::RAW, Some(Protocol::from(nix::libc::NETLINK_ROUTE)))?;
    socket.send(&request)?;
    let mut answer = [0; 64];
    let size = (&socket).read(&mut answer)?;
    let (answer, _) = answer.split_at(size);
    let kind = answer.get(4..6).and_then(|bytes| bytes.try_into().ok()).map(u16::from_ne_bytes);
    let errno = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).map(i32::from_ne_bytes);
    match (kind, errno) {
        (Some(NLMSG_ERROR), Some(0)) => Ok(()),
        (Some(NLMSG_ERROR), Some(errno)) => Err(std::io::Error::from_raw_os_error(-errno).into()),
        (_, _) => bail!("the kernel's answer is none"),
    }
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
