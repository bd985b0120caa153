//! Finds selectors of different services that can claim the same cgroup.

use super::selector::{Selector, overlap};

/// Two selectors, by their place in the list, and a path that both claim.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Conflict {
    pub(super) first: usize,
    pub(super) second: usize,
    pub(super) example: String,
}

/// The patterns share so little fixed text that comparing them all would take too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct TooManyGlobs {
    pub(super) compared: usize,
}

/// At least one conflict for every selector that has one; the number is the service's.
pub(super) fn find(selectors: &[(usize, &Selector)]) -> Result<Vec<Conflict>, TooManyGlobs> {
    let mut conflicts = Vec::new();
    for (second, (owner, selector)) in selectors.iter().enumerate() {
        for (first, (other, earlier)) in selectors[..second].iter().enumerate() {
            if owner != other
                && let Some(example) = overlap(earlier, selector)
            {
                conflicts.push(Conflict { first, second, example });
                break;
            }
        }
    }
    Ok(conflicts)
}
