//! Builds the object file of the kernel side; the build scripts of enforcer and of its tests include this file.
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use aya_build::{Package, Toolchain};

use crate::toolchain::{self, Bpf, on_path};

const PACKAGE: &str = "enforcer-ebpf";

/// Set in the second run of this script, which has the environment below.
const PREPARED: &str = "ENFORCER_BUILD_PREPARED";

/// What the inner cargo is told through its environment, the one way `aya_build` leaves open. It pins all that
/// decides the object's bytes, so that two checkouts of one revision embed the same object.
const ENVIRONMENT: &[(&str, &str)] = &[
    // Its progress would come out as warnings, again in every later build. Warnings and errors are still told.
    ("CARGO_TERM_QUIET", "true"),
    // `-Z build-std` is needed for a target that has no precompiled core, whichever channel the compiler is from.
    ("RUSTC_BOOTSTRAP", "1"),
    // The line information in .BTF.ext names source files: without this they start with the checkout's directory.
    ("CARGO_UNSTABLE_TRIM_PATHS", "true"),
    ("CARGO_PROFILE_RELEASE_TRIM_PATHS", "all"),
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "2"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
];

/// What a build script does: leaves an object with each of these sets of features in its directory, as `enforcer-ebpf` with the
/// features behind it.
pub(crate) fn main(objects: &[&[&str]]) -> ExitCode {
    let built = if env::var_os(PREPARED).is_some() { build(objects) } else { run_again() };
    built.unwrap_or_else(|err| {
        // Cargo shows these lines by themselves; a message on stderr would drown in the script's whole output.
        for line in format!("{err:#}").lines() {
            println!("cargo::error={line}");
        }
        ExitCode::FAILURE
    })
}

/// Starts this script once more with [`ENVIRONMENT`]: a process may set its child's environment, not its own.
fn run_again() -> anyhow::Result<ExitCode> {
    let script = env::current_exe()?;
    let status = Command::new(script).env(PREPARED, "1").envs(ENVIRONMENT.iter().copied()).status()?;
    // What went wrong, the second run has told.
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn build(objects: &[&[&str]]) -> anyhow::Result<ExitCode> {
    let bpf = toolchain::find()?;
    let workspace = workspace()?;
    // aya_build watches enforcer-ebpf; these go into the object too.
    for input in
        ["enforcer-common", "Cargo.toml", "Cargo.lock", "xtask/src/object.rs", "xtask/src/toolchain.rs"]
    {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    println!("cargo::rerun-if-changed=build.rs");
    if let Some(linker) = on_path(toolchain::LINKER) {
        println!("cargo::rerun-if-changed={}", linker.display());
    }
    let root_dir = workspace.join("enforcer-ebpf");
    let root_dir = root_dir.to_str().ok_or_else(|| anyhow::anyhow!("the checkout's path is not UTF-8"))?;
    let built = Path::new(&env::var("OUT_DIR")?).join(PACKAGE);
    for features in objects {
        let toolchain = match &bpf {
            Bpf::Rustup(name) => Toolchain::Custom(name),
            // Without a rustup on the PATH aya_build takes the compiler that is there, whatever it is told here.
            Bpf::System => Toolchain::Nightly,
        };
        let package = Package { name: PACKAGE, root_dir, features, ..Package::default() };
        aya_build::build_ebpf([package], toolchain)?;
        if !features.is_empty() {
            fs::rename(&built, built.with_file_name(format!("{PACKAGE}-{}", features.join("-"))))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn workspace() -> anyhow::Result<PathBuf> {
    let package = env::var("CARGO_MANIFEST_DIR")?;
    let workspace = Path::new(&package).parent().ok_or_else(|| anyhow::anyhow!("{package} has no parent"))?;
    Ok(workspace.to_path_buf())
}
