//! Shows the main job: sets up, builds, and becomes the program that shows it.
use std::env;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::command::run as run_command;
use crate::{is_root, setup};

/// Does not return if all goes well: this process becomes the demo, so that a signal reaches nobody else.
///
/// # Errors
/// Not root, or something cannot be installed, built or started.
pub(crate) fn run(workspace: &Path) -> Result<()> {
    if !is_root() {
        bail!(
            "run the demo: loading programs and creating cgroups needs root\n\
             hint: run `sudo env \"PATH=$PATH\" \"HOME=$HOME\" cargo xtask demo`"
        );
    }
    setup::run(&setup::Args { with_tests: false })?;
    become_program::<&str>(workspace, Profile::Debug, "enforcer-demo", &[])
}

/// How programs are built.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// Quickly.
    Debug,
    /// Likewise, with what the kernel tests alone need.
    KernelTests,
    /// As they are released, and only what measures: each is optimised as a whole, which takes a minute or two.
    Release,
}

/// Builds the programs and becomes one of them.
///
/// # Errors
/// They cannot be built, or it cannot be started.
pub(crate) fn become_program<A: AsRef<OsStr>>(
    workspace: &Path,
    profile: Profile,
    name: &str,
    args: &[A],
) -> Result<()> {
    let program = build(workspace, profile)?.join(name);
    let err = Command::new(&program).args(args).exec();
    Err(err).with_context(|| format!("start {}", program.display()))
}

/// Builds the programs, and returns the directory that they are in.
///
/// # Errors
/// They cannot be built.
pub(crate) fn build(workspace: &Path, profile: Profile) -> Result<PathBuf> {
    let mut build = Command::new("cargo");
    build.args(["build", "--quiet", "--package", "enforcer", "--package", "enforcer-tests"]);
    let (directory, which): (_, &[&str]) = match profile {
        Profile::Debug => ("debug", &["--bins"]),
        Profile::KernelTests => ("debug", &["--bins", "--features", "enforcer-tests/e2e"]),
        Profile::Release => (
            "release",
            &[
                "--release",
                "--bin",
                "enforcer",
                "--bin",
                "enforcer-bench",
                "--bin",
                "enforcer-actor",
                "--features",
                "enforcer-tests/e2e",
            ],
        ),
    };
    build.args(which);
    run_command(build.current_dir(workspace))?;
    Ok(target(workspace).join(directory))
}

/// Where cargo builds to.
fn target(workspace: &Path) -> PathBuf {
    env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), |dir| workspace.join(dir))
}
