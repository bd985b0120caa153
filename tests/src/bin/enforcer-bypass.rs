//! See `enforcer_tests::bypass`.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use enforcer_tests::bypass::{self, Selection, table};

fn main() -> anyhow::Result<ExitCode> {
    let mut selection = Selection::default();
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--only" => selection.only = Some(arguments.next().context("--only: no name was given")?),
            "--singly" => selection.singly = true,
            other => bail!("unknown argument {other}"),
        }
    }
    let report = bypass::run(&selection)?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "{}\n{}", table::blocked(&report), table::without_hooks(&report))?;
    for wrong in &report.wrong {
        writeln!(out, "wrong: {wrong}")?;
    }
    Ok(if report.wrong.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
