//! Measures enforcer beside what it is compared with, and prints the table.
use std::ffi::OsString;
use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::command::run as run_command;
use crate::demo::{Profile, become_program, build};
use crate::{is_root, setup};

/// What is measured and how; `cargo xtask bench --help` lists it.
#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub(crate) struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTION")]
    options: Vec<OsString>,
}

/// Does not return if all goes well: this process becomes the program that measures, built as it is released.
///
/// # Errors
/// Not root, or something cannot be installed, built or started.
pub(crate) fn run(workspace: &Path, args: &Args) -> Result<()> {
    let asks_for_help = args.options.iter().any(|option| option == "--help" || option == "-h");
    if !asks_for_help {
        if !is_root() {
            bail!(
                "measure: loading programs and creating cgroups needs root\n\
                 hint: run `sudo env \"PATH=$PATH\" \"HOME=$HOME\" cargo xtask bench`"
            );
        }
        setup::for_bench()?;
    }
    let options = [OsString::from("run")].into_iter().chain(args.options.iter().cloned());
    become_program(workspace, Profile::Release, "enforcer-bench", &options.collect::<Vec<_>>())
}

/// Prints a short form of the table, of programs as they are built for the kernel tests: that there are figures is what counts. What
/// it is measured beside is installed already.
///
/// # Errors
/// Something could not be measured.
pub(crate) fn print_short(workspace: &Path) -> Result<()> {
    let program = build(workspace, Profile::KernelTests)?.join("enforcer-bench");
    run_command(Command::new(program).args(["run", "--short", "--even-if-noisy"]).current_dir(workspace))
}
