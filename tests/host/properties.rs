//! What holds for every policy and every attempt, tried on many.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use enforcer::identities::Identities;
use enforcer::policy::{Cidr, ContainerSelector, Network, Peer, Policy, PortRange, Ports, Rules, Selector};
use enforcer::tables::diff::{self, diff};
use enforcer::tables::{Edges, Tables};
use enforcer_common::kept::{KeptVerdict, VerdictKey};
use enforcer_common::layout::{Active, EdgeKey, EdgeValue};
use enforcer_common::{Asked, Identity, Mode, Port, Protocol, Reason, Tables as _};
use enforcer_tests::compiled::{Compiled, address};
use enforcer_tests::oracle::{self, Attempt, End};
use enforcer_tests::sketch;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};

const SERVICES: usize = 3;
const NETWORKS: usize = 3;
const POLICIES: u32 = 1000;
const ATTEMPTS: usize = 128;
/// Pairs of policies that are compared, which takes longer.
const COMPARED: u32 = 200;
const _: () = assert!(POLICIES as usize * ATTEMPTS >= 100_000);

proptest! {
    #![proptest_config(ProptestConfig { cases: POLICIES, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn decide_agrees_with_the_oracle(policy in policies(), attempts in vec(attempts(), ATTEMPTS)) {
        let compiled = Compiled::of(&policy).expect("small policies fit");
        for attempt in attempts {
            prop_assert_eq!(compiled.answer(&attempt), oracle::answer(&policy, &attempt), "{:?}", attempt);
        }
    }

    #[test]
    fn what_is_kept_of_a_decision_is_the_decision_whatever_was_asked_before(
        policy in policies(),
        attempts in vec((attempts(), proptest::option::of(port_numbers())), ATTEMPTS),
    ) {
        let compiled = Compiled::of(&policy).expect("small policies fit");
        for (attempt, reply_port) in attempts {
            let decision = compiled.decide(&attempt);
            let asked = |attempt: &Attempt| if attempt.reply_port.is_some() { Asked::ANYONE } else { Asked::NOBODY };
            let key = VerdictKey::new(Active::new(0, false, false, 1), 10, 11, attempt.protocol, Port::new(attempt.port));
            let Some(kept) = KeptVerdict::of(&decision, asked(&attempt), &key) else { continue };
            prop_assert_eq!(kept.decision(&key, asked(&attempt)), Some(decision));
            // All else that a decision about two cgroups is made from.
            let other = Attempt { reply_port, ..attempt };
            if let Some(found) = kept.decision(&key, asked(&other)) {
                prop_assert_eq!(found, compiled.decide(&other), "{:?} and {:?}", attempt, other);
            }
            let is_nobody = |end| matches!(end, End::Unknown | End::Pending);
            prop_assert!(!is_nobody(attempt.from) && !is_nobody(attempt.to), "{:?}", attempt);
        }
    }

    #[test]
    fn the_longest_prefix_tells_exactly_the_networks_of_an_address(
        networks in networks(),
        addresses in vec(addresses(), 32),
    ) {
        let policy = Policy { networks, ..Policy::default() };
        let Compiled { tables, identities } = Compiled::of(&policy).expect("small policies fit");
        for ip in addresses {
            let names: Vec<&str> = policy
                .networks
                .iter()
                .filter(|network| oracle::is_in(network, ip))
                .map(|network| network.name.as_str())
                .collect();
            let wanted = if names.is_empty() { "world".to_owned() } else { names.join(",") };
            let longest = tables
                .networks
                .iter()
                .filter(|(prefix, _)| prefix.contains(&address(ip)))
                .max_by_key(|(prefix, _)| prefix.length)
                .map(|(_, identity)| *identity);
            prop_assert_eq!(tables.network(&address(ip)), longest, "{}", ip);
            let name = identities.name(longest.unwrap_or(Identity::WORLD));
            prop_assert_eq!(name, Some(wanted.as_str()), "{}", ip);
        }
    }

    #[test]
    fn no_prefix_stands_twice_or_says_what_the_one_around_it_says(networks in networks()) {
        let policy = Policy { networks, ..Policy::default() };
        let Compiled { tables, .. } = Compiled::of(&policy).expect("small policies fit");
        prop_assert!(tables.networks.is_sorted_by(|(a, _), (b, _)| a < b));
        for (prefix, identity) in &tables.networks {
            let around = tables
                .networks
                .iter()
                .filter(|(other, _)| other.length < prefix.length && other.contains(&prefix.address))
                .max_by_key(|(other, _)| other.length)
                .map_or(Identity::WORLD, |(_, identity)| *identity);
            prop_assert_ne!(around, *identity, "{:?}", prefix);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: COMPARED, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_comparison_tells_exactly_what_the_oracle_answers_otherwise(
        before in policies(),
        after in policies(),
        attempts in vec(attempts(), ATTEMPTS),
    ) {
        let mut identities = Identities::default();
        let old = Tables::compile(&before, &mut identities, 1).expect("small policies fit");
        let new = Tables::compile(&after, &mut identities, 2).expect("small policies fit");
        let diff = diff(&old, &new, &identities);
        for attempt in attempts {
            // A reply follows what it answers, and of who is not known a policy says nothing.
            let attempt = Attempt { reply_port: None, ..attempt };
            let ends = [attempt.from, attempt.to];
            let is_nobody = |end: &End| matches!(end, End::Unknown | End::Pending);
            let concerns_a_service = ends.iter().any(|end| matches!(end, End::Service(_)));
            if ends.iter().any(is_nobody) || ends[0] == ends[1] || !concerns_a_service {
                continue;
            }
            let permits = |policy| oracle::answer(policy, &attempt).reason == Reason::RuleAllows;
            let wanted: &[bool] = match (permits(&before), permits(&after)) {
                (false, true) => &[true],
                (true, false) => &[false],
                (true, true) | (false, false) => &[],
            };
            let [from, to] = ends.map(|end| diff::End { before: called(&before, end), after: called(&after, end) });
            let told: Vec<bool> = diff
                .pairs
                .iter()
                .filter(|pair| (&pair.from, &pair.to) == (&from, &to))
                .filter(|pair| pair.ports.contains(attempt.protocol, attempt.port))
                .map(|pair| pair.opened)
                .collect();
            prop_assert_eq!(&told[..], wanted, "{:?} in {:?}", attempt, diff.pairs);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: COMPARED, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_compiled_by_a_change_is_what_is_compiled_from_nothing(
        first in policies(),
        steps in vec((vec((any::<Index>(), vec(peers(), 0..3), vec(peers(), 0..3), ports()), 0..3), any::<bool>()), 1..5),
    ) {
        // So many that some of them are few.
        let fill = |policy: &Policy| -> Rules {
            let more = (0..40).map(|number| sketch::rule(100 + number, vec![Peer::Service(0)], vec![Peer::Service(1)], Ports::Everything));
            policy.rules.iter().cloned().chain(more).collect()
        };
        let mut policy = Policy { rules: fill(&first), ..first };
        let mut identities = Identities::default();
        let mut tables = Tables::compile_below(&policy, &mut identities, 1, b"/").expect("small policies fit");
        for (revision, (changes, is_other)) in (2..).zip(steps) {
            let mut next = policy.clone();
            for (place, from, to, ports) in changes {
                let number = place.index(next.rules.len());
                let rule = sketch::rule(number, from, to, ports);
                next.rules = next.rules.with(number..number + 1, [rule]);
            }
            if is_other {
                // Then it is compiled from nothing.
                next.services[0].mode = Mode::Audit;
            }
            let changed = tables.compile_next(&policy, &next, &mut identities, revision).expect("small");
            let fresh = Tables::compile_below(&next, &mut identities, revision, b"/").expect("small");
            prop_assert_eq!(&changed.edges, &fresh.edges);
            prop_assert_eq!(&changed.protocols, &fresh.protocols);
            prop_assert_eq!(format!("{:?}", changed.services), format!("{:?}", fresh.services));
            prop_assert_eq!(
                (&changed.rules, &changed.networks, &changed.reserved),
                (&fresh.rules, &fresh.networks, &fresh.reserved)
            );
            // And what is written by the difference is what is written from nothing.
            let mut written: BTreeMap<EdgeKey, EdgeValue> = entries(&tables.edges);
            let difference = tables.edges.difference(&changed.edges, usize::MAX).expect("any number will do");
            for key in &difference.removed {
                prop_assert!(written.remove(key).is_some());
            }
            for (key, value) in difference.keys.iter().zip(&difference.values) {
                prop_assert_ne!(written.insert(*key, *value), Some(*value));
            }
            prop_assert_eq!(written, entries(&fresh.edges));
            let number = difference.removed.len() + difference.keys.len();
            prop_assert!(tables.edges.difference(&fresh.edges, number).is_some());
            prop_assert!(number == 0 || tables.edges.difference(&fresh.edges, number - 1).is_none());
            (policy, tables) = (next, changed);
        }
    }
}

fn entries(edges: &Edges) -> BTreeMap<EdgeKey, EdgeValue> {
    edges.pieces().flat_map(|(keys, values)| keys.iter().copied().zip(values.iter().copied())).collect()
}

/// What a policy calls an end: a service, or the networks that an address is in.
fn called(policy: &Policy, end: End) -> String {
    let End::Address(ip) = end else {
        return match end {
            End::Service(number) => policy.services[number].name.clone(),
            _ => String::from("unmanaged"),
        };
    };
    let networks = policy.networks.iter().filter(|network| oracle::is_in(network, ip));
    let names: Vec<&str> = networks.map(|network| network.name.as_str()).collect();
    if names.is_empty() { String::from("world") } else { names.join(",") }
}

fn policies() -> impl Strategy<Value = Policy> {
    // Some select containers, so that what is pending may be theirs.
    let modes = vec((select(&[Mode::Enforce, Mode::Audit][..]), any::<bool>()), SERVICES);
    let rules = vec((vec(peers(), 0..3), vec(peers(), 0..3), ports()), 0..8);
    (modes, networks(), rules).prop_map(|(modes, networks, rules)| Policy {
        services: modes
            .into_iter()
            .enumerate()
            .map(|(number, (mode, selects))| {
                let mut service = sketch::service(number, mode);
                let container = || Selector::Container(Box::<ContainerSelector>::default());
                service.selectors.extend(selects.then(container));
                service
            })
            .collect(),
        networks,
        rules: rules
            .into_iter()
            .enumerate()
            .map(|(number, (from, to, ports))| sketch::rule(number, from, to, ports))
            .collect(),
        ..Policy::default()
    })
}

fn networks() -> impl Strategy<Value = Vec<Network>> {
    vec((vec(cidrs(), 0..4), vec(cidrs(), 0..3)), NETWORKS).prop_map(|networks| {
        let numbered = networks.into_iter().enumerate();
        numbered.map(|(number, (cidrs, except))| sketch::network(number, cidrs, except)).collect()
    })
}

/// Mostly long prefixes around the few addresses that are tried, so that they nest, overlap and miss each other.
fn cidrs() -> impl Strategy<Value = Cidr> {
    (addresses(), prop_oneof![1 => 0..=128_u8, 4 => 0..=5_u8]).prop_map(|(address, host_bits)| {
        let bits = if address.is_ipv4() { 32 } else { 128 };
        sketch::cidr(address, bits - host_bits.min(bits))
    })
}

fn addresses() -> impl Strategy<Value = IpAddr> {
    let v6 = u128::from(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0));
    // Looks like IPv4 behind a prefix that is one bit off: it must not be taken for it.
    let beside_v4 = u128::from(Ipv6Addr::new(0, 0, 0, 0, 0, 0xfffe, 0x0a00, 0));
    prop_oneof![
        4 => (0..32_u32).prop_map(|low| Ipv4Addr::from(0x0a00_0000 | low).into()),
        1 => any::<u32>().prop_map(|bits| Ipv4Addr::from(bits).into()),
        3 => (0..32_u128).prop_map(move |low| Ipv6Addr::from(v6 | low).into()),
        1 => (0..32_u128).prop_map(move |low| Ipv6Addr::from(beside_v4 | low).into()),
    ]
}

fn peers() -> impl Strategy<Value = Peer> {
    prop_oneof![
        4 => (0..SERVICES).prop_map(|number| Peer::Service(u32::try_from(number).expect("few"))),
        2 => (0..NETWORKS).prop_map(|number| Peer::Network(u32::try_from(number).expect("few"))),
        1 => Just(Peer::Unmanaged),
        1 => Just(Peer::World),
    ]
}

fn ports() -> impl Strategy<Value = Ports> {
    prop_oneof![1 => Just(Ports::Everything), 9 => vec(port_ranges(), 0..12).prop_map(|ports| Ports::Listed(ports.into()))]
}

fn port_ranges() -> impl Strategy<Value = PortRange> {
    prop_oneof![
        1 => protocols().prop_map(PortRange::Protocol),
        8 => (protocols(), port_numbers(), port_numbers()).prop_map(|(protocol, a, b)| {
            PortRange::Ports { protocol, low: a.min(b), high: a.max(b) }
        }),
        4 => (protocols(), port_numbers()).prop_map(|(protocol, port)| {
            PortRange::Ports { protocol, low: port, high: port }
        }),
    ]
}

fn protocols() -> impl Strategy<Value = Protocol> {
    select(&[Protocol::ICMP, Protocol::TCP, Protocol::UDP, Protocol(7)][..])
}

fn port_numbers() -> impl Strategy<Value = u16> {
    prop_oneof![8 => 0..24_u16, 1 => 65533..=65535_u16]
}

fn attempts() -> impl Strategy<Value = Attempt> {
    (ends(), ends(), protocols(), port_numbers(), proptest::option::of(port_numbers()))
        .prop_map(|(from, to, protocol, port, reply_port)| Attempt { from, to, protocol, port, reply_port })
}

fn ends() -> impl Strategy<Value = End> {
    prop_oneof![
        6 => (0..SERVICES).prop_map(End::Service),
        1 => Just(End::Unmanaged),
        4 => addresses().prop_map(End::Address),
        1 => Just(End::Unknown),
        1 => Just(End::Pending),
    ]
}
