//! Where the running kernel keeps a field: a reader of just that out of its BTF (Documentation/bpf/btf.rst).
//!
//! The loader relocates such accesses for programs that a C compiler wrote; Rust's leaves no relocations, so the offsets
//! are read here and handed to the programs as constants. The crates that read BTF in whole are not of a licence that
//! can be linked into this program, or have no way to ask for a member.

use std::collections::HashMap;

use enforcer_common::layout::{Offsets, TaskFields};
use thiserror::Error;

/// Where the kernel offers its types.
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const KIND_INT: u32 = 1;
const KIND_ARRAY: u32 = 3;
const KIND_STRUCT: u32 = 4;
const KIND_UNION: u32 = 5;
const KIND_ENUM: u32 = 6;
const KIND_FUNC_PROTO: u32 = 13;
const KIND_VAR: u32 = 14;
const KIND_DATASEC: u32 = 15;
const KIND_DECL_TAG: u32 = 17;
const KIND_ENUM64: u32 = 19;
const LAST_KIND: u32 = KIND_ENUM64;

/// Why a field could not be found.
#[derive(Debug, Error)]
pub enum BtfError {
    /// The file cannot be read.
    #[error("read {VMLINUX}: {0}")]
    Read(#[from] std::io::Error),
    /// The bytes are not BTF, or of a kind unknown here.
    #[error("read {VMLINUX}: not understood at byte {0}")]
    Malformed(usize),
    /// The kernel has no such field.
    #[error("find {member} in struct {structure}: this kernel has none")]
    Missing {
        /// The structure.
        structure: &'static str,
        /// The field.
        member: &'static str,
    },
}

/// The bytes of the running kernel's BTF.
///
/// # Errors
///
/// The kernel was built without it.
pub fn running_kernel() -> Result<Vec<u8>, BtfError> {
    Ok(std::fs::read(VMLINUX)?)
}

/// Where the programs find what a record says of a task, out of the bytes of a BTF file.
///
/// # Errors
///
/// What is wrong with the bytes, or which field they do not have.
pub fn task_fields(bytes: &[u8]) -> Result<TaskFields, BtfError> {
    let found = Structures::read(bytes, &["task_struct", "cred"])?;
    Ok(TaskFields {
        process: found.offset("task_struct", &["tgid"])?,
        name: found.offset("task_struct", &["comm"])?,
        credentials: found.offset("task_struct", &["cred"])?,
        user: found.offset("cred", &["uid"])?,
    })
}

/// The offsets that the programs on cgroup tracepoints need, out of the bytes of a BTF file.
///
/// # Errors
///
/// What is wrong with the bytes, or which field they do not have.
pub fn offsets(bytes: &[u8]) -> Result<Offsets, BtfError> {
    let structures = ["cgroup", "cgroup_root", "kernfs_node"];
    let found = Structures::read(bytes, &structures)?;
    Ok(Offsets {
        cgroup_node: found.offset("cgroup", &["kn"])?,
        cgroup_root: found.offset("cgroup", &["root"])?,
        root_hierarchy: found.offset("cgroup_root", &["hierarchy_id"])?,
        node_id: found.offset("kernfs_node", &["id"])?,
        // Renamed in 6.15, when it came under RCU.
        node_parent: found.offset("kernfs_node", &["__parent", "parent"])?,
        node_name: found.offset("kernfs_node", &["name"])?,
    })
}

/// Byte offsets of the members of a few structures.
struct Structures(HashMap<&'static str, HashMap<String, u32>>);

impl Structures {
    fn read(bytes: &[u8], wanted: &[&'static str]) -> Result<Self, BtfError> {
        let bytes = Bytes(bytes);
        if bytes.u16(0)? != MAGIC {
            return Err(BtfError::Malformed(0));
        }
        let header = bytes.size(4)?;
        let (types, types_end) = (header + bytes.size(8)?, header + bytes.size(8)? + bytes.size(12)?);
        let strings = header + bytes.size(16)?;
        let mut found = HashMap::new();
        let mut at = types;
        while at < types_end {
            let (name, info) = (bytes.size(at)?, bytes.u32(at + 4)?);
            let (kind, members) = ((info >> 24) & 0x1f, bytes.size(at + 4)? & 0xffff);
            if kind == KIND_STRUCT
                && let Some(structure) = wanted.iter().find(|wanted| bytes.is_string(strings + name, wanted))
            {
                found.insert(*structure, bytes.members(at + 12, members, info >> 31 == 1, strings)?);
            }
            at += 12 + trailing(kind, members).ok_or(BtfError::Malformed(at))?;
        }
        Ok(Self(found))
    }

    fn offset(&self, structure: &'static str, members: &[&'static str]) -> Result<u32, BtfError> {
        let known = self.0.get(structure);
        let offset = members.iter().find_map(|member| known?.get(*member).copied());
        offset.ok_or(BtfError::Missing { structure, member: members.first().copied().unwrap_or_default() })
    }
}

/// Bytes that follow a type's three words.
fn trailing(kind: u32, members: usize) -> Option<usize> {
    match kind {
        KIND_INT | KIND_VAR | KIND_DECL_TAG => Some(4),
        KIND_ARRAY => Some(12),
        KIND_STRUCT | KIND_UNION | KIND_DATASEC | KIND_ENUM64 => Some(12 * members),
        KIND_ENUM | KIND_FUNC_PROTO => Some(8 * members),
        0..=LAST_KIND => Some(0),
        _ => None,
    }
}

#[derive(Clone, Copy)]
struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take<const N: usize>(&self, at: usize) -> Result<[u8; N], BtfError> {
        let bytes = self.0.get(at..).and_then(|rest| rest.first_chunk::<N>());
        bytes.copied().ok_or(BtfError::Malformed(at))
    }

    fn u16(&self, at: usize) -> Result<u16, BtfError> {
        self.take(at).map(u16::from_ne_bytes)
    }

    fn u32(&self, at: usize) -> Result<u32, BtfError> {
        self.take(at).map(u32::from_ne_bytes)
    }

    fn size(&self, at: usize) -> Result<usize, BtfError> {
        usize::try_from(self.u32(at)?).map_err(|_large| BtfError::Malformed(at))
    }

    fn string(&self, at: usize) -> Option<&[u8]> {
        self.0.get(at..)?.split(|byte| *byte == 0).next()
    }

    fn is_string(&self, at: usize, text: &str) -> bool {
        self.string(at) == Some(text.as_bytes())
    }

    fn members(
        &self,
        at: usize,
        count: usize,
        bitfields: bool,
        strings: usize,
    ) -> Result<HashMap<String, u32>, BtfError> {
        let mut members = HashMap::new();
        for member in (0..count).map(|index| at + 12 * index) {
            let name = self.string(strings + self.size(member)?).ok_or(BtfError::Malformed(member))?;
            // With bit fields the upper eight bits are a width.
            let bits = self.u32(member + 8)? & if bitfields { 0x00ff_ffff } else { u32::MAX };
            members.insert(String::from_utf8_lossy(name).into_owned(), bits / 8);
        }
        Ok(members)
    }
}

#[cfg(test)]
mod tests {
    use super::{BtfError, KIND_INT, KIND_STRUCT, MAGIC, offsets};

    /// BTF of structures, each with members at a bit offset.
    fn btf(structures: &[(&str, &[(&str, u32)])]) -> Vec<u8> {
        let mut strings = vec![0_u8];
        let mut types = Vec::new();
        let mut name = |text: &str| {
            let at = strings.len();
            strings.extend_from_slice(text.as_bytes());
            strings.push(0);
            u32::try_from(at).expect("small")
        };
        let mut words =
            |list: &[u32]| list.iter().for_each(|word| types.extend_from_slice(&word.to_ne_bytes()));
        words(&[name("int"), KIND_INT << 24, 4, 32]);
        for (structure, members) in structures {
            let count = u32::try_from(members.len()).expect("small");
            words(&[name(structure), (KIND_STRUCT << 24) | count, 64]);
            for (member, bits) in *members {
                words(&[name(member), 1, *bits]);
            }
        }
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&MAGIC.to_ne_bytes());
        bytes.extend_from_slice(&[1, 0]);
        let sizes =
            [24, 0, types.len(), types.len(), strings.len()].map(|size| u32::try_from(size).expect("small"));
        sizes.iter().for_each(|size| bytes.extend_from_slice(&size.to_ne_bytes()));
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    const CGROUP: (&str, &[(&str, u32)]) = ("cgroup", &[("self", 0), ("kn", 1024), ("root", 2048)]);
    const ROOT: (&str, &[(&str, u32)]) = ("cgroup_root", &[("hierarchy_id", 64)]);

    #[test]
    fn fields_are_found_under_both_names_of_the_parent() {
        for parent in ["parent", "__parent"] {
            let node: &[(&str, u32)] = &[(parent, 64), ("name", 128), ("id", 512)];
            let found = offsets(&btf(&[ROOT, CGROUP, ("kernfs_node", node)])).expect("valid");
            assert_eq!((found.cgroup_node, found.cgroup_root, found.root_hierarchy), (128, 256, 8));
            assert_eq!((found.node_parent, found.node_name, found.node_id), (8, 16, 64));
        }
    }

    #[test]
    fn a_missing_field_is_named() {
        let err = offsets(&btf(&[ROOT, CGROUP, ("kernfs_node", &[("id", 0)])])).expect_err("no parent");
        assert_eq!(err.to_string(), "find __parent in struct kernfs_node: this kernel has none");
    }

    #[test]
    fn no_prefix_of_a_file_is_taken_for_one() {
        let whole = btf(&[ROOT, CGROUP, ("kernfs_node", &[("parent", 64), ("name", 128), ("id", 512)])]);
        // The last string may be cut short without harm: a name that is not asked for.
        for length in 0..whole.len() - 3 {
            let cut = &whole[..length];
            assert!(
                matches!(offsets(cut), Err(BtfError::Malformed(_) | BtfError::Missing { .. })),
                "{length}"
            );
        }
    }
}
