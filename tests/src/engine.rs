//! A real container engine in a sandbox: started by the test, with everything of its own, and gone with the sandbox.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::sandbox::{Sandbox, binary};
use crate::slowness::patience;

/// How long an engine may take to listen, and to end.
const DEADLINE: Duration = Duration::from_secs(20);

/// Which engine; both speak Docker's API and are driven by Docker's client.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// `dockerd`, with a containerd of its own.
    Docker,
    /// `podman system service`.
    Podman,
}

impl Kind {
    /// The runtime's name in policies.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
        }
    }

    /// The cgroup below the sandbox's root that containers lie in, and how theirs begin; as the engine has it on a host.
    pub const fn parent(self) -> (&'static str, &'static str) {
        match self {
            Self::Docker => ("docker", ""),
            Self::Podman => ("libpod_parent", "libpod-"),
        }
    }
}

/// A running engine.
pub struct Engine<'a> {
    sandbox: &'a Sandbox,
    kind: Kind,
    network: Network,
    child: Option<Child>,
}

/// Which network an engine's containers have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Network {
    /// The sandbox's own.
    Host,
    /// A bridge that the engine makes in the sandbox, and translated addresses for what is published.
    Bridge,
}

impl<'a> Engine<'a> {
    /// Starts an engine in the sandbox's network namespace and cgroup `engine`, and gives it one image, `tiny:1`, of busybox
    /// and the actor.
    ///
    /// # Errors
    ///
    /// It is not installed or does not start; its words are in the error.
    pub fn start(sandbox: &'a Sandbox, kind: Kind) -> anyhow::Result<Self> {
        Self::start_in(sandbox, kind, Network::Host)
    }

    /// The same, with a bridge for the containers, each of which has a network namespace of its own.
    ///
    /// # Errors
    ///
    /// It is not installed or does not start; its words are in the error.
    pub fn start_bridged(sandbox: &'a Sandbox, kind: Kind) -> anyhow::Result<Self> {
        Self::start_in(sandbox, kind, Network::Bridge)
    }

    fn start_in(sandbox: &'a Sandbox, kind: Kind, network: Network) -> anyhow::Result<Self> {
        let mut engine = Self { sandbox, kind, network, child: None };
        engine.run()?;
        let (root, archive) = (engine.path("image"), engine.path("image.tar"));
        fill_image(&root)?;
        tar(&root, &archive)?;
        engine.docker(&["import", &archive.to_string_lossy(), "tiny:1"])?;
        Ok(engine)
    }

    /// Starts the engine again, with what it had.
    ///
    /// # Errors
    ///
    /// It does not start; its words are in the error.
    pub fn run(&mut self) -> anyhow::Result<()> {
        // A pure cgroup v2 tree of its own, also where the host has v1 beside it, so that nothing is left in v1.
        let mut tree = String::from(
            "mount --make-rprivate / && umount -R /sys/fs/cgroup && mount -t cgroup2 none /sys/fs/cgroup",
        );
        let text = |path: PathBuf| path.to_string_lossy().into_owned();
        let socket = text(self.socket());
        let bridge = match self.network {
            Network::Host => "--iptables=false --bridge=none",
            Network::Bridge => "--iptables=true",
        };
        if self.network == Network::Bridge {
            // Which addresses are given to whom is written where every engine of the machine would look.
            let own = text(self.path("leases"));
            tree = format!("{tree} && mkdir -p /var/lib/cni && mount --bind {own} /var/lib/cni");
        }
        let program = match self.kind {
            Kind::Docker => format!(
                "dockerd {bridge} --ip6tables=false --storage-driver vfs \
                 --exec-opt native.cgroupdriver=cgroupfs --data-root {} --exec-root {} --pidfile {} -H unix://{socket}",
                text(self.path("data")),
                text(self.path("run")),
                text(self.path("pid")),
            ),
            Kind::Podman => format!(
                "podman --root {} --runroot {} --tmpdir {} --storage-driver vfs --cgroup-manager=cgroupfs \
                 --runtime runc --events-backend=file system service --time=0 unix://{socket}",
                text(self.path("data")),
                text(self.path("run")),
                text(self.path("tmp")),
            ),
        };
        for directory in ["data", "run", "tmp", "leases"] {
            fs::create_dir_all(self.path(directory))?;
        }
        for stale in [self.socket(), self.path("pid")] {
            if stale.exists() {
                fs::remove_file(stale)?;
            }
        }
        let mut command = self.sandbox.command("engine", "unshare")?;
        command.args(["-m", "sh", "-c", &format!("{tree} && exec {program}")]);
        let log = fs::OpenOptions::new().create(true).append(true).open(self.path("log"))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let mut child = self.sandbox.spawn(command)?;
        let start = Instant::now();
        while UnixStream::connect(self.socket()).is_err() {
            let ended = child.try_wait()?;
            let words = || fs::read_to_string(self.path("log")).unwrap_or_default();
            ensure!(ended.is_none(), "start {}: {ended:?}; it said:\n{}", self.kind.name(), words());
            ensure!(
                start.elapsed() < patience(DEADLINE),
                "start {}: it said:\n{}",
                self.kind.name(),
                words()
            );
            thread::yield_now();
        }
        self.child = Some(child);
        Ok(())
    }

    /// Where it listens.
    pub fn socket(&self) -> PathBuf {
        self.path("socket")
    }

    /// How the enforcer is told of it.
    pub fn argument(&self) -> String {
        format!("--runtime={}={}", self.kind.name(), self.socket().display())
    }

    /// Sends a signal to the engine itself, and not to its containers.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("the engine runs")?;
        Ok(kill(Pid::from_raw(i32::try_from(child.id())?), signal)?)
    }

    /// Kills the engine at once; its containers go on.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGKILL)?;
        if let Some(mut child) = self.child.take() {
            child.wait()?;
        }
        Ok(())
    }

    /// Runs Docker's client against it.
    ///
    /// # Errors
    ///
    /// It fails; its words are in the error.
    pub fn docker(&self, arguments: &[&str]) -> anyhow::Result<String> {
        Self::text(arguments, self.client(arguments).output()?)
    }

    /// Begins to create and start a container that runs `command`, without waiting for it.
    ///
    /// # Errors
    ///
    /// The client cannot be started.
    pub fn begin(&self, name: &str, options: &[&str], command: &[&str]) -> anyhow::Result<Child> {
        let arguments = self.run_arguments(name, options, command);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Ok(self
            .client(&arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?)
    }

    /// Creates and starts a container that runs `command`, and returns its id.
    ///
    /// # Errors
    ///
    /// The engine refuses; its words are in the error.
    pub fn container(&self, name: &str, options: &[&str], command: &[&str]) -> anyhow::Result<String> {
        let arguments = self.run_arguments(name, options, command);
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        Ok(self.docker(&arguments)?.trim().to_owned())
    }

    /// The path of a container's own cgroup below the sandbox's root.
    pub fn cgroup_of(&self, id: &str) -> String {
        let (parent, prefix) = self.kind.parent();
        format!("{parent}/{prefix}{id}")
    }

    fn run_arguments(&self, name: &str, options: &[&str], command: &[&str]) -> Vec<String> {
        let parent = self.sandbox.path_of(self.kind.parent().0);
        // The machine of a test may not be allowed to raise limits.
        let fixed = ["run", "-d", "--ulimit=nofile=1024:1024", "--ulimit=nproc=1000:1000"];
        let network = (self.network == Network::Host).then_some("--network=host");
        let named = [format!("--cgroup-parent={parent}"), format!("--name={name}")];
        let rest = options.iter().chain(&["tiny:1"]).chain(command).map(|text| (*text).to_owned());
        fixed.iter().chain(&network).map(|text| (*text).to_owned()).chain(named).chain(rest).collect()
    }

    fn client(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", format!("unix://{}", self.socket().display()));
        command.env("DOCKER_CONFIG", self.path("client")).args(arguments);
        command
    }

    fn text(arguments: &[&str], output: Output) -> anyhow::Result<String> {
        let words = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "docker {}: {}: {words}", arguments.join(" "), output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    fn path(&self, name: &str) -> PathBuf {
        let directory: &Path = self.sandbox.directory();
        directory.join(format!("{}-{name}", self.kind.name()))
    }
}

impl Drop for Engine<'_> {
    fn drop(&mut self) {
        // Everything of it is in the sandbox's cgroups, and its mounts are of a namespace that ends with it.
        if let Err(err) = crate::sandbox::kill_tree(self.sandbox.cgroup()) {
            tracing::error!("end {}: {err:#}", self.kind.name());
        }
        if let Some(mut child) = self.child.take()
            && let Err(err) = child.wait()
        {
            tracing::error!("end {}: {err}", self.kind.name());
        }
    }
}

/// Puts into a directory what the image of the tests has: busybox and the actor.
///
/// # Errors
///
/// One of them is missing.
pub(crate) fn fill_image(root: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(root.join("bin"))?;
    for (program, name) in [(PathBuf::from("/bin/busybox"), "busybox"), (binary("enforcer-actor")?, "actor")]
    {
        fs::copy(&program, root.join("bin").join(name))
            .with_context(|| format!("copy {}: is busybox-static installed?", program.display()))?;
    }
    Ok(())
}

/// Packs what is in a directory.
///
/// # Errors
///
/// There is no room for it.
pub(crate) fn tar(directory: &Path, archive: &Path) -> anyhow::Result<()> {
    let mut tar = Command::new("tar");
    tar.arg("-C").arg(directory).arg("-cf").arg(archive).arg(".");
    ensure!(tar.status()?.success(), "pack {}", directory.display());
    Ok(())
}
