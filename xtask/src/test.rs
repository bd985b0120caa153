//! Runs every test, rootless and kernel ones, and adds up what the test binaries report.
use std::fmt;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, bail};

use crate::{bench, check, is_root, setup};

/// The package and the targets of the tests that load programs into the kernel; a feature keeps them out of a plain
/// `cargo test`. One runs after the other: each has something to do for every processor.
const KERNEL_PACKAGE: &str = "enforcer-tests";
const KERNEL_FEATURE: &str = "e2e";
const KERNEL_TARGETS: [&str; 2] = ["e2e", "bypass"];

/// Sets up, checks, runs the tests, measures for a look, and ends in one line that sums them up.
///
/// # Errors
/// Not root, or something that the tests need cannot be had or started.
pub(crate) fn run(workspace: &Path) -> Result<ExitCode> {
    if !is_root() {
        bail!(
            "run the kernel tests: loading programs, creating cgroups and installing the servers under test needs root\n\
             hint: run `sudo env \"PATH=$PATH\" cargo xtask test`; `cargo test` runs the tests that need no root"
        );
    }
    setup::run(&setup::Args { with_tests: true })?;
    let checked = check::run(workspace);

    println!("test: rootless");
    let rootless = cargo_test(workspace, &[])?;
    let mut good = rootless.good;
    let mut count = rootless.count;
    for target in KERNEL_TARGETS {
        println!("test: kernel, {target}");
        let kernel = cargo_test(
            workspace,
            &["--package", KERNEL_PACKAGE, "--test", target, "--features", KERNEL_FEATURE],
        )?;
        if kernel.count.passed == 0 {
            eprintln!(
                "error: no kernel test of {target} has passed: what this machine's kernel does was not tested"
            );
            good = false;
        }
        good &= kernel.good;
        count = count.plus(kernel.count);
    }
    println!("test: what is measured, for a look: unoptimised, and not judged");
    if let Err(err) = bench::print_short(workspace) {
        eprintln!("error: measure: {err:#}");
        good = false;
    }
    if let Err(err) = checked {
        eprintln!("error: {err:#}");
        good = false;
    }
    println!("{count}");
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Count {
    passed: u64,
    failed: u64,
    skipped: u64,
}

impl Count {
    fn plus(self, other: Self) -> Self {
        Self {
            passed: self.passed + other.passed,
            failed: self.failed + other.failed,
            skipped: self.skipped + other.skipped,
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

struct Outcome {
    count: Count,
    good: bool,
}

fn cargo_test(workspace: &Path, args: &[&str]) -> Result<Outcome> {
    let mut cargo = Command::new("cargo");
    cargo.args(["test", "--no-fail-fast"]).args(args).current_dir(workspace).stdout(Stdio::piped());
    let mut child = cargo.spawn().context("start cargo test")?;
    let output = child.stdout.take().context("read what cargo test writes: it has no output")?;
    let mut count = Count::default();
    for line in BufReader::new(output).lines() {
        let line = line.context("read what cargo test writes")?;
        println!("{line}");
        count = count.plus(reported(&line).unwrap_or_default());
    }
    let good = child.wait().context("wait for cargo test")?.success();
    if !good && count.failed == 0 {
        // A binary that did not compile, or died before its report, has not passed.
        count.failed = 1;
    }
    Ok(Outcome { count, good: good && count.failed == 0 })
}

/// What one test binary says at its end:
/// `test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s`.
fn reported(line: &str) -> Option<Count> {
    let (_, numbers) = line.strip_prefix("test result: ")?.split_once(". ")?;
    let number =
        |name: &str| numbers.split("; ").find_map(|part| part.strip_suffix(name)?.trim().parse().ok());
    Some(Count { passed: number("passed")?, failed: number("failed")?, skipped: number("ignored")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_of_a_test_binary_is_understood() {
        let ok =
            "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 7 filtered out; finished in 0.01s";
        assert_eq!(reported(ok), Some(Count { passed: 3, failed: 0, skipped: 1 }));
        let failed =
            "test result: FAILED. 3 passed; 12 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1s";
        assert_eq!(reported(failed), Some(Count { passed: 3, failed: 12, skipped: 0 }));
        assert_eq!(reported("test result_is_read ... ok"), None);
        assert_eq!(reported("running 3 tests"), None);
    }

    #[test]
    fn the_summary_is_one_line() {
        let sum =
            Count { passed: 1, failed: 2, skipped: 3 }.plus(Count { passed: 10, failed: 20, skipped: 30 });
        assert_eq!(sum.to_string(), "11 passed, 22 failed, 33 skipped");
    }
}
