//! A Debian with systemd as its first process, in a container of a test's own, gone when it is dropped.
//!
//! It runs on this kernel, with a cgroup subtree that it sees as the whole tree, a network namespace, and a root file
//! system that forgets what was written. That is made once, in about half a minute, and kept below `target`.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use enforcer::kernel::feature::cgroup2_mount;
use serde_json::Value;
use tempfile::TempDir;

use crate::actor::Reply;
use crate::sandbox::{binary, kill_tree, remove_tree};
use crate::slowness::patience;

/// How long the container may take to start or to end.
const DEADLINE: Duration = Duration::from_secs(60);

/// What is in the root file system beside the smallest Debian or Ubuntu.
const PACKAGES: &str = "systemd,systemd-sysv,libpam-systemd,dbus,iproute2,procps,logrotate";

/// Directory of the files that a machine is given before it boots.
const FILES: &str = "files";

/// Name of the root file system below `target`; the number is raised when it has to be made anew.
const ROOT: &str = "machine-root-1";

/// The actor, where machines have it.
pub const ACTOR: &str = "/usr/bin/enforcer-actor";

/// Units that have nothing to do in a container, or fail there.
const MASKED: [&str; 3] = ["console-getty.service", "systemd-modules-load.service", "e2scrub_reap.service"];

/// A container whose first process is systemd.
pub struct Machine {
    container: Child,
    cgroup: PathBuf,
    /// Its first process, as this host numbers it.
    leader: u32,
    name: String,
    /// What it is shown.
    _directory: TempDir,
}

/// A machine that is not switched on yet.
pub struct Prepared {
    name: String,
    directory: TempDir,
    /// Files and directories of this host, and where the machine has them.
    binds: Vec<(PathBuf, String)>,
    /// Files of its own, below [`FILES`].
    files: Vec<String>,
    wanted: Vec<String>,
}

impl Prepared {
    /// Shows the machine a file or directory of this host.
    #[must_use]
    pub fn bind(mut self, from: impl Into<PathBuf>, inside: &str) -> Self {
        self.binds.push((from.into(), inside.to_owned()));
        self
    }

    /// Gives the machine a file.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn write(mut self, inside: &str, text: &str) -> anyhow::Result<Self> {
        write_below(&self.directory.path().join(FILES), inside, text)?;
        self.files.push(inside.to_owned());
        Ok(self)
    }

    /// Has a unit started with the machine, as if it were enabled.
    #[must_use]
    pub fn wants(mut self, unit: &str) -> Self {
        self.wanted.push(unit.to_owned());
        self
    }

    /// Boots the machine, and waits until everything in it has started.
    ///
    /// # Errors
    ///
    /// A program or package is missing, or the machine does not come up, or a unit failed; the end of its console is in
    /// the error.
    pub fn boot(self) -> anyhow::Result<Machine> {
        let machine = self.boot_degraded()?;
        let state = machine.output("systemctl", &["is-system-running"])?;
        let state = String::from_utf8_lossy(&state.stdout).trim().to_owned();
        if state != "running" {
            let failed = machine.output("systemctl", &["--no-pager", "--failed"])?;
            let failed = String::from_utf8_lossy(&failed.stdout).into_owned();
            bail!("boot a machine: it is {state}:\n{failed}{}", machine.journal()?);
        }
        Ok(machine)
    }

    /// The same, but units may have failed.
    ///
    /// # Errors
    ///
    /// As for [`boot`](Self::boot), but for units.
    pub fn boot_degraded(self) -> anyhow::Result<Machine> {
        let root = root_file_system()?;
        let cgroup = cgroup2_mount()?.join(&self.name);
        let socket = UnixDatagram::bind(self.directory.path().join("notify"))?;
        let console = self.directory.path().join("console");
        fs::create_dir(&cgroup).with_context(|| format!("create cgroup {}", cgroup.display()))?;
        let started = self
            .command(&root, &cgroup, &console)
            .and_then(|mut command| command.spawn().context("start systemd-nspawn"));
        let container = match started {
            Ok(container) => container,
            Err(err) => {
                remove_tree(&cgroup)?;
                return Err(err);
            }
        };
        let mut machine =
            Machine { container, cgroup, leader: 0, name: self.name, _directory: self.directory };
        machine.await_boot(&socket).with_context(|| {
            let console = fs::read(&console).unwrap_or_default();
            let console = String::from_utf8_lossy(&console).into_owned();
            let lines: Vec<&str> = console.lines().collect();
            let last = lines.split_at(lines.len().saturating_sub(20)).1.join("\n");
            format!("boot a machine: its console ends:\n{last}")
        })?;
        Ok(machine)
    }

    fn command(&self, root: &Path, cgroup: &Path, console: &Path) -> anyhow::Result<Command> {
        let console = File::create(console)?;
        let mut command = Command::new(binary("enforcer-actor")?);
        command.arg(cgroup).args(["exec", "systemd-nspawn", "--quiet", "--boot", "--volatile=overlay"]);
        command.arg("--directory").arg(root).arg(format!("--machine={}", self.name));
        // Without a word to systemd-machined, and in the cgroup that the test made.
        command.args(["--register=no", "--keep-unit", "--notify-ready=yes", "--private-network"]);
        command.args(["--capability=all", "--system-call-filter=bpf perf_event_open pidfd_getfd"]);
        // A place to mount a BPF file system on, which a container has not.
        command.arg("--tmpfs=/sys/fs/bpf");
        for (from, to) in &self.binds {
            command.arg(format!("--bind-ro={}:{to}", from.display()));
        }
        for inside in &self.files {
            let file = self.directory.path().join(FILES).join(inside.trim_start_matches('/'));
            command.arg(format!("--bind={}:{inside}", file.display()));
        }
        command.args(MASKED.map(|unit| format!("systemd.mask={unit}")));
        command.args(self.wanted.iter().map(|unit| format!("systemd.wants={unit}")));
        command.env("NOTIFY_SOCKET", self.directory.path().join("notify"));
        // Of the host's hierarchies the container gets cgroup v2 alone.
        command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
        command.stdin(Stdio::null()).stdout(console.try_clone()?).stderr(console);
        Ok(command)
    }
}

impl Machine {
    /// Makes one ready to be switched on, named after the test and this process. `enforcer-actor` is in its `/usr/bin`.
    ///
    /// # Errors
    ///
    /// The program was not built, or no directory can be made.
    pub fn prepare(name: &str) -> anyhow::Result<Prepared> {
        let name = format!("enforcer-test-{name}-{}", std::process::id());
        let directory = TempDir::with_prefix(format!("{name}-"))?;
        let (binds, files, wanted) = (Vec::new(), Vec::new(), Vec::new());
        let prepared = Prepared { name, directory, binds, files, wanted };
        // On a host systemd mounts it by itself, but not in a container.
        Ok(prepared
            .bind(binary("enforcer-actor")?, ACTOR)
            .write(
                "/etc/systemd/system/bpf-file-system.service",
                "[Unit]\nDefaultDependencies=no\nBefore=local-fs.target systemd-tmpfiles-setup.service\n\
                 [Service]\nType=oneshot\nRemainAfterExit=yes\n\
                 ExecStart=mount -t bpf -o mode=700 bpf /sys/fs/bpf\n",
            )?
            .wants("bpf-file-system.service"))
    }

    fn await_boot(&mut self, socket: &UnixDatagram) -> anyhow::Result<()> {
        let start = Instant::now();
        let mut ready = false;
        let mut message = [0; 4096];
        while self.leader == 0 || !ready {
            let left = patience(DEADLINE).saturating_sub(start.elapsed());
            ensure!(!left.is_zero(), "it does not say that it is ready");
            if let Some(status) = self.container.try_wait()? {
                bail!("systemd-nspawn has ended: {status}");
            }
            // Short, so that an end of the container is noticed, which sends nothing.
            socket.set_read_timeout(Some(left.min(Duration::from_millis(200))))?;
            let size = match socket.recv(&mut message) {
                Ok(size) => size,
                Err(err) if err.kind() == std::io::ErrorKind::WouldBlock => continue,
                Err(err) => return Err(err.into()),
            };
            for line in String::from_utf8_lossy(message.get(..size).unwrap_or_default()).lines() {
                if let Some(leader) = line.strip_prefix("X_NSPAWN_LEADER_PID=") {
                    self.leader = leader.parse()?;
                }
                ready |= line == "READY=1";
            }
        }
        // It may call itself ready while units still start. A unit that failed is not this one's to judge.
        self.output("systemctl", &["is-system-running", "--wait"])?;
        Ok(())
    }

    /// Where a path of the machine is for this process.
    pub fn path(&self, inside: &str) -> PathBuf {
        Path::new("/proc").join(self.leader.to_string()).join("root").join(inside.trim_start_matches('/'))
    }

    /// Reads a file of the machine.
    ///
    /// # Errors
    ///
    /// It cannot be read.
    pub fn read(&self, inside: &str) -> anyhow::Result<String> {
        fs::read_to_string(self.path(inside)).with_context(|| format!("read {inside} of the machine"))
    }

    /// Writes a file of the machine, with the directories that it is in.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn write(&self, inside: &str, text: &str) -> anyhow::Result<()> {
        write_below(&self.path("/"), inside, text)
    }

    /// The cgroup that the machine sees at this path.
    pub fn cgroup(&self, inside: &str) -> PathBuf {
        self.payload().join(inside.trim_start_matches('/'))
    }

    /// What the machine sees as the top of the cgroup tree: `systemd-nspawn` keeps a cgroup beside it for itself.
    fn payload(&self) -> PathBuf {
        self.cgroup.join("payload")
    }

    /// A command in the machine's namespaces. It is in no cgroup of the machine: who is to be judged is to be started by
    /// systemd.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--target", &self.leader.to_string()]);
        command.args(["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--", program]);
        command.stdin(Stdio::null());
        command
    }

    /// Runs a program to its end, however that is.
    ///
    /// # Errors
    ///
    /// It cannot be started.
    pub fn output(&self, program: &str, arguments: &[&str]) -> anyhow::Result<Output> {
        self.command(program).args(arguments).output().with_context(|| format!("start {program}"))
    }

    /// Runs a program to its end, and returns what it wrote.
    ///
    /// # Errors
    ///
    /// It does not end well; its words are in the error.
    pub fn run(&self, program: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.output(program, arguments)?;
        let (told, words) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(
            output.status.success(),
            "{program} {}: {}\n{told}{words}",
            arguments.join(" "),
            output.status
        );
        Ok(told.into_owned())
    }

    /// Runs `systemctl`, and on failure tells what the journal has of it.
    ///
    /// # Errors
    ///
    /// It does not end well.
    pub fn systemctl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run("systemctl", arguments).or_else(|err| Err(err.context(self.journal()?)))
    }

    /// The end of the journal.
    ///
    /// # Errors
    ///
    /// `journalctl` cannot be started.
    pub fn journal(&self) -> anyhow::Result<String> {
        let journal = self.output("journalctl", &["--no-pager", "--lines=60"])?;
        Ok(format!("the journal ends:\n{}", String::from_utf8_lossy(&journal.stdout)))
    }

    /// Writes a unit of the system manager.
    ///
    /// # Errors
    ///
    /// It cannot be written.
    pub fn unit(&self, name: &str, text: &str) -> anyhow::Result<()> {
        self.write(&format!("/etc/systemd/system/{name}"), text)
    }

    /// A property of a unit.
    ///
    /// # Errors
    ///
    /// The service manager does not answer.
    pub fn property(&self, unit: &str, property: &str) -> anyhow::Result<String> {
        let told = self.run("systemctl", &["show", "--value", "--property", property, unit])?;
        Ok(told.trim_end().to_owned())
    }

    /// Connects from a service of its own, as the first thing that it does.
    ///
    /// # Errors
    ///
    /// The service cannot be started, or says nothing.
    pub fn connect_as(&self, unit: &str, to: &str) -> anyhow::Result<Reply> {
        let unit = format!("--unit={unit}");
        let arguments = ["--quiet", "--collect", "--wait", "--pipe", &unit, ACTOR, "unit", "connect", to];
        let text = self.run("systemd-run", &arguments)?;
        serde_json::from_str(&text).with_context(|| format!("not a reply: {text}"))
    }

    /// Starts a service that answers callers there, and waits until it does.
    ///
    /// # Errors
    ///
    /// It does not start.
    pub fn serve_as(&self, unit: &str, at: &str) -> anyhow::Result<()> {
        let unit = format!("--unit={unit}");
        let arguments = ["--quiet", "--collect", &unit, "--service-type=notify", ACTOR, "unit", "serve", at];
        self.run("systemd-run", &arguments).map(|_| ())
    }

    /// Waits until something is so.
    ///
    /// # Errors
    ///
    /// It does not come to be, or cannot be told.
    pub fn wait_until(
        &self,
        what: &str,
        is_so: impl Fn(&Self) -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        let start = Instant::now();
        while !is_so(self)? {
            if start.elapsed() > patience(DEADLINE) {
                bail!("wait until {what}: {}", self.journal()?);
            }
            std::thread::yield_now();
        }
        Ok(())
    }

    /// What an actor wrote into a file.
    ///
    /// # Errors
    ///
    /// It wrote no reply.
    pub fn reply(&self, inside: &str) -> anyhow::Result<Reply> {
        let text = self.read(inside)?;
        serde_json::from_str(&text).with_context(|| format!("{inside} is not a reply: {text}"))
    }

    /// The records of an audit log.
    ///
    /// # Errors
    ///
    /// A line is no record.
    pub fn records(&self, inside: &str) -> anyhow::Result<Vec<Value>> {
        let text = self.read(inside)?;
        text.lines()
            .map(|line| serde_json::from_str(line).with_context(|| format!("read record {line}")))
            .collect()
    }

    fn end(&mut self) -> anyhow::Result<()> {
        if self.container.try_wait()?.is_none() {
            // Without its first process the container ends, and systemd-nspawn puts away what it made.
            let killed = kill_tree(&self.payload()).or_else(|_| kill_tree(&self.cgroup));
            killed.with_context(|| format!("end {}", self.name))?;
            let start = Instant::now();
            while self.container.try_wait()?.is_none() {
                if start.elapsed() > patience(DEADLINE) {
                    self.container.kill()?;
                    self.container.wait()?;
                }
                std::thread::yield_now();
            }
        }
        remove_tree(&self.cgroup)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(err) = self.end() {
            tracing::error!("end machine {}: {err:#}", self.name);
        }
        let propagated = Path::new("/run/systemd/nspawn/propagate").join(&self.name);
        if propagated.exists()
            && let Err(err) = fs::remove_dir(&propagated)
        {
            tracing::error!("remove {}: {err}", propagated.display());
        }
    }
}

/// Writes a file below a directory, with the directories that it is in.
///
/// # Errors
///
/// It cannot be written.
pub fn write_below(root: &Path, inside: &str, text: &str) -> anyhow::Result<()> {
    let path = root.join(inside.trim_start_matches('/'));
    let directory = path.parent().context("write a file: it is in no directory")?;
    fs::create_dir_all(directory).with_context(|| format!("create {}", directory.display()))?;
    fs::write(&path, text).with_context(|| format!("write {}", path.display()))
}

/// The root file system that machines are started from, made if it is not there yet.
fn root_file_system() -> anyhow::Result<PathBuf> {
    for program in ["mmdebstrap", "systemd-nspawn"] {
        let found = std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()));
        ensure!(
            found,
            "boot a machine: there is no program {program}\nhint: run `cargo xtask setup --with-tests`"
        );
    }
    let program = binary("enforcer")?;
    let target = program.ancestors().nth(2).context("find the directory target")?;
    let root = target.join(ROOT);
    let lock = File::create(target.join(format!("{ROOT}.lock")))?;
    // Tests of one run and of several wait here for the first of them.
    lock.lock().context("lock the root file system")?;
    if root.is_dir() {
        return Ok(root);
    }
    let unfinished = target.join(format!("{ROOT}.unfinished"));
    if unfinished.is_dir() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("remove {}", unfinished.display()))?;
    }
    let (suite, mirror) = release()?;
    let mut make = Command::new("mmdebstrap");
    make.args(["--quiet", "--variant=minbase", &format!("--include={PACKAGES}"), &suite]);
    make.arg(&unfinished).arg(&mirror);
    let output = make.stdin(Stdio::null()).output().context("start mmdebstrap")?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "make {} from {mirror}: {}\n{words}", root.display(), output.status);
    fs::rename(&unfinished, &root)?;
    Ok(root)
}

/// The release that machines run, and where this host's package manager gets packages: this host's own, but for Debian
/// 12, whose systemd is too old for the unit's `Type=notify-reload`.
fn release() -> anyhow::Result<(String, String)> {
    let system = fs::read_to_string("/etc/os-release").context("read /etc/os-release")?;
    let own = system
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .context("tell this host's release: /etc/os-release has no VERSION_CODENAME")?;
    let targets = Command::new("apt-get")
        .args(["indextargets", "--format", "$(REPO_URI) $(CODENAME)", "Created-By: Packages"])
        .output()
        .context("start apt-get")?;
    let targets = String::from_utf8_lossy(&targets.stdout).into_owned();
    let mirror = targets
        .lines()
        .find_map(|line| line.split_once(' ').filter(|(_, codename)| *codename == own).map(|(uri, _)| uri))
        .with_context(|| format!("find packages of {own}: apt has no source\nhint: run `apt-get update`"))?;
    let suite = if own == "bookworm" { "trixie" } else { own };
    Ok((suite.to_owned(), mirror.to_owned()))
}
