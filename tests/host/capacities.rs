//! Every capacity at one below, at, and one above its limit.

use std::net::{IpAddr, Ipv4Addr};

use enforcer::identities::Identities;
use enforcer::policy::{Peer, Policy, PortRange, Ports, Selector};
use enforcer::tables::{CapacityError, Limits, Tables};
use enforcer_common::layout::{EdgeValue, PortKey};
use enforcer_common::{Address, Asked, Facts, Party, Port, Protocol, Reason, Tables as _, decide, limits};
use enforcer_tests::compiled::Compiled;
use enforcer_tests::oracle::{Attempt, End};
use enforcer_tests::sketch;

/// A capacity: how to limit it, and a policy that takes up a given number of it.
struct Capacity {
    name: &'static str,
    limited: fn(usize) -> Limits,
    policy: fn(usize) -> Policy,
    error: fn(usize, usize) -> CapacityError,
}

const CAPACITIES: &[Capacity] = &[
    Capacity {
        name: "services",
        limited: |services| Limits { services, ..Limits::default() },
        policy: sketch::policy,
        error: |number, limit| CapacityError::Services { number, limit },
    },
    Capacity {
        name: "selectors",
        limited: |selectors| Limits { selectors, ..Limits::default() },
        policy: |number| {
            let mut policy = sketch::policy(2);
            for selector in 0..number {
                policy.services[selector % 2].selectors.push(Selector::Cgroup(format!("/{selector}")));
            }
            policy
        },
        error: |number, limit| CapacityError::Selectors { number, limit },
    },
    Capacity {
        name: "rules",
        limited: |rules| Limits { rules, ..Limits::default() },
        policy: |number| {
            let mut policy = sketch::policy(2);
            let rule = |number| sketch::rule(number, vec![Peer::World], vec![], Ports::Everything);
            policy.rules = (0..number).map(rule).collect();
            policy
        },
        error: |number, limit| CapacityError::Rules { number, limit },
    },
    Capacity {
        name: "ranges of one rule",
        limited: |ranges_per_pair| Limits { ranges_per_pair, ..Limits::default() },
        policy: scattered_ports_in_one_rule,
        error: |number, limit| CapacityError::Ranges {
            from: "s0000".into(),
            to: "s0001".into(),
            number,
            limit,
        },
    },
    Capacity {
        name: "ranges of many rules",
        limited: |ranges_per_pair| Limits { ranges_per_pair, ..Limits::default() },
        policy: |number| {
            let mut policy = sketch::policy(2);
            // Every range is listed by two rules, which must not count it twice.
            for port in 0..number * 2 {
                let port = u16::try_from(port % number).expect("few") * 2;
                policy.rules.push(sketch::rule(
                    policy.rules.len(),
                    vec![Peer::Service(0)],
                    vec![Peer::Service(1)],
                    Ports::Listed([sketch::tcp(port, port)].into()),
                ));
            }
            policy
        },
        error: |number, limit| CapacityError::Ranges {
            from: "s0000".into(),
            to: "s0001".into(),
            number,
            limit,
        },
    },
    Capacity {
        name: "edges of many pairs",
        limited: |edges| Limits { edges, ..Limits::default() },
        policy: |number| {
            let mut policy = sketch::policy(number + 1);
            let callers = (1..).take(number).map(Peer::Service).collect();
            // The service itself, and pairs without one, take no place.
            let from = [callers, vec![Peer::Service(0)]].concat();
            policy.rules.push(sketch::rule(0, from, vec![Peer::Service(0)], Ports::Everything));
            policy.rules.push(sketch::rule(
                1,
                vec![Peer::World],
                vec![Peer::World, Peer::Unmanaged],
                Ports::Everything,
            ));
            policy
        },
        error: |number, limit| CapacityError::Edges { number, limit },
    },
    Capacity {
        name: "edges of one pair",
        limited: |edges| Limits { edges, ..Limits::default() },
        policy: |number| scattered_ports_in_one_rule(number * EdgeValue::RANGES),
        error: |number, limit| CapacityError::Edges { number, limit },
    },
    Capacity {
        name: "grants",
        limited: |grants| Limits { grants, ..Limits::default() },
        policy: |number| {
            let mut policy = sketch::policy(2);
            let rule = |number| {
                sketch::rule(number, vec![Peer::Service(0)], vec![Peer::Service(1)], Ports::Everything)
            };
            policy.rules = (0..number).map(rule).collect();
            policy
        },
        error: |number, limit| CapacityError::Grants { number, limit },
    },
    Capacity {
        name: "prefixes",
        limited: |prefixes| Limits { prefixes, ..Limits::default() },
        policy: |number| {
            let host = |number: usize| {
                let bits = 0x0a00_0000 | u32::try_from(number).expect("few");
                sketch::cidr(IpAddr::V4(Ipv4Addr::from(bits)), 32)
            };
            // A prefix inside another of the same network says nothing new and takes no place.
            let cidrs = (0..number).flat_map(|number| [host(number * 2), host(number * 2)]).collect();
            Policy { networks: vec![sketch::network(0, cidrs, vec![])], ..Policy::default() }
        },
        error: |number, limit| CapacityError::Prefixes { number, limit },
    },
    Capacity {
        name: "network set members",
        limited: |network_set_members| Limits { network_set_members, ..Limits::default() },
        policy: |number| {
            let everywhere = || vec![sketch::cidr(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0)];
            let network = |number| sketch::network(number, everywhere(), vec![]);
            Policy { networks: (0..number).map(network).collect(), ..Policy::default() }
        },
        error: |number, limit| CapacityError::NetworkSetMembers { number, limit },
    },
    Capacity {
        name: "reserved ports",
        limited: |reserved| Limits { reserved, ..Limits::default() },
        policy: |number| {
            let mut policy = sketch::policy(1);
            let last = u16::try_from(number).expect("few");
            // Port 0 is never reserved, and what is listed twice counts once.
            policy.services[0].listens = vec![sketch::tcp(0, last), sketch::tcp(1, 1)];
            policy
        },
        error: |number, limit| CapacityError::Reserved { number, limit },
    },
    Capacity {
        name: "protocols",
        limited: |protocols| Limits { protocols, ..Limits::default() },
        policy: |number| {
            let mut policy = sketch::policy(1);
            let named = (0..number).map(|number| Protocol(u8::try_from(number).expect("few")));
            policy.rules.push(sketch::rule(
                0,
                vec![Peer::Service(0)],
                vec![Peer::World],
                Ports::Listed(named.map(PortRange::Protocol).collect()),
            ));
            policy
        },
        error: |number, limit| CapacityError::Protocols { number, limit },
    },
];

#[test]
fn what_fits_compiles_and_one_more_is_refused_with_both_numbers() {
    for Capacity { name, limited, policy, error } in CAPACITIES {
        for limit in [2, 8, 15] {
            let compile = |number| {
                let mut identities = Identities::default();
                Tables::compile_within(&policy(number), &mut identities, 1, &limited(limit)).map(|_| ())
            };
            assert_eq!(compile(limit - 1), Ok(()), "{name}: {} of {limit}", limit - 1);
            assert_eq!(compile(limit), Ok(()), "{name}: {limit} of {limit}");
            let refused = compile(limit + 1).expect_err(name);
            assert_eq!(refused, error(limit + 1, limit), "{name}");
            let text = refused.to_string();
            assert!(
                text.contains(&format!("{}", limit + 1)) && text.contains(&format!("limit is {limit}")),
                "{text}"
            );
        }
    }
}

#[test]
fn the_longest_port_list_is_covered_to_its_last_range() {
    for number in [1, 3, 4, 5, 63, limits::MAX_RANGES_PER_PAIR] {
        let compiled = Compiled::of(&scattered_ports_in_one_rule(number)).expect("within the limit");
        assert_eq!(compiled.tables.edges.len(), number.div_ceil(EdgeValue::RANGES));
        for port in 0..=number * 2 {
            let attempt = Attempt {
                from: End::Service(0),
                to: End::Service(1),
                protocol: Protocol::TCP,
                port: u16::try_from(port).expect("few"),
                reply_port: None,
            };
            let wanted =
                if port % 2 == 0 && port < number * 2 { Reason::RuleAllows } else { Reason::PortNotListed };
            assert_eq!(compiled.decide(&attempt).reason, wanted, "port {port} of {number} ranges");
        }
    }
    let refused = Compiled::of(&scattered_ports_in_one_rule(limits::MAX_RANGES_PER_PAIR + 1));
    assert!(matches!(refused, Err(CapacityError::Ranges { number: 65, limit: 64, .. })), "{refused:?}");
}

#[test]
fn a_list_that_lacks_a_part_is_denied_as_damaged() {
    let mut compiled = Compiled::of(&scattered_ports_in_one_rule(9)).expect("within the limit");
    let (last, _) = compiled.tables.edges.pop_last().expect("three parts");
    assert_eq!(compiled.tables.edges.len(), 2, "{last:?}");
    let facts = |port| Facts {
        caller: Party::cgroup(1000),
        answerer: Party::cgroup(1001),
        protocol: Protocol::TCP,
        port: Port::new(port),
        asked: Asked::NOBODY,
        reply_port: Port::new(0),
    };
    assert_eq!(decide(&facts(14), &compiled.tables).reason, Reason::RuleAllows);
    assert_eq!(decide(&facts(16), &compiled.tables).reason, Reason::TableMissing);
}

#[test]
fn every_port_of_two_protocols_can_be_reserved() {
    let mut policy = sketch::policy(2);
    policy.services[0].listens = vec![PortRange::Protocol(Protocol::TCP)];
    policy.services[1].listens = vec![PortRange::Protocol(Protocol::UDP), sketch::tcp(80, 80)];
    let tables = Compiled::of(&policy).expect("within the limit").tables;
    let owner = |protocol, port| tables.reserved(&PortKey::new(protocol, Port::new(port)));
    let [first, second] = [0, 1].map(|service: usize| Some(tables.services[service].owner));
    for (protocol, port, wanted) in [
        (Protocol::TCP, 0, None),
        (Protocol::TCP, 1, first),
        (Protocol::TCP, 80, first),
        (Protocol::TCP, 65535, first),
        (Protocol::UDP, 0, None),
        (Protocol::UDP, 65535, second),
        (Protocol::SCTP, 80, None),
    ] {
        assert_eq!(owner(protocol, port), wanted, "{protocol:?} {port}");
    }
    policy.services[1].listens.push(PortRange::Ports { protocol: Protocol::SCTP, low: 1, high: 3 });
    let refused = Compiled::of(&policy).map(|_| ());
    assert_eq!(refused, Err(CapacityError::Reserved { number: 131_073, limit: 131_072 }));
}

#[test]
fn an_address_of_no_network_is_in_no_table() {
    let tables = Compiled::of(&sketch::policy(1)).expect("small").tables;
    assert_eq!(tables.network(&Address::from_v4([10, 0, 0, 1])), None);
}

fn scattered_ports_in_one_rule(number: usize) -> Policy {
    let mut policy = sketch::policy(2);
    let ports = (0..number).map(|number| u16::try_from(number).expect("few") * 2);
    policy.rules.push(sketch::rule(
        0,
        vec![Peer::Service(0)],
        vec![Peer::Service(1)],
        Ports::Listed(ports.map(|port| sketch::tcp(port, port)).collect()),
    ));
    policy
}
