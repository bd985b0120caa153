//! The second executor: attempts answered by `decide` over compiled tables, as the programs answer them.

use std::net::IpAddr;

use enforcer::identities::Identities;
use enforcer::policy::Policy;
use enforcer::tables::{CapacityError, Tables};
use enforcer_common::counter::Outcome;
use enforcer_common::layout::Owner;
use enforcer_common::{Address, Asked, Decision, Facts, Identity, Mode, Party, Port, decide};

use crate::oracle::{Answer, Attempt, End};

/// A policy as the kernel would hold it, on a host with one cgroup per service.
#[derive(Debug)]
pub struct Compiled {
    /// The tables, with the cgroups filled in.
    pub tables: Tables,
    /// The numbers in them.
    pub identities: Identities,
}

impl Compiled {
    /// Compiles `policy` as its first revision.
    ///
    /// # Errors
    ///
    /// If it does not fit.
    pub fn of(policy: &Policy) -> Result<Self, CapacityError> {
        let mut identities = Identities::default();
        let mut tables = Tables::compile(policy, &mut identities, 1)?;
        let owners: Vec<Owner> = tables.services.iter().map(|service| service.owner).collect();
        let pending = tables.pending.unwrap_or(Owner::new(Identity::PENDING, Mode::Enforce));
        let others = [(UNMANAGED, Owner::UNMANAGED), (PENDING, pending)];
        tables.cgroups = (FIRST_SERVICE..).zip(owners).chain(others).collect();
        Ok(Self { tables, identities })
    }

    /// The decision about `attempt`.
    pub fn decide(&self, attempt: &Attempt) -> Decision {
        let facts = Facts {
            caller: party(attempt.from),
            answerer: party(attempt.to),
            protocol: attempt.protocol,
            port: Port::new(attempt.port),
            asked: if attempt.reply_port.is_some() { Asked::ANYONE } else { Asked::NOBODY },
            reply_port: Port::new(attempt.reply_port.unwrap_or(0)),
        };
        decide(&facts, &self.tables)
    }

    /// The decision about `attempt`, in the oracle's words.
    pub fn answer(&self, attempt: &Attempt) -> Answer {
        let decision = self.decide(attempt);
        Answer {
            outcome: Outcome::of(&decision),
            reason: decision.reason,
            rule: decision.rule().map(|rule| usize::try_from(rule.0).unwrap_or(usize::MAX)),
        }
    }
}

/// The address as tables and hooks hold it.
pub fn address(address: IpAddr) -> Address {
    match address {
        IpAddr::V4(v4) => Address::from_v4(v4.octets()),
        IpAddr::V6(v6) => Address::new(v6.octets()),
    }
}

const UNMANAGED: u64 = 1;
const PENDING: u64 = 2;
const FIRST_SERVICE: u64 = 1000;

fn party(end: End) -> Party {
    match end {
        End::Service(number) => {
            Party::cgroup(u64::try_from(number).map_or(u64::MAX, |number| FIRST_SERVICE + number))
        }
        End::Unmanaged => Party::cgroup(UNMANAGED),
        End::Address(ip) => Party::address(address(ip)),
        End::Unknown => Party::UNKNOWN,
        End::Pending => Party::cgroup(PENDING),
    }
}
