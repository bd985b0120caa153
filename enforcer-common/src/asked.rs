//! Whom a socket has asked something, so that their datagrams to it can be answers.

use crate::identity::Identity;

/// A set of ends that a datagram socket has sent to of its own accord.
///
/// 64 bits, since it is kept with every socket and an end is looked up in it per datagram: services whose numbers agree
/// modulo 32, and networks modulo 16, are one in it. That widens a set only by ends that the asker may call at the port
/// which they send from, as [`decide`](crate::decide()) asks for a rule besides.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(transparent)]
pub struct Asked(u64);

impl Asked {
    /// Nobody: what comes is no answer.
    pub const NOBODY: Self = Self(0);
    /// Whoever sends: the kernel chose the receiver by its peer, or it cannot be told who was reached.
    pub const ANYONE: Self = Self(u64::MAX);

    /// The same, and `end`. An end that could not be told may be anyone.
    #[inline(always)]
    #[must_use]
    pub const fn and(self, end: Identity) -> Self {
        if end.raw() == Identity::UNKNOWN.raw() { Self::ANYONE } else { Self(self.0 | Self::bit(end)) }
    }

    /// Whether nobody was asked.
    #[inline(always)]
    pub const fn is_nobody(self) -> bool {
        self.0 == Self::NOBODY.0
    }

    /// Whether a datagram from `end` may be an answer.
    #[inline(always)]
    pub const fn includes(self, end: Identity) -> bool {
        self.0 & Self::bit(end) != 0
    }

    /// The set as it is kept.
    #[inline(always)]
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// Undoes [`bits`](Self::bits).
    #[inline(always)]
    pub const fn from_bits(bits: u64) -> Self {
        Self(bits)
    }

    #[inline(always)]
    const fn bit(end: Identity) -> u64 {
        // The numbers of services, of networks and of the reserved peers all begin at a multiple of 32.
        if end.is_service() {
            1 << (end.raw() & 31)
        } else if end.is_network() {
            1 << (32 | (end.raw() & 15))
        } else {
            1 << (48 | (end.raw() & 15))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Asked;
    use crate::Identity;

    #[test]
    fn only_those_who_were_asked_may_answer() {
        let [web, db, cache] = [1, 5, 6].map(|number| Identity::service(number).unwrap_or(Identity::UNKNOWN));
        let partner = Identity::network(1).unwrap_or(Identity::UNKNOWN);
        let asked = Asked::NOBODY.and(web).and(partner);
        for (end, expected) in [
            (web, true),
            (partner, true),
            (db, false),
            (cache, false),
            (Identity::WORLD, false),
            (Identity::UNMANAGED, false),
        ] {
            assert_eq!(asked.includes(end), expected, "{end:?}");
            assert!(!Asked::NOBODY.includes(end));
            assert!(Asked::ANYONE.includes(end));
        }
    }

    #[test]
    fn an_end_that_could_not_be_told_may_be_anyone() {
        assert_eq!(Asked::NOBODY.and(Identity::UNKNOWN), Asked::ANYONE);
    }
}
