//! Policies made in code, for tests that need thousands of them or none of their text.

use std::net::IpAddr;
use std::path::Path;
use std::sync::Arc;

use enforcer::policy::{Cidr, Location, Network, Peer, Policy, PortRange, Ports, Rule, Service};
use enforcer_common::{Mode, Protocol};

/// A policy with as many services, all in enforce mode, named `s0000`, `s0001` …
pub fn policy(services: usize) -> Policy {
    Policy {
        services: (0..services).map(|number| service(number, Mode::Enforce)).collect(),
        ..Policy::default()
    }
}

/// Service number `number`, without selectors or reserved ports.
pub fn service(number: usize, mode: Mode) -> Service {
    Service {
        name: format!("s{number:04}"),
        selectors: Vec::new(),
        listens: Vec::new(),
        mode,
        location: location(number),
    }
}

/// Network number `number`.
pub fn network(number: usize, cidrs: Vec<Cidr>, except: Vec<Cidr>) -> Network {
    Network { name: format!("n{number:04}"), cidrs, except, location: location(number) }
}

/// Rule number `number`.
pub fn rule(number: usize, from: Vec<Peer>, to: Vec<Peer>, ports: Ports) -> Rule {
    Rule {
        name: format!("r{number:04}").into(),
        from: from.into(),
        to: to.into(),
        ports,
        location: location(number),
    }
}

/// Ports `low` to `high` of TCP.
pub fn tcp(low: u16, high: u16) -> PortRange {
    PortRange::Ports { protocol: Protocol::TCP, low, high }
}

/// The prefix of this length around `address`.
pub fn cidr(address: IpAddr, prefix: u8) -> Cidr {
    let address = match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    };
    Cidr { address, prefix }
}

fn location(number: usize) -> Location {
    let file: Arc<Path> = Path::new("sketch.yaml").into();
    Location { file, line: u32::try_from(number).map_or(u32::MAX, |line| line + 1), column: 1 }
}
