//! Which cgroups a service claims: patterns over whole cgroup paths, never over a leaf name alone.
//!
//! In patterns `*` stands for any bytes and `?` for one byte of a segment; in cgroup paths the segment `**` stands
//! for any number of segments, none included.

use std::collections::{HashMap, VecDeque};
use std::fmt;

use serde::{Deserialize, Serialize};

use super::container::ContainerSelector;
use super::finding::{Problem, quoted};
use super::spec::nearest;

/// Bytes of one directory name, the kernel's `NAME_MAX`.
const MAX_SEGMENT: usize = 255;

/// Bytes of a path, the kernel's `PATH_MAX`.
const MAX_PATH: usize = 4096;

/// Segments of a selector: bounds the comparison of two patterns; cgroups of real hosts nest about ten deep.
const MAX_SEGMENTS: usize = 64;

/// Kinds of units that have a cgroup.
const UNIT_KINDS: [&str; 6] = ["service", "scope", "slice", "socket", "mount", "swap"];

/// Kinds of units that have none; timers and paths start services.
const OTHER_KINDS: [&str; 5] = ["timer", "target", "path", "device", "automount"];

/// Where the cgroup tree is mounted, alone or beside version 1.
const MOUNTS: [&str; 2] = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"];

/// Words that begin files of cgroupfs: systemd gives a unit `cpu.service` a cgroup of another name.
const CONTROLLERS: [&str; 11] =
    ["cgroup", "cpu", "cpuacct", "cpuset", "devices", "freezer", "hugetlb", "io", "memory", "misc", "pids"];

/// One entry of a service's `match` list.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum Selector {
    /// A systemd system unit, `nginx.service` or `payments@*.service`, in whatever slice.
    ///
    /// A service's sockets belong to it: systemd creates listening sockets in the cgroup of the socket unit.
    Systemd(String),
    /// A cgroup path below the cgroup v2 root, `/shop.slice/orders-*.scope`.
    Cgroup(String),
    /// A container, by what its runtime says of it. No path alone is matched by it.
    Container(Box<ContainerSelector>),
}

impl fmt::Display for Selector {
    /// As it is written under `match`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Systemd(unit) => write!(f, "systemd: {unit}"),
            Self::Cgroup(path) => write!(f, "cgroup: {path}"),
            Self::Container(container) => write!(f, "container: {container}"),
        }
    }
}

impl Selector {
    /// Reads a unit name, which may hold `*` and `?`.
    ///
    /// # Errors
    ///
    /// Tells why no unit of the system manager can have such a name.
    pub fn parse_systemd(text: &str) -> Result<Self, Problem> {
        let problem = |message: String| Problem::new("invalid-selector", message);
        if text.contains('/') {
            return Err(problem(format!("{} is a path, not a unit", quoted(text)))
                .hint("write the unit's name alone, or select its path with `cgroup:`"));
        }
        let kind = text.rsplit_once('.').map_or("", |(_, kind)| kind);
        if !UNIT_KINDS.contains(&kind) {
            let stem = text.strip_suffix(kind).and_then(|stem| stem.strip_suffix('.'));
            let name = match (
                stem,
                nearest(&kind.to_ascii_lowercase(), UNIT_KINDS.into_iter().chain(OTHER_KINDS)),
            ) {
                (Some(stem), Some(meant)) if UNIT_KINDS.contains(&meant) => format!("{stem}.{meant}"),
                (Some(stem), Some(_)) => format!("{stem}.service"),
                _ if text.is_empty() => String::from("nginx.service"),
                _ => format!("{text}.service"),
            };
            return Err(problem(format!("{} does not end like a unit that has a cgroup", quoted(text)))
                .hint(format!("write `{name}`; units with a cgroup end in .{}", UNIT_KINDS.join(", ."))));
        }
        if text == "-.slice" {
            return Err(problem(String::from("`-.slice` would claim every process of the host"))
                .hint("name the service's own unit, like `nginx.service`, or its slice"));
        }
        if text.len() - kind.len() == 1 {
            return Err(problem(format!("{} has no name before its ending", quoted(text)))
                .hint(format!("write `nginx.{kind}`, or `*.{kind}` for all of them")));
        }
        if text.len() > MAX_SEGMENT {
            let message = format!("the unit name has {} bytes, the limit is {MAX_SEGMENT}", text.len());
            return Err(problem(message));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || ":_.\\@-*?".contains(c);
        if let Some(c) = text.chars().find(|c| !allowed(*c)) {
            let message = format!("no unit name contains {}", quoted(c.encode_utf8(&mut [0; 4])));
            return Err(problem(message).hint("`systemd-escape` tells how systemd writes such a name"));
        }
        let renamed = text.starts_with('_')
            || text.split_once('.').is_some_and(|(first, _)| CONTROLLERS.contains(&first));
        if renamed {
            let message = format!("systemd calls the cgroup of {} otherwise", quoted(text));
            return Err(problem(message).hint(format!("write `cgroup: /system.slice/_{text}`")));
        }
        Ok(Self::Systemd(text.to_owned()))
    }

    /// Reads a path below the cgroup root, whose segments may hold `*` and `?` or be `**`.
    ///
    /// # Errors
    ///
    /// Tells why no cgroup can have such a path, or that it would claim every cgroup.
    pub fn parse_cgroup(text: &str) -> Result<Self, Problem> {
        let problem = |message: String| Problem::new("invalid-selector", message);
        if text.is_empty() {
            return Err(problem(String::from("the path is empty"))
                .hint("name the service's own cgroup, like `/system.slice/nginx.service`"));
        }
        let below =
            |mount| text.strip_prefix(mount).filter(|below| below.is_empty() || below.starts_with('/'));
        if let Some(below) = MOUNTS.into_iter().find_map(below) {
            let below = if below.len() > 1 { below } else { "/system.slice/nginx.service" };
            return Err(problem(format!("{} does not begin at the cgroup root", quoted(text)))
                .hint(format!("write {}, the path below the mount", quoted(below))));
        }
        let Some(path) = text.strip_prefix('/') else {
            return Err(problem(format!("{} does not begin at the cgroup root", quoted(text)))
                .hint(format!("write `/{text}`, the path as in the last field of /proc/PID/cgroup")));
        };
        if path.is_empty() {
            return Err(problem(String::from("`/` would claim every process of the host"))
                .hint("name the service's own cgroup, like `/system.slice/nginx.service`"));
        }
        if text.len() > MAX_PATH {
            return Err(problem(format!("the path has {} bytes, the limit is {MAX_PATH}", text.len())));
        }
        if let Some(shorter) = text.strip_suffix('/') {
            return Err(problem(format!("{} ends in a slash", quoted(text)))
                .hint(format!("write {}; what is below it is included", quoted(shorter))));
        }
        if text.contains(['\n', '\0']) {
            return Err(problem(String::from("no cgroup's name contains a line break or NUL")));
        }
        let count = path.split('/').count();
        if count > MAX_SEGMENTS {
            return Err(problem(format!("the path has {count} segments, the limit is {MAX_SEGMENTS}")));
        }
        for segment in path.split('/') {
            if segment.is_empty() {
                return Err(
                    problem(format!("{} has an empty segment", quoted(text))).hint("write one slash only")
                );
            }
            if segment == "." || segment == ".." {
                return Err(problem(format!("no cgroup is called `{segment}`"))
                    .hint("write the path without `.` and `..`"));
            }
            if segment.len() > MAX_SEGMENT {
                let message = format!("a segment has {} bytes, the limit is {MAX_SEGMENT}", segment.len());
                return Err(problem(message));
            }
            if segment.starts_with("cgroup.") && !segment.contains(['*', '?']) {
                let message =
                    format!("{} is called like a file of the kernel's in a cgroup", quoted(segment));
                return Err(problem(message).hint("name the cgroup; what is below it is included"));
            }
            if segment != "**" && segment.contains("**") {
                return Err(problem(format!(
                    "`**` stands for whole segments, not for part of {}",
                    quoted(segment)
                ))
                .hint("write `*` within a segment"));
            }
        }
        if path.rsplit('/').next() == Some("**") {
            let shorter = text.trim_end_matches("/**");
            let hint = if shorter.is_empty() {
                String::from("name the service's own cgroup, like `/system.slice/nginx.service`")
            } else {
                format!("write {}; what is below it is included", quoted(shorter))
            };
            return Err(problem(String::from("`**` cannot be the last segment")).hint(hint));
        }
        Ok(Self::Cgroup(text.to_owned()))
    }

    /// Whether the cgroup at this path, as seen from the cgroup root, is one that the selector names.
    pub fn matches(&self, path: &[u8]) -> bool {
        let Some(path) = path.strip_prefix(b"/") else {
            return false;
        };
        match self {
            Self::Systemd(unit) => {
                let mut segments = path.rsplit(|byte| *byte == b'/');
                segments.next().is_some_and(|leaf| unit_matches(unit.as_bytes(), leaf))
                    && segments.all(|segment| segment.ends_with(b".slice"))
            }
            Self::Cgroup(pattern) => path_matches(pattern.as_bytes(), path),
            Self::Container(_) => false,
        }
    }

    /// Whether the cgroup at this path or one that it lies in is one that the selector names.
    pub fn claims(&self, path: &[u8]) -> bool {
        let ancestors = path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/');
        ancestors.map(|(end, _)| &path[..end]).any(|ancestor| self.matches(ancestor)) || self.matches(path)
    }

    /// Whether the selector is one fixed name, without `*` and `?`.
    pub fn is_exact(&self) -> bool {
        match self {
            Self::Systemd(text) | Self::Cgroup(text) => !text.contains(['*', '?']),
            Self::Container(container) => container.is_exact(),
        }
    }

    /// The paths that the selector matches, as a regular expression over bytes; none for a container.
    pub fn regex(&self) -> Option<String> {
        let alternatives: Vec<String> =
            steps(self).iter().map(|steps| steps.iter().map(Step::regex).collect()).collect();
        (!alternatives.is_empty()).then(|| format!("(?:{})", alternatives.join("|")))
    }

    /// The names that the last segment of a unit's cgroup may have; empty for a path.
    pub(super) fn leaves(&self) -> Vec<String> {
        let Self::Systemd(unit) = self else {
            return Vec::new();
        };
        let mut leaves = vec![unit.clone()];
        if let Some(stem) = unit.strip_suffix(".service") {
            leaves.push(format!("{stem}.socket"));
            if let Some(template) = stem.strip_suffix("@*")
                && !template.is_empty()
            {
                leaves.push(format!("{template}.socket"));
            }
        }
        leaves
    }
}

/// A path of a cgroup that both selectors claim, if there can be one; none if one of them selects containers.
pub fn overlap(a: &Selector, b: &Selector) -> Option<String> {
    let (lefts, rights) = (steps(a), steps(b));
    lefts.iter().find_map(|left| rights.iter().find_map(|right| overlapping_path(left, right)))
}

fn unit_matches(unit: &[u8], leaf: &[u8]) -> bool {
    if glob_matches(unit, leaf) {
        return true;
    }
    let (Some(stem), Some(socket)) = (unit.strip_suffix(b".service"), leaf.strip_suffix(b".socket")) else {
        return false;
    };
    let template = stem.strip_suffix(b"@*").filter(|template| !template.is_empty());
    glob_matches(stem, socket) || template.is_some_and(|template| glob_matches(template, socket))
}

/// Both without their leading slash.
fn path_matches(pattern: &[u8], path: &[u8]) -> bool {
    let mut pattern = pattern.split(|byte| *byte == b'/').skip(1);
    let mut path = path.split(|byte| *byte == b'/');
    // Where to go on after the last `**` has taken one segment more. Earlier ones need not be asked again: what
    // they could skip, the last one can skip too.
    let mut retry = None;
    loop {
        let before = path.clone();
        let matched = match (pattern.next(), path.next()) {
            (Some(b"**"), _) => {
                path = before;
                retry = Some((pattern.clone(), path.clone()));
                true
            }
            (Some(glob), Some(segment)) => glob_matches(glob, segment),
            (None, None) => return true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        if !matched {
            let Some((after, rest)) = &mut retry else {
                return false;
            };
            if rest.next().is_none() {
                return false;
            }
            (pattern, path) = (after.clone(), rest.clone());
        }
    }
}

/// `*` and `?` over bytes; never slower than the product of the lengths.
pub(super) fn glob_matches(pattern: &[u8], text: &[u8]) -> bool {
    let (mut p, mut t) = (0, 0);
    let mut retry = None;
    while t < text.len() || p < pattern.len() {
        match pattern.get(p) {
            Some(b'*') => {
                retry = Some((p + 1, t));
                p += 1;
                continue;
            }
            Some(b'?') if t < text.len() => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            Some(byte) if text.get(t) == Some(byte) => {
                (p, t) = (p + 1, t + 1);
                continue;
            }
            Some(_) | None => {}
        }
        match retry {
            Some((after, from)) if from < text.len() => {
                (p, t) = (after, from + 1);
                retry = Some((after, from + 1));
            }
            Some(_) | None => return false,
        }
    }
    true
}

/// One part of a selector as an automaton over segments.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    /// One segment that matches the glob.
    One(Vec<u8>),
    /// Any number of segments that match the glob.
    Many(&'static [u8]),
}

impl Step {
    fn regex(&self) -> String {
        match self {
            Self::One(glob) => format!("/{}", glob_regex(glob)),
            Self::Many(glob) => format!("(?:/{})*", glob_regex(glob)),
        }
    }
}

fn glob_regex(glob: &[u8]) -> String {
    glob.iter()
        .map(|byte| match byte {
            b'*' => String::from("[^/]*"),
            b'?' => String::from("[^/]"),
            byte => format!("\\x{byte:02x}"),
        })
        .collect()
}

fn steps(selector: &Selector) -> Vec<Vec<Step>> {
    match selector {
        Selector::Systemd(_) => selector
            .leaves()
            .into_iter()
            .map(|leaf| vec![Step::Many(b"*.slice"), Step::One(leaf.into_bytes())])
            .collect(),
        Selector::Cgroup(pattern) => {
            let segments = pattern.split('/').skip(1);
            vec![
                segments
                    .map(|segment| match segment {
                        "**" => Step::Many(b"*"),
                        segment => Step::One(segment.as_bytes().to_vec()),
                    })
                    .collect(),
            ]
        }
        Selector::Container(_) => Vec::new(),
    }
}

/// Walks both patterns at once until one of them is complete: what it then names is an ancestor of, or equal to,
/// something that the other names.
fn overlapping_path(a: &[Step], b: &[Step]) -> Option<String> {
    type State = (usize, usize);
    type Origin = Option<(State, Option<Vec<u8>>)>;
    let mut came_from: HashMap<State, Origin> = HashMap::from([((0, 0), None)]);
    let mut queue = VecDeque::from([(0, 0)]);
    let mut example = None;
    while let Some((i, j)) = queue.pop_front() {
        let (Some(left), Some(right)) = (a.get(i), b.get(j)) else {
            let mut segments: Vec<Vec<u8>> =
                a[i..].iter().chain(&b[j..]).filter_map(Step::shortest).rev().collect();
            let mut state = (i, j);
            while let Some(Some((previous, segment))) = came_from.get(&state) {
                segments.extend(segment.clone());
                state = *previous;
            }
            let path: Vec<u8> =
                segments.into_iter().rev().flat_map(|segment| [b"/".to_vec(), segment].concat()).collect();
            // The shortest path is the best example.
            if example.as_ref().is_none_or(|best: &Vec<u8>| path.len() < best.len()) {
                example = Some(path);
            }
            continue;
        };
        let (left_glob, left_next) = left.consume(i);
        let (right_glob, right_next) = right.consume(j);
        let mut moves: Vec<(State, Option<Vec<u8>>)> = Vec::new();
        if matches!(left, Step::Many(_)) {
            moves.push(((i + 1, j), None));
        }
        if matches!(right, Step::Many(_)) {
            moves.push(((i, j + 1), None));
        }
        if (left_next, right_next) != (i, j)
            && let Some(segment) = common_segment(left_glob, right_glob)
        {
            moves.push(((left_next, right_next), Some(segment)));
        }
        for (next, segment) in moves {
            if let std::collections::hash_map::Entry::Vacant(entry) = came_from.entry(next) {
                entry.insert(Some(((i, j), segment)));
                queue.push_back(next);
            }
        }
    }
    example.map(|path| String::from_utf8_lossy(&path).into_owned())
}

impl Step {
    /// What a segment has to match to be taken at this step, and the step that follows.
    fn consume(&self, at: usize) -> (&[u8], usize) {
        match self {
            Self::One(glob) => (glob, at + 1),
            Self::Many(glob) => (glob, at),
        }
    }

    fn shortest(&self) -> Option<Vec<u8>> {
        match self {
            Self::One(glob) => common_segment(glob, b"*"),
            Self::Many(_) => None,
        }
    }
}

/// A segment that matches both globs, if there is one.
pub(super) fn common_segment(a: &[u8], b: &[u8]) -> Option<Vec<u8>> {
    let is_literal = |glob: &[u8]| !glob.contains(&b'*') && !glob.contains(&b'?');
    if is_literal(a) {
        return glob_matches(b, a).then(|| a.to_vec());
    }
    if is_literal(b) {
        return glob_matches(a, b).then(|| b.to_vec());
    }
    let (width, height) = (b.len() + 1, a.len() + 1);
    // 0 for a state not seen, otherwise 1 + the state before; the byte between them, if one was taken.
    let mut came_from = vec![(0_usize, None::<u8>); width * height];
    came_from[0].0 = 1;
    let mut queue = VecDeque::from([0]);
    while let Some(state) = queue.pop_front() {
        let (i, j) = (state / width, state % width);
        let mut step = |next: usize, byte: Option<u8>| {
            if came_from[next].0 == 0 {
                came_from[next] = (state + 1, byte);
                queue.push_back(next);
            }
        };
        match (a.get(i), b.get(j)) {
            (None, None) => break,
            (Some(b'*'), Some(b'*')) => {
                step(state + width, None);
                step(state + 1, None);
            }
            (Some(b'*'), right) => {
                step(state + width, None);
                if let Some(byte) = right {
                    step(state + 1, Some(if *byte == b'?' { b'x' } else { *byte }));
                }
            }
            (left, Some(b'*')) => {
                step(state + 1, None);
                if let Some(byte) = left {
                    step(state + width, Some(if *byte == b'?' { b'x' } else { *byte }));
                }
            }
            (Some(left), Some(right)) if left == right || *left == b'?' || *right == b'?' => {
                let byte = if *left == b'?' { *right } else { *left };
                step(state + width + 1, Some(if byte == b'?' { b'x' } else { byte }));
            }
            (Some(_), Some(_)) | (Some(_), None) | (None, Some(_)) => {}
        }
    }
    let mut state = width * height - 1;
    if came_from[state].0 == 0 {
        return None;
    }
    let mut segment = Vec::new();
    while state != 0 {
        let (before, byte) = came_from[state];
        segment.extend(byte);
        state = before - 1;
    }
    segment.reverse();
    if matches!(segment.as_slice(), b"" | b"." | b"..") {
        // No cgroup is called that. Both patterns are dots and wildcards only, and have two bytes besides their
        // stars at most, so that any name they share has one of the same kind of up to four bytes.
        let names = (1..=4_usize).flat_map(|length| {
            (0..1_usize << length).map(move |bits| {
                (0..length).map(|at| if bits >> at & 1 == 1 { b'x' } else { b'.' }).collect::<Vec<u8>>()
            })
        });
        return names
            .filter(|name| name.contains(&b'x') || name.len() > 2)
            .find(|name| glob_matches(a, name) && glob_matches(b, name));
    }
    Some(segment)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::finding::Problem;
    use super::{Selector, common_segment, glob_matches, overlap};

    fn systemd(text: &str) -> Selector {
        Selector::parse_systemd(text).expect(text)
    }

    fn cgroup(text: &str) -> Selector {
        Selector::parse_cgroup(text).expect(text)
    }

    #[test]
    fn a_unit_is_found_in_whatever_slice_and_nowhere_else() {
        let nginx = systemd("nginx.service");
        for (path, expected) in [
            ("/system.slice/nginx.service", true),
            ("/nginx.service", true),
            ("/a.slice/a-b.slice/nginx.service", true),
            ("/system.slice/nginx.socket", true),
            ("/system.slice/nginx.service/worker", false),
            ("/user.slice/user-1000.slice/user@1000.service/app.slice/nginx.service", false),
            ("/system.slice/docker.service/nginx.service", false),
            ("/system.slice/xnginx.service", false),
            ("/system.slice/nginx.service.d", false),
            ("/", false),
            ("", false),
            ("nginx.service", false),
        ] {
            assert_eq!(nginx.matches(path.as_bytes()), expected, "{path}");
        }
        let payments = systemd("payments@*.service");
        for (path, expected) in [
            ("/system.slice/system-payments.slice/payments@1.service", true),
            ("/system.slice/payments@.service", true),
            ("/system.slice/payments.socket", true),
            ("/system.slice/payments@7.socket", true),
            ("/system.slice/payments.service", false),
            ("/system.slice/payments-x.socket", false),
        ] {
            assert_eq!(payments.matches(path.as_bytes()), expected, "{path}");
        }
        // One instance does not own the socket that all instances share.
        assert!(!systemd("payments@1.service").matches(b"/system.slice/payments.socket"));
        // The socket unit alone does not stand for its service.
        assert!(!systemd("nginx.socket").matches(b"/system.slice/nginx.service"));
    }

    #[test]
    fn descendants_are_claimed_but_not_matched() {
        for (selector, path, expected) in [
            (systemd("nginx.service"), "/system.slice/nginx.service/a/b", true),
            (systemd("nginx.service"), "/system.slice/nginx.servicex/a", false),
            (cgroup("/a/b*"), "/a/bc/d", true),
            (cgroup("/a/b*"), "/a", false),
            (cgroup("/a"), "/ab", false),
            (cgroup("/**/web"), "/x/y/web/z", true),
        ] {
            assert_eq!(selector.claims(path.as_bytes()), expected, "{selector:?} {path}");
            assert!(!selector.matches(path.as_bytes()), "{selector:?} {path}");
        }
    }

    #[test]
    fn paths_need_not_be_utf8() {
        assert!(cgroup("/a/*/c").matches(b"/a/\xff\xfe/c"));
        assert!(cgroup("/a/??/c").matches(b"/a/\xff\xfe/c"));
        assert!(!cgroup("/a/?/c").matches(b"/a/\xff\xfe/c"));
    }

    #[test]
    fn what_can_never_match_is_refused() {
        for unit in [
            "",
            "nginx",
            "nginx.timer",
            "nginx.target",
            "-.slice",
            ".service",
            "a/b.service",
            "a b.service",
            "ü.service",
            "cpu.service",
            "_x.service",
        ] {
            assert!(Selector::parse_systemd(unit).is_err(), "{unit}");
        }
        for unit in [
            "a.service",
            "a.scope",
            "a.slice",
            "a.socket",
            "a.mount",
            "a.swap",
            "*.service",
            "a\\x2d@?.service",
        ] {
            assert!(Selector::parse_systemd(unit).is_ok(), "{unit}");
        }
        let longest = format!("/{}", "a".repeat(255));
        let deepest = "/a".repeat(64);
        for path in [
            "",
            "a",
            "/",
            "//",
            "/a//b",
            "/a/",
            "/a/./b",
            "/..",
            "/a/**",
            "/**",
            "/a**",
            "/a\n",
            "/sys/fs/cgroup",
            "/sys/fs/cgroup/",
            "/sys/fs/cgroup/a",
            "/sys/fs/cgroup/unified/a",
            "/cgroup.procs",
            "/a/cgroup.threads",
        ] {
            assert!(Selector::parse_cgroup(path).is_err(), "{path}");
        }
        for path in [
            "/a",
            "/*",
            "/**/a",
            "/a/?/b*",
            "/.a",
            "/...",
            "/sys/fs",
            "/sys/fs/cgroups",
            "/cgroup",
            &longest,
            &deepest,
        ] {
            assert!(Selector::parse_cgroup(path).is_ok(), "{path}");
        }
        assert!(Selector::parse_cgroup(&format!("{longest}a")).is_err());
        assert!(Selector::parse_cgroup(&format!("{deepest}/a")).is_err());
        assert!(Selector::parse_systemd(&format!("{}.service", "a".repeat(247))).is_ok());
        assert!(Selector::parse_systemd(&format!("{}.service", "a".repeat(248))).is_err());
    }

    #[test]
    fn a_hint_names_what_can_be_written() {
        let hint = |problem: Problem| problem.hint.unwrap_or_default();
        for (unit, written) in [
            ("nginx", "nginx.service"),
            ("nginx.srvice", "nginx.service"),
            ("nginx.Service", "nginx.service"),
            ("nginx.sockt", "nginx.socket"),
            ("nginx.timer", "nginx.service"),
            ("nginx.targt", "nginx.service"),
            ("my.app", "my.app.service"),
            ("my.", "my..service"),
            ("", "nginx.service"),
        ] {
            let hint = hint(Selector::parse_systemd(unit).expect_err(unit));
            assert!(hint.starts_with(&format!("write `{written}`;")), "{unit}: {hint}");
            assert!(Selector::parse_systemd(written).is_ok(), "{written}");
        }
        for (path, written) in [
            ("/sys/fs/cgroup/unified/a", "`/a`"),
            ("/sys/fs/cgroup/a/b", "`/a/b`"),
            ("/sys/fs/cgroup/", "`/system.slice/nginx.service`"),
            ("", "`/system.slice/nginx.service`"),
        ] {
            let hint = hint(Selector::parse_cgroup(path).expect_err(path));
            assert!(hint.contains(written), "{path}: {hint}");
        }
    }

    #[test]
    fn overlaps() {
        for (a, b, expected) in [
            (systemd("a.service"), systemd("b.service"), None),
            (systemd("a.service"), systemd("a.service"), Some("/a.service")),
            (systemd("a.service"), systemd("a.socket"), Some("/a.socket")),
            (systemd("a@*.service"), systemd("a.socket"), Some("/a.socket")),
            (systemd("a@*.service"), systemd("a@1.service"), Some("/a@1.service")),
            (systemd("a*.service"), systemd("*b.service"), Some("/ab.service")),
            (systemd("a.slice"), systemd("b.service"), Some("/a.slice/b.service")),
            (systemd("a.service"), cgroup("/system.slice/a.service"), Some("/system.slice/a.service")),
            (systemd("a.service"), cgroup("/x/a.service"), None),
            (systemd("a.service"), cgroup("/system.slice"), Some("/system.slice/a.service")),
            (systemd("a.service"), cgroup("/system.slice/*"), Some("/system.slice/a.service")),
            (systemd("a.service"), cgroup("/b.service/x"), None),
            (systemd("a.service"), cgroup("/a.service/x"), Some("/a.service/x")),
            (cgroup("/a"), cgroup("/a/b"), Some("/a/b")),
            (cgroup("/a/*"), cgroup("/a/b/c"), Some("/a/b/c")),
            (cgroup("/a/b?"), cgroup("/a/*c"), Some("/a/bc")),
            (cgroup("/a/b"), cgroup("/a/bc"), None),
            (cgroup("/**/web"), cgroup("/x"), Some("/x/web")),
            (cgroup("/a/**/b"), cgroup("/**/c/b"), Some("/a/c/b")),
            (cgroup("/a/**/b"), cgroup("/c/**/b"), None),
            (cgroup("/.*"), cgroup("/*."), Some("/...")),
        ] {
            let found = overlap(&a, &b);
            assert_eq!(found.as_deref(), expected, "{a:?} {b:?}");
            assert_eq!(overlap(&b, &a).is_some(), expected.is_some(), "{b:?} {a:?}");
            if let Some(path) = found {
                assert!(a.claims(path.as_bytes()) && b.claims(path.as_bytes()), "{a:?} {b:?} {path}");
            }
        }
    }

    /// The definition, word by word.
    fn naive_glob(pattern: &[u8], text: &[u8]) -> bool {
        match (pattern.split_first(), text.split_first()) {
            (None, None) => true,
            (Some((b'*', rest)), _) => {
                naive_glob(rest, text) || !text.is_empty() && naive_glob(pattern, &text[1..])
            }
            (Some((b'?', rest)), Some((_, tail))) => naive_glob(rest, tail),
            (Some((byte, rest)), Some((first, tail))) => byte == first && naive_glob(rest, tail),
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    fn naive_path(pattern: &[&str], path: &[&str]) -> bool {
        match (pattern.split_first(), path.split_first()) {
            (None, None) => true,
            (Some((&"**", rest)), _) => {
                naive_path(rest, path) || !path.is_empty() && naive_path(pattern, &path[1..])
            }
            (Some((glob, rest)), Some((segment, tail))) => {
                naive_glob(glob.as_bytes(), segment.as_bytes()) && naive_path(rest, tail)
            }
            (Some(_), None) | (None, Some(_)) => false,
        }
    }

    /// Every path of up to three segments out of a small alphabet.
    fn small_paths() -> Vec<String> {
        let words = [
            "a",
            "b",
            "ab",
            "ba",
            "x",
            "a.slice",
            "b.slice",
            "ab.slice",
            "a.service",
            "ab.service",
            "a.socket",
            "a@b.service",
        ];
        let mut paths: Vec<String> = words.iter().map(|word| format!("/{word}")).collect();
        for round in 0..2 {
            let longest: Vec<String> =
                paths.iter().filter(|path| path.matches('/').count() == round + 1).cloned().collect();
            paths.extend(
                longest.iter().flat_map(|path| words.iter().map(move |word| format!("{path}/{word}"))),
            );
        }
        paths
    }

    fn any_selector() -> impl Strategy<Value = Selector> {
        let segment = prop_oneof![
            Just("a"),
            Just("b"),
            Just("ab"),
            Just("*"),
            Just("?"),
            Just("a*"),
            Just("*b"),
            Just("?b"),
            Just("**"),
            Just("a.slice"),
            Just("*.slice"),
            Just("a.service"),
        ];
        prop_oneof![
            prop_oneof![
                Just("a.service"),
                Just("b.service"),
                Just("ab.service"),
                Just("a*.service"),
                Just("*b.service"),
                Just("a@*.service"),
                Just("a@b.service"),
                Just("a.socket"),
                Just("a.slice"),
                Just("?.slice"),
            ]
            .prop_map(systemd),
            proptest::collection::vec(segment, 1..4).prop_filter_map("a cgroup path", |segments| {
                Selector::parse_cgroup(&format!("/{}", segments.join("/"))).ok()
            }),
        ]
    }

    proptest! {
        #[test]
        fn globs_agree_with_their_definition(pattern in "[ab*?]{0,8}", text in "[ab]{0,8}") {
            prop_assert_eq!(
                glob_matches(pattern.as_bytes(), text.as_bytes()),
                naive_glob(pattern.as_bytes(), text.as_bytes())
            );
        }

        #[test]
        fn paths_agree_with_their_definition(
            pattern in proptest::collection::vec(prop_oneof![Just("a"), Just("b*"), Just("**"), Just("*")], 1..6),
            path in proptest::collection::vec(prop_oneof![Just("a"), Just("b"), Just("ba")], 1..6),
        ) {
            let selector = Selector::Cgroup(format!("/{}", pattern.join("/")));
            prop_assert_eq!(
                selector.matches(format!("/{}", path.join("/")).as_bytes()),
                naive_path(&pattern, &path)
            );
        }

        #[test]
        fn common_segments_agree_with_brute_force(a in "[ab*?]{1,4}", b in "[ab*?]{1,4}") {
            let words = (1..5_u32).flat_map(|length| {
                (0..3_u32.pow(length)).map(move |mut number| {
                    let mut word = Vec::new();
                    for _ in 0..length {
                        word.push([b'a', b'b', b'x'][(number % 3) as usize]);
                        number /= 3;
                    }
                    word
                })
            });
            let both = |word: &[u8]| naive_glob(a.as_bytes(), word) && naive_glob(b.as_bytes(), word);
            let found = common_segment(a.as_bytes(), b.as_bytes());
            // A shortest common word is no longer than both patterns' letters together.
            if let Some(word) = &found {
                prop_assert!(both(word));
            }
            let exists = words.into_iter().any(|word| both(&word));
            prop_assert!(found.is_some() || !exists, "{} {}", a, b);
        }

        #[test]
        fn overlap_agrees_with_brute_force(a in any_selector(), b in any_selector()) {
            let found = overlap(&a, &b);
            if let Some(path) = &found {
                prop_assert!(a.claims(path.as_bytes()), "{:?} does not claim {}", a, path);
                prop_assert!(b.claims(path.as_bytes()), "{:?} does not claim {}", b, path);
            }
            let exists = small_paths().iter().any(|path| a.claims(path.as_bytes()) && b.claims(path.as_bytes()));
            prop_assert!(found.is_some() || !exists, "{:?} {:?}", a, b);
        }
    }
}
