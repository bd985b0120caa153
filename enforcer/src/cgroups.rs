//! The cgroup tree as the host sees it: which cgroup has which id and path, and word of new ones.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

use crate::audit::text;

/// Cgroups that are remembered after they vanished: a socket can outlive its cgroup's directory (systemd keeps
/// some across a restart), and ids are not used again before the next boot.
const MAX_VANISHED: usize = 16_384;

/// Bytes of the longest path that is kept: no system call takes a longer one (`PATH_MAX`, which counts the NUL behind it).
/// Whoever has a subtree of his own nests cgroups as deep as he likes, and what is kept of each must not grow with that.
pub const MAX_PATH: usize = 4095;

/// What stands in the place of the names between the last path that is kept and the cgroup.
const LEFT_OUT: &str = "...";

/// The cgroups of a subtree by their ids, so that records can name them.
#[derive(Default)]
pub struct Names {
    places: HashMap<u64, Place>,
}

/// Where a cgroup is, as far as that is kept.
enum Place {
    /// At this path from the top of the tree.
    At(Arc<Path>),
    /// Somewhere below this one, which is the last above it that is no longer than [`MAX_PATH`].
    Below(Arc<Path>),
    /// Nowhere that a look at the tree reaches.
    Hidden,
}

/// What word of a new cgroup tells of its path.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Child {
    /// It is known.
    At(Arc<Path>),
    /// It is longer than is kept, or its parent's is not known either.
    Hidden,
    /// It is not known, since its parent was never told of.
    Orphan,
}

impl Names {
    /// The path of a cgroup from the top of the tree, if it is known.
    pub fn path(&self, id: u64) -> Option<&Path> {
        match self.places.get(&id)? {
            Place::At(path) => Some(path),
            Place::Below(_) | Place::Hidden => None,
        }
    }

    /// The path of a cgroup as records tell it: of one that is longer than is kept, its beginning.
    pub fn told(&self, id: u64) -> Option<Cow<'_, str>> {
        match self.places.get(&id)? {
            Place::At(path) => Some(text(&**path)),
            Place::Below(path) => Some(text(&path.join(LEFT_OUT)).into_owned().into()),
            Place::Hidden => None,
        }
    }

    /// Remembers a cgroup.
    pub fn insert(&mut self, id: u64, path: &Path) {
        let kept = path.ancestors().find(|path| bytes(path).len() <= MAX_PATH).map(Arc::from);
        let place = match kept {
            Some(kept) if &*kept == path => Place::At(kept),
            Some(kept) => Place::Below(kept),
            None => Place::Hidden,
        };
        self.places.insert(id, place);
    }

    /// Remembers a cgroup of which its parent and its own name are told.
    pub fn insert_child(&mut self, id: u64, parent: u64, name: &OsStr) -> Child {
        let place = match self.places.get(&parent) {
            None => return Child::Orphan,
            Some(Place::At(parent)) if bytes(parent).len() + 1 + name.len() > MAX_PATH => {
                Place::Below(parent.clone())
            }
            Some(Place::At(parent)) => Place::At(parent.join(name).into()),
            Some(Place::Below(path)) => Place::Below(path.clone()),
            Some(Place::Hidden) => Place::Hidden,
        };
        let child = match &place {
            Place::At(path) => Child::At(path.clone()),
            Place::Below(_) | Place::Hidden => Child::Hidden,
        };
        self.places.insert(id, place);
        child
    }

    /// Takes in what a look at the tree has found, in which word of some was lost. `table` are the cgroups that the kernel's table
    /// had before it, and `is_in_table` tells which it has now: what it does not have is told of no more, and would never be
    /// forgotten. Returns those whose paths were not known.
    pub fn learn<'a>(
        &mut self,
        tree: impl Iterator<Item = (u64, &'a Path)>,
        table: &HashSet<u64>,
        is_in_table: impl Fn(u64) -> bool,
    ) -> Vec<(u64, Arc<Path>)> {
        let mut learned = Vec::new();
        for (id, path) in tree {
            if matches!(self.places.get(&id), None | Some(Place::Hidden)) && is_in_table(id) {
                self.insert(id, path);
                if let Some(Place::At(path)) = self.places.get(&id) {
                    learned.push((id, path.clone()));
                }
            }
        }
        // So that word of their children is not taken for a reason to look again.
        for id in table {
            if !self.places.contains_key(id) && is_in_table(*id) {
                self.places.insert(*id, Place::Hidden);
            }
        }
        learned
    }

    /// Forgets a cgroup.
    pub fn remove(&mut self, id: u64) {
        self.places.remove(&id);
    }

    /// Every cgroup whose path is known.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &Arc<Path>)> {
        self.places.iter().filter_map(|(id, place)| match place {
            Place::At(path) => Some((*id, path)),
            Place::Below(_) | Place::Hidden => None,
        })
    }

    /// Every cgroup that is known, also if its path is not.
    pub fn ids(&self) -> impl Iterator<Item = u64> {
        self.places.keys().copied()
    }
}

/// A cgroup that is there now.
pub struct Found<'a> {
    /// Its id: the inode number of its directory.
    pub id: u64,
    /// Its parent's id; none for the root of the subtree.
    pub parent: Option<u64>,
    /// Its path from the top of the tree.
    pub path: &'a Path,
}

/// Where a subtree is.
#[derive(Clone, Debug)]
pub struct Subtree {
    /// The directory of its root in the file system.
    pub directory: PathBuf,
    /// The path of its root from the top of the tree.
    pub path: PathBuf,
}

impl Subtree {
    /// The part of it that begins at `path`, which lies in it and is counted from the top of the tree.
    pub fn below(&self, path: &Path) -> Self {
        let below = path.strip_prefix(&self.path).unwrap_or(path);
        Self { directory: self.directory.join(below), path: path.to_path_buf() }
    }

    /// Visits every cgroup. Each is visited before its children are listed, so that a child that is made meanwhile is
    /// either listed, or made after its parent's visit. Returns whether all were: what lies deeper than any call reaches is
    /// left out.
    ///
    /// # Errors
    ///
    /// The tree cannot be read, or what `visit` failed with.
    pub fn walk<E: From<io::Error>>(
        &self,
        mut visit: impl FnMut(Found<'_>) -> Result<(), E>,
    ) -> Result<bool, E> {
        let mut is_whole = true;
        let mut open = vec![(self.directory.clone(), self.path.clone(), None)];
        while let Some((directory, path, parent)) = open.pop() {
            let metadata = directory.metadata();
            // What lies there was identified when it was made, and is unknown after a reload.
            if metadata.as_ref().is_err_and(|err| err.raw_os_error() == Some(nix::libc::ENAMETOOLONG)) {
                is_whole = false;
                continue;
            }
            let Some(id) = gone_is_none(metadata.map(|metadata| metadata.ino()))? else { continue };
            visit(Found { id, parent, path: &path })?;
            let Some(entries) = gone_is_none(directory.read_dir())? else { continue };
            for entry in entries {
                let Some(entry) = gone_is_none(entry)? else { continue };
                if gone_is_none(entry.file_type())?.is_some_and(|kind| kind.is_dir()) {
                    open.push((entry.path(), path.join(entry.file_name()), Some(id)));
                }
            }
        }
        Ok(is_whole)
    }

    /// The id of the cgroup at a path from the top of the tree, if there is one in this subtree now.
    pub fn id_at(&self, path: &Path) -> Option<u64> {
        let below = path.strip_prefix(&self.path).ok()?;
        // The kernel tells so of what is outside of a namespace's root.
        if below.components().any(|part| !matches!(part, Component::Normal(_))) {
            return None;
        }
        let directory = self.directory.join(below);
        directory.metadata().ok().map(|metadata| metadata.ino())
    }
}

/// Watches a subtree by inotify, where the kernel does not identify new cgroups itself.
pub struct Watch {
    subtree: Subtree,
    inotify: Inotify,
    add: Add,
    watched: HashMap<WatchDescriptor, PathBuf>,
    ids: HashMap<PathBuf, u64>,
    vanished: VecDeque<u64>,
    /// Whether the tree is to be looked at as a whole: it never was, or not all of it could be watched.
    is_partial: bool,
    /// Whether it has been.
    has_looked: bool,
}

/// Has a directory watched.
type Add = fn(&Inotify, &Path) -> nix::Result<WatchDescriptor>;

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

/// What a watch has seen.
#[derive(Debug, Default)]
pub struct Changes {
    /// What has changed, also where something else could not be seen.
    pub changes: Vec<Change>,
    /// The first thing that kept it from seeing all: the tree could not be read, or no more directories can be watched
    /// (`fs.inotify.max_user_watches`).
    pub trouble: Option<io::Error>,
}

impl Watch {
    /// Watches a subtree; the first [`changes`](Self::changes) reports every cgroup.
    ///
    /// # Errors
    ///
    /// The kernel has no inotify.
    pub fn new(subtree: Subtree) -> io::Result<Self> {
        Self::by(subtree, |inotify, directory| {
            let wanted = AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE | AddWatchFlags::IN_ONLYDIR;
            inotify.add_watch(directory, wanted)
        })
    }

    fn by(subtree: Subtree, add: Add) -> io::Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)?;
        let (watched, ids, vanished) = (HashMap::new(), HashMap::new(), VecDeque::new());
        Ok(Self { subtree, inotify, add, watched, ids, vanished, is_partial: true, has_looked: false })
    }

    /// Becomes readable when a cgroup has come or gone.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// What has changed since the last call, as far as it is watched.
    pub fn changes(&mut self) -> Changes {
        if !self.has_looked {
            return self.renew();
        }
        let mut seen = Changes::default();
        self.read(&mut seen);
        seen
    }

    /// What has changed since the last call, also in directories that could not be watched, which is tried again.
    pub fn renew(&mut self) -> Changes {
        let mut seen = Changes::default();
        self.has_looked = true;
        if std::mem::take(&mut self.is_partial) {
            self.enter(self.subtree.directory.clone(), &mut seen);
        }
        self.read(&mut seen);
        seen
    }

    fn read(&mut self, seen: &mut Changes) {
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EAGAIN) => return,
                Err(Errno::EINTR) => continue,
                Err(err) => return self.miss(seen, err.into()),
            };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    // Some word was lost, so the whole tree is looked at again; what is known is not reported twice.
                    self.enter(self.subtree.directory.clone(), seen);
                    continue;
                }
                let Some(directory) = self.watched.get(&event.wd).cloned() else { continue };
                if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    self.watched.remove(&event.wd);
                    continue;
                }
                let is_directory = event.mask.contains(AddWatchFlags::IN_ISDIR);
                let Some(name) = event.name.filter(|_: &OsString| is_directory) else { continue };
                let child = directory.join(name);
                if event.mask.contains(AddWatchFlags::IN_CREATE) {
                    self.enter(child, seen);
                } else if event.mask.contains(AddWatchFlags::IN_DELETE)
                    && let Some(id) = self.ids.remove(&self.path_of(&child))
                {
                    self.leave(id, seen);
                }
            }
        }
    }

    /// Takes in a directory and all below it. It is watched before it is listed, so that a child that is made
    /// meanwhile is seen at least once. One that cannot be watched keeps nobody from being seen who is there now.
    fn enter(&mut self, directory: PathBuf, seen: &mut Changes) {
        let path = self.path_of(&directory);
        let (mut found, mut troubles) = (Vec::new(), Vec::new());
        let (inotify, add, watched) = (&self.inotify, self.add, &mut self.watched);
        let top = directory.clone();
        let walked = Subtree { directory, path: path.clone() }.walk(|cgroup| {
            let below = cgroup.path.strip_prefix(&path).unwrap_or(Path::new(""));
            let directory = if below.as_os_str().is_empty() { top.clone() } else { top.join(below) };
            match add(inotify, &directory) {
                Ok(descriptor) => {
                    watched.insert(descriptor, directory);
                }
                // It has gone again already.
                Err(Errno::ENOENT) => return Ok(()),
                Err(err) => troubles.push(io::Error::other(watch_error(&directory, err))),
            }
            found.push((cgroup.path.to_path_buf(), cgroup.id));
            Ok::<(), io::Error>(())
        });
        // Of those that were not watched, or of which word was lost, nobody has told that they are gone.
        if walked.is_ok() && path == self.subtree.path {
            let there: HashSet<&Path> = found.iter().map(|(path, _)| path.as_path()).collect();
            let gone: Vec<PathBuf> =
                self.ids.keys().filter(|known| !there.contains(known.as_path())).cloned().collect();
            for id in gone.iter().filter_map(|path| self.ids.remove(path)).collect::<Vec<_>>() {
                self.leave(id, seen);
            }
        }
        for (path, id) in found {
            let before = self.ids.insert(path.clone(), id);
            if before != Some(id) {
                // Another one was made in its place.
                if let Some(before) = before {
                    self.leave(before, seen);
                }
                seen.changes.push(Change::Appeared { id, path });
            }
        }
        for err in troubles.into_iter().chain(walked.err()) {
            self.miss(seen, err);
        }
    }

    /// Something was not seen, and is to be looked for again.
    fn miss(&mut self, seen: &mut Changes, err: io::Error) {
        self.is_partial = true;
        seen.trouble.get_or_insert(err);
    }

    fn leave(&mut self, id: u64, seen: &mut Changes) {
        self.vanished.push_back(id);
        if self.vanished.len() > MAX_VANISHED
            && let Some(id) = self.vanished.pop_front()
        {
            seen.changes.push(Change::Forgotten { id });
        }
    }

    fn path_of(&self, directory: &Path) -> PathBuf {
        match directory.strip_prefix(&self.subtree.directory) {
            Ok(below) if below.as_os_str().is_empty() => self.subtree.path.clone(),
            Ok(below) => self.subtree.path.join(below),
            // Only directories below the root are ever watched.
            Err(std::path::StripPrefixError { .. }) => directory.to_path_buf(),
        }
    }
}

/// The bytes of a cgroup path, as selectors match them.
pub fn bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}

/// A path that somebody has written, as the tree names the cgroup: without slashes that say nothing, or `.`. None if it goes back behind
/// a name of its own, as no cgroup's does; one outside of the cgroup namespace begins with `/..`.
pub fn as_named(path: &Path) -> Option<PathBuf> {
    let mut behind_names = path.components().skip_while(|part| !matches!(part, Component::Normal(_)));
    let goes_back = behind_names.any(|part| part == Component::ParentDir);
    (!goes_back).then(|| path.components().collect())
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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};
    use std::ffi::OsStr;
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::sync::Arc;

    use nix::errno::Errno;
    use nix::sys::inotify::AddWatchFlags;

    use super::{Change, Changes, Child, MAX_PATH, Names, Subtree, Watch};

    fn at(path: &str) -> Child {
        Child::At(Arc::from(Path::new(path)))
    }

    #[test]
    fn a_child_is_where_its_parent_and_its_name_say() {
        let mut names = Names::default();
        names.insert(1, Path::new("/"));
        assert_eq!(names.insert_child(2, 1, OsStr::new("a")), at("/a"));
        assert_eq!(names.insert_child(3, 2, OsStr::new("b")), at("/a/b"));
        assert_eq!(names.told(3).as_deref(), Some("/a/b"));
        assert_eq!(names.insert_child(5, 4, OsStr::new("c")), Child::Orphan);
        assert_eq!((names.path(5), names.told(5)), (None, None));
        names.remove(2);
        assert_eq!(names.insert_child(6, 2, OsStr::new("c")), Child::Orphan);
    }

    #[test]
    fn what_is_kept_of_a_cgroup_does_not_grow_with_its_depth() {
        const LEVELS: u64 = 5000;
        let name = OsStr::new(&"n".repeat(255)).to_owned();
        let mut names = Names::default();
        names.insert(0, Path::new("/short"));
        let mut bytes = 0;
        for level in 1..=LEVELS {
            if let Child::At(path) = names.insert_child(level, level - 1, &name) {
                bytes += path.as_os_str().len();
            }
            assert!(names.told(level).is_some_and(|told| told.len() <= MAX_PATH + 4), "{level}");
        }
        assert!(bytes < 16 * MAX_PATH, "{bytes} bytes are kept");
        assert_eq!(names.path(LEVELS), None);
        let told = names.told(LEVELS).expect("its beginning");
        assert!(told.starts_with("/short/nnn") && told.ends_with("n/..."), "{told}");
        assert_eq!(names.ids().count() as u64, LEVELS + 1);
        assert_eq!(names.iter().count(), 16);
    }

    #[test]
    fn the_longest_path_that_is_kept_is_the_longest_that_a_call_takes() {
        let mut names = Names::default();
        names.insert(1, Path::new("/"));
        names.insert(2, &PathBuf::from("/a".repeat(MAX_PATH / 2 - 1)));
        assert_eq!(names.path(2).map(|path| path.as_os_str().len()), Some(MAX_PATH - 3));
        assert!(matches!(names.insert_child(3, 2, OsStr::new("bb")), Child::At(_)));
        assert_eq!(names.path(3).map(|path| path.as_os_str().len()), Some(MAX_PATH));
        assert_eq!(names.insert_child(4, 2, OsStr::new("bbb")), Child::Hidden);
        assert_eq!(names.insert_child(5, 3, OsStr::new("b")), Child::Hidden);
        assert_eq!(names.insert_child(6, 5, OsStr::new("b")), Child::Hidden);
        // As a walk of a subtree whose own path is that long would find it.
        names.insert(7, &PathBuf::from(format!("/top/{}", "b".repeat(MAX_PATH))));
        assert_eq!((names.path(7), names.told(7).as_deref()), (None, Some("/top/...")));
    }

    #[test]
    fn a_look_at_the_tree_tells_names_of_which_word_was_lost() {
        let mut names = Names::default();
        names.insert(1, Path::new("/"));
        let tree =
            [(1, Path::new("/")), (2, Path::new("/a")), (3, Path::new("/a/b")), (4, Path::new("/gone"))];
        // 4 has gone since, and 5 is deeper than the look reaches.
        let table = HashSet::from([1, 2, 3, 4, 5]);
        let is_in_table = |id| id != 4;
        let learned = names.learn(tree.into_iter(), &table, is_in_table);
        assert_eq!(learned, [(2, Path::new("/a").into()), (3, Path::new("/a/b").into())]);
        assert_eq!(names.path(4), None);
        assert_eq!(names.learn(tree.into_iter(), &table, is_in_table), []);
        // Whose children are no reason to look again.
        assert_eq!(names.insert_child(6, 5, OsStr::new("c")), Child::Hidden);
        assert_eq!(names.insert_child(7, 4, OsStr::new("c")), Child::Orphan);
        assert_eq!(names.told(6), None);
    }

    #[test]
    fn an_id_is_found_only_below_the_subtree() {
        use std::os::unix::fs::MetadataExt as _;
        let top = tempfile::tempdir().expect("a directory");
        let judged = top.path().join("judged");
        fs::create_dir_all(judged.join("a")).expect("a directory");
        let subtree = Subtree { directory: judged.clone(), path: PathBuf::from("/judged") };
        let id = |directory: &Path| directory.metadata().ok().map(|metadata| metadata.ino());
        assert_eq!(subtree.id_at(Path::new("/judged/a")), id(&judged.join("a")));
        assert_eq!(subtree.id_at(Path::new("/judged")), id(&judged));
        for path in ["/", "/judged/..", "/judged/../judged/a", "/judged/b", "/other"] {
            assert_eq!(subtree.id_at(Path::new(path)), None, "{path}");
        }
    }

    fn appeared(seen: &Changes) -> BTreeSet<&Path> {
        let paths = seen.changes.iter().filter_map(|change| match change {
            Change::Appeared { path, .. } => Some(path.as_path()),
            Change::Forgotten { .. } => None,
        });
        paths.collect()
    }

    /// A watch that cannot watch directories named `full` until one named `room` is beside them.
    fn cramped(top: &Path) -> Watch {
        let subtree = Subtree { directory: top.to_path_buf(), path: PathBuf::from("/") };
        Watch::by(subtree, |inotify, directory| {
            if directory.ends_with("full") && !directory.with_file_name("room").exists() {
                return Err(Errno::ENOSPC);
            }
            inotify.add_watch(directory, AddWatchFlags::IN_CREATE | AddWatchFlags::IN_DELETE)
        })
        .expect("inotify")
    }

    #[test]
    fn a_directory_that_cannot_be_watched_hides_no_other() {
        let top = tempfile::tempdir().expect("a directory");
        for directory in ["a/b", "full/inner", "z"] {
            fs::create_dir_all(top.path().join(directory)).expect("a directory");
        }
        let mut watch = cramped(top.path());
        let seen = watch.changes();
        let all = ["/", "/a", "/a/b", "/full", "/full/inner", "/z"].map(Path::new);
        assert_eq!(appeared(&seen), all.into());
        let told = seen.trouble.expect("one cannot be watched").to_string();
        assert!(told.starts_with("watch cgroup ") && told.contains("\nhint: "), "{told}");

        // In one batch with what can be watched.
        for directory in ["a/c", "a/full", "a/d", "z/e", "full/late"] {
            fs::create_dir(top.path().join(directory)).expect("a directory");
        }
        let seen = watch.changes();
        assert_eq!(appeared(&seen), ["/a/c", "/a/d", "/a/full", "/z/e"].map(Path::new).into());
        assert!(seen.trouble.is_some());
        // What came into the one that is not watched is found by another look, as is what went.
        let seen = watch.renew();
        assert_eq!(appeared(&seen), [Path::new("/full/late")].into());
        assert!(seen.trouble.is_some());
        fs::remove_dir(top.path().join("full/late")).expect("to be removed");
        watch.renew();
        assert_eq!(watch.vanished.len(), 1);

        for directory in ["room", "a/room"] {
            fs::create_dir(top.path().join(directory)).expect("a directory");
        }
        let seen = watch.renew();
        assert_eq!(appeared(&seen), ["/a/room", "/room"].map(Path::new).into());
        assert!(seen.trouble.is_none());
        fs::create_dir(top.path().join("full/again")).expect("a directory");
        assert_eq!(appeared(&watch.changes()), [Path::new("/full/again")].into());
        assert!(watch.renew().changes.is_empty());
    }
}
