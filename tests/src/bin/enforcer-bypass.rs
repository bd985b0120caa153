//! See `enforcer_tests::bypass`.
#![forbid(unsafe_code)]

use std::io::Write as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use enforcer_tests::bypass::{self, Selection, table};

fn main() -> anyhow::Result<ExitCode> {
    let mut selection = Selection::default();
    let (mut json, mut write) = (false, false);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--only" => selection.only = Some(arguments.next().context("--only: no name was given")?),
            "--without-pairs" => selection.without_pairs = true,
            "--without-faults" => selection.without_faults = true,
            "--json" => json = true,
            "--write" => write = true,
            other => bail!("unknown argument {other}"),
        }
    }
    if write && !selection.is_whole() {
        bail!("write the table: only a whole run can\nhint: leave out `--only` and `--without-…`");
    }
    let mut report = bypass::run(&selection)?;
    let told: Vec<String> = report.told_anyway().collect();
    report.wrong.extend(told);
    if write && report.wrong.is_empty() {
        table::write(&report)?;
    }
    let mut differences = if selection.has_all() { table::differences(&report)? } else { Vec::new() };
    // What was not tried is not otherwise.
    differences.retain(|one| selection.has_faults() || !one.is_of_fault());
    let mut out = std::io::stdout().lock();
    if json {
        writeln!(out, "{}", table::to_json(&report, &differences))?;
    } else {
        writeln!(out, "{}", table::standing(&report))?;
        writeln!(out, "{} techniques, {} pairs", report.techniques.len(), report.pairs)?;
        for wrong in &report.wrong {
            writeln!(out, "wrong: {wrong}")?;
        }
        for difference in &differences {
            writeln!(out, "wrong: {difference}")?;
        }
    }
    let is_good = report.wrong.is_empty() && differences.is_empty();
    Ok(if is_good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
