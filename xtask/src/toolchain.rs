//! Finds the compiler and the linker for the kernel side; enforcer's build script includes this file.
use std::env;
use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The linker of the BPF targets.
pub(crate) const LINKER: &str = "bpf-linker";

/// The name under which `cargo xtask setup` links a distribution's compiler into rustup.
pub(crate) const LINKED: &str = "ebpf";

/// The nightly that `cargo xtask setup` installs: its LLVM is 22, as that of Debian's compiler, so that the kernel's
/// verifier sees the same code whichever of them built it.
pub(crate) const NIGHTLY: &str = "nightly-2026-05-26";

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
    /// Every compiler writes bitcode of a later LLVM than the linker reads.
    OldLinker {
        /// The LLVM of the compiler.
        compiler: u32,
        /// The LLVM of the linker.
        linker: u32,
    },
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("build the kernel side: ")?;
        match self {
            Self::Compiler => f.write_str("no Rust compiler with the sources of core (rust-src)")?,
            Self::Linker => f.write_str("no bpf-linker on the PATH")?,
            Self::OldLinker { compiler, linker } => {
                write!(
                    f,
                    "bpf-linker has LLVM {linker} and cannot read what a compiler with LLVM {compiler} writes"
                )?;
            }
        }
        f.write_str("\nhint: run `cargo xtask setup`, which installs what is missing")
    }
}

impl std::error::Error for Missing {}

/// The compiler to build the kernel side with: one linked on purpose, else the pinned nightly, else any nightly.
///
/// # Errors
/// [`Missing`] names what is not there.
pub(crate) fn find() -> Result<Bpf, Missing> {
    let compilers = compilers();
    if compilers.is_empty() {
        return Err(Missing::Compiler);
    }
    let linker = on_path(LINKER).ok_or(Missing::Linker)?;
    // A linker with LLVM inside does not tell its version; it is taken at its word.
    let linker = linker_llvm(&linker).unwrap_or(u32::MAX);
    let mut newest = 0;
    for (compiler, llvm) in compilers {
        if llvm <= linker {
            return Ok(compiler);
        }
        newest = llvm;
    }
    Err(Missing::OldLinker { compiler: newest, linker })
}

/// The compilers that could build for the kernel, the preferred one first, each with the major version of its LLVM.
pub(crate) fn compilers() -> Vec<(Bpf, u32)> {
    let candidates = if on_path("rustup").is_some() {
        // aya_build asks rustup wherever there is one, so the system's compiler counts only when linked into it.
        [LINKED, NIGHTLY, "nightly"].map(|name| Bpf::Rustup(name.to_owned())).to_vec()
    } else {
        vec![Bpf::System]
    };
    candidates
        .into_iter()
        .filter_map(|bpf| {
            let sources = sysroot(&bpf)?.join("lib/rustlib/src/rust/library/Cargo.lock");
            // The file by which `cargo -Z build-std` recognises the standard library's sources.
            sources.is_file().then_some(())?;
            let llvm = compiler_llvm(&bpf)?;
            Some((bpf, llvm))
        })
        .collect()
}

/// Where the libraries of a toolchain are, or `None` if there is no such toolchain.
pub(crate) fn sysroot(bpf: &Bpf) -> Option<PathBuf> {
    let output = bpf.command("rustc").args(["--print", "sysroot"]).output().ok()?;
    output.status.success().then(|| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()))
}

fn compiler_llvm(bpf: &Bpf) -> Option<u32> {
    let output = bpf.command("rustc").arg("-vV").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
    version.split('.').next()?.parse().ok()
}

/// The LLVM that a linker loads, from the name of the library that it asks for.
fn linker_llvm(linker: &Path) -> Option<u32> {
    const LIBRARY: &[u8] = b"libLLVM.so.";
    // The names of libraries stand at the start of the file, the code of a linker with LLVM inside after them.
    let mut file = Vec::new();
    File::open(linker).ok()?.take(1 << 20).read_to_end(&mut file).ok()?;
    let at = file.windows(LIBRARY.len()).position(|window| window == LIBRARY)?;
    let version = file.get(at + LIBRARY.len()..)?;
    let digits = version.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(version.get(..digits)?).ok()?.parse().ok()
}

/// Where `program` is on the PATH.
pub(crate) fn on_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(program)).find(|file| file.is_file())
}
