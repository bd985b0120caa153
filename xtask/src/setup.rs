//! Installs what building and testing need and the machine lacks; a second run finds everything there.
use std::env;
use std::ffi::OsString;
use std::fmt;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::{output, run as run_command, succeeds};
use crate::is_root;
use crate::toolchain::{self, Bpf, LINKED, LINKER, Missing, NIGHTLY, on_path};

/// The bpf-linker that is built from source, and the versions of LLVM that it can be built with, newest first.
const LINKER_VERSION: &str = "0.13.0";
const LINKER_LLVM: [u32; 3] = [23, 22, 21];

const DENY_VERSION: &str = "0.20.2";

/// Debian's Rust for building browsers: as new as the kernel side needs, with the sources of its standard library.
const DEBIAN_RUST: [(&str, &str); 3] = [
    ("rustc-web", "a compiler that builds the kernel side"),
    ("rust-web-src", "the sources of core, which it needs for that"),
    ("cargo-web", "its cargo"),
];

/// What the tests run as real servers and clients, each with the reason for it.
const FOR_TESTS: [(&str, &str); 33] = [
    ("nginx", "a server that the tests protect"),
    ("postgresql", "a server that the tests protect"),
    ("postgresql-client", "psql, a caller in the tests"),
    ("curl", "a caller in the tests"),
    ("redis-server", "a server that the tests protect"),
    ("redis-tools", "redis-benchmark, a caller in the tests"),
    ("memcached", "a server that the tests protect"),
    ("libmemcached-tools", "memccapable, a caller in the tests"),
    ("unbound", "a resolver: it answers over UDP and TCP, and asks another"),
    ("dnsmasq-base", "the name server that the resolver asks"),
    ("bind9-dnsutils", "dig, a caller in the tests"),
    ("ngtcp2-server", "HTTP/3 over QUIC, which the tests protect"),
    ("ngtcp2-client", "its caller in the tests"),
    ("rpcbind", "tells callers over UDP and TCP where a server is; rpcinfo asks it"),
    ("nfs-ganesha", "a server of files by NFS, which needs nothing of the kernel"),
    ("nfs-ganesha-vfs", "lets it serve a directory"),
    ("libnfs-utils", "its caller in the tests"),
    ("iperf3", "TCP and UDP both ways, many streams at once"),
    ("iputils-ping", "ping: a caller without ports"),
    ("traceroute", "a caller that wants the errors of the network"),
    ("openssl", "makes the certificate of a server of HTTP/3"),
    ("iproute2", "ip and ss: the tests' network namespaces and sockets"),
    ("nftables", "translates addresses in the tests' network namespaces"),
    ("docker.io", "an engine whose containers the tests identify, and its client"),
    ("containerd", "a runtime of Kubernetes whose containers the tests identify"),
    ("podman", "another engine whose containers the tests identify"),
    ("passt", "pasta, the network of rootless Podman's containers"),
    ("runc", "what both start containers with"),
    ("libfaketime", "has the daemon's clock jump, and nobody else's"),
    ("busybox-static", "the image that the tests make for them"),
    ("bpftool", "what is attached where, told by somebody else than the product"),
    ("mmdebstrap", "makes the machine with systemd that the tests boot"),
    ("systemd-container", "boots the machine with systemd that the tests use"),
];

/// What enforcer is measured beside, each with the reason for it.
const FOR_BENCH: [(&str, &str); 6] = [
    ("nftables", "what enforcer is measured beside: a set, and a list of rules"),
    ("haproxy", "what enforcer is measured beside: two proxies with TLS on both sides"),
    ("openssl", "makes the certificates of the proxies"),
    ("iptables", "sends packets to a loop of verdicts, which enforcer is measured beside"),
    ("bpftool", "names the programs whose time the kernel counts"),
    ("util-linux", "taskset, which keeps everything on one CPU"),
];

/// Packages that would start a service at every boot, each with its unit.
const SERVICES: [(&str, &str); 11] = [
    ("haproxy", "haproxy"),
    ("nginx", "nginx"),
    ("postgresql", "postgresql"),
    ("redis-server", "redis-server"),
    ("memcached", "memcached"),
    ("unbound", "unbound"),
    ("ngtcp2-server", "ngtcp2d"),
    ("rpcbind", "rpcbind"),
    ("nfs-ganesha", "nfs-ganesha"),
    ("docker.io", "docker"),
    ("containerd", "containerd"),
];

/// What `setup` is asked for.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Install also what `check` and `test` need
    #[arg(long)]
    pub(crate) with_tests: bool,
}

/// Installs what is missing and says so, one line for each thing.
///
/// # Errors
/// Something is missing and cannot be had; the message says what to run instead.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut apt = Apt { updated: false };
    let bpf = kernel_side(&mut apt)?;
    interfaces(&mut apt)?;
    if args.with_tests {
        linters(&mut apt, &bpf)?;
        programs(&mut apt)?;
    }
    Ok(())
}

enum State {
    Have,
    Install,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Have => "have",
            Self::Install => "install",
        })
    }
}

fn say(state: &State, what: &str, why: impl fmt::Display) {
    println!("{state:<8} {what:<18} {why}");
}

/// The compiler and the linker that go together.
fn kernel_side(apt: &mut Apt) -> Result<Bpf> {
    match toolchain::find() {
        // A compiler that goes with the linker is better than a newer linker: nightlies outrun every packaged LLVM.
        Err(Missing::Compiler | Missing::OldLinker { .. }) => compiler(apt)?,
        Ok(_) | Err(Missing::Linker) => {}
    }
    if let Err(Missing::Linker | Missing::OldLinker { .. }) = toolchain::find() {
        linker(apt)?;
    }
    let bpf = toolchain::find()?;
    say(&State::Have, "compiler", format_args!("{bpf}: builds the kernel side"));
    say(&State::Have, LINKER, "links the kernel side");
    Ok(bpf)
}

/// What makes Rust of the published description of the container runtime interface.
fn interfaces(apt: &mut Apt) -> Result<()> {
    let why = "compiles the interface of containerd and CRI-O";
    if on_path("protoc").is_none() && env::var_os("PROTOC").is_none() {
        return apt.install(&[("protobuf-compiler", why)]);
    }
    say(&State::Have, "protoc", why);
    Ok(())
}

fn compiler(apt: &mut Apt) -> Result<()> {
    let rustup = on_path("rustup").is_some();
    if rustup {
        say(
            &State::Install,
            NIGHTLY,
            "a compiler with the sources of core, which the kernel side is built with",
        );
        let install = ["toolchain", "install", NIGHTLY, "--profile", "minimal", "--no-self-update"];
        if succeeds(Command::new("rustup").args(install).args([
            "--component",
            "rust-src",
            "--component",
            "clippy",
        ])) {
            return Ok(());
        }
        println!("         {:<18} rustup cannot get it; taking the distribution's instead", "");
    }
    apt.install(&DEBIAN_RUST)?;
    if rustup {
        say(&State::Install, LINKED, "the name by which rustup knows the distribution's compiler");
        run_command(Command::new("rustup").args(["toolchain", "link", LINKED, "/usr"]))?;
    }
    Ok(())
}

fn linker(apt: &mut Apt) -> Result<()> {
    let (bpf, llvm) = toolchain::compilers().into_iter().next().ok_or(Missing::Compiler)?;
    let mut install = cargo_install("bpf-linker", LINKER_VERSION)?;
    install.args(["--force", "--no-default-features"]);
    let why = |llvm| format!("links the kernel side, with LLVM {llvm} as {bpf} has (about a minute)");
    if let Some(library) = own_llvm(&bpf) {
        // The compiler brings the very LLVM that has to read what it writes, so no package is needed.
        say(&State::Install, LINKER, why(llvm));
        let named = LlvmName::of(&library)?;
        install.args(["--features", &format!("llvm-{llvm}")]).envs(named.environment());
        return run_command(&mut install);
    }
    let Some(offered) =
        LINKER_LLVM.into_iter().find(|newest| *newest >= llvm && apt.offers(&llvm_dev(*newest)))
    else {
        bail!(
            "install bpf-linker: {bpf} needs LLVM {llvm} or later, and apt offers no such llvm-N-dev\n             hint: put a bpf-linker from https://github.com/aya-rs/bpf-linker/releases on the PATH"
        );
    };
    apt.install(&[(&llvm_dev(offered), "the LLVM that bpf-linker is built with")])?;
    say(&State::Install, LINKER, why(offered));
    install.args(["--features", &format!("llvm-{offered}")]);
    run_command(install.env("LLVM_PREFIX", format!("/usr/lib/llvm-{offered}")))
}

/// A directory in which a toolchain's LLVM has the name that a linker looks for, `libLLVM.so`.
struct LlvmName {
    dir: PathBuf,
    lib: PathBuf,
}

impl LlvmName {
    fn of(library: &Path) -> Result<Self> {
        let lib = library.parent().context("link bpf-linker: the compiler's LLVM is in no directory")?;
        let dir = env::temp_dir().join(format!("enforcer-setup-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("create {}", dir.display()))?;
        let named = Self { dir, lib: lib.to_path_buf() };
        symlink(library, named.dir.join("libLLVM.so"))
            .context("give the compiler's LLVM the name libLLVM.so")?;
        Ok(named)
    }

    /// What bpf-linker's build is told: where the library is now, and where it will be at run time.
    fn environment(&self) -> [(&'static str, OsString); 2] {
        let flags = format!("-L{} -Clink-arg=-Wl,-rpath,{}", self.dir.display(), self.lib.display());
        // The prefix is the directory above lib/.
        let prefix = self.lib.parent().unwrap_or(&self.lib);
        [("LLVM_PREFIX", prefix.into()), ("RUSTFLAGS", flags.into())]
    }
}

impl Drop for LlvmName {
    fn drop(&mut self) {
        if let Err(err) = fs::remove_dir_all(&self.dir) {
            eprintln!("error: remove {}: {err}", self.dir.display());
        }
    }
}

fn llvm_dev(version: u32) -> String {
    format!("llvm-{version}-dev")
}

/// The shared LLVM inside a toolchain of rustup's. A distribution's compiler has the distribution's LLVM.
fn own_llvm(bpf: &Bpf) -> Option<PathBuf> {
    let lib = toolchain::sysroot(bpf)?.join("lib");
    let files = fs::read_dir(lib).ok()?.flatten().map(|entry| entry.path());
    files.into_iter().find(|file| {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with("libLLVM.so.") && name.contains("-rust-")
    })
}

/// `cargo install`, into a directory of the PATH; not optimised, since what it installs runs for seconds, and takes
/// minutes longer to build otherwise.
fn cargo_install(package: &str, version: &str) -> Result<Command> {
    let mut install = Command::new("cargo");
    install.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0").env("CARGO_PROFILE_RELEASE_LTO", "off");
    install.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    install.args(["install", "--quiet", "--locked", package, "--version", version]);
    let home = env::var_os("CARGO_HOME").map(PathBuf::from);
    let home = home.or_else(|| env::home_dir().map(|home| home.join(".cargo")));
    let home = home.context("find where cargo installs programs: neither CARGO_HOME nor HOME is set")?;
    let path = env::var_os("PATH").unwrap_or_default();
    // Cargo from a distribution's packages does not put its own directory on the PATH.
    if !env::split_paths(&path).any(|dir| dir == home.join("bin")) && is_root() {
        install.args(["--root", "/usr/local"]);
    }
    Ok(install)
}

/// What `check` runs.
fn linters(apt: &mut Apt, bpf: &Bpf) -> Result<()> {
    for (program, component) in [("fmt", "rustfmt"), ("clippy", "clippy")] {
        if succeeds(Command::new("cargo").args([program, "--version"])) {
            say(&State::Have, component, "judges the host side");
        } else if on_path("rustup").is_some() {
            say(&State::Install, component, "judges the host side");
            run_command(Command::new("rustup").args(["component", "add", component]))?;
        } else {
            bail!("`cargo {program}` is missing\nhint: install it by the means that Rust was installed with");
        }
    }
    if succeeds(bpf.command("cargo").args(["clippy", "--version"])) {
        say(&State::Have, "kernel clippy", "judges the kernel side");
    } else {
        match bpf {
            Bpf::Rustup(name) if name != LINKED => {
                say(&State::Install, "kernel clippy", "judges the kernel side");
                run_command(Command::new("rustup").args([
                    "component",
                    "add",
                    "clippy",
                    "--toolchain",
                    name,
                ]))?;
            }
            Bpf::Rustup(_) | Bpf::System => {
                apt.install(&[("rust-web-clippy", "judges the kernel side")])?;
            }
        }
    }
    if on_path("cargo-deny").is_some() {
        say(&State::Have, "cargo-deny", "judges licences and sources of dependencies");
    } else {
        say(&State::Install, "cargo-deny", "judges licences and sources of dependencies (some minutes)");
        run_command(&mut cargo_install("cargo-deny", DENY_VERSION)?)?;
    }
    Ok(())
}

/// Installs what building needs and what enforcer is measured beside.
///
/// # Errors
/// As [`run`].
pub(crate) fn for_bench() -> Result<()> {
    let mut apt = Apt { updated: false };
    kernel_side(&mut apt)?;
    apt.install(&FOR_BENCH)
}

/// Installs what the tests and the bench run.
fn programs(apt: &mut Apt) -> Result<()> {
    let python = python_tests()?;
    let python = (python.as_str(), "Python's own tests of its sockets, run as a service");
    let others =
        FOR_BENCH.into_iter().filter(|(package, _)| FOR_TESTS.iter().all(|(name, _)| name != package));
    let all: Vec<_> = FOR_TESTS.into_iter().chain([python]).chain(others).collect();
    apt.install(&all)
}

/// The package with the tests of the distribution's Python, which carries the version in its name.
fn python_tests() -> Result<String> {
    let told = output(Command::new("/usr/bin/python3").arg("--version"))?;
    let version = told.strip_prefix("Python ").and_then(|version| version.rsplit_once('.'));
    let (version, _patch) = version.with_context(|| format!("read Python's version: it says {told:?}"))?;
    Ok(format!("libpython{version}-testsuite"))
}

/// The package manager. It is asked for new lists once, and only when something is missing.
struct Apt {
    updated: bool,
}

impl Apt {
    fn update(&mut self) -> Result<()> {
        // Without root the lists that are there have to do.
        if !self.updated && is_root() {
            run_command(&mut apt_get(&["update"]))?;
        }
        self.updated = true;
        Ok(())
    }

    fn offers(&mut self, package: &str) -> bool {
        if self.update().is_err() {
            return false;
        }
        output(Command::new("apt-cache").args(["policy", package]))
            .is_ok_and(|policy| policy.lines().any(has_candidate))
    }

    /// Installs what of `packages`, each with the reason for it, is missing, by one call: what follows an installation,
    /// such as the indexes of manuals, is then done once.
    fn install(&mut self, packages: &[(&str, &str)]) -> Result<()> {
        let mut missing: Vec<&str> = Vec::new();
        for &(package, why) in packages {
            let state = if installed(package) { State::Have } else { State::Install };
            say(&state, package, why);
            if matches!(state, State::Install) {
                missing.push(package);
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        let names = missing.join(" ");
        if on_path("apt-get").is_none() {
            bail!(
                "install {names}: no apt-get on the PATH\nhint: install what they are called in this distribution"
            );
        }
        if !is_root() {
            bail!(
                "install {names}: only root may\n\
                 hint: run `sudo apt-get update && sudo apt-get install --no-install-recommends {names}` first"
            );
        }
        self.update()?;
        let quiet = NoServices::start()?;
        run_command(apt_get(&["install", "-y", "--no-install-recommends"]).args(&missing))?;
        drop(quiet);
        // A package enables its service for the next boot; the tests start their own with their own settings.
        let enabled = SERVICES.iter().filter(|(package, _)| missing.contains(package));
        let units: Vec<_> = enabled.map(|(_, unit)| unit).collect();
        if units.is_empty() || on_path("systemctl").is_none() {
            return Ok(());
        }
        run_command(Command::new("systemctl").args(["--quiet", "disable"]).args(units))
    }
}

fn apt_get(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive");
    command.args(["-qq", "-o", "DPkg::Lock::Timeout=300", "-o", "Dpkg::Use-Pty=0"]).args(args);
    command
}

fn has_candidate(line: &str) -> bool {
    line.trim().strip_prefix("Candidate: ").is_some_and(|version| version != "(none)")
}

fn installed(package: &str) -> bool {
    output(Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

/// While this lives, no installed package starts its service: Debian asks a program of the administrator's first.
struct NoServices;

impl NoServices {
    const POLICY: &str = "/usr/sbin/policy-rc.d";
    /// Where the administrator's own program waits; also after a crash, so that the next run puts it back.
    const SAVED: &str = "/usr/sbin/policy-rc.d.enforcer-saved";
    const REFUSE: &str =
        "#!/bin/sh\n# Written by enforcer's `cargo xtask setup` while it installs packages.\nexit 101\n";

    fn start() -> Result<Self> {
        let there = fs::read(Self::POLICY).is_ok_and(|there| there != Self::REFUSE.as_bytes());
        if there && !Path::new(Self::SAVED).exists() {
            fs::rename(Self::POLICY, Self::SAVED).with_context(|| format!("rename {}", Self::POLICY))?;
        }
        fs::write(Self::POLICY, Self::REFUSE).with_context(|| format!("write {}", Self::POLICY))?;
        fs::set_permissions(Self::POLICY, fs::Permissions::from_mode(0o755))
            .with_context(|| format!("make {} executable", Self::POLICY))?;
        Ok(Self)
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        let restored = if Path::new(Self::SAVED).exists() {
            fs::rename(Self::SAVED, Self::POLICY)
        } else {
            fs::remove_file(Self::POLICY)
        };
        if let Err(err) = restored {
            eprintln!("error: restore {}: {err}", Self::POLICY);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_without_candidate_is_not_offered() {
        assert!(has_candidate("  Candidate: 1:22.1.8-1~deb12u1"));
        assert!(!has_candidate("  Candidate: (none)"));
        assert!(!has_candidate("  Installed: 1:22.1.8-1~deb12u1"));
    }
}
