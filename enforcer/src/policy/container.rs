//! Containers by what their runtime says of them: all that a selector names must match.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::finding::{Problem, quoted};
use super::selector::{common_segment, glob_matches};
use crate::containers::Container;
use crate::containers::cgroup::Runtime;

/// Bytes of a value: Docker's names and image references are shorter, and labels should be.
const MAX_VALUE: usize = 1024;

/// Digits of the shortest beginning of an id that is taken for one: what runtimes print.
const SHORT_ID: usize = 12;

/// Digits of a whole id.
const WHOLE_ID: usize = 64;

/// What is to be true of a container. What is not given is not asked about.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
pub struct ContainerSelector {
    /// Its name, in Kubernetes that within its pod; `*` and `?` as elsewhere.
    pub name: Option<String>,
    /// The image as the container was told to use it; `*` and `?`, also across slashes.
    pub image: Option<String>,
    /// Labels, each with its exact value, sorted by key.
    pub labels: Vec<(String, String)>,
    /// Its id, or the beginning of it.
    pub id: Option<String>,
    /// Whose container it is.
    pub runtime: Option<Runtime>,
    /// The name of its Kubernetes pod; `*` and `?`.
    pub pod: Option<String>,
    /// The Kubernetes namespace of its pod; `*` and `?`.
    pub namespace: Option<String>,
}

impl ContainerSelector {
    /// Whether all that it names is true of a container.
    pub fn matches(&self, container: &Container) -> bool {
        let glob = |pattern: &Option<String>, value: Option<&String>| {
            pattern.as_ref().is_none_or(|pattern| {
                value.is_some_and(|value| glob_matches(pattern.as_bytes(), value.as_bytes()))
            })
        };
        glob(&self.name, container.name.as_ref())
            && glob(&self.image, container.image.as_ref())
            && glob(&self.pod, container.pod.as_ref())
            && glob(&self.namespace, container.namespace.as_ref())
            && self.id.as_ref().is_none_or(|id| container.id.starts_with(id.as_str()))
            && self.runtime.is_none_or(|runtime| runtime == container.runtime)
            && self.labels.iter().all(|(key, value)| container.labels.get(key) == Some(value))
    }

    /// Whether it is made of fixed values only.
    pub fn is_exact(&self) -> bool {
        let globs = [&self.name, &self.image, &self.pod, &self.namespace];
        globs.into_iter().flatten().all(|glob| !glob.contains(['*', '?']))
    }

    /// What of a container would make both match, if everything that one of them names is also named by the other, and
    /// the two agree. Selectors that name different things may match one container too, but need not.
    pub fn overlap(&self, other: &Self) -> Option<String> {
        if !(self.is_among(other) || other.is_among(self)) {
            return None;
        }
        let mut example = Vec::new();
        let globs = [
            ("name", &self.name, &other.name),
            ("image", &self.image, &other.image),
            ("pod", &self.pod, &other.pod),
            ("namespace", &self.namespace, &other.namespace),
        ];
        for (field, ours, theirs) in globs {
            match (ours, theirs) {
                (Some(ours), Some(theirs)) => {
                    let both = common_segment(ours.as_bytes(), theirs.as_bytes())?;
                    example.push(format!("{field}: {}", String::from_utf8_lossy(&both)));
                }
                (Some(one), None) | (None, Some(one)) => example.push(format!("{field}: {one}")),
                (None, None) => {}
            }
        }
        if let (Some(ours), Some(theirs)) = (&self.id, &other.id)
            && !ours.starts_with(theirs.as_str())
            && !theirs.starts_with(ours.as_str())
        {
            return None;
        }
        if let (Some(ours), Some(theirs)) = (self.runtime, other.runtime)
            && ours != theirs
        {
            return None;
        }
        let disagree = self.labels.iter().any(|(key, value)| {
            other.labels.iter().any(|(other_key, other_value)| key == other_key && value != other_value)
        });
        if disagree {
            return None;
        }
        example.extend(self.id.iter().chain(&other.id).take(1).map(|id| format!("id: {id}")));
        example.extend(self.runtime.or(other.runtime).map(|runtime| format!("runtime: {runtime}")));
        let labels = if self.labels.len() > other.labels.len() { &self.labels } else { &other.labels };
        if !labels.is_empty() {
            let pairs: Vec<String> = labels.iter().map(|(key, value)| format!("{key}: {value}")).collect();
            example.push(format!("label: {{ {} }}", pairs.join(", ")));
        }
        Some(format!("{{ {} }}", example.join(", ")))
    }

    /// Whether everything that is named here is named there too.
    fn is_among(&self, other: &Self) -> bool {
        let options = [
            (self.name.is_some(), other.name.is_some()),
            (self.image.is_some(), other.image.is_some()),
            (self.id.is_some(), other.id.is_some()),
            (self.runtime.is_some(), other.runtime.is_some()),
            (self.pod.is_some(), other.pod.is_some()),
            (self.namespace.is_some(), other.namespace.is_some()),
        ];
        options.into_iter().all(|(here, there)| !here || there)
            && self.labels.iter().all(|(key, _)| other.labels.iter().any(|(other, _)| key == other))
    }
}

impl fmt::Display for ContainerSelector {
    /// As it is written under `container`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let texts = [
            ("name", &self.name),
            ("image", &self.image),
            ("id", &self.id),
            ("pod", &self.pod),
            ("namespace", &self.namespace),
        ];
        let given =
            texts.into_iter().filter_map(|(field, text)| Some(format!("{field}: {}", text.as_ref()?)));
        let mut fields: Vec<String> = given.collect();
        fields.extend(self.runtime.map(|runtime| format!("runtime: {runtime}")));
        if !self.labels.is_empty() {
            let pairs: Vec<String> =
                self.labels.iter().map(|(key, value)| format!("{key}: {value}")).collect();
            fields.push(format!("label: {{ {} }}", pairs.join(", ")));
        }
        write!(f, "{{ {} }}", fields.join(", "))
    }
}

/// Reads a container's name.
pub(super) fn parse_name(text: &str) -> Result<String, Problem> {
    if let Some(rest) = text.strip_prefix('/') {
        let problem = problem(format!("no container is called {}", quoted(text)));
        return Err(problem.hint(format!("write `{rest}`, without the slash that Docker's API shows")));
    }
    word(text, "container", "-_.")
}

/// Reads the name of a pod or a namespace.
pub(super) fn parse_kubernetes(text: &str) -> Result<String, Problem> {
    let upper = text.bytes().any(|byte| byte.is_ascii_uppercase());
    let word = word(text, "pod or namespace", "-.")?;
    if upper {
        let problem = problem(format!("no pod or namespace is called {}", quoted(text)));
        return Err(
            problem.hint(format!("write `{}`: Kubernetes has small letters only", text.to_lowercase()))
        );
    }
    Ok(word)
}

/// Reads the reference of an image.
pub(super) fn parse_image(text: &str) -> Result<String, Problem> {
    word(text, "image", "-_./:@+")
}

/// Reads an id, or the beginning of one.
pub(super) fn parse_id(text: &str) -> Result<String, Problem> {
    let digits = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if digits && (SHORT_ID..=WHOLE_ID).contains(&text.len()) {
        return Ok(text.to_owned());
    }
    let problem = problem(format!("{} is not a container's id", quoted(text)));
    Err(problem.hint(format!("an id is {SHORT_ID} to {WHOLE_ID} of 0-9 a-f; a name goes under `name`")))
}

/// Reads a runtime's name.
pub(super) fn parse_runtime(text: &str) -> Result<Runtime, Problem> {
    Runtime::parse(text).ok_or_else(|| {
        let names = Runtime::ALL.map(Runtime::name);
        let hint = super::spec::suggest(&text.to_ascii_lowercase(), names)
            .unwrap_or_else(|| format!("runtimes are {}", names.join(", ")));
        problem(format!("no runtime is called {}", quoted(text))).hint(hint)
    })
}

/// Reads the key or the value of a label.
pub(super) fn parse_label(text: &str) -> Result<String, Problem> {
    if text.len() > MAX_VALUE {
        return Err(problem(format!("the label has {} bytes, the limit is {MAX_VALUE}", text.len())));
    }
    Ok(text.to_owned())
}

fn word(text: &str, what: &str, others: &str) -> Result<String, Problem> {
    if text.is_empty() {
        return Err(problem(format!("no {what} has an empty name")).hint("leave the field out, or write `*`"));
    }
    if text.len() > MAX_VALUE {
        return Err(problem(format!("the name has {} bytes, the limit is {MAX_VALUE}", text.len())));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || others.contains(c) || matches!(c, '*' | '?');
    match text.chars().find(|c| !allowed(*c)) {
        Some(c) => Err(problem(format!("no {what}'s name contains {}", quoted(c.encode_utf8(&mut [0; 4]))))),
        None => Ok(text.to_owned()),
    }
}

fn problem(message: String) -> Problem {
    Problem::new("invalid-selector", message)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::{ContainerSelector, parse_id, parse_image, parse_kubernetes, parse_name, parse_runtime};
    use crate::containers::Container;
    use crate::containers::cgroup::Runtime;

    fn container() -> Container {
        Container {
            id: "4fa6".repeat(16),
            runtime: Runtime::Docker,
            name: Some(String::from("pg-main")),
            image: Some(String::from("registry.example/db/postgres:16")),
            labels: BTreeMap::from(
                [("tier", "data"), ("env", "")].map(|(a, b)| (a.to_owned(), b.to_owned())),
            ),
            pod: None,
            namespace: None,
        }
    }

    fn some(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn label(key: &str, value: &str) -> Vec<(String, String)> {
        vec![(key.to_owned(), value.to_owned())]
    }

    #[test]
    fn all_that_is_given_must_match() {
        let any = ContainerSelector::default;
        for (selector, expected) in [
            (ContainerSelector { name: some("pg-main"), ..any() }, true),
            (ContainerSelector { name: some("pg-*"), ..any() }, true),
            (ContainerSelector { name: some("pg"), ..any() }, false),
            (ContainerSelector { image: some("*/postgres:1?"), ..any() }, true),
            (ContainerSelector { image: some("postgres:*"), ..any() }, false),
            (ContainerSelector { labels: label("tier", "data"), ..any() }, true),
            (ContainerSelector { labels: label("env", ""), ..any() }, true),
            (ContainerSelector { labels: label("tier", "web"), ..any() }, false),
            (ContainerSelector { labels: label("absent", ""), ..any() }, false),
            (ContainerSelector { id: some("4fa64fa64fa6"), ..any() }, true),
            (ContainerSelector { id: some("fa64fa64fa64"), ..any() }, false),
            (ContainerSelector { runtime: Some(Runtime::Docker), ..any() }, true),
            (ContainerSelector { runtime: Some(Runtime::Podman), ..any() }, false),
            // It is in no pod, so that no pattern for pods can match it.
            (ContainerSelector { pod: some("*"), ..any() }, false),
            (ContainerSelector { namespace: some("*"), ..any() }, false),
            (ContainerSelector { name: some("pg-*"), labels: label("tier", "data"), ..any() }, true),
            (ContainerSelector { name: some("pg-*"), labels: label("tier", "web"), ..any() }, false),
        ] {
            assert_eq!(selector.matches(&container()), expected, "{selector:?}");
        }
    }

    #[test]
    fn selectors_that_name_the_same_things_are_compared() {
        let any = ContainerSelector::default;
        let name = |text| ContainerSelector { name: some(text), ..any() };
        let tier = |text| ContainerSelector { labels: label("tier", text), ..any() };
        let id = |text| ContainerSelector { id: some(text), ..any() };
        let runtime = |runtime| ContainerSelector { runtime: Some(runtime), ..any() };
        for (a, b, expected) in [
            (name("pg-*"), name("pg-main"), Some("{ name: pg-main }")),
            (name("pg-*"), name("*-main"), Some("{ name: pg-main }")),
            (name("pg-a"), name("pg-b"), None),
            (
                name("pg-*"),
                ContainerSelector { image: some("x"), ..name("pg-1") },
                Some("{ name: pg-1, image: x }"),
            ),
            // Different things: both may be true of one container, which is told when there is one.
            (name("pg-*"), ContainerSelector { image: some("x"), ..any() }, None),
            (tier("data"), tier("data"), Some("{ label: { tier: data } }")),
            (tier("data"), tier("web"), None),
            (id("4fa64fa64fa6"), id("4fa64fa64fa64"), Some("{ id: 4fa64fa64fa6 }")),
            (id("4fa64fa64fa6"), id("4fa64fa64fa7"), None),
            (runtime(Runtime::Docker), runtime(Runtime::Docker), Some("{ runtime: docker }")),
            (runtime(Runtime::Docker), runtime(Runtime::Podman), None),
        ] {
            assert_eq!(a.overlap(&b).as_deref(), expected, "{a:?} {b:?}");
            assert_eq!(b.overlap(&a).is_some(), expected.is_some(), "{b:?} {a:?}");
        }
    }

    #[test]
    fn values_that_no_container_can_have_are_refused() {
        for name in ["pg-main", "pg*", "?", "a_b.c"] {
            assert!(parse_name(name).is_ok(), "{name}");
        }
        for name in ["", "/pg-main", "pg main", "pg/main", "ü"] {
            assert!(parse_name(name).is_err(), "{name}");
        }
        for (id, valid) in [(12, true), (64, true), (11, false), (65, false), (0, false)] {
            assert_eq!(parse_id(&"a".repeat(id)).is_ok(), valid, "{id}");
        }
        assert!(parse_id("ABCDEFABCDEF").is_err());
        assert!(parse_image("registry.example:5000/db/postgres@sha256:0f").is_ok());
        assert!(parse_image("a b").is_err());
        assert!(parse_kubernetes("kube-system").is_ok());
        assert!(parse_kubernetes("Kube").is_err());
        assert_eq!(parse_runtime("crio").ok(), Some(Runtime::Crio));
        assert!(parse_runtime("Docker").is_err());
    }
}
