//! Every technique of the corpus gets through without an enforcer, fails under one, and works where it is permitted.

use enforcer_tests::bypass::{self, Selection, table};

#[test]
fn nothing_gets_around_the_enforcer_but_what_is_documented() -> anyhow::Result<()> {
    let report = bypass::run(&Selection::default())?;
    assert!(report.techniques.len() >= 80, "{} techniques", report.techniques.len());
    assert!(report.pairs >= 1000, "{} pairs", report.pairs);
    assert!(report.wrong.is_empty(), "{}", report.wrong.join("\n"));
    let differences = table::differences(&report)?;
    assert!(
        differences.is_empty(),
        "the table differs\nhint: `cargo xtask bypass --write` writes it anew\n{}",
        differences.join("\n")
    );
    Ok(())
}
