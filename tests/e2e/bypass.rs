//! Every technique of the corpus gets through without an enforcer, fails under one, and works where it is permitted.

use enforcer_tests::bypass::{self, Selection, table};

/// Singly: beside other tests the pairs and the faults take too long; `cargo xtask bypass` has them all.
#[test]
fn nothing_gets_around_the_enforcer_but_what_is_documented() -> anyhow::Result<()> {
    let report = bypass::run(&Selection { singly: true, ..Selection::default() })?;
    assert!(report.techniques.len() >= 80, "{} techniques", report.techniques.len());
    assert!(report.wrong.is_empty(), "{}", report.wrong.join("\n"));
    let differences = table::differences(&report)?;
    let blocked: Vec<_> = differences.into_iter().filter(|cell| cell.starts_with("Blocked")).collect();
    assert!(
        blocked.is_empty(),
        "the table differs\nhint: `cargo xtask bypass --write` writes it anew\n{}",
        blocked.join("\n")
    );
    Ok(())
}
