//! What is in the kernel of ours, and which living process holds it: for tools that clean up after a crash.
//!
//! A program counts as ours by its name and by the maps it uses, since others may name a program `ingress` too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::{fs, io};

use aya::maps::{MapInfo, MapType};
use aya::programs::links::PinnedLink;
use aya::programs::{ProgramInfo, loaded_links, loaded_programs};
use enforcer_common::layout::SocketNote;
use enforcer_common::{Hook, names};
use thiserror::Error;

const MAPS: [&str; 21] = [
    names::ACTIVE,
    names::REVISIONS,
    names::CGROUPS,
    names::CLASSES,
    names::TRANSITIONS,
    names::CLAIMANTS,
    names::EDGES,
    names::VERDICTS,
    names::NETWORKS,
    names::RESERVED,
    names::PROTOCOLS,
    names::LOCALS,
    names::DEVICES,
    names::NEIGHBOURS,
    names::STRANGERS,
    names::SOCKETS,
    names::EVENTS,
    names::COUNTERS,
    names::SCRATCH,
    names::HEADERS,
    names::LEDGER,
];

/// Why the kernel could not be asked.
#[derive(Debug, Error)]
#[error("read what is in the kernel: {0}")]
pub struct InspectError(String);

/// The attachment of one of our programs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attachment {
    /// The link's id.
    pub link: u32,
    /// The program's name.
    pub program: String,
    /// Processes that hold the link open, this one left out.
    pub holders: BTreeSet<u32>,
    /// The cgroup that it is attached to, where a holder tells it; 0 if that is gone.
    pub cgroup: Option<u64>,
}

/// What is pinned at a path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pinned {
    /// The link with this id, of one of our programs.
    OurLink(u32),
    /// A program or map of ours.
    Ours,
    /// Something else.
    Foreign,
}

/// Every attachment of our programs on this machine.
///
/// # Errors
///
/// The kernel cannot be asked.
pub fn attachments() -> Result<Vec<Attachment>, InspectError> {
    let programs = programs()?;
    let mut found = Vec::new();
    for link in loaded_links() {
        // A link that ended while it was looked at is not there.
        let Ok(link) = link else { continue };
        if let Some(program) = programs.get(&link.program_id()) {
            let (holders, cgroup) = (BTreeSet::new(), None);
            found.push(Attachment { link: link.id(), program: program.clone(), holders, cgroup });
        }
    }
    if !found.is_empty() {
        find_holders(&mut found)?;
    }
    Ok(found)
}

/// Our programs by their ids.
fn programs() -> Result<BTreeMap<u32, String>, InspectError> {
    let mut ours = BTreeMap::new();
    for program in loaded_programs() {
        // As for links: what has just gone is no finding.
        let Ok(program) = program else { continue };
        let name = program.name_as_str().unwrap_or_default().to_owned();
        if is_ours(&program, &name)? {
            ours.insert(program.id(), name);
        }
    }
    Ok(ours)
}

fn is_ours(program: &ProgramInfo, name: &str) -> Result<bool, InspectError> {
    let named = Hook::ALL.iter().any(|hook| hook.name() == name);
    if !named && ![names::CGROUP_MKDIR, names::CGROUP_RELEASE].contains(&name) {
        return Ok(false);
    }
    // One that has ended meanwhile tells nothing.
    let ids = program.map_ids().ok().flatten().unwrap_or_default();
    let maps: Vec<MapInfo> = ids.into_iter().filter_map(|id| MapInfo::from_id(id).ok()).collect();
    Ok(maps.iter().any(is_telling))
}

/// Whether a map is one that only enforcer has: of its name, kind and size. Each program uses one of these two.
fn is_telling(map: &MapInfo) -> bool {
    let kind = map.map_type().ok();
    match map.name_as_str() {
        Some(names::CGROUPS) => kind == Some(MapType::ArrayOfMaps),
        Some(names::SOCKETS) => {
            let size = u32::try_from(size_of::<SocketNote>()).ok();
            kind == Some(MapType::SkStorage) && Some(map.value_size()) == size
        }
        Some(_) | None => false,
    }
}

/// Goes through the open files of every process.
fn find_holders(attachments: &mut [Attachment]) -> Result<(), InspectError> {
    let inspect = |err: io::Error| InspectError(format!("/proc: {err}"));
    for process in fs::read_dir("/proc").map_err(inspect)? {
        let process = process.map_err(inspect)?;
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        if pid == std::process::id() {
            continue;
        }
        for info in open_files(&process.path()).into_values() {
            let Some(link) = field(&info, "link_id") else { continue };
            if let Some(found) = attachments.iter_mut().find(|found| u64::from(found.link) == link) {
                found.holders.insert(pid);
                found.cgroup = field(&info, "cgroup_id");
            }
        }
    }
    Ok(())
}

/// What the kernel says of the open files of a process; nothing if that has ended.
fn open_files(process: &Path) -> BTreeMap<PathBuf, String> {
    let Ok(files) = fs::read_dir(process.join("fdinfo")) else { return BTreeMap::new() };
    let text = |path: PathBuf| fs::read_to_string(&path).ok().map(|text| (path, text));
    files.filter_map(|file| text(file.ok()?.path())).collect()
}

/// A number in what the kernel says of an open file.
pub(super) fn field(info: &str, name: &str) -> Option<u64> {
    let line = info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    line.trim().parse().ok()
}

/// What is pinned at `path`. The process must not open files meanwhile, so it is for a tool with one thread.
///
/// # Errors
///
/// It cannot be opened.
pub fn pinned(path: &Path) -> Result<Pinned, InspectError> {
    let process = Path::new("/proc/self");
    let before = open_files(process);
    // Whatever is pinned there can be opened so; the file's description then says what it is.
    let opened =
        PinnedLink::from_pin(path).map_err(|err| InspectError(format!("{}: {err}", path.display())))?;
    let after = open_files(process);
    drop(opened);
    // A number may have been that of the directory while it was listed, so the descriptions are compared.
    let info = after.iter().find(|(file, text)| {
        before.get(*file) != Some(*text)
            && ["link_id", "map_id", "prog_id"].iter().any(|id| field(text, id).is_some())
    });
    let Some((_, info)) = info else { return Ok(Pinned::Foreign) };
    let id = |name| field(info, name).and_then(|id| u32::try_from(id).ok());
    let programs = programs()?;
    let is_ours = |id: Option<u32>| id.is_some_and(|id| programs.contains_key(&id));
    if let Some(link) = id("link_id") {
        return Ok(if is_ours(id("prog_id")) { Pinned::OurLink(link) } else { Pinned::Foreign });
    }
    let ours = match id("map_id") {
        Some(map) => {
            MapInfo::from_id(map).is_ok_and(|map| MAPS.contains(&map.name_as_str().unwrap_or_default()))
        }
        None => is_ours(id("prog_id")),
    };
    Ok(if ours { Pinned::Ours } else { Pinned::Foreign })
}

/// Where BPF file systems are mounted.
///
/// # Errors
///
/// The mount table cannot be read.
pub fn bpf_mounts() -> Result<Vec<PathBuf>, InspectError> {
    let mounts = procfs::process::Process::myself().and_then(|process| process.mountinfo());
    let mounts = mounts.map_err(|err| InspectError(err.to_string()))?;
    Ok(mounts.into_iter().filter(|mount| mount.fs_type == "bpf").map(|mount| mount.mount_point).collect())
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        let link = "pos:\t0\nlink_type:\tcgroup\nlink_id:\t17\nprog_id:\t230\ncgroup_id:\t5012\n";
        for (name, value) in
            [("link_id", Some(17)), ("prog_id", Some(230)), ("cgroup_id", Some(5012)), ("id", None)]
        {
            assert_eq!(field(link, name), value, "{name}");
        }
    }
}
