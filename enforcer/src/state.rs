//! What must outlive the daemon and is not in the kernel: which number stands for which name, and the text of the policy
//! in force.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::connections::Older;
use crate::containers::Container;
use crate::failpoint;
use crate::identities::Identities;
use crate::lock::{Lock, LockError};
use crate::policy::{Document, Location};
use crate::tables::RuleName;

/// The format of the file; one that is newer is refused.
const FORMAT: u32 = 1;

/// Revisions whose rules are remembered, so that an event that waited across a reload still names its rule.
const REVISIONS_REMEMBERED: usize = 8;

/// Revisions whose text is kept: the one in force, and the one that was about to be. Which of the two the kernel tells.
const TEXTS_KEPT: usize = 2;

const FILE: &str = "state.json";
const FRESH: &str = "state.json.new";
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
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Revision {
    revision: u32,
    rules: Vec<Rule>,
    /// None of a revision that will not be put in force again.
    documents: Option<Vec<Text>>,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    name: Box<str>,
    file: PathBuf,
    line: u32,
    column: u32,
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    file: PathBuf,
    text: String,
}

/// Why the state could not be read or written.
#[derive(Debug, Error)]
pub enum StateError {
    /// The file system did not do what it was told.
    #[error("{what} {}: {cause}", .path.display())]
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
        State::parse(&text, &path).map(Some)
    }

    /// Writes a state so that at any moment the file holds the whole of this one or of the one before.
    ///
    /// # Errors
    ///
    /// The file system is full or broken; the state before is still there then.
    pub fn write(&self, state: &State) -> Result<(), StateError> {
        let (path, fresh) = (self.path.join(FILE), self.path.join(FRESH));
        let result = (|| {
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(&serde_json::to_vec(state)?)?;
            file.sync_all()?;
            failpoint::pass("state-staged");
            fs::rename(&fresh, &path)?;
            // The new name is durable only with its directory.
            File::open(&self.path)?.sync_all()
        })();
        failpoint::pass("state-written");
        result.map_err(|cause| StateError::Io { what: "write state", path, cause })
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
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(&serde_json::to_vec(known)?)?;
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
            let mut file =
                fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
            file.write_all(&text)?;
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
        for name in [SWEPT_FRESH, SWEPT, FRESH_CONTAINERS, CONTAINERS, FRESH, FILE, LOCK] {
            let path = self.path.join(name);
            match fs::remove_file(&path) {
                Ok(()) => {}
                Err(err) if err.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => return Err(StateError::Io { what: "remove", path, cause }),
            }
        }
        match fs::remove_dir(&self.path) {
            // Somebody else's files are in it, or it is a mount point.
            Err(err)
                if [io::ErrorKind::DirectoryNotEmpty, io::ErrorKind::ResourceBusy].contains(&err.kind()) =>
            {
                Ok(())
            }
            other => other.map_err(|cause| StateError::Io { what: "remove", path: self.path, cause }),
        }
    }
}

impl State {
    /// A state in which nothing has been in force.
    pub fn new() -> Self {
        Self {
            format: FORMAT,
            written_by: env!("CARGO_PKG_VERSION").to_owned(),
            identities: Identities::default(),
            revisions: Vec::new(),
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
        if head.format > FORMAT {
            return Err(StateError::Newer {
                path: path.to_path_buf(),
                by: head.written_by,
                format: head.format,
            });
        }
        serde_json::from_slice(text).map_err(damaged)
    }

    /// Remembers a policy as one that is about to be put in force. One of the same revision, which then was not, is
    /// forgotten.
    pub fn remember(
        &mut self,
        revision: u32,
        documents: &[Document],
        rules: impl IntoIterator<Item = RuleName>,
        identities: &Identities,
    ) {
        self.written_by = env!("CARGO_PKG_VERSION").to_owned();
        self.identities = identities.clone();
        self.revisions.retain(|known| known.revision != revision);
        self.revisions.push(Revision {
            revision,
            rules: rules.into_iter().map(Rule::from).collect(),
            documents: Some(documents.iter().map(Text::from).collect()),
        });
        let number = self.revisions.len();
        for old in self.revisions.iter_mut().take(number.saturating_sub(TEXTS_KEPT)) {
            old.documents = None;
        }
        self.revisions.drain(..number.saturating_sub(REVISIONS_REMEMBERED));
    }

    /// The last revision that was remembered; 0 if none was.
    pub fn latest(&self) -> u32 {
        self.revisions.last().map_or(0, |last| last.revision)
    }

    /// The text of a revision, if it is kept.
    pub fn documents(&self, revision: u32) -> Option<Vec<Document>> {
        let known = self.revisions.iter().find(|known| known.revision == revision)?;
        let texts = known.documents.as_ref()?;
        Some(texts.iter().map(|text| Document::new(&text.file, text.text.as_str())).collect())
    }

    /// Whether this is the text of that revision.
    pub fn is_text_of(&self, revision: u32, documents: &[Document]) -> bool {
        let known = self.revisions.iter().find(|known| known.revision == revision);
        known.and_then(|known| known.documents.as_ref()).is_some_and(|texts| {
            texts.len() == documents.len()
                && texts
                    .iter()
                    .zip(documents)
                    .all(|(text, now)| *text.file == *now.file && *text.text == *now.text)
        })
    }

    /// How the rules of a revision are named, if that is remembered.
    pub fn rules(&self, revision: u32) -> Option<Vec<RuleName>> {
        let known = self.revisions.iter().find(|known| known.revision == revision)?;
        Some(known.rules.iter().map(RuleName::from).collect())
    }

    /// Every revision that is remembered, oldest first.
    pub fn revisions(&self) -> impl Iterator<Item = u32> {
        self.revisions.iter().map(|known| known.revision)
    }
}

impl Default for State {
    fn default() -> Self {
        Self::new()
    }
}

impl From<RuleName> for Rule {
    fn from(rule: RuleName) -> Self {
        let Location { file, line, column } = rule.location;
        Self { name: rule.name, file: file.to_path_buf(), line, column }
    }
}

impl From<&Rule> for RuleName {
    fn from(rule: &Rule) -> Self {
        let file: Arc<Path> = rule.file.as_path().into();
        Self { name: rule.name.clone(), location: Location { file, line: rule.line, column: rule.column } }
    }
}

impl From<&Document> for Text {
    fn from(document: &Document) -> Self {
        Self { file: document.file.to_path_buf(), text: document.text.to_string() }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use super::{
        CONTAINERS, Directory, KnownContainer, KnownContainers, REVISIONS_REMEMBERED, State, StateError,
    };
    use crate::containers::Container;
    use crate::containers::cgroup::Runtime;
    use crate::identities::Identities;
    use crate::policy::{Document, Location};
    use crate::tables::RuleName;

    fn documents(text: &str) -> Vec<Document> {
        vec![Document::new("policy.yaml", text)]
    }

    fn rule(name: &str) -> RuleName {
        let file = Path::new("policy.yaml").into();
        RuleName { name: name.into(), location: Location { file, line: 3, column: 5 } }
    }

    fn read(text: &[u8]) -> Result<State, StateError> {
        State::parse(text, Path::new("state.json"))
    }

    #[test]
    fn what_was_remembered_is_read_back() {
        let mut identities = Identities::default();
        let web = identities.intern_service("web");
        let mut state = State::new();
        state.remember(1, &documents("one"), [rule("first")], &identities);
        state.remember(2, &documents("two"), [rule("second")], &identities);
        let mut state = read(&serde_json::to_vec(&state).expect("plain data")).expect("what was written");
        assert_eq!(state.latest(), 2);
        assert_eq!(state.identities.intern_service("web"), web);
        assert!(state.is_text_of(1, &documents("one")) && state.is_text_of(2, &documents("two")));
        assert!(!state.is_text_of(2, &documents("one")) && !state.is_text_of(3, &documents("two")));
        assert_eq!(state.rules(1), Some(vec![rule("first")]));
        assert_eq!(state.rules(3), None);
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
            state.remember(1, &documents(text), [], &Identities::default());
        }
        assert!(state.is_text_of(1, &documents("taken")));
        assert_eq!(state.revisions().count(), 1);
    }

    #[test]
    fn old_texts_and_then_old_rules_are_forgotten() {
        let mut state = State::new();
        for revision in 1..=20 {
            state.remember(revision, &documents("text"), [rule("rule")], &Identities::default());
        }
        assert_eq!(state.revisions().count(), REVISIONS_REMEMBERED);
        for (revision, text, rules) in
            [(20, true, true), (19, true, true), (18, false, true), (13, false, true), (12, false, false)]
        {
            assert_eq!(state.documents(revision).is_some(), text, "{revision}");
            assert_eq!(state.rules(revision).is_some(), rules, "{revision}");
        }
    }

    #[test]
    fn half_a_file_is_refused_and_so_is_a_newer_one() {
        let mut state = State::new();
        state.remember(1, &documents("text"), [rule("rule")], &Identities::default());
        let whole = serde_json::to_vec(&state).expect("plain data");
        for end in 0..whole.len() {
            let err = read(whole.split_at(end).0).expect_err("cut");
            assert!(matches!(err, StateError::Damaged { .. }), "{end}: {err}");
        }
        let newer = br#"{"format":2,"written_by":"9.0.0","something":"else"}"#;
        let err = read(newer).expect_err("newer");
        assert!(err.to_string().contains("enforcer 9.0.0 wrote it in format 2"), "{err}");
    }
}
