//! See `enforcer_tests::bench`.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use enforcer_tests::bench::decisions::Decisions;
use enforcer_tests::bench::{self, load, peers, singles};

/// Measures enforcer beside nothing, nftables, proxies and a loop of verdicts.
#[derive(Parser)]
enum Verb {
    /// Measure
    Run(bench::Options),
    /// Be a process that calls or answers, told what to do on standard input
    #[command(hide = true)]
    Load {
        /// The CPU to stay on
        cpu: usize,
    },
    /// Decide over and over on the host, to be run under callgrind
    Decide {
        /// Rules of the policy
        #[arg(long, default_value_t = 1000)]
        rules: usize,
        /// How often
        #[arg(long, default_value_t = 100_000)]
        times: u64,
    },
    /// Run a program, and tell how long it took and how much memory
    #[command(hide = true)]
    Watch {
        /// The program and its arguments
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        program: Vec<String>,
    },
    /// Be a loop of verdicts
    #[command(hide = true)]
    Verdicts {
        /// File of the places that may be called
        places: PathBuf,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    match Verb::parse() {
        Verb::Run(options) => return bench::run(&options),
        Verb::Load { cpu } => load::run(cpu)?,
        Verb::Decide { rules, times } => Decisions::new(rules)?.repeat(times)?,
        Verb::Watch { program } => {
            let watched = singles::run_watched(&program)?;
            serde_json::to_writer(std::io::stdout().lock(), &watched)?;
        }
        Verb::Verdicts { places } => peers::give_verdicts(&places, || {
            let mut out = std::io::stdout().lock();
            writeln!(out, "ready")?;
            out.flush()
        })?,
    }
    Ok(ExitCode::SUCCESS)
}
