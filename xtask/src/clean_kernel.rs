//! Removes what a crash of the demo or of a test has left in the kernel.
use std::path::Path;

use anyhow::{Result, bail};

use crate::demo::{Profile, become_program};
use crate::is_root;

/// What `clean-kernel` is asked for.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Also stop the enforcers that are running
    #[arg(long)]
    all: bool,
}

/// Does not return if all goes well: this process becomes the program that cleans.
///
/// # Errors
/// Not root, or the program cannot be built or started.
pub(crate) fn run(workspace: &Path, args: &Args) -> Result<()> {
    if !is_root() {
        bail!(
            "clean the kernel: reading and removing programs needs root\n\
             hint: run `sudo env \"PATH=$PATH\" \"HOME=$HOME\" cargo xtask clean-kernel`"
        );
    }
    let args: &[&str] = if args.all { &["--all"] } else { &[] };
    become_program(workspace, Profile::Debug, "enforcer-clean-kernel", args)
}
