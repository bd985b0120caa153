//! Finds and reads policy files: the only part of the policy reader that does I/O.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Location;
use super::finding::{Finding, Severity};

/// Bytes of one file: a million generated rules take about 100 MB, and offsets into a file are 32 bits wide.
pub const MAX_DOCUMENT_BYTES: u64 = 256 * 1024 * 1024;

/// Files of one policy: more than one for each service is a mistake in a path, not a policy.
pub const MAX_FILES: usize = 65_536;

/// The text of one policy file.
#[derive(Clone, Debug)]
pub struct Document {
    /// The file as it was named.
    pub file: Arc<Path>,
    /// What is in it.
    pub text: String,
}

impl Document {
    /// A document that did not come from the file system.
    pub fn new(file: impl AsRef<Path>, text: impl Into<String>) -> Self {
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
    let mut sources = Sources::default();
    let mut files = BTreeSet::new();
    for path in paths {
        match fs::metadata(path) {
            Ok(metadata) if metadata.is_dir() => read_directory(path, &mut files, &mut sources.findings),
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
    for path in files {
        let file: Arc<Path> = path.as_path().into();
        sources.files.push(file.clone());
        match read_file(&path) {
            Ok(text) => sources.documents.push(Document { file, text }),
            Err(finding) => sources.findings.push(*finding),
        }
    }
    sources
}

fn read_directory(directory: &Path, files: &mut BTreeSet<PathBuf>, findings: &mut Vec<Finding>) {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) => return findings.push(unreadable(directory, &error)),
    };
    let mut found = false;
    for entry in entries {
        let path = match entry {
            Ok(entry) => entry.path(),
            Err(error) => {
                findings.push(unreadable(directory, &error));
                continue;
            }
        };
        let hidden = path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
        let extension = path.extension().map(|extension| extension.as_encoded_bytes());
        if hidden || path.is_dir() {
            continue;
        } else if extension == Some(b"yaml") {
            found = true;
            // Opening a pipe would wait for its writer; a dangling link is told when it is read.
            if path.exists() && !path.is_file() {
                let message = String::from("not a regular file");
                findings.push(of_file(Severity::Error, "unreadable", &path, message));
            } else {
                files.insert(path);
            }
        } else if extension == Some(b"yml") {
            let message = String::from("not part of the policy: only files that end in `.yaml` are");
            let hint = format!("rename it to `{}`", path.with_extension("yaml").display());
            findings.push(of_file(Severity::Warning, "ignored-file", &path, message).hint(hint));
        }
    }
    if !found {
        let message = String::from("the directory holds no `*.yaml` file");
        let hint = "a policy that changes nothing is a file with the one line `version: 1`";
        findings.push(of_file(Severity::Error, "no-policy-file", directory, message).hint(hint));
    }
}

fn read_file(path: &Path) -> Result<String, Box<Finding>> {
    let mut bytes = Vec::new();
    let result = fs::File::open(path)
        // One byte more than the limit tells a file that is too large, even one that grows or never ends.
        .and_then(|file| file.take(MAX_DOCUMENT_BYTES + 1).read_to_end(&mut bytes));
    if let Err(error) = result {
        return Err(Box::new(unreadable(path, &error)));
    }
    if bytes.len() as u64 > MAX_DOCUMENT_BYTES {
        let message = format!("the file has more than {MAX_DOCUMENT_BYTES} bytes, the limit for one file");
        let finding = of_file(Severity::Error, "file-too-large", path, message);
        return Err(Box::new(finding.hint("split it; all files of a directory are one policy")));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.iter().filter(|byte| **byte == b'\n').count() + 1;
        let message = format!("not UTF-8: line {line} holds other bytes");
        Box::new(of_file(Severity::Error, "not-utf8", path, message))
    })
}

fn unreadable(path: &Path, error: &io::Error) -> Finding {
    of_file(Severity::Error, "unreadable", path, format!("read {}: {error}", path.display()))
}

fn of_file(severity: Severity, code: &'static str, path: &Path, message: String) -> Finding {
    Finding::of_file(severity, code, Location { file: path.into(), line: 1, column: 1 }, message)
}
