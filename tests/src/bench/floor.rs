//! Programs on every hook of enforcer that decide nothing: what the hooks, and what look-ups in them, cost by themselves.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;

use anyhow::Context as _;
use aya::programs::{
    BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr,
};
use aya::{Btf, Ebpf};
use enforcer_common::{Hook, names};
use object::write::{Object, Symbol, SymbolSection};
use object::{Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope};

use super::stats::Runs;

/// `r0 = 1; exit`: pass.
const PASS: [u8; 16] = [0xb7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// `r0 = 0; exit`: what a tracepoint returns.
const NOTHING: [u8; 16] = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

const TRACEPOINTS: [&str; 2] = [names::CGROUP_MKDIR, names::CGROUP_RELEASE];

/// The programs, attached as long as this lives.
pub(super) struct Floor {
    objects: Vec<Ebpf>,
}

/// Which of them look something up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lookups {
    /// None: each is empty.
    Nothing,
    /// Those that a connection passes, of enforcer itself: they find both its ends, and pass.
    BothEnds,
}

/// The hooks that those need.
const LOOKING: [Hook; 4] = [Hook::SockCreate, Hook::PostBind4, Hook::Connect4, Hook::Ingress];

impl Floor {
    /// Attaches them to a cgroup.
    ///
    /// # Errors
    ///
    /// The kernel refuses them.
    pub(super) fn attach(cgroup: &Path, lookups: Lookups) -> anyhow::Result<Self> {
        let cgroup = File::open(cgroup).with_context(|| format!("open {}", cgroup.display()))?;
        let mut empty = Ebpf::load(&empty()?).context("load empty programs")?;
        let mut looking = match lookups {
            Lookups::Nothing => None,
            Lookups::BothEnds => Some(Ebpf::load(&looking()?).context("load programs that look up")?),
        };
        for hook in Hook::ALL {
            let object = match &mut looking {
                Some(looking) if LOOKING.contains(&hook) => looking,
                Some(_) | None => &mut empty,
            };
            let program = object.program_mut(hook.name()).context("a program for every hook")?;
            let mode = CgroupAttachMode::Single;
            match hook {
                Hook::Connect4
                | Hook::Connect6
                | Hook::Sendmsg4
                | Hook::Sendmsg6
                | Hook::Bind4
                | Hook::Bind6 => {
                    let program: &mut CgroupSockAddr = program.try_into()?;
                    program.load()?;
                    program.attach(&cgroup, mode)?;
                }
                Hook::PostBind4 | Hook::PostBind6 | Hook::SockCreate => {
                    let program: &mut CgroupSock = program.try_into()?;
                    program.load()?;
                    program.attach(&cgroup, mode)?;
                }
                Hook::Ingress | Hook::Egress => {
                    let way = match hook {
                        Hook::Egress => CgroupSkbAttachType::Egress,
                        _ => CgroupSkbAttachType::Ingress,
                    };
                    let program: &mut CgroupSkb = program.try_into()?;
                    program.load()?;
                    program.attach(&cgroup, way, mode)?;
                }
            }
        }
        let types = Btf::from_sys_fs()?;
        for tracepoint in TRACEPOINTS {
            let program: &mut BtfTracePoint =
                empty.program_mut(tracepoint).context("a program for every tracepoint")?.try_into()?;
            program.load(tracepoint, &types)?;
            program.attach()?;
        }
        Ok(Self { objects: looking.into_iter().chain([empty]).collect() })
    }

    /// What the kernel has counted of them.
    ///
    /// # Errors
    ///
    /// The kernel does not tell.
    pub(super) fn programs(&self) -> anyhow::Result<BTreeMap<String, Runs>> {
        let mut found = BTreeMap::new();
        for (name, program) in self.objects.iter().flat_map(Ebpf::programs) {
            // Of each object, those were loaded that are attached.
            if let Ok(info) = program.info() {
                #[expect(clippy::cast_precision_loss, reason = "counts of a second")]
                let runs =
                    Runs { times: info.run_count() as f64, nanoseconds: info.run_time().as_nanos() as f64 };
                found.insert(name.to_owned(), runs);
            }
        }
        Ok(found)
    }
}

/// The object of enforcer whose hooks pass when both ends are known.
fn looking() -> anyhow::Result<Vec<u8>> {
    let path = option_env!("LOOKUPS_OBJECT")
        .context("this was built without the object of look-ups\nhint: build it with --features e2e")?;
    fs::read(path).with_context(|| format!("read {path}"))
}

/// An object file with them.
fn empty() -> anyhow::Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let hooks = Hook::ALL.map(|hook| (section(hook), hook.name(), PASS));
    let tracepoints = TRACEPOINTS.map(|name| (format!("tp_btf/{name}"), name, NOTHING));
    for (section, name, code) in hooks.into_iter().chain(tracepoints) {
        let section = object.add_section(Vec::new(), section.into_bytes(), SectionKind::Text);
        let offset = object.append_section_data(section, &code, 8);
        object.add_symbol(Symbol {
            name: name.as_bytes().to_vec(),
            value: offset,
            size: 16,
            kind: SymbolKind::Text,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(section),
            flags: SymbolFlags::None,
        });
    }
    let license = object.add_section(Vec::new(), b"license".to_vec(), SectionKind::Data);
    object.append_section_data(license, b"Dual MIT/GPL\0", 1);
    Ok(object.write()?)
}

/// The section by which aya knows a program's kind.
fn section(hook: Hook) -> String {
    let kind = match hook {
        Hook::Ingress | Hook::Egress => "cgroup_skb",
        Hook::Connect4
        | Hook::Connect6
        | Hook::Sendmsg4
        | Hook::Sendmsg6
        | Hook::Bind4
        | Hook::Bind6
        | Hook::PostBind4
        | Hook::PostBind6
        | Hook::SockCreate => "cgroup",
    };
    format!("{kind}/{}", hook.name())
}

#[cfg(test)]
mod tests {
    use enforcer_common::Hook;

    use super::{TRACEPOINTS, empty};

    #[test]
    fn there_is_an_empty_program_for_every_hook() {
        let object = aya_obj::Object::parse(&empty().expect("an object")).expect("aya reads it");
        for name in Hook::ALL.map(Hook::name).into_iter().chain(TRACEPOINTS) {
            assert!(object.programs.contains_key(name), "{name}");
        }
    }
}
