//! What is answered about an attempt, and why.

use crate::Identity;

/// What the policy says of an attempt.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Verdict {
    /// The attempt is permitted.
    Allow = 1,
    /// The attempt is not permitted; whether it is also refused is the [`Mode`]'s say.
    Deny = 2,
}

impl Verdict {
    /// The verdict behind a number in an event.
    pub const fn from_raw(raw: u8) -> Option<Self> {
        match raw {
            1 => Some(Self::Allow),
            2 => Some(Self::Deny),
            _ => None,
        }
    }
}

/// What happens to what is not permitted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[repr(u8)]
pub enum Mode {
    /// It is refused.
    Enforce = 1,
    /// It passes, and is recorded as what would have been refused.
    Audit = 2,
}

impl Mode {
    /// The mode behind a number in a map. An unassigned number enforces: a damaged table must not open a gap.
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Self {
        match raw {
            2 => Self::Audit,
            _ => Self::Enforce,
        }
    }
}

/// The number of a rule in the policy revision that an event names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct RuleId(pub u32);

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident = $raw:literal $code:literal,)+) => {
        /// Why a verdict is what it is: a closed set shared with events, counters and the command line.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        #[repr(u8)]
        pub enum Reason { $($(#[doc = $doc])+ $name = $raw,)+ }

        impl Reason {
            /// Every reason, in the order of its number.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// The reason behind a number in an event.
            pub const fn from_raw(raw: u8) -> Option<Self> {
                match raw {
                    $($raw => Some(Self::$name),)+
                    _ => None,
                }
            }

            /// The stable word for the reason in records and output.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)+ }
            }
        }
    };
}

reasons! {
    /// Neither end is a declared service.
    NotManaged = 0 "not-managed",
    /// Both ends are the same service.
    SameService = 1 "same-service",
    /// A rule lists the attempt.
    RuleAllows = 2 "rule",
    /// A reply to a flow that a rule lists.
    Reply = 3 "reply",
    /// Nothing waits at that local address: the kernel will refuse it itself.
    NobodyListens = 4 "nobody-listens",
    /// The answerer's owner is told by the ingress hook, which decides.
    LeftToIngress = 5 "left-to-ingress",
    /// No rule names this pair.
    NoRule = 6 "no-rule",
    /// A rule names this pair, but not this port or protocol.
    PortNotListed = 7 "port-not-listed",
    /// The caller could not be identified.
    SourceUnknown = 8 "source-unknown",
    /// The answerer could not be identified.
    DestinationUnknown = 9 "destination-unknown",
    /// The port is reserved by another service.
    PortReserved = 10 "port-reserved",
    /// A declared service may not open raw sockets: they can forge any sender.
    RawSocket = 11 "raw-socket",
    /// No rule of this service names the socket's protocol.
    ProtocolNotListed = 12 "protocol-not-listed",
    /// The packet could not be read far enough to decide about it.
    Unparsable = 13 "unparsable",
    /// A table that the decision needs was missing or damaged.
    TableMissing = 14 "table-missing",
    /// The caller is a container that its runtime has not told of yet.
    SourcePending = 15 "source-pending",
    /// The answerer is a container that its runtime has not told of yet.
    DestinationPending = 16 "destination-pending",
    /// Decisions cannot be told at present, and the policy wants nothing new then.
    AuditLost = 17 "audit-lost",
}

impl Reason {
    /// How many reasons there are, for sizing counters.
    pub const COUNT: u32 = 18;
}

const _: () = assert!(Reason::ALL.len() == Reason::COUNT as usize);

/// The answer to one attempt, and what it rests on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Decision {
    /// What the policy says.
    pub verdict: Verdict,
    /// Whether a denial refuses.
    pub mode: Mode,
    /// Why.
    pub reason: Reason,
    /// Whether `rule` holds something: not an `Option`, whose unset bytes the verifier would follow.
    has_rule: bool,
    rule: RuleId,
    /// Who calls.
    pub from: Identity,
    /// Who would answer.
    pub to: Identity,
}

impl Decision {
    /// The answer while there are no tables to ask: a denial to everyone, since a declared service may be meant.
    pub const TABLES_MISSING: Self =
        Self::new(Verdict::Deny, Mode::Enforce, Reason::TableMissing, Identity::UNKNOWN, Identity::UNKNOWN);

    /// A decision that rests on no rule.
    #[inline(always)]
    pub const fn new(verdict: Verdict, mode: Mode, reason: Reason, from: Identity, to: Identity) -> Self {
        Self { verdict, mode, reason, has_rule: false, rule: RuleId(0), from, to }
    }

    /// The same, resting on this rule.
    #[inline(always)]
    pub const fn by(mut self, rule: RuleId) -> Self {
        self.has_rule = true;
        self.rule = rule;
        self
    }

    /// The rule that allows it, if one does.
    #[inline(always)]
    pub const fn rule(&self) -> Option<RuleId> {
        if self.has_rule { Some(self.rule) } else { None }
    }

    /// How it was decided in one register, without the ends.
    #[inline(always)]
    pub const fn pack(&self) -> u64 {
        let [a, b, c, d] = self.rule.0.to_le_bytes();
        let how = [self.verdict as u8, self.mode as u8, self.reason as u8, self.has_rule as u8];
        let [verdict, mode, reason, has_rule] = how;
        u64::from_le_bytes([a, b, c, d, verdict, mode, reason, has_rule])
    }

    /// Undoes [`pack`](Self::pack). What no decision is packed as denies.
    #[inline(always)]
    pub const fn unpack(packed: u64, from: Identity, to: Identity) -> Self {
        let [a, b, c, d, verdict, mode, reason, has_rule] = packed.to_le_bytes();
        let verdict = match Verdict::from_raw(verdict) {
            Some(verdict) => verdict,
            None => Verdict::Deny,
        };
        let reason = match Reason::from_raw(reason) {
            Some(reason) => reason,
            None => Reason::TableMissing,
        };
        let rule = RuleId(u32::from_le_bytes([a, b, c, d]));
        Self { verdict, mode: Mode::from_raw(mode), reason, has_rule: has_rule != 0, rule, from, to }
    }

    /// Whether the attempt goes through: it is allowed, or its denial is only recorded.
    #[inline(always)]
    pub const fn admits(&self) -> bool {
        match (self.verdict, self.mode) {
            (Verdict::Allow, Mode::Enforce) => true,
            (Verdict::Allow, Mode::Audit) => true,
            (Verdict::Deny, Mode::Audit) => true,
            (Verdict::Deny, Mode::Enforce) => false,
        }
    }

    /// Whether the decision concerns a declared service, or what may turn out to be one, and so is counted.
    #[inline(always)]
    pub const fn concerns_a_service(&self) -> bool {
        self.from.is_judged() || self.to.is_judged()
    }
}

#[cfg(test)]
mod tests {
    use super::{Decision, Mode, Reason, RuleId, Verdict};
    use crate::Identity;

    #[test]
    fn a_decision_comes_out_as_it_was_packed() {
        let (from, to) = (Identity::WORLD, Identity::UNMANAGED);
        for reason in Reason::ALL {
            for (verdict, mode) in [(Verdict::Allow, Mode::Enforce), (Verdict::Deny, Mode::Audit)] {
                let bare = Decision::new(verdict, mode, *reason, from, to);
                for decision in [bare, bare.by(RuleId(0)), bare.by(RuleId(u32::MAX))] {
                    assert_eq!(Decision::unpack(decision.pack(), from, to), decision);
                }
            }
        }
    }

    #[test]
    fn what_no_decision_is_packed_as_refuses() {
        for packed in [0, u64::MAX] {
            assert!(!Decision::unpack(packed, Identity::WORLD, Identity::WORLD).admits());
        }
    }

    #[test]
    fn wire_numbers_round_trip() {
        for (index, reason) in Reason::ALL.iter().enumerate() {
            assert_eq!(*reason as usize, index);
            assert_eq!(Reason::from_raw(*reason as u8), Some(*reason));
        }
        assert_eq!(Reason::from_raw(18), None);
        for verdict in [Verdict::Allow, Verdict::Deny] {
            assert_eq!(Verdict::from_raw(verdict as u8), Some(verdict));
        }
        assert_eq!(Verdict::from_raw(0), None);
    }

    #[test]
    fn a_damaged_mode_enforces() {
        assert_eq!(Mode::from_raw(2), Mode::Audit);
        for raw in [0, 1, 3, 255] {
            assert_eq!(Mode::from_raw(raw), Mode::Enforce);
        }
    }
}
