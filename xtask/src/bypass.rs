//! Tries every technique of the bypass corpus on the running kernel, and prints how each is blocked.
use std::path::Path;

use anyhow::{Result, bail};

use crate::demo::{self, Profile};
use crate::{is_root, setup};

/// How it is told.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// `text`: the tables of `tests/bypass/TABLE.md`, and what is wrong; `json`: all of it for programs
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    output: Output,
    /// Write what is found to `tests/bypass/TABLE.md`, if nothing is wrong
    #[arg(long)]
    write: bool,
    /// Only techniques whose name contains this; compared with nothing
    #[arg(long, value_name = "NAME", conflicts_with = "write")]
    only: Option<String>,
    /// Leave out the pairs of techniques
    #[arg(long, conflicts_with = "write")]
    without_pairs: bool,
    /// Leave out all that is broken on purpose, and compare only what blocks
    #[arg(long, conflicts_with = "write")]
    without_faults: bool,
}

/// The form of the output.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Output {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Does not return if all goes well: this process becomes the program that tries.
///
/// # Errors
/// Not root, or something cannot be installed, built or started.
pub(crate) fn run(workspace: &Path, args: &Args) -> Result<()> {
    if !is_root() {
        bail!(
            "run the bypass corpus: loading programs and creating cgroups needs root\n\
             hint: run `sudo env \"PATH=$PATH\" \"HOME=$HOME\" cargo xtask bypass`"
        );
    }
    setup::run(&setup::Args { with_tests: true })?;
    let mut words = Vec::new();
    words.extend((args.output == Output::Json).then_some("--json"));
    words.extend(args.write.then_some("--write"));
    words.extend(args.without_pairs.then_some("--without-pairs"));
    words.extend(args.without_faults.then_some("--without-faults"));
    words.extend(args.only.iter().flat_map(|only| ["--only", only]));
    demo::become_program(workspace, Profile::KernelTests, "enforcer-bypass", &words)
}
