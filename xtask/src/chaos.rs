//! Kills, upgrades, reloads and tampers with the daemon under load, over and over, and prints what came of it.
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::command::run as run_command;
use crate::demo::{Profile, build};
use crate::is_root;

/// How much of it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// How often the daemon is killed at a random moment
    #[arg(long, default_value_t = 1000)]
    kills: u32,
    /// How often a newer layout takes over
    #[arg(long, default_value_t = 200)]
    upgrades: u32,
    /// How often one of two policies that differ in a pair of flows takes the place of the other
    #[arg(long, default_value_t = 10_000)]
    reloads: u32,
    /// For how many seconds it goes on under full load, with a reload every five
    #[arg(long, default_value_t = 1200)]
    soak: u32,
    /// How often each of three ways of tampering is tried
    #[arg(long, default_value_t = 34)]
    tamperings: u32,
}

/// Runs the tests of staying power in their long form.
///
/// # Errors
/// Not root, or something was not as it should be.
pub(crate) fn run(workspace: &Path, args: &Args) -> Result<()> {
    if !is_root() {
        bail!(
            "make chaos: loading programs and creating cgroups needs root\n\
             hint: run `sudo env \"PATH=$PATH\" cargo xtask chaos`"
        );
    }
    build(workspace, Profile::Debug)?;
    let mut test = Command::new("cargo");
    test.args(["test", "--quiet", "--package", "enforcer-tests", "--features", "e2e", "--test", "e2e"]);
    // One at a time, so that the figures are of this one alone.
    test.args(["--", "pins::", "connections::", "endurance::", "--nocapture", "--test-threads=1"]);
    test.env("ENFORCER_TEST_ALONE", "1");
    test.env("ENFORCER_TEST_KILLS", args.kills.to_string());
    test.env("ENFORCER_TEST_UPGRADES", args.upgrades.to_string());
    test.env("ENFORCER_TEST_RELOADS", args.reloads.to_string());
    test.env("ENFORCER_TEST_SOAK", args.soak.to_string());
    test.env("ENFORCER_TEST_TAMPERINGS", args.tamperings.to_string());
    run_command(test.current_dir(workspace))
}
