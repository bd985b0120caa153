//! Notices when somebody takes away what keeps enforcement up, and puts it back.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use aya_obj::generated::bpf_attach_type;
use enforcer_common::Hook;

use super::load::{Enforcement, attach_program};
use super::pins::{PinError, Pins, description};
use super::{chain, leftovers, sys};

/// What somebody has done.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Deed {
    /// The file system with the pins was unmounted, or their directory removed.
    DirectoryGone,
    /// Links were taken off their hooks.
    LinkDetached,
    /// Pins were removed, or something else stands in their places.
    PinRemoved,
    /// A program of somebody else was attached to one of our hooks. It can refuse what the policy permits, and not permit
    /// what it refuses.
    ForeignProgram,
}

impl Deed {
    /// The stable word for it in records.
    pub const fn code(self) -> &'static str {
        match self {
            Self::DirectoryGone => "directory-gone",
            Self::LinkDetached => "link-detached",
            Self::PinRemoved => "pin-removed",
            Self::ForeignProgram => "foreign-program",
        }
    }
}

/// What was noticed, and what came of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Tampering {
    /// What somebody has done.
    pub deed: Deed,
    /// To what.
    pub objects: Vec<String>,
    /// Why it could not be put back; for a foreign program there is nothing to put back.
    pub error: Option<String>,
}

/// What is held open besides its pins, so that it can be pinned again.
#[derive(Default)]
pub(super) struct Held {
    /// Maps by the paths of their pins.
    pub(super) maps: BTreeMap<PathBuf, OwnedFd>,
    /// Links by the names of their programs.
    pub(super) links: BTreeMap<&'static str, OwnedFd>,
    /// Programs of others that were told of.
    strangers: BTreeSet<(&'static str, u32)>,
    /// The files that were found to be the pins of these. A file of a BPF file system stands for one object as long as it is there.
    known: BTreeMap<PathBuf, Inode>,
}

/// What tells a file from every other one that has stood in its place.
type Inode = (u64, u64, i64, i64);

fn inode(path: &Path) -> io::Result<Inode> {
    let file = std::fs::symlink_metadata(path)?;
    Ok((file.dev(), file.ino(), file.ctime(), file.ctime_nsec()))
}

impl Held {
    /// Opens every map that is pinned at one of `paths`.
    pub(super) fn hold_maps(&mut self, paths: Vec<PathBuf>) -> Result<(), PinError> {
        for path in paths {
            let map = sys::open_pin(&path).map_err(|err| PinError::io("open pin", &path, &err))?;
            self.maps.insert(path, map);
        }
        Ok(())
    }
}

impl Enforcement {
    /// Looks whether everything is where it was put, and puts back what is not. Nothing is looked at where nothing is pinned.
    pub fn look(&mut self) -> Vec<Tampering> {
        let mut found = Vec::new();
        if self.pinned.is_none() {
            return found;
        }
        let opened = File::open(&self.options.cgroup_root);
        let attached = opened.as_ref().map(|cgroup| self.attached_to(cgroup.as_fd())).unwrap_or_default();
        let Some(pinned) = &mut self.pinned else { return found };
        let Held { maps, links, known, .. } = &mut pinned.held;
        match pinned.pins.restore() {
            Ok(false) => {}
            restored => found.push(Tampering {
                deed: Deed::DirectoryGone,
                objects: vec![pinned.pins.directory().display().to_string()],
                error: restored.err().map(|err| err.to_string()),
            }),
        }
        let mut pins = Finding::default();
        for (path, map) in &*maps {
            pins.add(&path.display(), repin(path, map.as_fd(), "map_id", known));
        }
        let mut detached = Finding::default();
        for (name, link) in links {
            let hook = Hook::ALL.into_iter().find(|hook| hook.name() == *name);
            if let Some(hook) = hook
                && !attached.iter().any(|program| program.hook == hook && program.is_ours)
                && description(link.as_fd()).is_ok_and(|info| leftovers::field(&info, "cgroup_id") == Some(0))
            {
                let again = opened
                    .as_ref()
                    .map_err(ToString::to_string)
                    .and_then(|cgroup| attach_program(&mut self.object, hook, cgroup, true))
                    .and_then(|fresh| put(&pinned.pins, name, fresh).map_err(|err| err.to_string()));
                detached.add(name, again.map(|fresh| *link = fresh).map(|()| true));
                continue;
            }
            pins.add(name, repin(&pinned.pins.link_path(name), link.as_fd(), "link_id", known));
        }
        found.extend(detached.into_tampering(Deed::LinkDetached));
        found.extend(pins.into_tampering(Deed::PinRemoved));
        if opened.is_ok() {
            found.extend(self.look_for_strangers(&attached));
        }
        found
    }

    /// Programs of others on our hooks that were not told of yet.
    fn look_for_strangers(&mut self, attached: &[Attached]) -> Option<Tampering> {
        let there = strangers(attached);
        let known = &mut self.pinned.as_mut()?.held.strangers;
        let new = there.difference(known).map(|(hook, id)| format!("{hook}: program {id}"));
        let objects: Vec<String> = new.collect();
        // One that went and comes back is told of again.
        *known = there;
        (!objects.is_empty()).then_some(Tampering { deed: Deed::ForeignProgram, objects, error: None })
    }

    /// Programs of others on our hooks: hook and program.
    ///
    /// # Errors
    ///
    /// The cgroup is gone.
    pub fn foreign_programs(&self) -> io::Result<BTreeSet<(&'static str, u32)>> {
        Ok(strangers(&self.attached_to(File::open(&self.options.cgroup_root)?.as_fd())))
    }

    /// Every program on our hooks.
    fn attached_to(&self, cgroup: BorrowedFd<'_>) -> Vec<Attached> {
        let mut all = Vec::new();
        for hook in Hook::ALL {
            let own = self
                .object
                .program(hook.name())
                .and_then(|program| program.info().ok())
                .map(|info| info.id());
            let ids = sys::attached_programs(cgroup, attach_type(hook)).unwrap_or_default();
            all.extend(ids.into_iter().map(|id| Attached { hook, id, is_ours: Some(id) == own }));
        }
        all
    }
}

/// A program that is attached to a hook.
struct Attached {
    hook: Hook,
    id: u32,
    is_ours: bool,
}

fn strangers(attached: &[Attached]) -> BTreeSet<(&'static str, u32)> {
    let others = attached.iter().filter(|program| !program.is_ours);
    others.map(|program| (program.hook.name(), program.id)).collect()
}

/// Objects to which the same was done.
#[derive(Default)]
struct Finding {
    objects: Vec<String>,
    error: Option<String>,
}

impl Finding {
    /// Adds an object unless it was as it should be.
    fn add(&mut self, object: &impl ToString, repaired: Result<bool, String>) {
        if repaired != Ok(false) {
            self.objects.push(object.to_string());
        }
        self.error = self.error.take().or(repaired.err());
    }

    fn into_tampering(self, deed: Deed) -> Option<Tampering> {
        let Self { objects, error } = self;
        (!objects.is_empty()).then_some(Tampering { deed, objects, error })
    }
}

fn put(
    pins: &Pins,
    name: &'static str,
    fresh: Option<aya::programs::links::FdLink>,
) -> Result<OwnedFd, PinError> {
    let fresh = fresh.ok_or_else(|| PinError::io("pin", Path::new(name), &"there is no link"))?;
    let fresh = pins.stage_link(name, fresh)?;
    pins.place_link(name)?;
    Ok(fresh)
}

/// Pins `object` at `path` again unless it is pinned there, which need not be asked of a file that is `known`. Returns whether it had to
/// be.
fn repin(
    path: &Path,
    object: BorrowedFd<'_>,
    id: &str,
    known: &mut BTreeMap<PathBuf, Inode>,
) -> Result<bool, String> {
    let there = inode(path).ok();
    if there.is_some() && there.as_ref() == known.get(path) {
        return Ok(false);
    }
    let number = |fd: BorrowedFd<'_>| {
        description(fd).map(|info| leftovers::field(&info, id)).map_err(|err| chain(&err))
    };
    match sys::open_pin(path) {
        Ok(found) if number(found.as_fd())? == number(object)? => {
            // Unless another has come between.
            if let Some(there) = there.filter(|there| inode(path).is_ok_and(|now| now == *there)) {
                known.insert(path.to_path_buf(), there);
            }
            return Ok(false);
        }
        // Whatever it is, it is not what the next daemon must find here.
        Ok(_) => std::fs::remove_file(path).map_err(|err| chain(&err))?,
        Err(err) if err.kind() == io::ErrorKind::NotFound => {}
        Err(err) => return Err(chain(&err)),
    }
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).map_err(|err| chain(&err))?;
    }
    sys::pin(object, path).map_err(|err| format!("pin {}: {err}", path.display()))?;
    Ok(true)
}

/// `enum bpf_attach_type` of include/uapi/linux/bpf.h.
const fn attach_type(hook: Hook) -> u32 {
    let kind = match hook {
        Hook::Connect4 => bpf_attach_type::BPF_CGROUP_INET4_CONNECT,
        Hook::Connect6 => bpf_attach_type::BPF_CGROUP_INET6_CONNECT,
        Hook::Sendmsg4 => bpf_attach_type::BPF_CGROUP_UDP4_SENDMSG,
        Hook::Sendmsg6 => bpf_attach_type::BPF_CGROUP_UDP6_SENDMSG,
        Hook::Ingress => bpf_attach_type::BPF_CGROUP_INET_INGRESS,
        Hook::Bind4 => bpf_attach_type::BPF_CGROUP_INET4_BIND,
        Hook::Bind6 => bpf_attach_type::BPF_CGROUP_INET6_BIND,
        Hook::PostBind4 => bpf_attach_type::BPF_CGROUP_INET4_POST_BIND,
        Hook::PostBind6 => bpf_attach_type::BPF_CGROUP_INET6_POST_BIND,
        Hook::SockCreate => bpf_attach_type::BPF_CGROUP_INET_SOCK_CREATE,
        Hook::Egress => bpf_attach_type::BPF_CGROUP_INET_EGRESS,
    };
    kind as u32
}
