//! The number the kernel uses for a service, a set of networks or a reserved peer.

/// Who stands at one end of a connection.
///
/// The kind can be read off the number, so that asking "is this a declared service?" costs no look-up.
/// Services and networks are numbered by name when a policy is compiled and keep their number across reloads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(transparent)]
pub struct Identity(u32);

impl Identity {
    /// A local end whose owner could not be told; a declared service never talks to it.
    pub const UNKNOWN: Self = Self(0);
    /// A local process in no declared service.
    pub const UNMANAGED: Self = Self(1);
    /// An address that is not of this host and in no declared network.
    pub const WORLD: Self = Self(2);
    /// A container whose runtime has not told yet what it is. It may turn out to be of any service that is selected by
    /// container, so it is judged like one, and no rule speaks of it.
    pub const PENDING: Self = Self(3);

    const FIRST_SERVICE: u32 = 0x0001_0000;
    const FIRST_NETWORK: u32 = 0x0100_0000;
    const END: u32 = 0x8000_0000;

    /// The identity of service number `index`, or `None` past the last one.
    pub const fn service(index: u32) -> Option<Self> {
        match Self::FIRST_SERVICE.checked_add(index) {
            Some(raw) if raw < Self::FIRST_NETWORK => Some(Self(raw)),
            Some(_) | None => None,
        }
    }

    /// The identity of network set number `index`, or `None` past the last one.
    pub const fn network(index: u32) -> Option<Self> {
        match Self::FIRST_NETWORK.checked_add(index) {
            Some(raw) if raw < Self::END => Some(Self(raw)),
            Some(_) | None => None,
        }
    }

    /// Whether this is a service that the policy declares.
    #[inline(always)]
    pub const fn is_service(self) -> bool {
        self.0 >= Self::FIRST_SERVICE && self.0 < Self::FIRST_NETWORK
    }

    /// Whether what this end does is judged: it is a declared service, or may turn out to be one.
    #[inline(always)]
    pub const fn is_judged(self) -> bool {
        self.is_service() || self.0 == Self::PENDING.0
    }

    /// Whether this is a set of declared networks.
    pub const fn is_network(self) -> bool {
        self.0 >= Self::FIRST_NETWORK && self.0 < Self::END
    }

    /// The number as it stands in maps and events.
    #[inline(always)]
    pub const fn raw(self) -> u32 {
        self.0
    }

    /// The identity behind a number read from a map or an event. Every number is one: an unassigned number
    /// equals no declared end, so it is denied like [`Identity::UNKNOWN`].
    #[inline(always)]
    pub const fn from_raw(raw: u32) -> Self {
        Self(raw)
    }
}

#[cfg(test)]
mod tests {
    use super::Identity;

    #[test]
    fn kinds_do_not_overlap_at_their_borders() {
        let last_service = Identity::FIRST_NETWORK - Identity::FIRST_SERVICE - 1;
        assert!(Identity::service(0).is_some_and(Identity::is_service));
        assert!(Identity::service(last_service).is_some_and(|id| id.is_service() && !id.is_network()));
        assert_eq!(Identity::service(last_service + 1), None);
        assert_eq!(Identity::service(u32::MAX), None);
        assert!(Identity::network(0).is_some_and(|id| id.is_network() && !id.is_service()));
        assert_eq!(Identity::network(u32::MAX), None);
        for reserved in [Identity::UNKNOWN, Identity::UNMANAGED, Identity::WORLD, Identity::PENDING] {
            assert!(!reserved.is_service() && !reserved.is_network());
            assert_eq!(reserved.is_judged(), reserved == Identity::PENDING);
        }
        assert!(Identity::service(0).is_some_and(Identity::is_judged));
        assert!(Identity::network(0).is_some_and(|id| !id.is_judged()));
    }
}
