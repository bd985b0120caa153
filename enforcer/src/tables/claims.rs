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
use crate::containers::cgroup;

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

    /// `pending` claims every container of the host, if any container is selected; `top` is the root of what is judged.
    pub(super) fn compile(
        services: &[ServiceOwner],
        pending: Option<Owner>,
        top: &[u8],
    ) -> Result<Self, CapacityError> {
        let mut patterns = Vec::new();
        let mut owners = Vec::new();
        for service in services {
            for selector in &service.selectors {
                if let Some(regex) = selector.regex() {
                    patterns.push(regex);
                    owners.push(service.owner);
                }
            }
        }
        if let Some(pending) = pending {
            for regex in cgroup::regexes(top) {
                patterns.push(regex);
                owners.push(pending);
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

/// Who owns a path that ends in `state`. Two services that claim it make its owner unknown, which is denied; one that
/// claims it by its path is its owner, whatever its runtime may tell of it later.
fn claimant(automaton: &dense::DFA<Vec<u32>>, state: StateID, owners: &[Owner]) -> Option<Owner> {
    let end = automaton.next_eoi_state(state);
    if !automaton.is_match_state(end) {
        return None;
    }
    let matching = (0..automaton.match_len(end))
        .filter_map(|index| owners.get(automaton.match_pattern(end, index).as_usize()));
    let is_pending = |owner: &&Owner| owner.identity() == Identity::PENDING;
    let pending = matching.clone().find(is_pending);
    let mut matching = matching.filter(|owner| !is_pending(owner));
    let Some(first) = matching.next().copied() else { return pending.copied() };
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
        let claims = Claims::compile(&services, None, b"/").expect("small");
        Tables { services, claims: claims.into(), ..Tables::default() }
    }

    /// The same, with containers that are pending until their runtime tells of them.
    fn with_containers(services: Vec<ServiceOwner>, top: &[u8]) -> Tables {
        let pending = Some(Owner::new(Identity::PENDING, Mode::Audit));
        let claims = Claims::compile(&services, pending, top).expect("small");
        Tables { services, claims: claims.into(), pending, top: top.to_vec(), ..Tables::default() }
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
    fn containers_are_pending_unless_a_path_says_more() {
        let id = "4fa6".repeat(16);
        let other = format!("{}0", &id[..63]);
        let services = vec![
            service(0, &[unit("docker-*0.scope"), cgroup(&format!("/docker/{other}"))]),
            service(1, &[cgroup("/docker/*/inner"), unit("till.service")]),
            service(2, &[cgroup("/libpod_parent")]),
        ];
        let (none, pending) = (Identity::UNMANAGED, Identity::PENDING);
        let owner = |number| Identity::service(number).expect("few services");
        let top = b"/judged";
        let tables = with_containers(services, top);
        for (path, expected) in [
            (format!("/docker/{id}"), pending),
            (format!("/docker/{id}/init.scope"), pending),
            // A selector that names the cgroup itself, or one inside of it, says more than that it is a container.
            (format!("/docker/{other}"), owner(0)),
            (format!("/docker/{id}/inner"), owner(1)),
            (format!("/docker/{id}/inner/x"), owner(1)),
            (format!("/system.slice/docker-{other}.scope"), owner(0)),
            (format!("/system.slice/docker-{id}.scope"), pending),
            // One that names what the container lies in says less.
            (format!("/libpod_parent/libpod-{id}"), pending),
            (String::from("/libpod_parent/conmon"), owner(2)),
            (format!("/system.slice/till.service/libpod-payload-{id}"), pending),
            (String::from("/system.slice/till.service/x"), owner(1)),
            (format!("/judged/docker/{id}/x"), pending),
            (format!("/judge/docker/{id}"), none),
            (format!("/docker/{id}x"), none),
            // A user's own containers are of no service, and not pending either: nobody is asked about them.
            (format!("/user.slice/user-7.slice/user@7.service/user.slice/libpod-{id}.scope"), none),
            (format!("/user.slice/user-7.slice/user@7.service/docker/{id}"), none),
        ] {
            assert_eq!(owner_by_claims(&tables, path.as_bytes()).identity(), expected, "{path}");
            assert_eq!(tables.owner_of_path(path.as_bytes()).identity(), expected, "{path}");
        }
    }

    #[test]
    fn a_policy_without_selectors_claims_nothing() {
        let tables = tables(vec![service(0, &[])]);
        assert_eq!(owner_by_claims(&tables, b"/system.slice/nginx.service"), Owner::UNMANAGED);
    }

    /// Segments that container paths are made of, and some that are nearly so.
    fn container_segment() -> impl Strategy<Value = String> {
        let id = "4fa6".repeat(16);
        let user =
            ["user.slice", "user-7.slice", "user@7.service", "x.service", "user.service", "us.service"];
        let made = ["docker", "libpod_parent", "kubepods", "burstable", "system.slice", "containerd.service"];
        let named = user.into_iter().chain(made).map(str::to_owned);
        let of_id = [
            id.clone(),
            format!("{id}0"),
            format!("docker-{id}.scope"),
            format!("libpod-{id}"),
            format!("libpod-{id}.scope"),
            format!("libpod-payload-{id}"),
            format!("crio-{id}"),
            format!("cri-containerd-{id}.scope"),
            format!("pod{}", &id[..32]),
            format!("pod{}", &id[..31]),
            format!("a.slice:cri-containerd:{id}"),
        ];
        proptest::sample::select(named.chain(of_id).collect::<Vec<_>>())
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
        fn the_automaton_agrees_with_the_table_of_containers(
            paths in proptest::collection::vec(proptest::collection::vec(container_segment(), 1..5), 64),
            top in proptest::sample::select(vec!["/", "/docker", "/system.slice"]),
        ) {
            let tables = with_containers(vec![service(0, &[unit("x.service")])], top.as_bytes());
            for path in paths {
                let path: String = path.iter().map(|segment| format!("/{segment}")).collect();
                let (claims, naive) = (owner_by_claims(&tables, path.as_bytes()), tables.owner_of_path(path.as_bytes()));
                prop_assert_eq!(claims, naive, "{}", path);
            }
        }

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
