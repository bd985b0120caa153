//! Cgroup paths of containers: one table of the forms that runtimes publish, for the automaton and for reading a path.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Hexadecimal digits of a container's id.
const ID_DIGITS: usize = 64;

/// What makes containers, and knows what they are.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runtime {
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// containerd, through its container runtime interface.
    Containerd,
    /// CRI-O.
    Crio,
}

impl Runtime {
    /// Every runtime.
    pub const ALL: [Self; 4] = [Self::Docker, Self::Podman, Self::Containerd, Self::Crio];

    /// Its name in policies, records and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::Podman => "podman",
            Self::Containerd => "containerd",
            Self::Crio => "crio",
        }
    }

    /// The runtime of that name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|runtime| runtime.name() == name)
    }
}

impl fmt::Display for Runtime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Who makes a runtime's cgroups.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Driver {
    /// systemd, asked for a scope.
    Systemd,
    /// The runtime itself.
    Cgroupfs,
}

/// One segment, or some, of a form.
#[derive(Clone, Copy, Debug)]
enum Part {
    /// Any number of systemd's slices, none included.
    Slices,
    /// One segment of this name.
    Named(&'static str),
    /// Kubernetes' class of service; pods of the class `Guaranteed` have none.
    Qos,
    /// `podUID`.
    Pod,
    /// A podman pod's id.
    PodmanPod,
    /// A unit of the system manager's, and no user's manager.
    Unit,
    /// A user's manager, below which that user makes what cgroups he likes.
    UserManager,
    /// Any number of segments; only below a user's manager.
    Anything,
    /// The container's own cgroup: its id between two texts.
    Container(&'static str, &'static str),
}

/// A form of path that a runtime publishes.
#[derive(Debug)]
struct Form {
    /// Who may know the container, in the order in which they are asked.
    runtimes: &'static [Runtime],
    driver: Driver,
    parts: &'static [Part],
}

use Driver::{Cgroupfs, Systemd};
use Part::{Anything, Container, Named, Pod, PodmanPod, Qos, Slices, Unit, UserManager};
use Runtime::{Containerd, Crio, Docker, Podman};

/// Every form. None of them but those of a user's manager can be made by anybody but root: a path begins at the top of the
/// tree with slices, or with the directory that the runtime is known by.
///
/// A form ends with the container's own cgroup, and no form goes on below another: what lies deeper is the container's.
#[rustfmt::skip]
const FORMS: [Form; 15] = [
    // Also below the slice of a pod, which the kubelet gives as parent, and of `--cgroup-parent`.
    Form { runtimes: &[Docker], driver: Systemd, parts: &[Slices, Container("docker-", ".scope")] },
    Form { runtimes: &[Podman], driver: Systemd, parts: &[Slices, Container("libpod-", ".scope")] },
    Form { runtimes: &[Containerd], driver: Systemd, parts: &[Slices, Container("cri-containerd-", ".scope")] },
    Form { runtimes: &[Crio], driver: Systemd, parts: &[Slices, Container("crio-", ".scope")] },
    // `--cgroups=split`, which units written by Quadlet have.
    Form { runtimes: &[Podman], driver: Systemd, parts: &[Slices, Unit, Container("libpod-payload-", "")] },
    Form { runtimes: &[Docker], driver: Cgroupfs, parts: &[Named("docker"), Container("", "")] },
    Form { runtimes: &[Podman], driver: Cgroupfs, parts: &[Named("libpod_parent"), Container("libpod-", "")] },
    Form { runtimes: &[Podman], driver: Cgroupfs, parts: &[Named("libpod_parent"), PodmanPod, Container("libpod-", "")] },
    Form { runtimes: &[Containerd, Docker], driver: Cgroupfs, parts: &[Named("kubepods"), Qos, Pod, Container("", "")] },
    Form { runtimes: &[Crio], driver: Cgroupfs, parts: &[Named("kubepods"), Qos, Pod, Container("crio-", "")] },
    // What systemd makes of a path that was meant for it, where containerd was told to make cgroups itself.
    Form { runtimes: &[Containerd], driver: Cgroupfs, parts: &[Named("system.slice"), Named("containerd.service"), Container("*.slice:cri-containerd:", "")] },
    // Of one user. They are known to be containers, and no more: their names and labels are that user's word.
    Form { runtimes: &[Podman], driver: Systemd, parts: &[UserManager, Anything, Container("libpod-", ".scope")] },
    Form { runtimes: &[Podman], driver: Cgroupfs, parts: &[UserManager, Anything, Container("libpod-", "")] },
    Form { runtimes: &[Podman], driver: Systemd, parts: &[UserManager, Anything, Container("libpod-payload-", "")] },
    Form { runtimes: &[Docker], driver: Systemd, parts: &[UserManager, Anything, Container("docker-", ".scope")] },
];

/// What a path tells of a container.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found<'a> {
    /// The container's own cgroup: the path, or the beginning of it.
    pub own: &'a [u8],
    /// Its id, 64 hexadecimal digits.
    pub id: &'a str,
    /// Who may know it, in the order in which they are to be asked.
    pub runtimes: &'static [Runtime],
    /// Who made the cgroup.
    pub driver: Driver,
    /// The uid of its Kubernetes pod.
    pub pod: Option<String>,
    /// The user whose manager it lies below. Such a container is made by that user, and not by the host's runtime.
    pub user: Option<u32>,
}

/// The container that the cgroup at `path` belongs to, the outermost if they nest. Forms begin at the top of the cgroup
/// tree, or at `top`, the root of what is judged.
pub fn find<'a>(path: &'a [u8], top: &[u8]) -> Option<Found<'a>> {
    let (whole, below) = (segments(path)?, below(path, top).and_then(segments).unwrap_or_default());
    let above = whole.len() - below.len();
    let mut end = 0;
    for (index, segment) in whole.iter().enumerate() {
        end += 1 + segment.len();
        // Ends with the id in nearly no path, which is told before any form is tried.
        if segment.len() < ID_DIGITS {
            continue;
        }
        let own = path.get(..end)?;
        let of_top = (index + 1).checked_sub(above).and_then(|length| below.get(..length));
        let relatives = [whole.get(..=index), of_top].into_iter().flatten();
        if let Some(found) = relatives.into_iter().find_map(|segments| of_a_form(own, segments)) {
            return Some(found);
        }
    }
    None
}

/// The container whose own cgroup is at `path`.
pub fn exactly<'a>(path: &'a [u8], top: &[u8]) -> Option<Found<'a>> {
    let relatives = [Some(path), below(path, top)].into_iter().flatten();
    relatives.filter_map(segments).find_map(|segments| of_a_form(path, &segments))
}

/// The part of a path below `top`, where that is not the top of the tree.
fn below<'a>(path: &'a [u8], top: &[u8]) -> Option<&'a [u8]> {
    path.strip_prefix(top).filter(|below| top != b"/" && below.starts_with(b"/"))
}

fn segments(path: &[u8]) -> Option<Vec<&[u8]>> {
    Some(path.strip_prefix(b"/")?.split(|byte| *byte == b'/').collect())
}

/// The container whose own cgroup is at `own`, if these segments, which end with it, are of a form.
fn of_a_form<'a>(own: &'a [u8], segments: &[&'a [u8]]) -> Option<Found<'a>> {
    if segments.last()?.len() < ID_DIGITS {
        return None;
    }
    FORMS.iter().find_map(|form| {
        let (runtimes, driver) = (form.runtimes, form.driver);
        let mut found = Found { own, id: "", runtimes, driver, pod: None, user: None };
        read(form.parts, segments, &mut found).then_some(found)
    })
}

/// What may be the own cgroup of a container that was put where no form looks for it, as by Docker's `--cgroup-parent`. Any
/// name can be given to a directory, so it is one only if a runtime says so, and until then what its path says.
pub fn candidate<'a>(path: &'a [u8], top: &[u8]) -> Option<Found<'a>> {
    let leaf = path.rsplit(|byte| *byte == b'/').next()?;
    let (id, runtimes): (_, &[Runtime]) =
        [("", &[Docker, Containerd][..]), ("libpod-", &[Podman]), ("crio-", &[Crio])]
            .into_iter()
            .find_map(|(before, runtimes)| Some((id_between(leaf, before, "")?, runtimes)))?;
    // What is below a user's manager is that user's, and what is in a container is the container's.
    let is_manager = |segment: &[u8]| segment.starts_with(b"user@") && segment.ends_with(b".service");
    if path.split(|byte| *byte == b'/').any(is_manager) || find(path, top).is_some() {
        return None;
    }
    Some(Found { own: path, id, runtimes, driver: Cgroupfs, pod: None, user: None })
}

/// Regular expressions for the paths of containers that the host's runtimes make: not for those of one user.
pub fn regexes(top: &[u8]) -> Vec<String> {
    let prefix: String = match top {
        b"/" => String::new(),
        top => format!("(?:{})?", top.iter().map(|byte| format!("\\x{byte:02x}")).collect::<String>()),
    };
    FORMS
        .iter()
        .filter(|form| !form.parts.iter().any(|part| matches!(part, UserManager)))
        .map(|form| format!("{prefix}{}", form.parts.iter().map(regex).collect::<String>()))
        .collect()
}

fn regex(part: &Part) -> String {
    let quoted = |text: &str| -> String { text.bytes().map(|byte| format!("\\x{byte:02x}")).collect() };
    match part {
        Slices => String::from(r"(?:/[^/]*\.slice)*"),
        Named(name) => format!("/{}", quoted(name)),
        Qos => String::from("(?:/burstable|/besteffort)?"),
        Pod => String::from("/pod[0-9a-f-]{32,36}"),
        PodmanPod => String::from("/[0-9a-f]{64}"),
        // A name that does not begin with `user@`, letter by letter, since an automaton cannot be told what not to match.
        Unit => {
            let other = "(?:[^u/]|u[^s/]|us[^e/]|use[^r/]|user[^@/])[^/]*";
            format!(r"/(?:{other}|u|us|use|user)\.service")
        }
        UserManager => String::from(r"/user\.slice/user-[0-9]+\.slice/user@[0-9]+\.service"),
        Anything => String::from("(?:/[^/]*)*"),
        Container(before, after) => {
            let before = match before.strip_prefix('*') {
                Some(rest) => format!("[^/:]*{}", quoted(rest)),
                None => quoted(before),
            };
            format!("/{before}[0-9a-f]{{64}}{}", quoted(after))
        }
    }
}

/// Whether the segments are of a form, and what they tell.
fn read<'a>(parts: &[Part], segments: &[&'a [u8]], found: &mut Found<'a>) -> bool {
    let Some((part, parts)) = parts.split_first() else { return segments.is_empty() };
    let first = segments.split_first();
    let is_first = |matches: &dyn Fn(&[u8]) -> bool| first.is_some_and(|(segment, _)| matches(segment));
    let rest = first.map_or(&[][..], |(_, rest)| rest);
    match part {
        Slices => {
            let slices = segments.iter().take_while(|segment| segment.ends_with(b".slice"));
            // Names are looked through only where the rest fits: many prefixes of one path may be asked about.
            let fits = read(parts, &segments[slices.clone().count()..], found);
            if fits {
                found.pod = slices.clone().find_map(|slice| pod_of_slice(slice)).or(found.pod.take());
            }
            fits
        }
        Named(name) => is_first(&|segment| segment == name.as_bytes()) && read(parts, rest, found),
        Qos if is_first(&|segment| [&b"burstable"[..], b"besteffort"].contains(&segment)) => {
            read(parts, rest, found)
        }
        Qos => read(parts, segments, found),
        Pod => {
            found.pod = first.and_then(|(segment, _)| uid(segment.strip_prefix(b"pod")?, b'-'));
            found.pod.is_some() && read(parts, rest, found)
        }
        PodmanPod => is_first(&|segment| is_id(segment)) && read(parts, rest, found),
        Unit => is_first(&is_system_unit) && read(parts, rest, found),
        UserManager => {
            let [slices, slice, manager, rest @ ..] = segments else { return false };
            found.user = user_of(slices, slice, manager);
            found.user.is_some() && read(parts, rest, found)
        }
        // What is before the last segment says nothing more.
        Anything => segments.split_last().is_some_and(|(last, _)| read(parts, &[last], found)),
        Container(before, after) => {
            let Some((segment, [])) = first else { return false };
            let Some(id) = id_between(segment, before, after) else { return false };
            found.id = id;
            true
        }
    }
}

fn id_between<'a>(segment: &'a [u8], before: &str, after: &str) -> Option<&'a str> {
    let start = segment.len().checked_sub(ID_DIGITS + after.len())?;
    let (begin, rest) = segment.split_at_checked(start)?;
    let (id, end) = rest.split_at_checked(ID_DIGITS)?;
    let begins = match before.strip_prefix('*') {
        Some(suffix) => begin.strip_suffix(suffix.as_bytes()).is_some_and(|any| !any.contains(&b':')),
        None => begin == before.as_bytes(),
    };
    (begins && is_id(id) && end == after.as_bytes()).then(|| std::str::from_utf8(id).ok()).flatten()
}

fn is_id(text: &[u8]) -> bool {
    text.len() == ID_DIGITS && text.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_system_unit(segment: &[u8]) -> bool {
    segment.strip_suffix(b".service").is_some_and(|name| !name.is_empty() && !name.starts_with(b"user@"))
}

/// The uid in `kubepods-burstable-podUID.slice`, in which systemd's dashes are underscores.
fn pod_of_slice(slice: &[u8]) -> Option<String> {
    let name = slice.strip_suffix(b".slice")?;
    let at = name.windows(4).rposition(|window| window == b"-pod")?;
    uid(name.get(at + 4..)?, b'_')
}

/// A pod's uid: a UUID, or 32 digits for one that the kubelet read from a file.
fn uid(text: &[u8], dash: u8) -> Option<String> {
    let fits = matches!(text.len(), 32..=36)
        && text.iter().all(|byte| *byte == dash || matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    fits.then(|| text.iter().map(|byte| if *byte == dash { '-' } else { char::from(*byte) }).collect())
}

fn user_of(slices: &[u8], slice: &[u8], manager: &[u8]) -> Option<u32> {
    let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u32>().ok();
    let of_slice = number(slice.strip_prefix(b"user-")?.strip_suffix(b".slice")?)?;
    let of_manager = number(manager.strip_prefix(b"user@")?.strip_suffix(b".service")?)?;
    (slices == b"user.slice" && of_slice == of_manager).then_some(of_slice)
}

#[cfg(test)]
mod tests {
    use super::{Driver, Found, Runtime, exactly, find};

    const ID: &str = "4fa6e0f0c6786287e131c3852c58a2e01cc697a68231826813597e4994f1d6e2";
    const POD: &str = "0c9ba5d1-49a7-4d21-9d43-2a5d9e9d0f3b";
    const POD_: &str = "0c9ba5d1_49a7_4d21_9d43_2a5d9e9d0f3b";
    /// Of a pod that the kubelet read from a file.
    const STATIC: &str = "2a5d9e9d0f3b49a74d219d430c9ba5d1";

    fn filled(path: &str) -> String {
        path.replace("ID", ID).replace("POD_", POD_).replace("POD", POD).replace("STATIC", STATIC)
    }

    /// Each published form: the path, who is asked, who made it, the pod, the user.
    #[test]
    fn every_published_form_is_read() {
        use Driver::{Cgroupfs, Systemd};
        use Runtime::{Containerd, Crio, Docker, Podman};
        for (path, runtimes, driver, pod, user) in [
            ("/system.slice/docker-ID.scope", &[Docker][..], Systemd, None, None),
            ("/shop.slice/shop-till.slice/docker-ID.scope", &[Docker], Systemd, None, None),
            ("/docker/ID", &[Docker], Cgroupfs, None, None),
            ("/machine.slice/libpod-ID.scope", &[Podman], Systemd, None, None),
            ("/machine.slice/machine-libpod_pod_ID.slice/libpod-ID.scope", &[Podman], Systemd, None, None),
            ("/system.slice/till.service/libpod-payload-ID", &[Podman], Systemd, None, None),
            ("/libpod_parent/libpod-ID", &[Podman], Cgroupfs, None, None),
            ("/libpod_parent/ID/libpod-ID", &[Podman], Cgroupfs, None, None),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podPOD_.slice/cri-containerd-ID.scope",
                &[Containerd],
                Systemd,
                Some(POD),
                None,
            ),
            (
                "/kubepods.slice/kubepods-podPOD_.slice/cri-containerd-ID.scope",
                &[Containerd],
                Systemd,
                Some(POD),
                None,
            ),
            ("/kubepods/burstable/podPOD/ID", &[Containerd, Docker], Cgroupfs, Some(POD), None),
            ("/kubepods/besteffort/podSTATIC/ID", &[Containerd, Docker], Cgroupfs, Some(STATIC), None),
            ("/kubepods/podPOD/ID", &[Containerd, Docker], Cgroupfs, Some(POD), None),
            (
                "/system.slice/containerd.service/kubepods-besteffort-podPOD_.slice:cri-containerd:ID",
                &[Containerd],
                Cgroupfs,
                None,
                None,
            ),
            (
                "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podPOD_.slice/crio-ID.scope",
                &[Crio],
                Systemd,
                Some(POD),
                None,
            ),
            ("/kubepods/burstable/podPOD/crio-ID", &[Crio], Cgroupfs, Some(POD), None),
            (
                "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podPOD_.slice/docker-ID.scope",
                &[Docker],
                Systemd,
                Some(POD),
                None,
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
                &[Podman],
                Systemd,
                None,
                Some(1000),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/app.slice/till.service/libpod-payload-ID",
                &[Podman],
                Systemd,
                None,
                Some(1000),
            ),
            (
                "/user.slice/user-0.slice/user@0.service/user.slice/libpod_parent/libpod-ID",
                &[Podman],
                Cgroupfs,
                None,
                Some(0),
            ),
            (
                "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope",
                &[Docker],
                Systemd,
                None,
                Some(1000),
            ),
        ] {
            let own = filled(path);
            let expected =
                Found { own: own.as_bytes(), id: ID, runtimes, driver, pod: pod.map(str::to_owned), user };
            assert_eq!(exactly(own.as_bytes(), b"/").as_ref(), Some(&expected), "{path}");
            // What lies below is the container's, also if it looks like another one; podman and CRI-O put the
            // processes into such a cgroup themselves.
            for nested in ["/container", "/init.scope/x", "/docker/ID", "/system.slice/docker-ID.scope"] {
                let deep = format!("{own}{}", filled(nested));
                assert_eq!(find(deep.as_bytes(), b"/").as_ref(), Some(&expected), "{path}{nested}");
                if user.is_none() {
                    assert_eq!(exactly(deep.as_bytes(), b"/"), None, "{path}{nested}");
                }
            }
            // The same where only a part of the tree is judged.
            let below = format!("/judged/part{own}");
            assert_eq!(exactly(below.as_bytes(), b"/judged/part").map(|found| found.id), Some(ID), "{path}");
            assert_eq!(exactly(below.as_bytes(), b"/judged/par"), None, "{path}");
        }
    }

    #[test]
    fn the_container_around_a_path_is_the_first_of_its_prefixes_that_is_one() {
        // As long as any call takes, with a name in every place that may be a container's.
        let many = format!("/{ID}").repeat(59);
        for path in [
            format!("/x{many}"),
            format!("{many}/docker/ID/docker/ID"),
            format!("/docker{many}"),
            format!("/user.slice/user-7.slice/user@7.service{many}/docker-ID.scope/docker-ID.scope"),
            format!("/judged/part/docker{many}/docker/ID"),
            format!("/judged/part/a.slice/docker-ID.scope{many}"),
            String::from("/judged/part"),
            String::from("/judged/parts/docker/ID"),
            String::from("/judged/docker-ID.scope/docker/ID"),
            String::from("//docker/ID"),
            String::from("/docker/ID/"),
            String::from("docker/ID"),
            String::from("/"),
            String::new(),
        ] {
            let path = filled(&path);
            for top in [&b"/"[..], b"/judged/part", b"/judged"] {
                let ends =
                    (1..=path.len()).filter(|end| [None, Some(&b'/')].contains(&path.as_bytes().get(*end)));
                let first = ends.map(|end| &path.as_bytes()[..end]).find_map(|prefix| exactly(prefix, top));
                assert_eq!(find(path.as_bytes(), top), first, "{path} below {}", top.escape_ascii());
            }
        }
    }

    #[test]
    fn a_container_elsewhere_is_a_candidate_and_no_more() {
        use Runtime::{Containerd, Crio, Docker, Podman};
        for (path, runtimes) in [
            ("/x/ID", Some(&[Docker, Containerd][..])),
            ("/ID", Some(&[Docker, Containerd])),
            ("/system.slice/till.service/docker/ID", Some(&[Docker, Containerd])),
            ("/x/libpod-ID", Some(&[Podman])),
            ("/x/kubepods/podPOD/crio-ID", Some(&[Crio])),
            // Known by their forms.
            ("/docker/ID", None),
            ("/libpod_parent/libpod-ID", None),
            // In a container.
            ("/docker/ID/ID", None),
            ("/docker/ID/x/libpod-ID", None),
            // A user's.
            ("/user.slice/user-1000.slice/user@1000.service/x/ID", None),
            ("/user.slice/user@1000.service/libpod-ID", None),
            ("/x/ID/y", None),
            ("/x/xID", None),
            ("/x/ID0", None),
            ("/x/libpod-conmon-ID", None),
            ("/x", None),
            ("", None),
        ] {
            let path = filled(path);
            let found = super::candidate(path.as_bytes(), b"/");
            assert_eq!(found.as_ref().map(|found| found.runtimes), runtimes, "{path}");
            if let Some(found) = found {
                assert_eq!((found.id, found.own), (ID, path.as_bytes()), "{path}");
                assert_eq!(find(path.as_bytes(), b"/"), None, "{path}");
            }
        }
    }

    /// What an unprivileged user, or a service that has a subtree of its own, can make; and what only looks like a
    /// container.
    #[test]
    fn no_look_alike_passes_for_a_container_of_the_host() {
        for path in [
            "/user.slice/user-1000.slice/user@1000.service/docker/ID",
            "/user.slice/user-1000.slice/user@1000.service/kubepods/podPOD/ID",
            "/user.slice/user-1000.slice/user@1000.service/kubepods.slice/cri-containerd-ID.scope",
            "/user.slice/user-1000.slice/user@1000.service/app.slice/crio-ID.scope",
            // Whose it is cannot be told.
            "/user.slice/user-1000.slice/user@1001.service/user.slice/libpod-ID.scope",
            "/user.slice/user@1000.service/user.slice/libpod-ID.scope",
            "/user.slice/user@1000.service/libpod-payload-ID",
            "/x.slice/user@1000.service/libpod-payload-ID",
            "/user.slice/user-1000.slice/session-1.scope/docker-ID.scope",
            // Below a service with a delegated subtree.
            "/system.slice/till.service/docker-ID.scope",
            "/system.slice/till.service/docker/ID",
            "/system.slice/till.service/libpod-ID.scope",
            "/system.slice/till.service/a.service/libpod-payload-ID",
            "/system.slice/.service/libpod-payload-ID",
            "/system.slice/containerd.service/x/kubepods-podPOD_.slice:cri-containerd:ID",
            "/system.slice/containerd.service/a:b.slice:cri-containerd:ID",
            // Somewhere else, or not quite.
            "/x/docker/ID",
            "/Docker/ID",
            "/docker/x/ID",
            "/docker/xID",
            "/docker/IDx",
            "/docker/ID0",
            "/docker/4fa6e0f0c678",
            "/system.slice/docker-ID.scop",
            "/system.slice/docker-ID.service",
            "/system.slice/xdocker-ID.scope",
            "/system.slice/docker-ID.scope.d",
            "/system.slicer/docker-ID.scope",
            "/machine.slice/libpod-conmon-ID.scope",
            "/libpod_parent/conmon",
            "/libpod_parent/x/libpod-ID",
            "/kubepods/burstable/besteffort/podPOD/ID",
            "/kubepods/guaranteed/podPOD/ID",
            "/kubepods/burstable/podx/ID",
            "/kubepods/burstable/ID",
            "docker/ID",
            "//docker/ID",
            "/docker//ID",
            "/docker/ID/",
            "/",
            "",
        ] {
            let path = filled(path);
            assert_eq!(exactly(path.as_bytes(), b"/"), None, "{path}");
        }
        let upper = format!("/docker/{}", ID.to_uppercase());
        assert_eq!(find(upper.as_bytes(), b"/"), None);
        let not_text = [b"/docker/".as_slice(), &[0xff; 64]].concat();
        assert_eq!(find(&not_text, b"/"), None);
        // A user's own is told from the host's.
        let path = filled("/user.slice/user-7.slice/user@7.service/docker-ID.scope");
        assert_eq!(find(path.as_bytes(), b"/").and_then(|found| found.user), Some(7));
    }
}
