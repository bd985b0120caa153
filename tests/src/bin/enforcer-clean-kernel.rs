//! See `enforcer_tests::clean`.
#![forbid(unsafe_code)]

use anyhow::bail;

fn main() -> anyhow::Result<()> {
    let mut all = false;
    for argument in std::env::args().skip(1) {
        match argument.as_str() {
            "--all" => all = true,
            other => bail!("unknown argument {other}"),
        }
    }
    enforcer_tests::clean::run(&mut std::io::stdout().lock(), all)
}
