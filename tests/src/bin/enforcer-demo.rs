//! See `enforcer_tests::demo`.
#![forbid(unsafe_code)]

use std::io::{self, Write as _};
use std::process::ExitCode;

use enforcer_tests::demo::{self, Interrupt, LeftBehind};

fn main() -> anyhow::Result<ExitCode> {
    let interrupt = Interrupt::watch()?;
    let result = demo::run(&mut io::stdout().lock(), &interrupt);
    let mut err = io::stderr().lock();
    match (result, interrupt.exit_code()) {
        (Ok(()), None) => Ok(ExitCode::SUCCESS),
        (Err(failure), Some(_)) if failure.is::<LeftBehind>() => {
            writeln!(err, "\nerror: {failure:#}")?;
            Ok(ExitCode::FAILURE)
        }
        (_, Some(code)) => {
            writeln!(err, "\ninterrupted: nothing is left behind")?;
            Ok(ExitCode::from(code))
        }
        (Err(failure), None) => {
            writeln!(err, "\nerror: {failure:#}")?;
            Ok(ExitCode::FAILURE)
        }
    }
}
