//! A policy as it is put in force: its documents and everything that they compile to.

use std::time::SystemTime;

use sha2::{Digest as _, Sha256};

use crate::identities::Identities;
use crate::policy::{Document, Finding, Loaded, Policy};
use crate::tables::{CapacityError, Tables};

/// The policy that was given cannot be used; every finding of it is in the text.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct InvalidPolicy(pub String);

impl InvalidPolicy {
    /// Everything that was found, with an empty line between two.
    pub fn of(findings: &[Finding]) -> Self {
        let findings: Vec<String> = findings.iter().map(Finding::render).collect();
        Self(findings.join("\n").trim_end().to_owned())
    }
}

/// Where a revision came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Origin {
    /// It was read from the policy directory.
    Directory,
    /// It was given through the control socket, and the directory may say something else.
    Applied,
    /// An earlier daemon has put it in force, and what is in the directory cannot be used.
    Adopted,
}

/// One revision of the policy.
#[derive(Clone, Debug)]
pub struct Revision {
    /// Where it came from.
    pub origin: Origin,
    /// When it was put in force; none if that was by an earlier daemon.
    pub since: Option<SystemTime>,
    /// Its text, in the order of the files' paths.
    pub documents: Vec<Document>,
    /// What the documents mean.
    pub policy: Policy,
    /// What the kernel is given.
    pub tables: Tables,
    /// The numbers that the tables use, with those of earlier revisions.
    pub identities: Identities,
    /// What is questionable about the policy.
    pub warnings: Vec<String>,
}

impl Revision {
    /// Compiles documents that somebody gave, for the part of the cgroup tree that begins at `top`.
    ///
    /// # Errors
    ///
    /// Everything that is wrong with them.
    pub fn of(
        loaded: Loaded,
        identities: Identities,
        number: u32,
        top: &[u8],
    ) -> Result<Self, InvalidPolicy> {
        let Some(policy) = loaded.policy else { return Err(InvalidPolicy::of(&loaded.findings)) };
        let mut revision = Self::read((policy, loaded.documents), identities, number, top)?;
        revision.origin = Origin::Applied;
        revision.warnings = loaded.findings.iter().map(Finding::render).collect();
        Ok(revision)
    }

    /// Compiles a policy that was read from the policy directory.
    ///
    /// # Errors
    ///
    /// It is larger than the tables.
    pub fn read(
        read: (Policy, Vec<Document>),
        mut identities: Identities,
        number: u32,
        top: &[u8],
    ) -> Result<Self, InvalidPolicy> {
        let tables = Tables::compile_below(&read.0, &mut identities, number, top);
        Self::of_directory(read, tables, identities)
    }

    /// Compiles a policy that was read from the policy directory, to follow this one. What the two share is not compiled again.
    ///
    /// # Errors
    ///
    /// It is larger than the tables.
    pub fn next(&self, read: (Policy, Vec<Document>), number: u32) -> Result<Self, InvalidPolicy> {
        let mut identities = self.identities.clone();
        let tables = self.tables.compile_next(&self.policy, &read.0, &mut identities, number);
        Self::of_directory(read, tables, identities)
    }

    fn of_directory(
        (policy, documents): (Policy, Vec<Document>),
        tables: Result<Tables, CapacityError>,
        identities: Identities,
    ) -> Result<Self, InvalidPolicy> {
        let tables = tables.map_err(|err| InvalidPolicy(err.to_string()))?;
        let (origin, since) = (Origin::Directory, Some(SystemTime::now()));
        Ok(Self { origin, since, documents, policy, tables, identities, warnings: Vec::new() })
    }

    /// SHA-256 of all documents one after the other, as `cat DIR/*.yaml | sha256sum` prints it.
    pub fn sha256(&self) -> String {
        let mut hash = Sha256::new();
        for document in &self.documents {
            hash.update(document.text.as_bytes());
        }
        hex::encode(hash.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::Revision;
    use crate::identities::Identities;
    use crate::policy::{Document, compile_documents};

    #[test]
    fn the_hash_is_that_of_the_texts_in_their_order() {
        let documents =
            vec![Document::new("a.yaml", "version: 1\n"), Document::new("b.yaml", "version: 1\n")];
        let revision =
            Revision::of(compile_documents(&documents), Identities::default(), 1, b"/").expect("valid");
        // printf 'version: 1\nversion: 1\n' | sha256sum
        assert_eq!(revision.sha256(), "d1cf46b031d130508686f9594ff9b5a6045a9ad5585fc752cc945844884868a4");
    }
}
