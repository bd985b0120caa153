//! What must outlive the daemon and is not in the kernel: which number stands for which name, and the text of the policy
//! in force and of those before it.
//!
//! Each text is a file that is named by its hash, so that a policy of many files of which one is changed is not written again.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest as _, Sha256};
use thiserror::Error;

use crate::connections::Older;
use crate::containers::Container;
use crate::failpoint;
use crate::identities::Identities;
use crate::lock::{Lock, LockError};
use crate::policy::Document;

/// The format of the file; one that is newer is refused. In the first the file held the texts of two revisions themselves,
/// and the names of the rules of some more.
const FORMAT: u32 = 2;

/// Revisions whose text is kept: the one in force, and the one that was about to be, of which the kernel tells which is
/// which; and some before, so that an event that waited across reloads still names its rule.
const REVISIONS_REMEMBERED: usize = 8;

const TEXTS: &str = "texts";
const FILE: &str = "state.json";
const FRESH: &str = "state.json.new";
const FRESH_TEXT: &str = "text.new";
const SWEPT: &str = "swept.json";
const SWEPT_FRESH: &str = "swept.json.new";
const LOCK: &str = "lock";
const CONTAINERS: &str = "containers.json";
const FRESH_CONTAINERS: &str = "containers.json.new";

/// A text that is another one after each boot (Documentation/admin-guide/sysctl/kernel.rst).
const BOOT: &str = "/proc/sys/kernel/random/boot_id";

/// The directory of the state, locked.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    _lock: Lock,
}

/// What the file holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct State {
    format: u32,
    /// Version of the enforcer that wrote it.
    written_by: String,
    /// Which number stands for which name.
    pub identities: Identities,
    /// Oldest first.
    revisions: Vec<Revision>,
    /// Texts that are on no disk yet.
    #[serde(skip)]
    fresh: BTreeMap<TextHash, Arc<str>>,
    /// Texts that no revision has any longer.
    #[serde(skip)]
    dropped: Vec<TextHash>,
    /// How many documents of all revisions have a text; empty if they were not counted yet.
    #[serde(skip)]
    uses: HashMap<TextHash, usize>,
    /// The texts of the latest revision, so that one that is the same is not hashed again.
    #[serde(skip)]
    latest: Vec<(Document, TextHash)>,
}

/// What is known of the containers of a boot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownContainers {
    /// The id that the kernel gave this boot: ids of cgroups mean something else after the next one.
    pub boot: String,
    /// Each container, with its own cgroup.
    pub containers: Vec<KnownContainer>,
}

/// What a runtime has said of a container.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KnownContainer {
    /// The id of its own cgroup.
    pub cgroup: u64,
    /// The path of that cgroup, from the top of the tree.
    pub path: PathBuf,
    /// What it is.
    pub container: Container,
}

/// What the last look at all live connections has come to. Sockets are known by cookies, which are good until the next boot.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Swept {
    boot: String,
    /// The policy by which they were judged, to the end.
    pub revision: u32,
    /// The sockets that are older than the enforcer.
    pub older: Older,
}

/// A policy that is or was in force, or was about to be.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Revision {
    revision: u32,
    documents: Vec<Text>,
    /// What it is written as, once it was: it is written again with each revision that follows.
    #[serde(skip)]
    written: OnceLock<Box<RawValue>>,
}

impl Serialize for Revision {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Whole<'a> {
            revision: u32,
            documents: &'a [Text],
        }
        if let Some(written) = self.written.get() {
            return written.serialize(serializer);
        }
        let whole = Whole { revision: self.revision, documents: &self.documents };
        let written = to_raw_value(&whole).map_err(serde::ser::Error::custom)?;
        self.written.get_or_init(|| written).serialize(serializer)
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    file: PathBuf,
    sha256: TextHash,
}

/// SHA-256 of a text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Deserialize)]
#[serde(transparent)]
struct TextHash(#[serde(with = "hex::serde")] [u8; 32]);

impl Serialize for TextHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A policy of many files has many of them, which `hex::serde` makes digit by digit.
        let mut digits = [0; 64];
        hex::encode_to_slice(self.0, &mut digits).map_err(serde::ser::Error::custom)?;
        serializer.serialize_str(str::from_utf8(&digits).map_err(serde::ser::Error::custom)?)
    }
}

impl TextHash {
    fn of(text: &[u8]) -> Self {
        Self(Sha256::digest(text).into())
    }

    /// Where a text with this hash is kept.
    fn place(self) -> PathBuf {
        Path::new(TEXTS).join(hex::encode(self.0))
    }
}

/// Why the state could not be read or written.
#[derive(Debug, Error)]
pub enum StateError {
    /// The file system did not do what it was told.
    #[error("{what} {}: {cause}{}", .path.display(), hint(.cause))]
    Io {
        /// What was to be done.
        what: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why it was not.
        cause: io::Error,
    },
    /// What is in the file is not a state.
    #[error("read state {}: {cause}\nhint: it is not guessed what was in it; `enforcer run --takeover` starts afresh from the policy, with new numbers, and never without enforcement", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        cause: String,
    },
    /// A newer enforcer wrote it.
    #[error("read state {}: enforcer {by} wrote it in format {format}, and this one knows {FORMAT}\nhint: run that version or a newer one", .path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Version that wrote it.
        by: String,
        /// Format that it is in.
        format: u32,
    },
    /// Somebody else uses it.
    #[error(transparent)]
    Lock(#[from] LockError),
}

fn hint(cause: &io::Error) -> &'static str {
    match cause.kind() {
        io::ErrorKind::PermissionDenied => {
            "\nhint: run enforcer as root, or as the user that the state belongs to"
        }
        _ => "",
    }
}

impl Directory {
    /// Makes the directory if it is not there, readable by root alone, and locks it.
    ///
    /// # Errors
    ///
    /// It cannot be made, or another process holds it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let failed = |what, path: &Path, cause| StateError::Io { what, path: path.to_path_buf(), cause };
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|cause| failed("create directory", path, cause))?;
        let file = path.join(LOCK);
        let lock = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&file)
            .map_err(|cause| failed("open lock", &file, cause))?;
        Ok(Self { path: path.to_path_buf(), _lock: Lock::take(&file, lock)? })
    }

    /// Whether anything was written.
    pub fn is_written(&self) -> bool {
        self.path.join(FILE).exists()
    }

    /// What was written last, or `None` if nothing was.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is not whole.
    pub fn read(&self) -> Result<Option<State>, StateError> {
        let path = self.path.join(FILE);
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(cause) => return Err(StateError::Io { what: "read state", path, cause }),
        };
        let state = State::parse(&text, &path)?;
        self.tidy(&state);
        Ok(Some(state))
    }

    /// The text of a revision; nothing if it is not remembered.
    ///
    /// # Errors
    ///
    /// A text is not there, or is another one.
    pub fn documents(&self, state: &State, revision: u32) -> Result<Option<Vec<Document>>, StateError> {
        let Some(known) = state.revision(revision) else { return Ok(None) };
        known.documents.iter().map(|text| self.document(state, text)).collect::<Result<_, _>>().map(Some)
    }

    fn document(&self, state: &State, Text { file, sha256 }: &Text) -> Result<Document, StateError> {
        if let Some(text) = state.fresh.get(sha256) {
            return Ok(Document { file: file.as_path().into(), text: text.clone() });
        }
        let path = self.path.join(sha256.place());
        let damaged = |cause: String| StateError::Damaged { path: path.clone(), cause };
        let text = fs::read_to_string(&path).map_err(|err| damaged(err.to_string()))?;
        let found = TextHash::of(text.as_bytes());
        if found != *sha256 {
            return Err(damaged(format!("its SHA-256 is {}", hex::encode(found.0))));
        }
        Ok(Document::new(file, text))
    }

    /// Writes a state so that at any moment the file holds the whole of this one or of the one before, and every text that it
    /// names is there.
    ///
    /// # Errors
    ///
    /// The file system is full or broken; the state before is still there then.
    pub fn write(&self, state: &mut State) -> Result<(), StateError> {
        self.write_texts(&state.fresh)?;
        let (path, fresh) = (self.path.join(FILE), self.path.join(FRESH));
        let result = serde_json::to_vec(state).map_err(io::Error::from).and_then(|text| {
            write_whole(&fresh, &text)?;
            failpoint::pass("state-staged");
            fs::rename(&fresh, &path)?;
            // The new name is durable only with its directory.
            File::open(&self.path)?.sync_all()
        });
        failpoint::pass("state-written");
        result.map_err(|cause| StateError::Io { what: "write state", path, cause })?;
        state.fresh.clear();
        for hash in state.dropped.drain(..) {
            // What stays is removed by the next start.
            drop(fs::remove_file(self.path.join(hash.place())));
        }
        Ok(())
    }

    fn write_texts(&self, texts: &BTreeMap<TextHash, Arc<str>>) -> Result<(), StateError> {
        if texts.is_empty() {
            return Ok(());
        }
        let (directory, fresh) = (self.path.join(TEXTS), self.path.join(FRESH_TEXT));
        let result = (|| {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(&directory)?;
            for (hash, text) in texts {
                write_whole(&fresh, text.as_bytes())?;
                fs::rename(&fresh, self.path.join(hash.place()))?;
            }
            File::open(&directory)?.sync_all()
        })();
        result.map_err(|cause| StateError::Io { what: "write policy text", path: directory, cause })
    }

    /// Removes texts that a state does not name, which are there if a daemon was killed before it named them or after it
    /// forgot them.
    fn tidy(&self, state: &State) {
        let Ok(texts) = fs::read_dir(self.path.join(TEXTS)) else { return };
        let named = state.named();
        for text in texts.flatten() {
            if hash_of(&text.file_name()).is_some_and(|hash| !named.contains(&hash)) {
                // It is in nobody's way.
                drop(fs::remove_file(text.path()));
            }
        }
    }

    /// What was last written of containers; nothing if it is damaged, as a loss of power may leave it: then they are asked
    /// about.
    pub fn read_containers(&self) -> Option<KnownContainers> {
        let text = fs::read(self.path.join(CONTAINERS)).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// Writes what is known of containers, which no other boot has a use for: so the disk is not waited for.
    ///
    /// # Errors
    ///
    /// The file system is full or broken.
    pub fn write_containers(&self, known: &KnownContainers) -> Result<(), StateError> {
        let (path, fresh) = (self.path.join(CONTAINERS), self.path.join(FRESH_CONTAINERS));
        let result = (|| {
            open_fresh(&fresh)?.write_all(&serde_json::to_vec(known)?)?;
            fs::rename(&fresh, &path)
        })();
        result.map_err(|cause| StateError::Io { what: "write containers", path, cause })
    }

    /// What the last look at all live connections has come to, if there was one since the machine was started. What cannot be
    /// read counts as none: connections are then treated as older than the enforcer.
    pub fn swept(&self) -> Option<Swept> {
        let swept: Swept = serde_json::from_slice(&fs::read(self.path.join(SWEPT)).ok()?).ok()?;
        (swept.boot == fs::read_to_string(BOOT).ok()?).then_some(swept)
    }

    /// Writes down what a look at all live connections has come to.
    ///
    /// # Errors
    ///
    /// The file system is full or broken; what was written before is still there then.
    pub fn write_swept(&self, revision: u32, older: Older) -> Result<(), StateError> {
        let (path, fresh) = (self.path.join(SWEPT), self.path.join(SWEPT_FRESH));
        let result = fs::read_to_string(BOOT).and_then(|boot| {
            let text = serde_json::to_vec(&Swept { boot, revision, older })?;
            open_fresh(&fresh)?.write_all(&text)?;
            // What a crash of the machine makes of it does not matter: it is of this boot alone.
            fs::rename(&fresh, &path)
        });
        result.map_err(|cause| StateError::Io { what: "write", path, cause })
    }

    /// Removes everything of ours, and the directory if nothing else is in it.
    ///
    /// # Errors
    ///
    /// A file cannot be removed.
    pub fn remove(self) -> Result<(), StateError> {
        let texts = self.path.join(TEXTS);
        let mut files: Vec<PathBuf> = [SWEPT_FRESH, SWEPT, FRESH_CONTAINERS, CONTAINERS, FRESH, FRESH_TEXT]
            .map(|name| self.path.join(name))
            .into();
        let named = fs::read_dir(&texts).into_iter().flatten().flatten();
        files.extend(named.filter(|text| hash_of(&text.file_name()).is_some()).map(|text| text.path()));
        // The state itself last, which tells what the others are.
        files.extend([FILE, LOCK].map(|name| self.path.join(name)));
        for path in files {
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => return Err(StateError::Io { what: "remove", path, cause }),
            }
        }
        for path in [&texts, &self.path] {
            match fs::remove_dir(path) {
                Ok(()) => {}
                // Somebody else's files are in it, or it is a mount point.
                Err(err)
                    if [
                        io::ErrorKind::DirectoryNotEmpty,
                        io::ErrorKind::ResourceBusy,
                        io::ErrorKind::NotFound,
                    ]
                    .contains(&err.kind()) => {}
                Err(cause) => return Err(StateError::Io { what: "remove", path: path.clone(), cause }),
            }
        }
        Ok(())
    }
}

/// The hash that is the name of a text's file.
fn hash_of(name: &OsStr) -> Option<TextHash> {
    let mut hash = TextHash([0; 32]);
    hex::decode_to_slice(name.as_encoded_bytes(), &mut hash.0).ok()?;
    (*name == *hex::encode(hash.0)).then_some(hash)
}

fn open_fresh(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}

/// Writes a file, and waits until the disk has it.
fn write_whole(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = open_fresh(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

impl State {
    /// A state in which nothing has been in force.
    pub fn new() -> Self {
        Self {
            format: FORMAT,
            written_by: env!("CARGO_PKG_VERSION").to_owned(),
            identities: Identities::default(),
            revisions: Vec::new(),
            fresh: BTreeMap::new(),
            dropped: Vec::new(),
            uses: HashMap::new(),
            latest: Vec::new(),
        }
    }

    fn parse(text: &[u8], path: &Path) -> Result<Self, StateError> {
        #[derive(Deserialize)]
        struct Head {
            format: u32,
            written_by: String,
        }
        let damaged =
            |err: serde_json::Error| StateError::Damaged { path: path.to_path_buf(), cause: err.to_string() };
        let head: Head = serde_json::from_slice(text).map_err(damaged)?;
        match head.format {
            FORMAT => serde_json::from_slice(text).map_err(damaged),
            1 => serde_json::from_slice::<first::State>(text).map(Self::from).map_err(damaged),
            format => Err(StateError::Newer { path: path.to_path_buf(), by: head.written_by, format }),
        }
    }

    /// Remembers a policy as one that is about to be put in force. One of the same revision, which then was not, is
    /// forgotten.
    pub fn remember(&mut self, revision: u32, documents: &[Document], identities: &Identities) {
        self.written_by = env!("CARGO_PKG_VERSION").to_owned();
        self.identities = identities.clone();
        let before = std::mem::take(&mut self.latest);
        let hashed = documents.iter().map(|document| {
            let place = before.binary_search_by(|(known, _)| known.file.cmp(&document.file)).ok();
            let known = place.and_then(|place| before.get(place));
            let same = known.filter(|(known, _)| Arc::ptr_eq(&known.text, &document.text));
            (document.clone(), same.map_or_else(|| TextHash::of(document.text.as_bytes()), |(_, hash)| *hash))
        });
        self.latest = hashed.collect();
        if self.uses.is_empty() {
            for hash in self.revisions.iter().flat_map(Revision::hashes) {
                *self.uses.entry(hash).or_default() += 1;
            }
        }
        for (document, hash) in &self.latest {
            let uses = self.uses.entry(*hash).or_default();
            if *uses == 0 {
                self.fresh.insert(*hash, document.text.clone());
            }
            *uses += 1;
        }
        // Texts that it shares with what takes its place are counted by now, and stay.
        self.forget(revision);
        let text = |(document, sha256): &(Document, TextHash)| Text {
            file: document.file.to_path_buf(),
            sha256: *sha256,
        };
        let documents = self.latest.iter().map(text).collect();
        self.revisions.push(Revision { revision, documents, written: OnceLock::new() });
        let number = self.revisions.len();
        let gone: Vec<Revision> =
            self.revisions.drain(..number.saturating_sub(REVISIONS_REMEMBERED)).collect();
        self.let_go(&gone);
    }

    /// Forgets a policy that was about to be put in force and was not, so that it is not taken for the one that is.
    pub fn forget(&mut self, revision: u32) {
        let gone: Vec<Revision> = self.revisions.extract_if(.., |known| known.revision == revision).collect();
        self.let_go(&gone);
    }

    /// Drops the texts that only these revisions had.
    fn let_go(&mut self, gone: &[Revision]) {
        for hash in gone.iter().flat_map(Revision::hashes) {
            if let Entry::Occupied(mut uses) = self.uses.entry(hash) {
                *uses.get_mut() -= 1;
                if *uses.get() == 0 {
                    uses.remove();
                    self.dropped.push(hash);
                }
            }
        }
        self.dropped.retain(|hash| !self.uses.contains_key(hash));
        self.fresh.retain(|hash, _| self.uses.contains_key(hash));
    }

    /// The last revision that was remembered; 0 if none was.
    pub fn latest(&self) -> u32 {
        self.revisions.last().map_or(0, |last| last.revision)
    }

    /// Whether this is the text of that revision.
    pub fn is_text_of(&self, revision: u32, documents: &[Document]) -> bool {
        self.revision(revision).is_some_and(|known| {
            known.documents.len() == documents.len()
                && known.documents.iter().zip(documents).all(|(text, now)| {
                    *text.file == *now.file && text.sha256 == TextHash::of(now.text.as_bytes())
                })
        })
    }

    fn revision(&self, revision: u32) -> Option<&Revision> {
        self.revisions.iter().find(|known| known.revision == revision)
    }

    /// Every text of a revision.
    fn named(&self) -> HashSet<TextHash> {
        self.revisions.iter().flat_map(Revision::hashes).collect()
    }
}

impl Revision {
    fn hashes(&self) -> impl Iterator<Item = TextHash> {
        self.documents.iter().map(|text| text.sha256)
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

/// The format before this one.
mod first {
    use std::path::PathBuf;

    use serde::Deserialize;

    use crate::identities::Identities;
    use crate::policy::Document;

    #[derive(Deserialize)]
    pub(super) struct State {
        written_by: String,
        identities: Identities,
        revisions: Vec<Revision>,
    }

    #[derive(Deserialize)]
    struct Revision {
        revision: u32,
        documents: Option<Vec<Text>>,
    }

    #[derive(Deserialize)]
    struct Text {
        file: PathBuf,
        text: String,
    }

    impl From<State> for super::State {
        fn from(state: State) -> Self {
            let mut now = Self::new();
            for Revision { revision, documents } in state.revisions {
                // One of which the rules' names alone were kept is not known any longer.
                let Some(texts) = documents else { continue };
                let documents: Vec<Document> =
                    texts.into_iter().map(|Text { file, text }| Document::new(file, text)).collect();
                now.remember(revision, &documents, &state.identities);
            }
            now.identities = state.identities;
            now.written_by = state.written_by;
            now
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use super::{
        CONTAINERS, Directory, FILE, KnownContainer, KnownContainers, REVISIONS_REMEMBERED, State,
        StateError, TEXTS,
    };
    use crate::containers::Container;
    use crate::containers::cgroup::Runtime;
    use crate::identities::Identities;
    use crate::policy::Document;

    #[test]
    fn whoever_may_not_open_it_is_told_who_may() {
        let denied = StateError::Io {
            what: "open lock",
            path: "/var/lib/enforcer/lock".into(),
            cause: std::io::Error::from_raw_os_error(13),
        };
        assert_eq!(
            denied.to_string(),
            "open lock /var/lib/enforcer/lock: Permission denied (os error 13)\n\
             hint: run enforcer as root, or as the user that the state belongs to"
        );
    }

    fn documents(text: &str) -> Vec<Document> {
        vec![Document::new("policy.yaml", text)]
    }

    fn read(text: &[u8]) -> Result<State, StateError> {
        State::parse(text, Path::new("state.json"))
    }

    /// What two files say; the second is always the same.
    fn two(first: &str) -> Vec<Document> {
        vec![Document::new("a.yaml", first), Document::new("b.yaml", "same")]
    }

    fn texts(place: &Path) -> usize {
        fs::read_dir(place.join(TEXTS)).map_or(0, Iterator::count)
    }

    #[test]
    fn what_was_remembered_is_read_back() {
        let place = tempfile::tempdir().expect("room for a directory");
        let directory = Directory::open(place.path()).expect("a new one");
        assert!(directory.read().expect("nothing is there").is_none());
        let mut identities = Identities::default();
        let web = identities.intern_service("web");
        let mut state = State::new();
        state.remember(1, &two("one"), &identities);
        assert_eq!(directory.documents(&state, 1).expect("not written yet"), Some(two("one")));
        directory.write(&mut state).expect("room for files");
        state.remember(2, &two("two"), &identities);
        directory.write(&mut state).expect("room for files");
        assert_eq!(texts(place.path()), 3, "what is the same is there once");

        let mut state = directory.read().expect("what was written").expect("it was");
        assert_eq!(state.latest(), 2);
        assert_eq!(state.identities.intern_service("web"), web);
        assert!(state.is_text_of(1, &two("one")) && state.is_text_of(2, &two("two")));
        assert!(!state.is_text_of(2, &two("one")) && !state.is_text_of(3, &two("two")));
        for (revision, documents) in [(1, Some(two("one"))), (2, Some(two("two"))), (3, None)] {
            assert_eq!(directory.documents(&state, revision).expect("whole"), documents, "{revision}");
        }

        // A text that is gone, cut, or another one is damage, whatever else is whole.
        for (number, damage) in [Some("sam"), Some("other"), None].into_iter().enumerate() {
            for text in fs::read_dir(place.path().join(TEXTS)).expect("it is there") {
                let path = text.expect("it is there").path();
                let whole = fs::read(&path).expect("it is there");
                match damage {
                    Some(text) => fs::write(&path, text).expect("room for less"),
                    None => fs::remove_file(&path).expect("it is there"),
                }
                let found = [1, 2].map(|revision| directory.documents(&state, revision));
                assert!(
                    found.iter().any(|found| matches!(found, Err(StateError::Damaged { .. }))),
                    "{number}: {found:?}"
                );
                fs::write(&path, whole).expect("room for a file");
            }
        }

        let theirs = place.path().join(TEXTS).join("theirs");
        fs::write(&theirs, "somebody else's").expect("room for a file");
        directory.remove().expect("all of ours");
        assert_eq!((texts(place.path()), theirs.exists()), (1, true));
        assert!(!place.path().join(FILE).exists());
    }

    #[test]
    fn a_text_that_no_revision_has_is_removed() {
        let place = tempfile::tempdir().expect("room for a directory");
        let directory = Directory::open(place.path()).expect("a new one");
        let mut state = State::new();
        for revision in 1..=20 {
            state.remember(revision, &two(&format!("text {revision}")), &Identities::default());
            directory.write(&mut state).expect("room for files");
        }
        assert_eq!(texts(place.path()), REVISIONS_REMEMBERED + 1);
        assert!(directory.documents(&state, 12).expect("forgotten").is_none());
        assert_eq!(directory.documents(&state, 13).expect("whole"), Some(two("text 13")));
        // One that was written when a daemon was killed, before the state named it.
        let orphan = place.path().join(TEXTS).join("00".repeat(32));
        fs::write(&orphan, "about to be").expect("room for a file");
        let state = directory.read().expect("what was written").expect("it was");
        assert!(!orphan.exists());
        assert_eq!(directory.documents(&state, 13).expect("whole"), Some(two("text 13")));
        // Back to a text that was forgotten, and to one that is there.
        let mut state = state;
        for (revision, text) in [(21, "text 2"), (22, "text 20")] {
            state.remember(revision, &two(text), &Identities::default());
            directory.write(&mut state).expect("room for files");
            assert_eq!(directory.documents(&state, revision).expect("whole"), Some(two(text)));
        }
    }

    #[test]
    fn a_policy_that_was_not_put_in_force_is_forgotten_with_its_texts() {
        let place = tempfile::tempdir().expect("room for a directory");
        let directory = Directory::open(place.path()).expect("a new one");
        let mut state = State::new();
        let mut remember = |revision, text: Option<&str>| {
            match text {
                Some(text) => state.remember(revision, &two(text), &Identities::default()),
                None => state.forget(revision),
            }
            directory.write(&mut state).expect("room for files");
            let read = directory.read().expect("what was written").expect("it was");
            (read.latest(), texts(place.path()), directory.documents(&read, 2).expect("whole"))
        };
        assert_eq!(remember(1, Some("one")), (1, 2, None));
        assert_eq!(remember(2, Some("two")), (2, 3, Some(two("two"))));
        assert_eq!(remember(2, None), (1, 2, None));
        assert_eq!(remember(2, None), (1, 2, None), "there is nothing to be forgotten");
        // The same again, and another one.
        assert_eq!(remember(2, Some("two")), (2, 3, Some(two("two"))));
        assert_eq!(remember(2, None), (1, 2, None));
        assert_eq!(remember(2, Some("other")), (2, 3, Some(two("other"))));
    }

    #[test]
    fn what_could_not_be_written_is_written_the_next_time() {
        let place = tempfile::tempdir().expect("room for a directory");
        let directory = Directory::open(place.path()).expect("a new one");
        let mut state = State::new();
        let in_the_way = place.path().join(TEXTS);
        fs::write(&in_the_way, "no directory").expect("room for a file");
        state.remember(1, &two("one"), &Identities::default());
        let err = directory.write(&mut state).expect_err("a file is in the way");
        assert!(err.to_string().starts_with("write policy text "), "{err}");
        fs::remove_file(&in_the_way).expect("it is there");
        state.remember(1, &two("another"), &Identities::default());
        directory.write(&mut state).expect("room for files");
        assert_eq!(texts(place.path()), 2);
        let state = directory.read().expect("what was written").expect("it was");
        assert_eq!(directory.documents(&state, 1).expect("whole"), Some(two("another")));
    }

    #[test]
    fn the_first_format_is_read() {
        let text = r#"{"format":1,"written_by":"0.1.0","identities":IDENTITIES,"revisions":[
            {"revision":4,"rules":[{"name":"r","file":"a.yaml","line":3,"column":5}],"documents":null},
            {"revision":5,"rules":[],"documents":[{"file":"a.yaml","text":"one"},{"file":"b.yaml","text":"same"}]}]}"#;
        let mut identities = Identities::default();
        let web = identities.intern_service("web");
        let known = serde_json::to_string(&identities).expect("plain data");
        let mut state = read(text.replace("IDENTITIES", &known).as_bytes()).expect("an older one");
        assert_eq!((state.latest(), state.identities.intern_service("web")), (5, web));
        let place = tempfile::tempdir().expect("room for a directory");
        let directory = Directory::open(place.path()).expect("a new one");
        assert_eq!(directory.documents(&state, 5).expect("not written yet"), Some(two("one")));
        assert!(directory.documents(&state, 4).expect("not kept").is_none());
        directory.write(&mut state).expect("room for files");
        let state = directory.read().expect("what was written").expect("it was");
        assert_eq!(directory.documents(&state, 5).expect("whole"), Some(two("one")));
    }

    #[test]
    fn what_was_known_of_containers_is_read_back_and_damage_is_nothing() {
        let place = tempfile::tempdir().expect("room for a directory");
        let directory = Directory::open(place.path()).expect("a new one");
        assert_eq!(directory.read_containers(), None);
        let container = Container {
            id: "4fa6".repeat(16),
            runtime: Runtime::Containerd,
            name: Some(String::from("odd \u{1b}[31m \"name\"")),
            image: None,
            labels: BTreeMap::from([(String::from("tier"), String::new())]),
            pod: None,
            namespace: Some(String::from("shop")),
        };
        let known = KnownContainers {
            boot: String::from("this"),
            containers: vec![KnownContainer { cgroup: 7, path: "/docker/x".into(), container }],
        };
        directory.write_containers(&known).expect("room for a file");
        assert_eq!(directory.read_containers(), Some(known));
        let file = place.path().join(CONTAINERS);
        let whole = fs::read(&file).expect("it was written");
        for end in 0..whole.len() {
            fs::write(&file, whole.split_at(end).0).expect("room for less");
            assert_eq!(directory.read_containers(), None, "{end}");
        }
        directory.remove().expect("nothing else is in it");
        assert!(!place.path().exists());
    }

    #[test]
    fn a_revision_that_was_not_put_in_force_gives_its_number_to_the_next_one() {
        let mut state = State::new();
        for text in ["refused by the kernel", "taken"] {
            state.remember(1, &documents(text), &Identities::default());
        }
        assert!(state.is_text_of(1, &documents("taken")));
        assert_eq!(state.revisions.len(), 1);
    }

    #[test]
    fn half_a_file_is_refused_and_so_is_a_newer_one() {
        let mut state = State::new();
        state.remember(1, &documents("text"), &Identities::default());
        let whole = serde_json::to_vec(&state).expect("plain data");
        for end in 0..whole.len() {
            let err = read(whole.split_at(end).0).expect_err("cut");
            assert!(matches!(err, StateError::Damaged { .. }), "{end}: {err}");
        }
        let newer = br#"{"format":3,"written_by":"9.0.0","something":"else"}"#;
        let err = read(newer).expect_err("newer");
        assert!(err.to_string().contains("enforcer 9.0.0 wrote it in format 3"), "{err}");
    }
}
