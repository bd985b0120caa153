//! The verbs of the developer: `cargo xtask <verb>`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a developer's tool talks to its terminal")]

mod bench;
mod bypass;
mod chaos;
mod check;
mod clean_kernel;
mod command;
mod demo;
mod reproducible;
mod setup;
mod test;
mod tidy;
mod toolchain;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;

/// How enforcer is built and tested.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
enum Verb {
    /// Install what building needs and is missing
    Setup(setup::Args),
    /// Run `setup`, build, and show the main job in a sandbox of its own; needs root
    Demo,
    /// Judge the sources: fmt, clippy for host and kernel, doc, deny, tidy
    Check,
    /// Check the project's own rules about its sources
    Tidy,
    /// Build the kernel object from two checkouts, and compare the bytes
    Reproducible,
    /// Run `setup`, `check` and every test, rootless and kernel ones; needs root
    Test,
    /// Try every known way around the enforcer, and print what blocks it; needs root
    Bypass(bypass::Args),
    /// Measure it beside nftables, proxies and a loop of verdicts, and print the table; needs root
    Bench(bench::Args),
    /// Kill, upgrade and tamper with the daemon under load, a thousand times; needs root
    Chaos(chaos::Args),
    /// Remove what a crash of the demo or of a test has left in the kernel; needs root
    CleanKernel(clean_kernel::Args),
}

fn main() -> ExitCode {
    match run(&Verb::parse()) {
        Ok(code) => code,
        Err(err) => {
            eprintln!("error: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(verb: &Verb) -> Result<ExitCode> {
    let workspace = workspace()?;
    match verb {
        Verb::Setup(args) => setup::run(args)?,
        Verb::Demo => demo::run(&workspace)?,
        Verb::Check => check::run(&workspace)?,
        Verb::Tidy => tidy::run(&workspace)?,
        Verb::Reproducible => reproducible::run(&workspace)?,
        Verb::Test => return test::run(&workspace),
        Verb::Bypass(args) => bypass::run(&workspace, args)?,
        Verb::Bench(args) => bench::run(&workspace, args)?,
        Verb::Chaos(args) => chaos::run(&workspace, args)?,
        Verb::CleanKernel(args) => clean_kernel::run(&workspace, args)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The directory of the workspace; cargo tells where it found us.
fn workspace() -> Result<PathBuf> {
    let package =
        std::env::var("CARGO_MANIFEST_DIR").context("find the workspace: run this as `cargo xtask`")?;
    let workspace =
        Path::new(&package).parent().context("find the workspace: xtask has no parent directory")?;
    Ok(workspace.to_path_buf())
}

/// Whether this process may do what only root may.
fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // The kernel gives a process's directory to its effective user.
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
