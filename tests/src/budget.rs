//! What each program may cost the verifier: ceilings in `tests/budgets.yaml`, and what is over them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;

/// By name, how much there may be of something.
pub type Ceilings = BTreeMap<String, u64>;

/// The file with the ceilings.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Budgets {
    /// Instructions of each program and function of the object.
    pub instructions: Ceilings,
    /// Instructions that the kernel's verifier walks for each program, which depends on the kernel.
    pub verified: Ceilings,
}

impl Budgets {
    /// Reads it.
    ///
    /// # Errors
    ///
    /// It is not what it should be.
    pub fn read() -> anyhow::Result<Self> {
        Ok(serde_yaml::from_str(include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/budgets.yaml")))?)
    }
}

/// A table of what was found beside the ceilings, and a line for everything that is over its own or has none.
pub fn compare(what: &str, found: &BTreeMap<String, u64>, ceilings: &Ceilings) -> (String, Vec<String>) {
    let mut table = format!("{what:<16} {:>8} {:>8}\n", "found", "ceiling");
    let mut wrong = Vec::new();
    for (name, number) in found {
        let ceiling = ceilings.get(name);
        let words = ceiling.map_or_else(|| String::from("none"), u64::to_string);
        // Writing to a string cannot fail.
        writeln!(table, "{name:<16} {number:>8} {words:>8}").unwrap_or_default();
        match ceiling {
            Some(ceiling) if number <= ceiling => {}
            Some(ceiling) => wrong.push(format!("{name}: {number} {what}, the ceiling is {ceiling}")),
            None => wrong.push(format!("{name}: no ceiling of {what} in tests/budgets.yaml")),
        }
    }
    wrong.extend(ceilings.keys().filter(|name| !found.contains_key(*name)).map(|name| {
        format!("{name}: there is no such program any more, and a ceiling of {what} in tests/budgets.yaml")
    }));
    (table, wrong)
}

#[cfg(test)]
mod tests {
    use super::{Ceilings, compare};

    #[test]
    fn what_is_over_its_ceiling_or_has_none_is_told() {
        let numbers = |pairs: &[(&str, u64)]| -> Ceilings {
            pairs.iter().map(|(name, number)| ((*name).to_owned(), *number)).collect()
        };
        let ceilings = numbers(&[("a", 10), ("b", 10), ("gone", 10)]);
        let (table, wrong) = compare("steps", &numbers(&[("a", 10), ("b", 11), ("c", 1)]), &ceilings);
        assert_eq!(table.lines().count(), 4);
        assert_eq!(
            wrong,
            [
                "b: 11 steps, the ceiling is 10",
                "c: no ceiling of steps in tests/budgets.yaml",
                "gone: there is no such program any more, and a ceiling of steps in tests/budgets.yaml",
            ]
        );
    }
}
