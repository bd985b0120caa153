//! How many instructions the kernel's verifier walks for each program, which decides how far they are from its limit.

use enforcer_tests::bench::stats;
use enforcer_tests::budget::{Budgets, compare};
use enforcer_tests::sandbox::Sandbox;

#[test]
fn every_program_keeps_to_its_ceiling_of_the_verifier() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("budgets")?;
    let daemon = sandbox.daemon("version: 1\n")?;
    let (table, wrong) = compare("verified", &stats::verified(daemon.pid())?, &Budgets::read()?.verified);
    assert!(wrong.is_empty(), "{}\n{table}", wrong.join("\n"));
    daemon.stop()?.check_totals()
}
