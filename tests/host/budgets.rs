//! How many instructions each program has: more than before is a decision that somebody has to make.

use std::collections::BTreeMap;

use aya_obj::Object;
use enforcer::kernel::OBJECT;
use enforcer_tests::budget::{Budgets, compare};

#[test]
fn every_program_keeps_to_its_ceiling_of_instructions() -> anyhow::Result<()> {
    let object = Object::parse(OBJECT)?;
    let found: BTreeMap<String, u64> = object
        .functions
        .values()
        // What the compiler did not inline, and its own helpers, change with it.
        .filter(|function| !function.name.starts_with("_R") && !function.name.starts_with("mem"))
        .map(|function| Ok((function.name.clone(), u64::try_from(function.instructions.len())?)))
        .collect::<anyhow::Result<_>>()?;
    let (table, wrong) = compare("instructions", &found, &Budgets::read()?.instructions);
    tracing::info!("{table}");
    assert!(wrong.is_empty(), "{}\n{table}", wrong.join("\n"));
    Ok(())
}
