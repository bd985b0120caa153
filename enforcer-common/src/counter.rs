//! What is counted, and under which index of `COUNTERS`.

use crate::decision::{Decision, Mode, Reason, Verdict};

/// What became of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Outcome {
    /// Permitted.
    Allowed,
    /// Refused.
    Denied,
    /// Let through in audit mode, though the policy does not list it.
    WouldDeny,
}

impl Outcome {
    /// Every outcome, in the order of its index.
    pub const ALL: [Self; 3] = [Self::Allowed, Self::Denied, Self::WouldDeny];

    /// What a decision comes to.
    #[inline(always)]
    pub const fn of(decision: &Decision) -> Self {
        match (decision.verdict, decision.mode) {
            (Verdict::Allow, Mode::Enforce) => Self::Allowed,
            (Verdict::Allow, Mode::Audit) => Self::Allowed,
            (Verdict::Deny, Mode::Enforce) => Self::Denied,
            (Verdict::Deny, Mode::Audit) => Self::WouldDeny,
        }
    }

    /// The stable word for the outcome in records and output.
    pub const fn code(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::WouldDeny => "would-deny",
        }
    }
}

/// An index of `COUNTERS`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(transparent)]
pub struct Counter(pub u32);

impl Counter {
    /// Events that were put into the ring buffer. This one and the next keep their index in every version, so that a
    /// newer daemon can close the books of an older one.
    pub const EVENTS_WRITTEN: Self = Self(0);
    /// Events for which the ring buffer had no room.
    pub const EVENTS_LOST: Self = Self(1);
    /// Socket notes that could not be stored for want of memory.
    pub const NOTES_FAILED: Self = Self(Reason::COUNT * 3 + 2);
    /// Cgroups that were made and could not be entered into `CGROUPS`; they stay unknown, which is denied.
    pub const CGROUPS_FAILED: Self = Self(Reason::COUNT * 3 + 3);
    /// Words of cgroups made or gone for which the ring buffer had no room; only their paths are missed.
    pub const CGROUP_NEWS_LOST: Self = Self(Reason::COUNT * 3 + 4);
    /// Words of unknown network namespaces for which the ring buffer had no room; they are found a moment later.
    pub const NAMESPACE_NEWS_LOST: Self = Self(Reason::COUNT * 3 + 5);
    /// Verdicts that could not be kept, and are made anew each time.
    pub const VERDICTS_NOT_KEPT: Self = Self(Reason::COUNT * 3 + 6);
    /// How many counters there are.
    pub const COUNT: u32 = Reason::COUNT * 3 + 7;

    /// The counter of decisions with this outcome and reason.
    #[inline(always)]
    pub const fn decisions(outcome: Outcome, reason: Reason) -> Self {
        Self(reason as u32 * 3 + outcome as u32 + 2)
    }
}

#[cfg(test)]
mod tests {
    use super::{Counter, Outcome, Reason};

    #[test]
    fn every_counter_has_an_index_of_its_own() {
        let mut seen = [false; Counter::COUNT as usize];
        let decisions = Reason::ALL
            .iter()
            .flat_map(|reason| Outcome::ALL.map(|outcome| Counter::decisions(outcome, *reason)));
        for counter in decisions.chain([
            Counter::EVENTS_WRITTEN,
            Counter::EVENTS_LOST,
            Counter::NOTES_FAILED,
            Counter::CGROUPS_FAILED,
            Counter::CGROUP_NEWS_LOST,
            Counter::NAMESPACE_NEWS_LOST,
            Counter::VERDICTS_NOT_KEPT,
        ]) {
            assert!(!core::mem::replace(&mut seen[counter.0 as usize], true), "{counter:?}");
        }
        assert!(seen.iter().all(|seen| *seen));
    }
}
