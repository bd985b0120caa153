//! What a crash has left is removed, and nothing else.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;

use anyhow::{Context as _, anyhow, ensure};
use aya::programs::CgroupSock;
use aya::programs::links::{FdLink, PinnedLink};
use aya::{Ebpf, EbpfLoader};
use enforcer::kernel::OBJECT;
use enforcer::kernel::feature::cgroup2_mount;
use enforcer::kernel::leftovers;
use enforcer_common::{Hook, names};
use enforcer_tests::actor::{Request, Transport};
use enforcer_tests::sandbox::{Sandbox, binary, remove_tree};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

/// A cgroup that is removed at the end, if it is still there.
struct Stray(PathBuf);

impl Stray {
    fn new(name: &str) -> anyhow::Result<Self> {
        let path = cgroup2_mount()?.join(name);
        fs::create_dir(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Stray {
    fn drop(&mut self) {
        if self.0.exists() {
            remove_tree(&self.0).expect("the test's own processes can be ended");
        }
    }
}

#[test]
fn pins_and_cgroups_of_the_dead_are_removed_and_the_living_are_spared() -> anyhow::Result<()> {
    let living = Sandbox::new("spared")?;
    let mut daemon = living.daemon(
        "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
  orders: { match: [{ cgroup: ROOT/orders }] }
",
    )?;
    let (mut web, mut orders) = (living.actor("web")?, living.actor("orders")?);
    let at = "127.0.0.1:8080".parse()?;
    ensure!(orders.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let mut dead = Command::new("true").spawn()?;
    let dead_pid = dead.id();
    dead.wait()?;
    let stray = Stray::new(&format!("enforcer-test-stray-{dead_pid}"))?;
    let foreign = Stray::new(&format!("another-stray-{dead_pid}"))?;
    // One whose processes the kernel does not list.
    let threads = stray.0.join("threads");
    fs::create_dir(&threads)?;
    fs::write(threads.join("cgroup.type"), "threaded")?;
    let mut left = Command::new(binary("enforcer-actor")?)
        .arg(&stray.0)
        .args(["exec", "sleep", "1000"])
        .stdin(Stdio::null())
        .spawn()?;

    let directory = living.directory().to_path_buf();
    let pinned_on = living.make_cgroup("pinned")?;
    // A thread with mounts of its own, which the kernel removes with everything pinned there.
    let cleaned = thread::spawn(move || with_pins(&directory, &pinned_on));
    let output = cleaned.join().map_err(|_panic| anyhow!("the thread panicked"))??;
    let said = String::from_utf8(output.stdout)?;
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));

    assert!(!stray.0.exists(), "{said}");
    assert!(!left.wait()?.success(), "the process in it was killed");
    assert!(foreign.0.exists() && living.cgroup().exists(), "{said}");
    assert!(said.contains(&format!("removed    cgroup /enforcer-test-stray-{dead_pid}\n")), "{said}");
    // One for each hook, and two that follow cgroups where the kernel lets them.
    let held = leftovers::attachments()?;
    let attached = held.iter().filter(|found| found.holders.contains(&daemon.pid())).count();
    assert!(attached >= Hook::ALL.len(), "{held:?}");
    let spared = format!("left alone process {}, which holds {} attached programs", daemon.pid(), attached);
    assert!(said.contains(&spared), "{said}");

    // The living one enforces as before.
    let connect = Request::Connect { to: at, transport: Transport::Tcp, mapped: false };
    let refused = web.ask(&connect)?;
    assert!(refused.is_refused(), "{refused:?}");
    daemon.wait_for(|record| record["verdict"] == "deny")?;
    daemon.stop()?.check_totals()
}

/// Pins a link and a map below the name of ours, and a map elsewhere; then cleans, and looks at what is left.
fn with_pins(directory: &Path, cgroup: &Path) -> anyhow::Result<Output> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount::<str, str, str, str>(None, "/", None, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)?;
    let bpf = directory.join("bpf");
    fs::create_dir(&bpf)?;
    mount::<str, Path, str, str>(Some("bpf"), &bpf, Some("bpf"), MsFlags::empty(), None)?;
    let (ours, elsewhere) = (bpf.join("enforcer-test-leftovers"), bpf.join("somebody"));
    // Enforcement that goes on as it is meant to, and a test that is under way.
    let (meant, alive) = (bpf.join("enforcer"), bpf.join(format!("enforcer-test-x-{}", std::process::id())));
    for directory in [&ours, &elsewhere, &meant, &alive] {
        fs::create_dir(directory)?;
    }

    let mut object = EbpfLoader::new().load(OBJECT)?;
    object.map(names::ACTIVE).context("no such map")?.pin(ours.join("ACTIVE"))?;
    for directory in [&elsewhere, &meant, &alive] {
        object.map(names::ACTIVE).context("no such map")?.pin(directory.join("ACTIVE"))?;
    }
    let link = pin_link(&mut object, cgroup, &ours.join("link"))?;
    // The fate of a daemon that was killed: its descriptors are closed, its pins are not.
    drop(link);
    drop(object);
    let attached = |attachments: &[leftovers::Attachment]| {
        attachments.iter().filter(|found| found.holders.is_empty()).count()
    };
    ensure!(attached(&leftovers::attachments()?) >= 1, "the pinned link is not found");

    let output = Command::new(binary("enforcer-clean-kernel")?).stdin(Stdio::null()).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(!ours.exists(), "pins of ours are left: {said}");
    ensure!(elsewhere.join("ACTIVE").exists(), "a pin of somebody else was removed: {said}");
    ensure!(meant.join("ACTIVE").exists() && alive.join("ACTIVE").exists(), "{said}");
    ensure!(said.contains("`enforcer detach` ends enforcement"), "{said}");
    ensure!(said.contains("link (sock_create)"), "{said}");
    Ok(output)
}

fn pin_link(object: &mut Ebpf, cgroup: &Path, at: &Path) -> anyhow::Result<PinnedLink> {
    let program = object.program_mut(Hook::SockCreate.name()).context("no such program")?;
    let program: &mut CgroupSock = program.try_into()?;
    program.load()?;
    let id = program.attach(fs::File::open(cgroup)?, aya::programs::CgroupAttachMode::Single)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    Ok(link.pin(at)?)
}
