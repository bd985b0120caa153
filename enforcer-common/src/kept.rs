//! Decisions about two cgroups that the programs keep, so that the same call need not be decided again.

use crate::layout::Active;
use crate::limits::{MAX_RULES, MAX_VERDICTS};
use crate::{Asked, Decision, Identity, Mode, Port, Protocol, Reason, RuleId, Verdict};

/// The generation in which nothing is kept and nothing found, so that words that were never written belong to none.
pub const NO_GENERATION: u8 = 0;

/// What a decision is kept under: which cgroup calls which at which port, in one generation, and by which slot. Each word ends in
/// the generation. The slot is that of the generation, unless half of what is in force was read while it was written: what is
/// decided then is found by nobody.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct VerdictKey {
    caller: u64,
    answerer: u64,
    place: u64,
    /// Whether anything may be kept or found under it.
    is_usable: bool,
}

impl VerdictKey {
    /// The cgroup `caller` calls the cgroup `answerer` at its port, while this is in force.
    #[inline(always)]
    pub const fn new(active: Active, caller: u64, answerer: u64, protocol: Protocol, port: Port) -> Self {
        let [slot, _, _, generation] = active.0.to_le_bytes();
        let [high, low] = port.0;
        Self {
            caller: tagged(caller, generation),
            answerer: tagged(answerer, generation),
            place: u64::from_le_bytes([generation, protocol.0, low, high, slot, 0, 0, 0]),
            // Ids begin at 1 and count cgroups, so that this is a matter of a longer life than a kernel has.
            is_usable: (generation != NO_GENERATION) & ((caller | answerer) >> (u64::BITS - TAG_BITS) == 0),
        }
    }

    /// The one place in `VERDICTS` at which it may be kept, whoever else's that is too: another one in each generation, so that
    /// calls do not share theirs for ever.
    #[inline(always)]
    pub const fn index(&self) -> u32 {
        /// The golden ratio's fraction: its product spreads every bit over those above it.
        const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;
        let mixed = (self.caller >> TAG_BITS).wrapping_mul(SPREAD) ^ (self.answerer >> TAG_BITS);
        let mixed = mixed.wrapping_mul(SPREAD) ^ self.place;
        ((mixed.wrapping_mul(SPREAD) >> (u64::BITS - MAX_VERDICTS.trailing_zeros())) & 0xffff_ffff) as u32
    }
}

const _: () = assert!(MAX_VERDICTS.is_power_of_two());
// A rule's number stands beside a generation in half a word.
const _: () = assert!(MAX_RULES <= 1 << (u32::BITS - TAG_BITS));

/// A value of `VERDICTS`, without the lock that stands before it: the key, and what was decided. Each word ends in the
/// generation in which it was written.
///
/// A program writes one only while it holds the lock, and only where what is there is of an earlier generation. So in each
/// generation one program at the most writes to a place, and words of one generation are words of one decision, in whatever order
/// they are written and read. Who reads takes no lock, and takes nothing unless every word is of the generation in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct KeptVerdict([u64; Self::WORDS]);

impl KeptVerdict {
    /// How many words one has.
    pub const WORDS: usize = 5;

    /// The value of these words.
    #[inline(always)]
    pub const fn from_words(words: [u64; Self::WORDS]) -> Self {
        Self(words)
    }

    /// The words.
    #[inline(always)]
    pub const fn words(&self) -> &[u64; Self::WORDS] {
        &self.0
    }

    /// What it is kept under.
    #[inline(always)]
    pub const fn key(&self) -> VerdictKey {
        let [caller, answerer, place, ..] = self.0;
        VerdictKey { caller, answerer, place, is_usable: true }
    }

    /// What is to be kept of a decision about two cgroups, where the answerer had `asked`; `None` if it depends on more than
    /// them, their tables and the port.
    #[inline(always)]
    pub const fn of(decision: &Decision, asked: Asked, key: &VerdictKey) -> Option<Self> {
        let lasts = match decision.verdict {
            Verdict::Allow => {
                matches!(decision.reason, Reason::NotManaged | Reason::SameService | Reason::RuleAllows)
            }
            // Where somebody was asked it may be a reply another time, or may not any longer.
            Verdict::Deny => {
                asked.is_nobody() && matches!(decision.reason, Reason::NoRule | Reason::PortNotListed)
            }
        };
        if !key.is_usable || !lasts || !Self::can_be_of(decision.from) || !Self::can_be_of(decision.to) {
            return None;
        }
        let rule = match decision.rule() {
            Some(rule) => rule.0,
            None => 0,
        };
        let [generation, ..] = key.place.to_le_bytes();
        let how = u32::from_le_bytes([generation, decision.reason as u8, decision.mode as u8, 0]);
        Some(Self([
            key.caller,
            key.answerer,
            key.place,
            (decision.from.raw() as u64) << u32::BITS | how as u64,
            (decision.to.raw() as u64) << u32::BITS | tagged(rule as u64, generation),
        ]))
    }

    /// Whether one may be kept that has this end: not while it is about to become known, which then need not be noticed.
    #[inline(always)]
    pub const fn can_be_of(end: Identity) -> bool {
        end.raw() != Identity::UNKNOWN.raw() && end.raw() != Identity::PENDING.raw()
    }

    /// Whether it is kept under this key.
    #[inline(always)]
    pub const fn is_of(&self, key: &VerdictKey) -> bool {
        let [caller, answerer, place, ..] = self.0;
        caller == key.caller && answerer == key.answerer && place == key.place
    }

    /// Whether it may be replaced by what is kept under this key.
    #[inline(always)]
    pub const fn is_older_than(&self, key: &VerdictKey) -> bool {
        let [there, ..] = self.0;
        there & TAG < key.place & TAG
    }

    /// The decision that it was kept of under `key`, where the answerer has `asked`; `None` if it was not, or if that may be
    /// another one now. A damaged one denies.
    #[inline(always)]
    pub const fn decision(&self, key: &VerdictKey, asked: Asked) -> Option<Decision> {
        let [caller, answerer, place, from, to] = self.0;
        // In one comparison, since the verifier would follow what comes after each.
        let differ = (caller ^ key.caller)
            | (answerer ^ key.answerer)
            | (place ^ key.place)
            | (((from ^ key.place) | (to ^ key.place)) & TAG);
        if !key.is_usable | (differ != 0) {
            return None;
        }
        let [_, reason, mode, ..] = from.to_le_bytes();
        let (verdict, reason) = match reason {
            0 => (Verdict::Allow, Reason::NotManaged),
            1 => (Verdict::Allow, Reason::SameService),
            2 => (Verdict::Allow, Reason::RuleAllows),
            7 => (Verdict::Deny, Reason::PortNotListed),
            _ => (Verdict::Deny, Reason::NoRule),
        };
        if matches!(verdict, Verdict::Deny) && !asked.is_nobody() {
            return None;
        }
        let rule = RuleId(((to & 0xffff_ffff) >> TAG_BITS) as u32);
        let (from, to) =
            (Identity::from_raw((from >> u32::BITS) as u32), Identity::from_raw((to >> u32::BITS) as u32));
        let decision = Decision::new(verdict, Mode::from_raw(mode), reason, from, to);
        Some(if matches!(reason, Reason::RuleAllows) { decision.by(rule) } else { decision })
    }
}

/// A generation, at the end of a word.
const TAG_BITS: u32 = u8::BITS;
const TAG: u64 = 0xff;

#[inline(always)]
const fn tagged(word: u64, generation: u8) -> u64 {
    word << TAG_BITS | generation as u64
}

#[cfg(test)]
mod tests {
    use super::{KeptVerdict, TAG, VerdictKey};
    use crate::layout::Active;
    use crate::limits::MAX_VERDICTS;
    use crate::{Asked, Decision, Identity, Mode, Port, Protocol, Reason, RuleId, Verdict};

    const RULE: RuleId = RuleId((1 << 24) - 1);

    fn key(generation: u8) -> VerdictKey {
        VerdictKey::new(Active::new(1, false, false, generation), 10, 11, Protocol::TCP, Port::new(80))
    }

    fn ends() -> (Identity, Identity) {
        (Identity::service(0).expect("small"), Identity::service(1).expect("small"))
    }

    fn permitted() -> Decision {
        let (from, to) = ends();
        Decision::new(Verdict::Allow, Mode::Enforce, Reason::RuleAllows, from, to).by(RULE)
    }

    #[test]
    fn a_verdict_is_of_one_call_in_one_generation() {
        let key = key(7);
        let kept = KeptVerdict::of(&permitted(), Asked::NOBODY, &key).expect("lasts");
        assert_eq!(kept.decision(&key, Asked::NOBODY), Some(permitted()));
        let under = |active, caller, answerer, protocol, port| {
            let key = VerdictKey::new(active, caller, answerer, protocol, Port::new(port));
            kept.decision(&key, Asked::NOBODY)
        };
        let made = Active::new(1, false, false, 7);
        // Whether decisions can be told makes none of them another one.
        assert!(under(Active::new(1, true, true, 7), 10, 11, Protocol::TCP, 80).is_some());
        for (active, caller, answerer, protocol, port) in [
            (Active::new(1, false, false, 6), 10, 11, Protocol::TCP, 80),
            (Active::new(1, false, false, 8), 10, 11, Protocol::TCP, 80),
            (Active::new(1, false, false, 0), 10, 11, Protocol::TCP, 80),
            (Active::new(0, false, false, 7), 10, 11, Protocol::TCP, 80),
            (made, 11, 10, Protocol::TCP, 80),
            (made, 10 + (1 << 56), 11, Protocol::TCP, 80),
            (made, 10, 11 + (1 << 56), Protocol::TCP, 80),
            (made, 10, 11, Protocol::UDP, 80),
            (made, 10, 11, Protocol::TCP, 81),
            (made, 10, 11, Protocol::TCP, 80 << 8),
        ] {
            assert_eq!(
                under(active, caller, answerer, protocol, port),
                None,
                "{active:?} {caller} {answerer}"
            );
        }
    }

    #[test]
    fn nothing_is_kept_in_no_generation_or_of_ids_that_do_not_fit() {
        for (generation, caller, answerer, fits) in [
            (1, 10, 11, true),
            (255, (1 << 56) - 1, (1 << 56) - 1, true),
            (0, 10, 11, false),
            (1, 1 << 56, 11, false),
            (1, 10, 1 << 56, false),
            (1, u64::MAX, u64::MAX, false),
        ] {
            let active = Active::new(0, false, false, generation);
            let key = VerdictKey::new(active, caller, answerer, Protocol::TCP, Port::new(80));
            assert_eq!(key.is_usable, fits, "{generation} {caller} {answerer}");
            let kept = KeptVerdict::of(&permitted(), Asked::NOBODY, &key);
            assert_eq!(kept.is_some(), fits, "{generation} {caller} {answerer}");
            // What was never written is nothing under any key.
            assert_eq!(KeptVerdict::from_words([0; KeptVerdict::WORDS]).decision(&key, Asked::NOBODY), None);
        }
    }

    #[test]
    fn words_of_two_generations_are_no_verdict() {
        let (now, before) = (key(7), key(6));
        let kept = KeptVerdict::of(&permitted(), Asked::NOBODY, &now).expect("lasts");
        let older = KeptVerdict::of(&permitted(), Asked::NOBODY, &before).expect("lasts");
        for mask in 0..1_u32 << KeptVerdict::WORDS {
            let mut words = *kept.words();
            for (at, word) in words.iter_mut().enumerate().filter(|(at, _)| mask >> at & 1 == 1) {
                *word = older.words()[at];
            }
            let mixed = KeptVerdict::from_words(words);
            let all = (1 << KeptVerdict::WORDS) - 1;
            assert_eq!(mixed.decision(&now, Asked::NOBODY).is_some(), mask == 0, "{mask:b}");
            assert_eq!(mixed.decision(&before, Asked::NOBODY).is_some(), mask == all, "{mask:b}");
        }
        // And one that is being taken away, or written where nothing was yet, is none either.
        for at in 0..KeptVerdict::WORDS {
            let mut words = *kept.words();
            words[at] = 0;
            assert_eq!(KeptVerdict::from_words(words).decision(&now, Asked::NOBODY), None, "{at}");
        }
    }

    #[test]
    fn only_what_is_of_an_earlier_generation_is_replaced() {
        let kept =
            |generation| KeptVerdict::of(&permitted(), Asked::NOBODY, &key(generation)).expect("lasts");
        for (there, next, replaced) in
            [(1, 2, true), (1, 255, true), (2, 2, false), (3, 2, false), (255, 1, false)]
        {
            assert_eq!(kept(there).is_older_than(&key(next)), replaced, "{there} {next}");
        }
        assert!(KeptVerdict::from_words([0; KeptVerdict::WORDS]).is_older_than(&key(1)));
        assert!(kept(7).is_of(&key(7)) && !kept(7).is_of(&key(8)));
    }

    #[test]
    fn calls_are_spread_over_all_places() {
        let mut taken = [false; MAX_VERDICTS as usize];
        // As ids and ports are given out: next to each other.
        for caller in 0..128 {
            for port in 0..8 {
                let active = Active::new(0, false, false, 1);
                let key = VerdictKey::new(active, 1000 + caller, 77, Protocol::TCP, Port::new(8080 + port));
                taken[key.index() as usize] = true;
            }
        }
        // Chance would leave some 32 of 1,024 without a place of their own among 16,384.
        let places = taken.iter().filter(|taken| **taken).count();
        assert!(places > 1024 - 96, "{places}");
        assert_ne!(key(1).index(), key(2).index());
    }

    #[test]
    fn only_what_lasts_is_kept_and_as_it_was() {
        let (from, to) = ends();
        let key = key(255);
        for verdict in [Verdict::Allow, Verdict::Deny] {
            for mode in [Mode::Enforce, Mode::Audit] {
                for reason in Reason::ALL.iter().copied() {
                    let mut decision = Decision::new(verdict, mode, reason, from, to);
                    if reason == Reason::RuleAllows {
                        decision = decision.by(RULE);
                    }
                    let of = |asked| {
                        KeptVerdict::of(&decision, asked, &key).and_then(|kept| kept.decision(&key, asked))
                    };
                    let permits = verdict == Verdict::Allow
                        && matches!(reason, Reason::NotManaged | Reason::SameService | Reason::RuleAllows);
                    let refuses =
                        verdict == Verdict::Deny && matches!(reason, Reason::NoRule | Reason::PortNotListed);
                    assert_eq!(of(Asked::NOBODY), (permits || refuses).then_some(decision), "{decision:?}");
                    assert_eq!(of(Asked::ANYONE), permits.then_some(decision), "{decision:?}");
                    // A refusal that was made while nobody was asked says nothing of a reply.
                    let later = KeptVerdict::of(&decision, Asked::NOBODY, &key)
                        .and_then(|kept| kept.decision(&key, Asked::ANYONE));
                    assert_eq!(later.is_some(), permits, "{decision:?}");
                    for nobody in [Identity::UNKNOWN, Identity::PENDING] {
                        for (from, to) in [(nobody, to), (from, nobody)] {
                            let decision = Decision::new(verdict, mode, reason, from, to);
                            assert_eq!(KeptVerdict::of(&decision, Asked::NOBODY, &key), None, "{decision:?}");
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn a_damaged_verdict_denies() {
        let key = key(7);
        let kept = KeptVerdict::of(&permitted(), Asked::NOBODY, &key).expect("lasts");
        for reason in 3..=255 {
            let mut words = *kept.words();
            words[3] = words[3] & !(TAG << 8) | reason << 8;
            let damaged = KeptVerdict::from_words(words).decision(&key, Asked::NOBODY);
            assert!(damaged.is_some_and(|decision| !decision.admits()), "{reason}");
        }
    }
}
