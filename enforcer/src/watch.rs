//! Notices that policy files have changed. What is in them is not its concern: who is told looks whether it is anything new.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// Watches a policy directory, or a single file, by inotify.
pub struct Watch {
    inotify: Inotify,
    /// What makes up the policy.
    policy: PathBuf,
    /// The directory that is watched, and which one it is; none if there is none at present, or the policy is a file.
    directory: Option<(WatchDescriptor, (u64, u64))>,
    /// That in which the policy is an entry: it tells when another one takes its place.
    parent: Option<WatchDescriptor>,
}

impl Watch {
    /// Watches the directory or file at `policy`, which need not be there.
    ///
    /// # Errors
    ///
    /// The kernel has no inotify, or watches no more (`fs.inotify.max_user_watches`).
    pub fn new(policy: &Path) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let mut watch = Self { inotify, policy: policy.to_path_buf(), directory: None, parent: None };
        watch.renew()?;
        Ok(watch)
    }

    /// Becomes readable when something has changed.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Takes in what has happened since the last call. Returns whether it may concern the policy.
    ///
    /// # Errors
    ///
    /// Nothing is watched any longer.
    pub fn drain(&mut self) -> io::Result<bool> {
        let mut concerns = false;
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => continue,
                Err(err) => return Err(err.into()),
            };
            for event in events {
                let is_ours = |name: &OsString| Some(&**name) == self.policy.file_name();
                // In the parent only the entry itself is of interest; of a directory that has been moved away, nothing is.
                concerns |= event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW)
                    || self.directory.is_some_and(|(watched, _)| watched == event.wd)
                    || (Some(event.wd) == self.parent && event.name.as_ref().is_some_and(is_ours));
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    self.directory = self.directory.filter(|(watched, _)| *watched != event.wd);
                    self.parent = self.parent.filter(|watched| *watched != event.wd);
                }
            }
        }
        Ok(concerns | self.renew()?)
    }

    /// Watches what is there now, where that is something else than before. Returns whether it is.
    ///
    /// # Errors
    ///
    /// The kernel watches no more.
    pub fn renew(&mut self) -> io::Result<bool> {
        // Files that are renamed into their place, as editors and package managers do it, and those that are closed after
        // writing: not every byte that is written meanwhile.
        let entries = AddWatchFlags::IN_CLOSE_WRITE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_DELETE;
        if self.parent.is_none() {
            let parent = self.policy.parent().filter(|parent| !parent.as_os_str().is_empty());
            self.parent = self.add(parent.unwrap_or(Path::new(".")), entries)?;
        }
        let found = self.policy.metadata().ok().filter(std::fs::Metadata::is_dir);
        let found = found.map(|metadata| (metadata.dev(), metadata.ino()));
        if found == self.directory.map(|(_, which)| which) {
            return Ok(false);
        }
        if let Some((old, _)) = self.directory.take() {
            // It has been moved away; if it has gone, so has the watch.
            match self.inotify.rm_watch(old) {
                Ok(()) | Err(Errno::EINVAL) => {}
                Err(err) => return Err(err.into()),
            }
        }
        if let Some(which) = found {
            let watched = self.add(&self.policy, entries | AddWatchFlags::IN_DELETE_SELF)?;
            self.directory = watched.map(|watched| (watched, which));
        }
        Ok(true)
    }

    fn add(&self, directory: &Path, mask: AddWatchFlags) -> io::Result<Option<WatchDescriptor>> {
        match self.inotify.add_watch(directory, mask | AddWatchFlags::IN_ONLYDIR) {
            Ok(watched) => Ok(Some(watched)),
            // It comes, or not; whoever makes it is noticed at the next tick at the latest.
            Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
            Err(err) => {
                let hint =
                    if err == Errno::ENOSPC { "\nhint: raise fs.inotify.max_user_watches" } else { "" };
                Err(io::Error::other(format!("watch {}: {err}{hint}", directory.display())))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::Watch;

    #[test]
    fn what_concerns_the_policy_is_noticed_and_nothing_else() {
        let home = tempfile::tempdir().expect("a directory");
        let policy = home.path().join("policy");
        let mut watch = Watch::new(&policy).expect("inotify");
        assert!(!watch.drain().expect("events"), "nothing is there");
        let write = |name: &str| fs::write(home.path().join(name), "version: 1\n").expect("a file");
        let rename = |from: &str, to: &str| {
            fs::rename(home.path().join(from), home.path().join(to)).expect("a file");
        };
        write("other");
        assert!(!watch.drain().expect("events"), "a neighbour is not the policy");
        fs::create_dir(&policy).expect("a directory");
        assert!(watch.drain().expect("events"), "it has come");
        write("policy/.new");
        assert!(watch.drain().expect("events"));
        rename("policy/.new", "policy/a.yaml");
        assert!(watch.drain().expect("events"), "an editor's rename");
        assert!(!watch.drain().expect("events"), "each is told once");
        fs::create_dir(home.path().join("next")).expect("a directory");
        write("next/a.yaml");
        assert!(!watch.drain().expect("events"));
        rename("policy", "last");
        rename("next", "policy");
        assert!(watch.drain().expect("events"), "another directory has taken its place");
        write("last/a.yaml");
        assert!(!watch.drain().expect("events"), "that one is not the policy any longer");
        write("policy/b.yaml");
        assert!(watch.drain().expect("events"));
        fs::remove_dir_all(&policy).expect("a directory");
        assert!(watch.drain().expect("events"), "it has gone");
    }

    #[test]
    fn a_single_file_is_watched_by_its_name() {
        let home = tempfile::tempdir().expect("a directory");
        let policy = home.path().join("policy.yaml");
        fs::write(&policy, "version: 1\n").expect("a file");
        let mut watch = Watch::new(&policy).expect("inotify");
        fs::write(home.path().join("else"), "").expect("a file");
        assert!(!watch.drain().expect("events"));
        fs::rename(home.path().join("else"), &policy).expect("a file");
        assert!(watch.drain().expect("events"));
        fs::write(&policy, "version: 1\n").expect("a file");
        assert!(watch.drain().expect("events"));
    }
}
