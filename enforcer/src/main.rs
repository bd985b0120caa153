//! The `enforcer` command.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser as _;
use enforcer::cli;

fn main() -> ExitCode {
    cli::run(cli::Command::parse())
}
