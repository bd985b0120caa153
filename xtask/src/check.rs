//! Judges the sources: format, lints, documentation, dependencies, and the project's own rules.
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::command::{run as run_command, succeeds};
use crate::{tidy, toolchain};

type Step = (&'static str, fn(&Path) -> Result<()>);

const STEPS: [Step; 6] = [
    ("tidy", tidy::run),
    ("fmt", fmt),
    ("clippy, host", clippy_host),
    ("clippy, kernel", clippy_kernel),
    ("doc", doc),
    ("deny", deny),
];

/// Takes every step, also after one that failed.
///
/// # Errors
/// Names the steps that failed; each has written why.
pub(crate) fn run(workspace: &Path) -> Result<()> {
    let mut failed = Vec::new();
    for (name, step) in STEPS {
        println!("check: {name}");
        if let Err(err) = step(workspace) {
            eprintln!("error: {err:#}");
            failed.push(name);
        }
    }
    if failed.is_empty() { Ok(()) } else { bail!("check failed: {}", failed.join("; ")) }
}

fn cargo(workspace: &Path, args: &[&str]) -> Command {
    let mut cargo = Command::new("cargo");
    cargo.args(args).current_dir(workspace);
    cargo
}

fn fmt(workspace: &Path) -> Result<()> {
    run_command(&mut cargo(workspace, &["fmt", "--all", "--check"]))
}

/// The default members: the kernel side does not compile for the host.
fn clippy_host(workspace: &Path) -> Result<()> {
    run_command(&mut cargo(
        workspace,
        &["clippy", "--quiet", "--all-targets", "--all-features", "--", "-Dwarnings"],
    ))
}

fn clippy_kernel(workspace: &Path) -> Result<()> {
    let bpf = toolchain::find()?;
    if !succeeds(bpf.command("cargo").args(["clippy", "--version"])) {
        bail!("judge the kernel side: {bpf} has no clippy\nhint: run `cargo xtask setup --with-tests`");
    }
    let endian = if cfg!(target_endian = "big") { "eb" } else { "el" };
    // As aya_build tells the compiler for the object itself.
    let flags = format!("--cfg=bpf_target_arch=\"{}\"", std::env::consts::ARCH);
    let mut clippy = bpf.command("cargo");
    clippy.args(["clippy", "--quiet", "--package", "enforcer-ebpf", "-Zbuild-std=core"]);
    clippy.args(["--target", &format!("bpf{endian}-unknown-none"), "--", "-Dwarnings"]);
    clippy.env("RUSTC_BOOTSTRAP", "1").env("CARGO_ENCODED_RUSTFLAGS", flags);
    run_command(clippy.current_dir(workspace))
}

fn doc(workspace: &Path) -> Result<()> {
    let mut doc = cargo(workspace, &["doc", "--quiet", "--no-deps", "--document-private-items"]);
    run_command(doc.env("RUSTDOCFLAGS", "-Dwarnings"))
}

fn deny(workspace: &Path) -> Result<()> {
    if toolchain::on_path("cargo-deny").is_none() {
        bail!(
            "judge the dependencies: no cargo-deny on the PATH\nhint: run `cargo xtask setup --with-tests`"
        );
    }
    run_command(&mut cargo(
        workspace,
        &["deny", "--log-level=error", "check", "bans", "licenses", "sources"],
    ))?;
    // The advisories are in a git repository of their own, which a machine without the network cannot have.
    if !succeeds(&mut cargo(workspace, &["deny", "fetch", "db"])) {
        println!("check: deny: the advisory database cannot be fetched; advisories are NOT checked");
        return Ok(());
    }
    run_command(&mut cargo(workspace, &["deny", "--log-level=error", "check", "advisories"]))
}
