//! Every technique of the corpus gets through without an enforcer, fails under one, and works where it is permitted; and each
//! hook that is off and each check that is negated changes exactly what the table in this directory says.
//!
//! A binary of its own, since it keeps every processor busy for two minutes: beside it, others would wait too long.
#![forbid(unsafe_code)]

use std::collections::BTreeSet;

use enforcer_tests::bypass::table::{self, Difference};
use enforcer_tests::bypass::{self, Selection};

#[test]
fn nothing_gets_around_the_enforcer_but_what_is_documented() -> anyhow::Result<()> {
    let report = bypass::run(&Selection::default())?;
    assert!(report.techniques.len() >= 80, "{} techniques", report.techniques.len());
    assert!(report.wrong.is_empty(), "{}", report.wrong.join("\n"));
    let mut differences = table::differences(&report)?;
    // An attempt that a fault lets through may be late: what seems otherwise by a fault is tried again, with less beside it.
    let named: BTreeSet<String> =
        differences.iter().filter(|one| one.is_of_fault()).map(|one| one.technique.clone()).collect();
    if !named.is_empty() {
        differences.retain(|one| !one.is_of_fault());
        let again = bypass::run(&Selection { named: named.clone(), ..Selection::default() })?;
        assert!(again.wrong.is_empty(), "{}", again.wrong.join("\n"));
        let is_meant = |one: &Difference| one.is_of_fault() && named.contains(&one.technique);
        differences.extend(table::differences(&again)?.into_iter().filter(is_meant));
    }
    let told: Vec<String> = differences.iter().map(ToString::to_string).collect();
    assert!(
        told.is_empty(),
        "the table differs\nhint: `cargo xtask bypass --write` writes it anew\n{}",
        told.join("\n")
    );
    Ok(())
}
