//! The cgroup tree as the host sees it: which cgroup has which id and path, and word of new ones.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// Cgroups that are remembered after they vanished: a socket can outlive its cgroup's directory (systemd keeps
/// some across a restart), and ids are not used again before the next boot.
const MAX_VANISHED: usize = 16_384;

/// A subtree of the cgroup tree.
pub struct Tree {
    /// Its directory in the file system.
    root: PathBuf,
    /// Its path as the kernel counts it from the top of the tree.
    path: PathBuf,
    inotify: Inotify,
    watched: HashMap<WatchDescriptor, PathBuf>,
    paths: HashMap<u64, PathBuf>,
    ids: HashMap<PathBuf, u64>,
    vanished: VecDeque<u64>,
}

/// A cgroup that has come, or one that is forgotten.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Change {
    /// It is new, or was not seen before.
    Appeared {
        /// Its id: the inode number of its directory.
        id: u64,
        /// Its path from the top of the tree.
        path: PathBuf,
    },
    /// It vanished so long ago that it is not remembered any longer.
    Forgotten {
        /// Its id.
        id: u64,
    },
}

impl Tree {
    /// Scans the subtree at `root`, whose path from the top of the tree is `path`, and watches it from then on.
    ///
    /// # Errors
    ///
    /// The tree cannot be read, or no more directories can be watched (`fs.inotify.max_user_watches`).
    pub fn scan(root: &Path, path: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let mut tree = Self {
            root: root.to_path_buf(),
            path: path.to_path_buf(),
            inotify,
            watched: HashMap::new(),
            paths: HashMap::new(),
            ids: HashMap::new(),
            vanished: VecDeque::new(),
        };
        let mut found = Vec::new();
        tree.enter(root.to_path_buf(), &mut found)?;
        Ok(tree)
    }

    /// Becomes readable when a cgroup has come or gone.
    pub fn fd(&self) -> RawFd {
        self.inotify.as_fd().as_raw_fd()
    }

    /// Every cgroup that is there or remembered, with its path from the top of the tree.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Path)> {
        self.paths.iter().map(|(id, path)| (*id, path.as_path()))
    }

    /// The path of a cgroup, also of one that has vanished lately.
    pub fn path(&self, id: u64) -> Option<&Path> {
        self.paths.get(&id).map(PathBuf::as_path)
    }

    /// What has changed since the last call.
    ///
    /// # Errors
    ///
    /// The tree cannot be read, or no more directories can be watched.
    pub fn changes(&mut self) -> io::Result<Vec<Change>> {
        let mut changes = Vec::new();
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => return Ok(changes),
                Err(Errno::EINTR) => continue,
                Err(err) => return Err(err.into()),
            };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    // Some word was lost, so the whole tree is looked at again; what is known is not reported twice.
                    self.enter(self.root.clone(), &mut changes)?;
                    continue;
                }
                let Some(directory) = self.watched.get(&event.wd).cloned() else { continue };
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    self.watched.remove(&event.wd);
                    continue;
                }
                let Some(name) = event.name.filter(|_: &OsString| event.mask.contains(AddWatchFlags::IN_ISDIR)) else {
                    continue;
                };
                let child = directory.join(name);
                if event.mask.contains(AddWatchFlags::IN_CREATE) {
                    self.enter(child, &mut changes)?;
                } else if event.mask.contains(AddWatchFlags::IN_DELETE) {
                    self.leave(&child, &mut changes);
                }
            }
        }
    }

    /// Takes in a directory and all below it. It is watched before it is listed, so that a child that is made
    /// meanwhile is seen at least once.
    fn enter(&mut self, directory: PathBuf, found: &mut Vec<Change>) -> io::Result<()> {
        let mut open = vec![directory];
        while let Some(directory) = open.pop() {
            let watch = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
            match self.inotify.add_watch(&directory, watch) {
                Ok(descriptor) => {
                    self.watched.insert(descriptor, directory.clone());
                }
                // It has gone again already.
                Err(Errno::ENOENT) => continue,
                Err(err) => return Err(io::Error::other(watch_error(&directory, err))),
            }
            let Some(id) = gone_is_none(directory.metadata().map(|metadata| metadata.ino()))? else { continue };
            let path = self.path_of(&directory);
            if self.paths.get(&id) != Some(&path) {
                self.paths.insert(id, path.clone());
                self.ids.insert(path.clone(), id);
                found.push(Change::Appeared { id, path });
            }
            let Some(entries) = gone_is_none(directory.read_dir())? else { continue };
            for entry in entries {
                let Some(entry) = gone_is_none(entry)? else { continue };
                if gone_is_none(entry.file_type())?.is_some_and(|kind| kind.is_dir()) {
                    open.push(entry.path());
                }
            }
        }
        Ok(())
    }

    fn leave(&mut self, directory: &Path, forgotten: &mut Vec<Change>) {
        let path = self.path_of(directory);
        let Some(id) = self.ids.remove(&path) else { return };
        self.vanished.push_back(id);
        if self.vanished.len() > MAX_VANISHED
            && let Some(id) = self.vanished.pop_front()
        {
            self.paths.remove(&id);
            forgotten.push(Change::Forgotten { id });
        }
    }

    fn path_of(&self, directory: &Path) -> PathBuf {
        match directory.strip_prefix(&self.root) {
            Ok(below) if below.as_os_str().is_empty() => self.path.clone(),
            Ok(below) => self.path.join(below),
            // Only directories below the root are ever watched.
            Err(std::path::StripPrefixError { .. }) => directory.to_path_buf(),
        }
    }
}

/// The bytes of a cgroup path, as selectors match them.
pub fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

fn gone_is_none<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(err) if matches!(err.kind(), io::ErrorKind::NotFound) => Ok(None),
        // kernfs answers so for a directory that is being removed.
        Err(err) if err.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
        Err(err) => Err(err),
    }
}

fn watch_error(directory: &Path, err: Errno) -> String {
    let hint = if err == Errno::ENOSPC { "\nhint: raise fs.inotify.max_user_watches" } else { "" };
    format!("watch cgroup {}: {err}{hint}", directory.display())
}
