//! Finds and reads policy files: the only part of the policy reader that does I/O.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use nix::fcntl::{FcntlArg, OFlag, fcntl};

use super::Location;
use super::finding::{Finding, Severity};

/// Bytes of one file: a million generated rules take about 100 MB, and offsets into a file are 32 bits wide.
pub const MAX_DOCUMENT_BYTES: u64 = 256 * 1024 * 1024;

/// Files of one policy: more than one for each service is a mistake in a path, not a policy.
pub const MAX_FILES: usize = 65_536;

/// Bytes of a file that are compared at a time: they stay in the cache of a CPU.
const BLOCK: usize = 64 * 1024;

/// Bytes of a file that are looked at behind one that is not UTF-8, to show the rest of the line.
const AFTER_FAULT: usize = 1024;

/// So many bytes are compared by one CPU in no time.
const MANY_BYTES: usize = 4 * 1024 * 1024;

/// The text of one policy file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Document {
    /// The file as it was named.
    pub file: Arc<Path>,
    /// What is in it. A document that was read again and is the same shares it with the one before.
    pub text: Arc<str>,
}

impl Document {
    /// A document that did not come from the file system.
    pub fn new(file: impl AsRef<Path>, text: impl Into<Arc<str>>) -> Self {
        Self { file: file.as_ref().into(), text: text.into() }
    }
}

/// Everything that was read, and what was wrong with the rest.
#[derive(Debug, Default)]
pub struct Sources {
    /// In the order of their paths.
    pub documents: Vec<Document>,
    /// Files that could not be read or used.
    pub findings: Vec<Finding>,
    /// Every file that belongs to the policy, read or not, in the order of its path.
    pub files: Vec<Arc<Path>>,
}

impl Sources {
    /// Documents that have been read already.
    pub fn of(documents: Vec<Document>) -> Self {
        let files = documents.iter().map(|document| document.file.clone()).collect();
        Self { documents, findings: Vec::new(), files }
    }
}

/// Reads the files at `paths`: a directory stands for the `*.yaml` files right in it, a file for itself.
///
/// Hidden files are left alone, so that an editor's or a package manager's half-written file never counts.
pub fn read(paths: &[PathBuf]) -> Sources {
    read_again(paths, &[])
}

/// Reads as [`read`] does. What is the same as in `known`, which is in the order of paths, byte by byte, is not kept twice.
pub fn read_again(paths: &[PathBuf], known: &[Document]) -> Sources {
    let mut sources = Sources::default();
    let mut files = BTreeSet::new();
    // What was named under another spelling is not read twice.
    let mut seen = BTreeSet::new();
    for path in paths {
        let real = fs::canonicalize(path).unwrap_or_else(|_| path.clone());
        if !seen.insert(real.clone()) {
            continue;
        }
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => {
                let is_new = |name: &OsStr| paths.len() == 1 || seen.insert(real.join(name));
                read_directory(path, is_new, &mut files, &mut sources.findings);
            }
            Ok(_) => {
                files.insert(path.clone());
            }
            Err(error) => sources.findings.push(unreadable(path, &error)),
        }
    }
    if files.len() > MAX_FILES {
        let message = format!("{} policy files: at most {MAX_FILES} make one policy", files.len());
        let first = paths.first().map_or(Path::new(""), PathBuf::as_path);
        sources.findings.push(of_file(Severity::Error, "too-many-files", first, message));
        return sources;
    }
    sources.files = files.iter().map(|path| path.as_path().into()).collect();
    for (file, text) in sources.files.iter().zip(read_files(&sources.files, known)) {
        match text {
            Ok(text) => sources.documents.push(Document { file: file.clone(), text }),
            Err(finding) => sources.findings.push(*finding),
        }
    }
    sources
}

/// The texts of files, read by every CPU if most of it is there to be compared with.
fn read_files(files: &[Arc<Path>], known: &[Document]) -> Vec<Result<Arc<str>, Box<Finding>>> {
    let read = |place: usize, file: &Arc<Path>, block: &mut [u8]| {
        // Mostly there are the same files as before.
        let same = known.get(place).filter(|known| known.file == *file);
        let known = same.or_else(|| known.get(known.binary_search_by(|known| known.file.cmp(file)).ok()?));
        read_file(file, known.map(|known| &known.text), block)
    };
    let bytes: usize = known.iter().map(|known| known.text.len()).sum();
    let threads =
        if bytes > MANY_BYTES { thread::available_parallelism().map_or(1, NonZero::get) } else { 1 };
    let next = AtomicUsize::new(0);
    let read_some = || {
        let (mut texts, mut block) = (Vec::new(), vec![0; BLOCK]);
        loop {
            let place = next.fetch_add(1, Ordering::Relaxed);
            let Some(file) = files.get(place) else { return texts };
            texts.push((place, read(place, file, &mut block)));
        }
    };
    let mut texts: Vec<_> = files.iter().map(|_| None).collect();
    thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(read_some)).collect();
        let own = read_some();
        let theirs = others.into_iter().flat_map(|thread| thread.join().unwrap_or_default());
        for (place, text) in own.into_iter().chain(theirs) {
            if let Some(known) = texts.get_mut(place) {
                *known = Some(text);
            }
        }
    });
    // What a thread took and has not read is read here.
    let (texts, mut block) = (texts.into_iter().zip(files).enumerate(), vec![0; BLOCK]);
    texts.map(|(place, (text, file))| text.unwrap_or_else(|| read(place, file, &mut block))).collect()
}

fn read_directory(
    directory: &Path,
    mut is_new: impl FnMut(&OsStr) -> bool,
    files: &mut BTreeSet<PathBuf>,
    findings: &mut Vec<Finding>,
) {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return findings.push(unreadable(directory, &error)),
    };
    let mut found = false;
    for entry in entries {
        let entry = match entry {
            Ok(entry) => entry,
            Err(error) => {
                findings.push(unreadable(directory, &error));
                continue;
            }
        };
        let path = entry.path();
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let extension = path.extension().map(|extension| extension.as_encoded_bytes());
        // The directory itself tells of most that they are files.
        let is_file = entry.file_type().is_ok_and(|kind| kind.is_file());
        if hidden || (!is_file && path.is_dir()) {
            continue;
        } else if extension == Some(b"yaml") {
            found = true;
            // Opening a pipe would wait for its writer; a dangling link is told when it is read.
            if !is_file && path.exists() && !path.is_file() {
                let message = String::from("not a regular file");
                findings.push(of_file(Severity::Error, "unreadable", &path, message));
            } else if is_new(&entry.file_name()) {
                files.insert(path);
            }
        } else if extension.is_some_and(is_like_yaml) {
            let message = String::from("not part of the policy: only files that end in `.yaml` are");
            let right = path.with_extension("yaml");
            let hint = if fs::symlink_metadata(&right).is_ok() {
                format!("remove it, or rename it to another name than `{}`, which is there", right.display())
            } else {
                format!("rename it to `{}`", right.display())
            };
            findings.push(of_file(Severity::Warning, "ignored-file", &path, message).hint(hint));
        }
    }
    if !found {
        let message = String::from("the directory holds no `*.yaml` file");
        let hint = "a policy that changes nothing is a file with the one line `version: 1`";
        findings.push(of_file(Severity::Error, "no-policy-file", directory, message).hint(hint));
    }
}

/// Whether somebody may think that files with this ending are part of the policy.
fn is_like_yaml(extension: &[u8]) -> bool {
    extension.eq_ignore_ascii_case(b"yaml") || extension.eq_ignore_ascii_case(b"yml")
}

/// Reads a file; if it is `known`, its text is that. `block` is what it is read to while it is compared.
fn read_file(path: &Path, known: Option<&Arc<str>>, block: &mut [u8]) -> Result<Arc<str>, Box<Finding>> {
    let mut bytes = Vec::new();
    let result = open(path).and_then(|mut file| {
        if let Some(known) = known
            && is_same(&mut file, known.as_bytes(), block, &mut bytes)?
        {
            return Ok(true);
        }
        // One byte more than the limit tells a file that is too large, even one that grows or never ends.
        let left = (MAX_DOCUMENT_BYTES + 1).saturating_sub(bytes.len() as u64);
        file.take(left).read_to_end(&mut bytes)?;
        Ok(false)
    });
    match (result, known) {
        (Ok(true), Some(known)) => return Ok(known.clone()),
        (Ok(_), _) => {}
        (Err(error), _) => return Err(Box::new(unreadable(path, &error))),
    }
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        let message = format!("the file has more than {MAX_DOCUMENT_BYTES} bytes, the limit for one file");
        let finding = of_file(Severity::Error, "file-too-large", path, message);
        return Err(Box::new(finding.hint("split it; all files of a directory are one policy")));
    }
    String::from_utf8(bytes)
        .map(Arc::from)
        .map_err(|error| Box::new(not_utf8(path, error.as_bytes(), error.utf8_error().valid_up_to())))
}

/// Opens a file that is read without waiting, unless it is a pipe: some files of `/proc` and `/sys` are regular ones by their kind alone,
/// and say nothing until the kernel has something to say.
fn open(path: &Path) -> io::Result<fs::File> {
    let file = fs::File::open(path)?;
    if file.metadata()?.is_file() {
        fcntl(&file, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
    }
    Ok(file)
}

/// The finding about a file whose bytes are text up to `valid` only.
fn not_utf8(path: &Path, bytes: &[u8], valid: usize) -> Finding {
    let (before, rest) = bytes.split_at(valid);
    let line = before.rsplit(|byte| *byte == b'\n').next().unwrap_or(before);
    let lines = before.iter().filter(|byte| **byte == b'\n').count();
    let before = String::from_utf8_lossy(line);
    let before = before.trim_start_matches('\u{feff}');
    let rest = &rest[..rest.len().min(AFTER_FAULT)];
    let location = Location {
        file: path.into(),
        line: u32::try_from(lines + 1).unwrap_or(u32::MAX),
        column: u32::try_from(before.chars().count() + 1).unwrap_or(u32::MAX),
    };
    let message = match rest.first() {
        Some(byte) => format!("not UTF-8: the byte {byte:#04x} is no part of a character here"),
        None => String::from("not UTF-8"),
    };
    let source = format!("{before}{}", String::from_utf8_lossy(rest));
    Finding::of_text(Severity::Error, "not-utf8", location, message, &source, before.len(), 1)
        .hint("save the file as UTF-8; `iconv` converts one of another encoding")
}

/// Reads, a block at a time, as long as `known` is read, and one byte more. If it is all of the file, nothing is kept of it;
/// otherwise `bytes` is what was read.
fn is_same(file: &mut fs::File, known: &[u8], block: &mut [u8], bytes: &mut Vec<u8>) -> io::Result<bool> {
    let mut rest = known;
    loop {
        let read = match file.read(block) {
            Ok(read) => read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        let found = block.get(..read).unwrap_or_default();
        if read == 0 && rest.is_empty() {
            return Ok(true);
        }
        match rest.split_at_checked(read).filter(|(same, _)| read > 0 && *same == found) {
            Some((_, behind)) => rest = behind,
            None => {
                let same = known.len() - rest.len();
                bytes.reserve(known.len() + read);
                bytes.extend(known.get(..same).unwrap_or_default());
                bytes.extend(found);
                return Ok(false);
            }
        }
    }
}

fn unreadable(path: &Path, error: &io::Error) -> Finding {
    of_file(Severity::Error, "unreadable", path, format!("read {}: {error}", path.display()))
}

fn of_file(severity: Severity, code: &'static str, path: &Path, message: String) -> Finding {
    Finding::of_file(severity, code, Location { file: path.into(), line: 1, column: 1 }, message)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::{BLOCK, read, read_again};

    #[test]
    fn what_is_named_twice_is_read_once() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_path_buf();
        let file = path.join("a.yaml");
        fs::write(&file, "version: 1\n").expect("room for a file");
        let dotted = path.join(".").join("a.yaml");
        let name = path.file_name().expect("it has a name");
        let around = path.join("..").join(name);
        for paths in [
            vec![path.clone(), path.clone()],
            vec![path.clone(), around.clone()],
            vec![file.clone(), dotted],
            vec![file, path.clone()],
            vec![around.join("a.yaml"), path],
        ] {
            let sources = read(&paths);
            assert_eq!((sources.files.len(), sources.findings.len()), (1, 0), "{paths:?}");
        }
    }

    #[test]
    fn what_never_ends_is_not_waited_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().to_path_buf();
        // A regular file by its kind, which says nothing until the kernel does.
        std::os::unix::fs::symlink("/proc/kmsg", path.join("a.yaml")).expect("room for a link");
        let sources = read(&[path]);
        let codes: Vec<&str> = sources.findings.iter().map(|finding| finding.code).collect();
        assert_eq!((sources.documents.len(), codes), (0, vec!["unreadable"]));
    }

    #[test]
    fn the_first_byte_that_is_no_text_is_pointed_at() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("a.yaml");
        for (bytes, line, column) in [
            (&b"\xff"[..], 1, 1),
            (b"version: 1\n# caf\xe9 au lait\n", 2, 6),
            ("# é\n# é".as_bytes(), 0, 0),
            (b"# \xc3\xa9 \xc3", 1, 5),
            (b"\xef\xbb\xbf# \xff", 1, 3),
        ] {
            fs::write(&file, bytes).expect("room for a file");
            let found = read(std::slice::from_ref(&file)).findings;
            let place = found.first().map_or((0, 0), |found| (found.location.line, found.location.column));
            assert_eq!(place, (line, column), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_the_same_is_shared_and_whatever_is_not_is_read() {
        let directory = tempfile::tempdir().expect("a directory");
        let paths = [directory.path().to_path_buf()];
        let (long, short) = (directory.path().join("long.yaml"), directory.path().join("short.yaml"));
        let text = "0123456789abcdef".repeat(BLOCK / 8) + "end\n";
        fs::write(&long, &text).expect("room for a file");
        fs::write(&short, "version: 1\n").expect("room for a file");
        let first = read(&paths);
        let again = read_again(&paths, &first.documents);
        assert_eq!(first.documents, again.documents);
        for (before, now) in first.documents.iter().zip(&again.documents) {
            assert!(Arc::ptr_eq(&before.text, &now.text), "{}", now.file.display());
        }
        let end = text.len() - 1;
        let bent = |at: usize| {
            let mut bytes = text.clone().into_bytes();
            bytes[at] = b'!';
            String::from_utf8(bytes).expect("it is all of one byte each")
        };
        let others = [
            bent(0),
            bent(BLOCK - 1),
            bent(BLOCK),
            bent(end),
            text[..end].to_owned(),
            text[..BLOCK].to_owned(),
            format!("{text}."),
            String::new(),
        ];
        for other in others {
            fs::write(&long, &other).expect("room for a file");
            // As it was, to whoever looks no further than that.
            let file = fs::File::options().write(true).open(&long).expect("it is there");
            file.set_modified(SystemTime::UNIX_EPOCH).expect("any time will do");
            let now = read_again(&paths, &first.documents);
            assert!(*now.documents[0].text == *other, "{} bytes", other.len());
            assert!(Arc::ptr_eq(&now.documents[1].text, &first.documents[1].text));
        }
        fs::remove_file(&long).expect("it is there");
        let now = read_again(&paths, &first.documents);
        assert_eq!((now.documents.len(), now.findings.len()), (1, 0));
        fs::write(&long, b"\xff").expect("room for a file");
        let now = read_again(&paths, &first.documents);
        assert_eq!((now.documents.len(), now.findings.len()), (1, 1));
    }
}
