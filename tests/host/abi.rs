//! The built object and the types that the host writes into its maps: what one side changes alone is noticed here.

use std::collections::{BTreeMap, BTreeSet};

use aya_obj::programs::CgroupSkbAttachType;
use aya_obj::{Map, Object, ProgramSection};
use enforcer::kernel::OBJECT;
use enforcer_common::counter::Counter;
use enforcer_common::event::{CgroupEvent, Event};
use enforcer_common::layout::{
    Classes, DeviceKey, EdgeKey, EdgeValue, KeyedCgroup, KeyedDevice, KeyedPlace, LocalKey, NeighbourKey,
    Offsets, Owner, PortKey, ProtocolKey, SocketNote, TaskFields,
};
use enforcer_common::{Hook, limits, names};

const HASH: u32 = 1;
const ARRAY: u32 = 2;
const PERCPU_ARRAY: u32 = 6;
const LPM_TRIE: u32 = 11;
const ARRAY_OF_MAPS: u32 = 12;
const SK_STORAGE: u32 = 24;
const RINGBUF: u32 = 27;

/// Memory entry by entry, so that a map may be declared large.
const NO_PREALLOC: u32 = 1;

/// Slots of everything that depends on the policy.
const SLOTS: u32 = 2;

/// What a map is made of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Shape {
    kind: u32,
    key: usize,
    value: usize,
    entries: u32,
}

impl Shape {
    const fn new<K, V>(kind: u32, entries: u32) -> Self {
        Self { kind, key: size_of::<K>(), value: size_of::<V>(), entries }
    }

    fn of(map: &Map) -> Self {
        let (key, value) = (map.key_size(), map.value_size());
        let size = |bytes: u32| usize::try_from(bytes).expect("a size");
        Self { kind: map.map_type(), key: size(key), value: size(value), entries: map.max_entries() }
    }
}

fn object() -> Object {
    Object::parse(OBJECT).expect("an object that was built")
}

#[test]
fn every_map_has_the_name_and_the_sizes_that_the_host_uses() {
    // An inner map is made as large as a policy needs; its capacity in the object says nothing.
    let inner = |kind, key, value| Some(Shape { kind, key, value, entries: 1 });
    let outer = Shape::new::<u32, u32>(ARRAY_OF_MAPS, SLOTS);
    let owner = size_of::<Owner>();
    let expected = BTreeMap::from([
        (names::ACTIVE, (Shape::new::<u32, u32>(ARRAY, 1), None)),
        (names::REVISIONS, (Shape::new::<u32, u32>(ARRAY, SLOTS), None)),
        (names::CGROUPS, (outer, inner(HASH, size_of::<u64>(), size_of::<KeyedCgroup>()))),
        (names::CLASSES, (outer, inner(ARRAY, size_of::<u32>(), size_of::<Classes>()))),
        (names::TRANSITIONS, (outer, inner(ARRAY, size_of::<u32>(), size_of::<u32>()))),
        (names::CLAIMANTS, (outer, inner(HASH, size_of::<u32>(), owner))),
        (names::SCRATCH, (Shape::new::<u32, CgroupEvent>(PERCPU_ARRAY, 1), None)),
        // Two addresses, two ports and the protocol; the programs' own.
        (names::HEADERS, (Shape::new::<u32, [u8; 40]>(PERCPU_ARRAY, 1), None)),
        (names::EDGES, (outer, inner(HASH, size_of::<EdgeKey>(), size_of::<EdgeValue>()))),
        // The length of a prefix stands before it.
        (names::NETWORKS, (outer, inner(LPM_TRIE, size_of::<u32>() + 16, size_of::<u32>()))),
        (names::RESERVED, (outer, inner(HASH, size_of::<PortKey>(), owner))),
        (names::PROTOCOLS, (outer, inner(HASH, size_of::<ProtocolKey>(), size_of::<u32>()))),
        (
            names::VERDICTS,
            (Shape::new::<u32, [u8; limits::VERDICT_PLACE_BYTES]>(ARRAY, limits::MAX_VERDICTS), None),
        ),
        (names::LOCALS, (Shape::new::<LocalKey, KeyedPlace>(HASH, limits::MAX_LOCALS), None)),
        (names::DEVICES, (Shape::new::<DeviceKey, KeyedDevice>(HASH, limits::MAX_DEVICES), None)),
        (names::STRANGERS, (Shape::new::<u64, u32>(HASH, limits::MAX_STRANGERS), None)),
        (
            names::NEIGHBOURS,
            (
                Shape {
                    kind: LPM_TRIE,
                    key: size_of::<u32>() + size_of::<NeighbourKey>(),
                    value: size_of::<u32>(),
                    entries: limits::MAX_NEIGHBOURS,
                },
                None,
            ),
        ),
        (names::SOCKETS, (Shape::new::<u32, SocketNote>(SK_STORAGE, 0), None)),
        (names::EVENTS, (Shape::new::<(), ()>(RINGBUF, limits::RING_BYTES), None)),
        (names::COUNTERS, (Shape::new::<u32, u64>(PERCPU_ARRAY, Counter::COUNT), None)),
    ]);
    let object = object();
    let maps: BTreeMap<&str, (Shape, Option<Shape>)> = object
        .maps
        .iter()
        .filter(|(name, _)| !name.starts_with('.') && *name != LOG_MAP)
        .map(|(name, map)| (name.as_str(), (Shape::of(map), map.inner().as_ref().map(Shape::of))))
        .collect();
    assert_eq!(maps, expected);
}

/// Of aya-log, which looks after it.
const LOG_MAP: &str = "AYA_LOGS";

#[test]
fn hash_maps_take_memory_entry_by_entry_but_for_the_one_that_is_filled_at_once() {
    for (name, map) in object().maps {
        for map in [Some(map.clone()), map.inner()].into_iter().flatten() {
            let wanted = match map.map_type() {
                HASH if name == names::EDGES => 0,
                HASH | LPM_TRIE | SK_STORAGE => NO_PREALLOC,
                _ => continue,
            };
            assert_eq!(map.map_flags(), wanted, "{name}");
        }
    }
}

#[test]
fn every_hook_has_a_program_of_its_name_and_kind_and_there_is_no_other() {
    let object = object();
    let programs: BTreeSet<&str> = object.programs.keys().map(String::as_str).collect();
    let tracepoints = [names::CGROUP_MKDIR, names::CGROUP_RELEASE];
    assert_eq!(programs, Hook::ALL.iter().map(|hook| hook.name()).chain(tracepoints).collect());
    for tracepoint in tracepoints {
        let section = &object.programs[tracepoint].section;
        assert!(matches!(section, ProgramSection::BtfTracePoint), "{tracepoint}: {section:?}");
    }
    for hook in Hook::ALL {
        let section = &object.programs[hook.name()].section;
        let kind = match hook {
            Hook::Connect4 | Hook::Connect6 | Hook::Sendmsg4 | Hook::Sendmsg6 | Hook::Bind4 | Hook::Bind6 => {
                matches!(section, ProgramSection::CgroupSockAddr { .. })
            }
            Hook::PostBind4 | Hook::PostBind6 | Hook::SockCreate => {
                matches!(section, ProgramSection::CgroupSock { .. })
            }
            Hook::Ingress => matches!(
                section,
                ProgramSection::CgroupSkb { attach_type: Some(CgroupSkbAttachType::Ingress) }
            ),
            Hook::Egress => matches!(
                section,
                ProgramSection::CgroupSkb { attach_type: Some(CgroupSkbAttachType::Egress) }
            ),
        };
        assert!(kind, "{}: {section:?}", hook.name());
    }
}

#[test]
fn the_globals_that_the_host_sets_are_there() {
    for (global, value) in [
        (names::HOST_NETNS, &[1; 8][..]),
        (names::WHOLE_TREE, &[1][..]),
        (names::OFFSETS, &[1; size_of::<Offsets>()][..]),
        (names::TASK_FIELDS, &[1; size_of::<TaskFields>()][..]),
        (names::AYA_LOG_LEVEL, &[1][..]),
    ] {
        let mut object = object();
        let set = std::collections::HashMap::from([(global, (value, true))]);
        object.patch_map_data(set).unwrap_or_else(|err| panic!("{global}: {err}"));
        let longer = [value, &[0]].concat();
        let set = std::collections::HashMap::from([(global, (longer.as_slice(), true))]);
        assert!(object.patch_map_data(set).is_err(), "{global} is larger than the host thinks");
    }
}

#[test]
fn the_licence_lets_the_programs_use_what_the_kernel_gives_to_its_own_kind_only() {
    assert_eq!(object().license.to_str(), Ok("Dual MIT/GPL"));
}

#[test]
fn the_ring_holds_many_events_and_is_of_a_size_that_the_kernel_takes() {
    assert!(limits::RING_BYTES.is_power_of_two());
    assert_eq!(limits::RING_BYTES % 65_536, 0, "whole pages, also where they are large");
    assert_eq!(Event::SIZE % 8, 0);
}
