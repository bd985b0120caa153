//! All selectors of a policy as one automaton over the bytes of a cgroup path.

use std::collections::{BTreeMap, HashMap};

use enforcer_common::claims::{DEAD, Transitions, advance};
use enforcer_common::layout::{Classes, Owner};
use enforcer_common::{Identity, Mode, limits};
use regex_automata::dfa::{Automaton as _, StartKind, dense};
use regex_automata::nfa::thompson;
use regex_automata::util::primitives::StateID;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, MatchKind};

use super::{CapacityError, ServiceOwner};

/// Bytes that building the automaton may take; reached by selectors that share stars in unlucky ways.
const BUILD_BYTES: usize = 512 * 1024 * 1024;

/// A deterministic automaton that tells which service claims a path.
#[derive(Clone, Debug)]
pub struct Claims {
    /// The class of every byte.
    pub classes: Classes,
    /// The state of the empty path, which is the top of the tree.
    pub start: u32,
    /// Indexed by state plus class.
    pub transitions: Vec<u32>,
    /// The owner of a path that ends in a state; where there is none, the path is its parent's.
    pub claimants: BTreeMap<u32, Owner>,
}

impl Default for Claims {
    /// The automaton of a policy without selectors: nothing is claimed.
    fn default() -> Self {
        Self { classes: Classes([0; 256]), start: DEAD, transitions: vec![DEAD], claimants: BTreeMap::new() }
    }
}

impl Transitions for Claims {
    fn class(&self, byte: u8) -> u32 {
        u32::from(self.classes.0[usize::from(byte)])
    }

    fn next(&self, index: u32) -> u32 {
        usize::try_from(index).ok().and_then(|index| self.transitions.get(index)).copied().unwrap_or(DEAD)
    }
}

impl Claims {
    /// The state of a child's path.
    pub fn child(&self, parent: u32, name: &[u8]) -> u32 {
        name.iter().fold(advance(parent, b'/', self), |state, byte| advance(state, *byte, self))
    }

    /// The state of a path from the top of the tree.
    pub fn state(&self, path: &[u8]) -> u32 {
        let names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        names.fold(self.start, |state, name| self.child(state, name))
    }

    pub(super) fn compile(services: &[ServiceOwner]) -> Result<Self, CapacityError> {
        let mut patterns = Vec::new();
        let mut owners = Vec::new();
        for service in services {
            for selector in &service.selectors {
                patterns.push(selector.regex());
                owners.push(service.owner);
            }
        }
        if patterns.is_empty() {
            return Ok(Self::default());
        }
        let selectors = patterns.len();
        let too_complex = |cause: String| CapacityError::Claims { selectors, cause };
        let automaton = dense::Builder::new()
            .syntax(syntax::Config::new().unicode(false).utf8(false).dot_matches_new_line(true))
            .thompson(thompson::Config::new().utf8(false).nfa_size_limit(Some(BUILD_BYTES)))
            .configure(
                dense::Config::new()
                    .start_kind(StartKind::Anchored)
                    .match_kind(MatchKind::All)
                    .determinize_size_limit(Some(BUILD_BYTES))
                    .dfa_size_limit(Some(BUILD_BYTES)),
            )
            .build_many(&patterns)
            .map_err(|err| too_complex(err.to_string()))?;
        Self::renumber(&automaton, &owners).map_err(too_complex)
    }

    /// Copies the states that can be reached, numbered so that a state plus a class is the index of a transition.
    fn renumber(automaton: &dense::DFA<Vec<u32>>, owners: &[Owner]) -> Result<Self, String> {
        let mut classes = Classes([0; 256]);
        let mut representatives: Vec<u8> = Vec::new();
        let mut class_of = HashMap::new();
        for byte in 0..=u8::MAX {
            let next = u8::try_from(representatives.len()).map_err(|err| err.to_string());
            let class = match class_of.entry(automaton.byte_classes().get(byte)) {
                std::collections::hash_map::Entry::Occupied(known) => *known.get(),
                std::collections::hash_map::Entry::Vacant(new) => {
                    representatives.push(byte);
                    *new.insert(next?)
                }
            };
            classes.0[usize::from(byte)] = class;
        }
        let stride = representatives.len();
        let first = automaton
            .start_state_forward(&Input::new(&[]).anchored(Anchored::Yes))
            .map_err(|err| err.to_string())?;
        let number = |row: usize| u32::try_from(row * stride).map_err(|err| err.to_string());
        let mut rows: HashMap<StateID, usize> = HashMap::from([(first, 1)]);
        let mut order = vec![first];
        let mut transitions = vec![DEAD; stride];
        let mut claimants = BTreeMap::new();
        let mut at = 0;
        while let Some(state) = order.get(at).copied() {
            for byte in &representatives {
                let next = automaton.next_state(state, *byte);
                if automaton.is_dead_state(next) {
                    transitions.push(DEAD);
                    continue;
                }
                let row = *rows.entry(next).or_insert_with(|| {
                    order.push(next);
                    order.len()
                });
                transitions.push(number(row)?);
            }
            if let Some(owner) = claimant(automaton, state, owners) {
                claimants.insert(number(at + 1)?, owner);
            }
            at += 1;
            if transitions.len() > limits::MAX_TRANSITIONS as usize {
                let limit = limits::MAX_TRANSITIONS;
                return Err(format!("their automaton has more than {limit} transitions"));
            }
        }
        Ok(Self { classes, start: number(1)?, transitions, claimants })
    }
}

/// Who owns a path that ends in `state`. Two services that claim it make its owner unknown, which is denied.
fn claimant(automaton: &dense::DFA<Vec<u32>>, state: StateID, owners: &[Owner]) -> Option<Owner> {
    let end = automaton.next_eoi_state(state);
    if !automaton.is_match_state(end) {
        return None;
    }
    let mut matching = (0..automaton.match_len(end))
        .filter_map(|index| owners.get(automaton.match_pattern(end, index).as_usize()));
    let first = *matching.next()?;
    let unknown = Owner::new(Identity::UNKNOWN, Mode::Enforce);
    Some(if matching.all(|other| *other == first) { first } else { unknown })
}

#[cfg(test)]
mod tests {
    use enforcer_common::layout::Owner;
    use enforcer_common::{Identity, Mode};
    use proptest::prelude::*;

    use super::Claims;
    use crate::policy::Selector;
    use crate::tables::{ServiceOwner, Tables};

    fn service(number: u32, selectors: &[Selector]) -> ServiceOwner {
        let identity = Identity::service(number).expect("few services");
        let owner = Owner::new(identity, Mode::Enforce);
        ServiceOwner { name: format!("service-{number}"), owner, selectors: selectors.to_vec() }
    }

    fn tables(services: Vec<ServiceOwner>) -> Tables {
        let claims = Claims::compile(&services).expect("small");
        Tables { services, claims, ..Tables::default() }
    }

    /// The owner as the kernel finds it: cgroup by cgroup from the top, each from its parent.
    fn owner_by_claims(tables: &Tables, path: &[u8]) -> Owner {
        let mut state = tables.claims.start;
        let mut owner = Owner::UNMANAGED;
        for name in path.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
            state = tables.claims.child(state, name);
            owner = tables.claims.claimants.get(&state).copied().unwrap_or(owner);
        }
        owner
    }

    fn unit(text: &str) -> Selector {
        Selector::parse_systemd(text).unwrap_or_else(|err| panic!("{text}: {}", err.message))
    }

    fn cgroup(text: &str) -> Selector {
        Selector::parse_cgroup(text).unwrap_or_else(|err| panic!("{text}: {}", err.message))
    }

    #[test]
    fn the_cgroups_of_systemd_and_of_paths_are_told() {
        let tables = tables(vec![
            service(0, &[unit("nginx.service")]),
            service(1, &[unit("payments@*.service")]),
            service(2, &[cgroup("/shop.slice/orders-*.scope"), cgroup("/pool/**/worker")]),
        ]);
        for (path, expected) in [
            ("/", None),
            ("/system.slice", None),
            ("/system.slice/nginx.service", Some(0)),
            ("/system.slice/nginx.socket", Some(0)),
            ("/nginx.service", Some(0)),
            ("/a.slice/a-b.slice/nginx.service", Some(0)),
            ("/system.slice/nginx.service/worker/deep", Some(0)),
            ("/system.slice/xnginx.service", None),
            ("/system.slice/nginx.service2", None),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service", None),
            ("/system.slice/payments@eu.service", Some(1)),
            ("/system.slice/payments@.service", Some(1)),
            ("/system.slice/payments.service", None),
            ("/shop.slice/orders-7.scope", Some(2)),
            ("/shop.slice/orders-7.scope/nested", Some(2)),
            ("/other.slice/orders-7.scope", None),
            ("/pool/worker", Some(2)),
            ("/pool/a/b/c/worker", Some(2)),
            ("/pool/a/b/c/workers", None),
        ] {
            let expected = expected.map_or(Identity::UNMANAGED, |n| Identity::service(n).expect("few"));
            assert_eq!(owner_by_claims(&tables, path.as_bytes()).identity(), expected, "{path}");
            assert_eq!(tables.owner_of_path(path.as_bytes()).identity(), expected, "{path}");
        }
    }

    #[test]
    fn a_policy_without_selectors_claims_nothing() {
        let tables = tables(vec![service(0, &[])]);
        assert_eq!(owner_by_claims(&tables, b"/system.slice/nginx.service"), Owner::UNMANAGED);
    }

    fn segment() -> impl Strategy<Value = String> {
        proptest::string::string_regex("[ab]{1,3}(\\.slice|\\.service)?").expect("a pattern")
    }

    fn glob() -> impl Strategy<Value = String> {
        proptest::string::string_regex("[ab*?]{1,3}")
            .expect("a pattern")
            .prop_filter("`**` is another thing", |glob| !glob.contains("**"))
    }

    fn selector() -> impl Strategy<Value = Selector> {
        let path = proptest::collection::vec(prop_oneof![3 => glob(), 1 => Just(String::from("**"))], 0..3);
        prop_oneof![
            glob().prop_map(|name| unit(&format!("{name}.service"))),
            (path, glob()).prop_map(|(path, last)| {
                let path: String = path.iter().map(|segment| format!("/{segment}")).collect();
                cgroup(&format!("{path}/{last}"))
            }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn the_automaton_agrees_with_the_selectors(
            selectors in proptest::collection::vec(selector(), 1..5),
            paths in proptest::collection::vec(proptest::collection::vec(segment(), 0..5), 16),
        ) {
            let services = (0..).zip(&selectors).map(|(n, one)| service(n, std::slice::from_ref(one))).collect();
            let tables = tables(services);
            for path in paths {
                let path: String = path.iter().map(|segment| format!("/{segment}")).collect();
                let (claims, naive) = (owner_by_claims(&tables, path.as_bytes()), tables.owner_of_path(path.as_bytes()));
                prop_assert_eq!(claims.identity(), naive.identity(), "{} under {:?}", path, selectors);
            }
        }
    }
}
