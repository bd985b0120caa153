//! What the kernel must offer, detected before anything is loaded.

use std::path::{Path, PathBuf};

use aya::programs::ProgramType;
use aya::sys::{BpfHelper, is_helper_supported};
use aya::util::KernelVersion;
use thiserror::Error;

use super::chain;

/// Socket look-ups, socket storage, netns cookies and ring buffers in cgroup programs all exist from here on.
const MINIMUM: KernelVersion = KernelVersion::new(5, 10, 0);

/// From here on a socket has places for its cgroup and for its class (`struct sock_cgroup_data`); before, the first class
/// or priority that is given to anybody makes all sockets forget their cgroups until the next boot.
const KEEPS_CGROUPS: KernelVersion = KernelVersion::new(5, 15, 0);

/// Something that enforcer needs and this host does not have.
#[derive(Debug, Error)]
pub enum Unsupported {
    /// The kernel is too old.
    #[error(
        "use kernel {found}: enforcer needs 5.10 or newer\nhint: it is the oldest with ring buffers and socket look-ups in cgroup programs"
    )]
    Kernel {
        /// What `uname` says.
        found: String,
    },
    /// The process may not use bpf(2).
    #[error(
        "load programs: {cause}\nhint: run enforcer as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
    )]
    Privilege {
        /// What is missing.
        cause: &'static str,
    },
    /// No cgroup v2 tree is mounted.
    #[error("find the cgroup v2 tree: nothing of type cgroup2 in {}\nhint: mount it, or boot with systemd.unified_cgroup_hierarchy=1; cgroup v1 alone cannot tell which service a socket belongs to", .mounts.display())]
    NoCgroup2 {
        /// Where it was looked for.
        mounts: PathBuf,
    },
    /// Sockets do not remember their cgroup, since another kind of cgroups takes the place for it.
    #[error(
        "tell the cgroup of sockets: kernel {kernel} forgets it once net_cls or net_prio is in use, as by {}\nhint: use kernel 5.15 or newer, or boot with cgroup_no_v1=net_cls,net_prio", .user.display()
    )]
    SocketClasses {
        /// What `uname` says.
        kernel: String,
        /// A cgroup with a class, a priority or processes.
        user: PathBuf,
    },
    /// The given root is not a directory of a cgroup v2 tree.
    #[error("use cgroup root {}: not a cgroup below {}", .root.display(), .mount.display())]
    NotACgroup {
        /// The root as it was given.
        root: PathBuf,
        /// Where the tree is mounted.
        mount: PathBuf,
    },
    /// `/proc` could not be read.
    #[error("read {}: {cause}", .file.display())]
    Proc {
        /// The file.
        file: PathBuf,
        /// Why not.
        cause: String,
    },
}

impl Unsupported {
    /// Whether the host lacks it, rather than what was asked for is wrong or could not be looked at.
    pub fn is_of_the_host(&self) -> bool {
        match self {
            Self::Kernel { .. }
            | Self::Privilege { .. }
            | Self::NoCgroup2 { .. }
            | Self::SocketClasses { .. } => true,
            Self::NotACgroup { .. } | Self::Proc { .. } => false,
        }
    }
}

/// Checks kernel version and privilege.
///
/// # Errors
///
/// The first thing that is missing.
pub fn require() -> Result<(), Unsupported> {
    let found = KernelVersion::current().map_err(|err| Unsupported::Proc {
        file: PathBuf::from("/proc/sys/kernel/osrelease"),
        cause: err.to_string(),
    })?;
    if found < MINIMUM {
        return Err(Unsupported::Kernel { found: found.to_string() });
    }
    if found < KEEPS_CGROUPS
        && let Some(user) = user_of_socket_classes()?
    {
        return Err(Unsupported::SocketClasses { kernel: found.to_string(), user });
    }
    let status = procfs::process::Process::myself().and_then(|process| process.status()).map_err(|err| {
        Unsupported::Proc { file: PathBuf::from("/proc/self/status"), cause: err.to_string() }
    })?;
    const CAP_NET_ADMIN: u64 = 1 << 12;
    const CAP_SYS_ADMIN: u64 = 1 << 21;
    const CAP_BPF: u64 = 1 << 39;
    if status.capeff & (CAP_BPF | CAP_SYS_ADMIN) == 0 {
        return Err(Unsupported::Privilege { cause: "neither CAP_BPF nor CAP_SYS_ADMIN is in effect" });
    }
    if status.capeff & (CAP_NET_ADMIN | CAP_SYS_ADMIN) == 0 {
        return Err(Unsupported::Privilege { cause: "CAP_NET_ADMIN is not in effect" });
    }
    Ok(())
}

/// Whether the programs that see a task may read its structure (`bpf_get_current_task_btf`, for CAP_PERFMON alone).
pub(super) fn shows_tasks() -> bool {
    [ProgramType::CgroupSockAddr, ProgramType::CgroupSock].into_iter().all(|program| {
        is_helper_supported(program, BpfHelper::BPF_FUNC_get_current_task_btf).unwrap_or_else(|err| {
            log::debug!("ask for a helper: {}", chain(&err));
            false
        })
    })
}

/// A cgroup that gives sockets a class or a priority, if there is one.
fn user_of_socket_classes() -> Result<Option<PathBuf>, Unsupported> {
    let mounts = mounts()?;
    let classes = mounts.into_iter().filter(|mount| {
        mount.fs_type == "cgroup"
            && ["net_cls", "net_prio"].iter().any(|name| mount.super_options.contains_key(*name))
    });
    Ok(classes.into_iter().find_map(|mount| user_below(&mount.mount_point, true)))
}

/// A directory of a net_cls or net_prio tree that is in use: a class or a priority was written to it, or processes were
/// moved into it, which those at the top never were.
fn user_below(directory: &Path, is_top: bool) -> Option<PathBuf> {
    let text = |file: &str| std::fs::read_to_string(directory.join(file)).unwrap_or_default();
    let has_class = text("net_cls.classid").trim().parse().is_ok_and(|class: u32| class != 0);
    let has_priority = text("net_prio.ifpriomap")
        .lines()
        .any(|line| line.rsplit_once(' ').is_some_and(|(_, priority)| priority != "0"));
    if has_class || has_priority || (!is_top && !text("cgroup.procs").is_empty()) {
        return Some(directory.to_path_buf());
    }
    // What cannot be listed has just been removed.
    let children = std::fs::read_dir(directory).ok()?.flatten();
    children
        .filter(|child| child.file_type().is_ok_and(|kind| kind.is_dir()))
        .find_map(|child| user_below(&child.path(), false))
}

fn mounts() -> Result<procfs::process::MountInfos, Unsupported> {
    procfs::process::Process::myself().and_then(|process| process.mountinfo()).map_err(|err| {
        Unsupported::Proc { file: PathBuf::from("/proc/self/mountinfo"), cause: err.to_string() }
    })
}

/// Where the cgroup v2 tree is mounted: `/sys/fs/cgroup` on most hosts, below it where v1 is in use too.
///
/// # Errors
///
/// [`Unsupported::NoCgroup2`], or that the mount table could not be read.
pub fn cgroup2_mount() -> Result<PathBuf, Unsupported> {
    cgroup2().map(|mount| mount.directory)
}

/// A mount of the cgroup v2 tree, whole or in part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Cgroup2 {
    /// Where it is mounted.
    pub directory: PathBuf,
    /// Which cgroup its top is, as `/proc/PID/cgroup` counts it: `/` for the top of the tree, or of this process's
    /// cgroup namespace, in which paths begin with `/..` where they lead out of it (cgroup_namespaces(7)).
    pub root: PathBuf,
}

impl Cgroup2 {
    /// The path from the top of this mount of a cgroup in `/proc/PID/cgroup`; `None` if it is not below that.
    pub fn below(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.root).ok().map(|below| Path::new("/").join(below))
    }
}

/// The mount of the cgroup v2 tree that cgroups are counted from: of several, one that shows all that this process's
/// cgroup namespace has.
///
/// # Errors
///
/// [`Unsupported::NoCgroup2`], or that the mount table could not be read.
pub fn cgroup2() -> Result<Cgroup2, Unsupported> {
    mounts()?
        .into_iter()
        .filter(|mount| mount.fs_type == "cgroup2")
        .map(|mount| Cgroup2 { directory: mount.mount_point, root: PathBuf::from(mount.root) })
        .min_by_key(|mount| mount.root != Path::new("/"))
        .ok_or_else(|| Unsupported::NoCgroup2 { mounts: PathBuf::from("/proc/self/mountinfo") })
}

/// Whether a cgroup is the top of the tree, which no process of the host is outside of. What a container sees as the
/// top is not: only the true one has no `cgroup.type` (Documentation/admin-guide/cgroup-v2.rst; 4.14).
pub fn is_whole_tree(cgroup: &Path) -> bool {
    !cgroup.join("cgroup.type").exists()
}

/// The path of `root` as the kernel counts it from the top of the tree at `mount`: `/` for the top itself.
///
/// # Errors
///
/// [`Unsupported::NotACgroup`].
pub fn cgroup_path(mount: &Path, root: &Path) -> Result<PathBuf, Unsupported> {
    let not_a_cgroup = || Unsupported::NotACgroup { root: root.to_path_buf(), mount: mount.to_path_buf() };
    let (Ok(real), Ok(top)) = (root.canonicalize(), mount.canonicalize()) else { return Err(not_a_cgroup()) };
    let Ok(below) = real.strip_prefix(&top) else { return Err(not_a_cgroup()) };
    if !real.join("cgroup.procs").exists() && !real.join("cgroup.controllers").exists() {
        return Err(not_a_cgroup());
    }
    Ok(Path::new("/").join(below))
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::{Cgroup2, Unsupported, cgroup_path};

    #[test]
    fn paths_of_processes_are_counted_from_the_top_of_the_mount() {
        for (root, path, below) in [
            ("/", "/system.slice/nginx.service", Some("/system.slice/nginx.service")),
            ("/", "/", Some("/")),
            ("/machine", "/machine/system.slice", Some("/system.slice")),
            ("/machine", "/machine", Some("/")),
            ("/machine", "/machines/system.slice", None),
            ("/machine", "/system.slice", None),
            ("/../..", "/../../system.slice", Some("/system.slice")),
            // A cgroup of this namespace, whose place in a mount of more than that is not told.
            ("/../..", "/system.slice/nginx.service", None),
        ] {
            let mount = Cgroup2 { directory: PathBuf::from("/sys/fs/cgroup"), root: PathBuf::from(root) };
            assert_eq!(mount.below(Path::new(path)), below.map(PathBuf::from), "{path} below {root}");
        }
    }

    #[test]
    fn what_is_missing_is_told_with_what_to_do() {
        for (error, text) in [
            (
                Unsupported::Kernel { found: String::from("4.19.0") },
                "use kernel 4.19.0: enforcer needs 5.10 or newer\n\
                 hint: it is the oldest with ring buffers and socket look-ups in cgroup programs",
            ),
            (
                Unsupported::Privilege { cause: "CAP_NET_ADMIN is not in effect" },
                "load programs: CAP_NET_ADMIN is not in effect\n\
                 hint: run enforcer as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON",
            ),
            (
                Unsupported::NoCgroup2 { mounts: PathBuf::from("/proc/self/mountinfo") },
                "find the cgroup v2 tree: nothing of type cgroup2 in /proc/self/mountinfo\n\
                 hint: mount it, or boot with systemd.unified_cgroup_hierarchy=1; \
                 cgroup v1 alone cannot tell which service a socket belongs to",
            ),
            (
                Unsupported::SocketClasses {
                    kernel: String::from("5.10.0"),
                    user: PathBuf::from("/sys/fs/cgroup/net_cls/guests"),
                },
                "tell the cgroup of sockets: kernel 5.10.0 forgets it once net_cls or net_prio is in use, \
                 as by /sys/fs/cgroup/net_cls/guests\n\
                 hint: use kernel 5.15 or newer, or boot with cgroup_no_v1=net_cls,net_prio",
            ),
            (
                Unsupported::NotACgroup {
                    root: PathBuf::from("/etc"),
                    mount: PathBuf::from("/sys/fs/cgroup"),
                },
                "use cgroup root /etc: not a cgroup below /sys/fs/cgroup",
            ),
            (
                Unsupported::Proc { file: PathBuf::from("/proc/self/status"), cause: String::from("gone") },
                "read /proc/self/status: gone",
            ),
        ] {
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn classes_priorities_and_moved_processes_are_uses_of_net_cls_and_net_prio() -> std::io::Result<()> {
        let top = tempfile::tempdir()?;
        let (guests, inner) = (top.path().join("guests"), top.path().join("guests/inner"));
        std::fs::create_dir_all(&inner)?;
        let write = |directory: &Path, file: &str, text: &str| std::fs::write(directory.join(file), text);
        // As the kernel shows a tree that was mounted and is not used.
        write(top.path(), "cgroup.procs", "1\n2\n")?;
        for directory in [top.path(), &guests, &inner] {
            write(directory, "net_cls.classid", "0\n")?;
            write(directory, "net_prio.ifpriomap", "lo 0\neth0 0\n")?;
        }
        write(&guests, "cgroup.procs", "")?;
        write(&inner, "cgroup.procs", "")?;
        assert_eq!(super::user_below(top.path(), true), None);
        for (directory, file, used, unused) in [
            (&inner, "cgroup.procs", "77\n", ""),
            (&guests, "net_cls.classid", "1048577\n", "0\n"),
            (&inner, "net_prio.ifpriomap", "lo 0\neth0 5\n", "lo 0\neth0 0\n"),
        ] {
            write(directory, file, used)?;
            assert_eq!(super::user_below(top.path(), true).as_ref(), Some(directory), "{file}");
            write(directory, file, unused)?;
        }
        assert_eq!(super::user_below(top.path(), true), None);
        Ok(())
    }

    #[test]
    fn a_directory_outside_of_the_tree_is_no_cgroup() {
        let err = cgroup_path(Path::new("/proc"), Path::new("/")).expect_err("above the mount");
        assert!(matches!(err, Unsupported::NotACgroup { .. }), "{err}");
        let err = cgroup_path(Path::new("/"), Path::new("/nowhere-at-all")).expect_err("not there");
        assert!(matches!(err, Unsupported::NotACgroup { .. }), "{err}");
    }
}
