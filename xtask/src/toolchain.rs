//! Finds the compiler and the linker for the kernel side; enforcer's build script includes this file.
use std::env;
use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The linker of the BPF targets.
pub(crate) const LINKER: &str = "bpf-linker";

/// The name under which `cargo xtask setup` links a distribution's compiler into rustup.
pub(crate) const LINKED: &str = "ebpf";

/// A compiler that can build for the kernel, because the sources of its `core` are installed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bpf {
    /// A toolchain that rustup knows by this name.
    Rustup(String),
    /// The `rustc` and `cargo` of the PATH, on a machine without rustup.
    System,
}

impl Bpf {
    /// `program` (`cargo`, `rustc`) of this toolchain.
    pub(crate) fn command(&self, program: &str) -> Command {
        match self {
            Self::Rustup(name) => {
                let mut command = Command::new("rustup");
                command.args(["run", name, program]);
                command
            }
            Self::System => Command::new(program),
        }
    }
}

impl fmt::Display for Bpf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustup(name) => write!(f, "rustup toolchain {name}"),
            Self::System => write!(f, "the system's rustc"),
        }
    }
}

/// What the kernel side cannot be built without.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// No compiler whose `core` has its sources beside it.
    Compiler,
    /// No bpf-linker.
    Linker,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::Compiler => "no Rust compiler with the sources of core (rust-src)",
            Self::Linker => "no bpf-linker on the PATH",
        };
        write!(f, "build the kernel side: {what}\nhint: run `cargo xtask setup`, which installs it")
    }
}

impl std::error::Error for Missing {}

/// The compiler to build the kernel side with: rustup's nightly, else a distribution's.
///
/// # Errors
/// [`Missing`] names the first of compiler and linker that is not there.
pub(crate) fn find() -> Result<Bpf, Missing> {
    let bpf = compiler().ok_or(Missing::Compiler)?;
    on_path(LINKER).ok_or(Missing::Linker)?;
    Ok(bpf)
}

/// The compiler alone.
pub(crate) fn compiler() -> Option<Bpf> {
    let candidates = if on_path("rustup").is_some() {
        // aya_build asks rustup wherever there is one, so the system's compiler counts only when linked into it.
        vec![Bpf::Rustup("nightly".to_owned()), Bpf::Rustup(LINKED.to_owned())]
    } else {
        vec![Bpf::System]
    };
    candidates.into_iter().find(has_sources)
}

/// Whether `cargo -Z build-std` would find the standard library's sources, by the same file that it looks for.
fn has_sources(bpf: &Bpf) -> bool {
    let Ok(output) = bpf.command("rustc").args(["--print", "sysroot"]).output() else { return false };
    let sysroot = String::from_utf8_lossy(&output.stdout);
    output.status.success() && Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/Cargo.lock").is_file()
}

/// Where `program` is on the PATH.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}
