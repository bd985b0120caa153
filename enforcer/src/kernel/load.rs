//! Detect, load, fill, attach: in that order, all or nothing.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use aya::maps::{MapData, RingBuf};
use aya::programs::links::{FdLink, LinkError};
use aya::programs::{
    BtfTracePoint, CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr, Program,
    ProgramError,
};
use aya::{Btf, Ebpf, EbpfLoader};
use aya_log::EbpfLogger;
use enforcer_common::counter::Counter;
use enforcer_common::event::{InvalidEvent, Message};
use enforcer_common::layout::{Cgroup, Owner, SocketNote, TaskFields};
use enforcer_common::{Hook, names};
use thiserror::Error;

use super::btf;
use super::chain;
use super::feature::{self, Unsupported};
use super::ledger::{Ledger, LedgerMap, Tally};
use super::maps::{self, CgroupOwners, Counts, Entering, MapError, Maps};
use super::pins::{Book, PinError, Pins};
use super::sys;
use super::watch::Held;
use crate::failpoint;
use crate::namespaces::Views;
use crate::tables::Tables;

/// The object with all programs and maps, as it was built.
pub static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/enforcer-ebpf"));

/// Lines of the verifier's log that are shown when it refuses a program: its verdict stands at the end.
const VERIFIER_LINES: usize = 12;

/// How the programs are loaded and where they are attached.
#[derive(Clone, Debug)]
pub struct Options {
    /// The cgroup whose subtree is judged.
    pub cgroup_root: PathBuf,
    /// Whether that is the top of the tree.
    pub whole_tree: bool,
    /// Cookie of the network namespace whose ports and addresses the policy speaks of; 0 for every one.
    pub host_netns: u64,
    /// Whether permitted attempts are recorded too.
    pub log_allowed: bool,
    /// The most verbose level that the programs log at (1 error … 5 trace); 0 for none.
    pub kernel_log: u8,
}

/// Why the programs could not be put into the kernel.
#[derive(Debug, Error)]
pub enum LoadError {
    /// The host lacks something.
    #[error(transparent)]
    Unsupported(#[from] Unsupported),
    /// The kernel refused the object as a whole.
    #[error("load object: {0}")]
    Object(String),
    /// The kernel refused a program.
    #[error("load program {program}: {cause}")]
    Program {
        /// Its name.
        program: &'static str,
        /// The kernel's words.
        cause: String,
    },
    /// A program could not be attached.
    #[error("attach program {program} to {}: {cause}", .cgroup.display())]
    Attach {
        /// Its name.
        program: &'static str,
        /// Where to.
        cgroup: PathBuf,
        /// The kernel's words.
        cause: String,
    },
    /// The cgroup could not be opened.
    #[error("open cgroup {}: {cause}", .cgroup.display())]
    Cgroup {
        /// Which one.
        cgroup: PathBuf,
        /// Why not.
        cause: std::io::Error,
    },
    /// A map could not be used.
    #[error(transparent)]
    Map(#[from] MapError),
    /// What is to outlive the daemon could not be pinned, or what an earlier one has pinned not be used.
    #[error(transparent)]
    Pin(#[from] PinError),
}

impl LoadError {
    /// Whether the kernel does not take what enforcement is made of, rather than have no memory or room for it at present.
    pub fn is_of_the_kernel(&self) -> bool {
        match self {
            Self::Unsupported(lacking) => lacking.is_of_the_host(),
            Self::Program { .. } | Self::Attach { .. } => true,
            Self::Object(_) | Self::Cgroup { .. } | Self::Map(_) | Self::Pin(_) => false,
        }
    }
}

/// What is pinned, and so stays when the value is dropped.
pub(super) struct Pinned {
    pub(super) pins: Pins,
    ledger: LedgerMap,
    /// That of an earlier daemon which is being closed.
    book: Option<Book>,
    /// Those on the cgroup tracepoints, attached and not yet pinned.
    tracepoints: Vec<(&'static str, FdLink)>,
    /// Held so that it can be pinned again, and so that tools can tell whose the links are.
    pub(super) held: Held,
}

/// Programs and maps in the kernel. Dropping it detaches what is not pinned.
pub struct Enforcement {
    pub(super) object: Ebpf,
    maps: Maps,
    ring: RingBuf<MapData>,
    logger: Option<EbpfLogger<&'static dyn log::Log>>,
    pub(super) options: Options,
    identifies_cgroups: bool,
    pub(super) pinned: Option<Pinned>,
}

impl Enforcement {
    /// Puts programs and maps into the kernel, with an empty policy in force and nothing attached. With `pins`, the maps of
    /// an earlier daemon are taken where they are [adoptable](Pins::is_adoptable), with its policy in force, and its
    /// programs stay attached.
    ///
    /// # Errors
    ///
    /// What the host lacks or the kernel refuses; nothing is left in the kernel then but what was there before.
    pub fn load(options: Options, mut pins: Option<Pins>) -> Result<Self, LoadError> {
        feature::require()?;
        let types = btf::running_kernel();
        let offsets = types.as_ref().map_err(ToString::to_string);
        let offsets = offsets.and_then(|types| btf::offsets(types).map_err(|err| err.to_string()));
        let known = offsets.clone().unwrap_or_default();
        let task = types.ok().filter(|_| feature::shows_tasks()).and_then(|types| {
            // Without them the programs ask for the same by helpers.
            btf::task_fields(&types).map_err(|err| log::debug!("read a task's fields: {err}")).ok()
        });
        let task = task.unwrap_or_default();
        let whole_tree = u8::from(options.whole_tree);
        let paths = pins.as_mut().map(Pins::map_paths).transpose()?.unwrap_or_default();
        let load = |task: TaskFields| {
            let mut loader = EbpfLoader::new();
            for (name, path) in &paths {
                loader.map_pin_path(name, path);
            }
            let mut object = loader
                .override_global(names::HOST_NETNS, &options.host_netns, true)
                .override_global(names::WHOLE_TREE, &whole_tree, true)
                .override_global(names::OFFSETS, &known, true)
                .override_global(names::TASK_FIELDS, &task, true)
                .override_global(names::AYA_LOG_LEVEL, &options.kernel_log, true)
                .override_global(names::NEGATED, &failpoint::negated(), false)
                .load(&failpoint::object(OBJECT).map_err(|err| LoadError::Object(err.to_string()))?)
                .map_err(|err| LoadError::Object(chain(&err)))?;
            for hook in Hook::ALL {
                load_program(&mut object, hook)?;
            }
            Ok(object)
        };
        let mut object = match load(task) {
            Err(err @ LoadError::Program { .. }) if task.are_known() => {
                log::warn!(
                    "ask for a task's fields by helpers, since the kernel does not let them be read: {err}"
                );
                load(TaskFields::default())?
            }
            loaded => loaded?,
        };
        let logger = match options.kernel_log {
            0 => None,
            _ => Some(EbpfLogger::init(&mut object).map_err(|err| LoadError::Object(chain(&err)))?),
        };
        failpoint::pass("programs-loaded");
        let maps = match &pins {
            Some(pins) if pins.is_adoptable() => Maps::adopt(&mut object)?,
            Some(_) | None => Maps::take(&mut object)?,
        };
        let ring = maps::ring(&mut object)?;
        let attached = offsets.and_then(|_| attach_tracepoints(&mut object, pins.is_some()));
        let (identifies_cgroups, tracepoints) = match attached {
            Ok(tracepoints) => (true, tracepoints),
            Err(cause) => {
                log::warn!("identify cgroups in the kernel: {cause}");
                (false, Vec::new())
            }
        };
        let pinned = match pins {
            None => None,
            Some(pins) => {
                let ledger = pins.ledger()?;
                Some(Pinned { pins, ledger, book: None, tracepoints, held: Held::default() })
            }
        };
        Ok(Self { object, maps, ring, logger, options, identifies_cgroups, pinned })
    }

    /// The revision of the policy in force.
    ///
    /// # Errors
    ///
    /// The map is gone.
    pub fn revision(&self) -> Result<u32, MapError> {
        self.maps.revision()
    }

    /// Puts a policy in force with one store; if it fails, the one before stays in force. `enter_cgroups` enters every
    /// cgroup into what it is given, each before its children are listed. When this returns, nothing is decided by the one
    /// before any longer.
    ///
    /// # Errors
    ///
    /// Which map could not be written, or did not read back as it was written, or what `enter_cgroups` failed with.
    pub fn install<E: From<MapError>>(
        &mut self,
        tables: &Tables,
        enter_cgroups: impl FnOnce(&mut Entering<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.maps.install(tables, enter_cgroups)?;
        // It is in force, whatever comes of this.
        if let Err(err) = self.maps.await_programs() {
            log::error!("wait for what began by the policy before: {err}");
        }
        Ok(())
    }

    /// Does what putting the next policy in force begins with and does not depend on it.
    ///
    /// # Errors
    ///
    /// The kernel has no memory for it. Putting a policy in force tries it again.
    pub fn make_ready(&mut self) -> Result<(), MapError> {
        self.maps.empty_idle()
    }

    /// What is in force as it was written, to be [checked](maps::Held::check) beside; nothing if an earlier daemon has written it.
    pub fn held(&self) -> Option<Arc<maps::Held>> {
        self.maps.held()
    }

    /// Has the next policies written in full, whatever was written before.
    pub fn distrust(&mut self) {
        self.maps.distrust();
    }

    /// Whether nothing new is permitted at present, since decisions cannot be told.
    ///
    /// # Errors
    ///
    /// The map is gone.
    pub fn refuses_new(&self) -> Result<bool, MapError> {
        self.maps.refuses_new()
    }

    /// Permits nothing new from now on, if the policy in force wants that while decisions cannot be told, or again what it
    /// permits. Returns whether this changes anything.
    ///
    /// # Errors
    ///
    /// The map is gone.
    pub fn refuse_new(&mut self, refuse: bool) -> Result<bool, MapError> {
        self.maps.refuse_new(refuse)
    }

    /// Whether the kernel itself identifies new cgroups, before a process can be in them. Otherwise the host must watch
    /// the tree and say [`set_cgroup`](Self::set_cgroup).
    pub fn identifies_cgroups(&self) -> bool {
        self.identifies_cgroups
    }

    /// Attaches every hook, or none. Where they are pinned, the programs take the places of those of an earlier daemon, each
    /// in one store; when this returns, none of the earlier ones runs any longer.
    ///
    /// # Errors
    ///
    /// Which hook could not be attached; those before it are detached again when the value is dropped, unless they are
    /// pinned: then they stay, and judge by the policy in force.
    pub fn attach(&mut self) -> Result<(), LoadError> {
        let path = &self.options.cgroup_root;
        let opened = File::open(path).and_then(|cgroup| Ok((cgroup.metadata()?.ino(), cgroup)));
        let (id, cgroup) = opened.map_err(|cause| LoadError::Cgroup { cgroup: path.clone(), cause })?;
        // Not earlier: if the start fails, the programs of an earlier daemon go on as they were told.
        self.maps.tell(self.options.log_allowed, self.options.kernel_log != 0)?;
        if let Some(pinned) = &mut self.pinned {
            pinned.pins.complete()?;
            pinned.pins.place_ledger(&mut pinned.ledger)?;
            // Beside those of the earlier daemon, which go on filling its maps while its hooks read these.
            for (name, link) in pinned.tracepoints.drain(..) {
                pinned.held.links.insert(name, pinned.pins.stage_link(name, link)?);
            }
        }
        // All links before the first pin: what fails or ends before that leaves nothing attached that was not before.
        let mut fresh = Vec::new();
        for hook in Hook::ALL {
            let failed = |cause| LoadError::Attach { program: hook.name(), cgroup: path.clone(), cause };
            let old =
                self.pinned.as_ref().map(|pinned| pinned.pins.link(hook.name(), id)).transpose()?.flatten();
            if let Some(link) = old {
                let program = self.object.program(hook.name()).ok_or_else(|| failed(undefined()))?;
                let program = program.fd().map_err(|err| failed(chain(&err)))?;
                match sys::replace_program(link.as_fd(), program.as_fd()) {
                    Ok(()) => {
                        if let Some(pinned) = &mut self.pinned {
                            pinned.held.links.insert(hook.name(), link);
                        }
                        failpoint::pass("links-updated");
                        continue;
                    }
                    // It was detached by somebody.
                    Err(err) => log::warn!("replace program {}: {err}", hook.name()),
                }
            }
            let link =
                attach_program(&mut self.object, hook, &cgroup, self.pinned.is_some()).map_err(failed)?;
            fresh.extend(link.map(|link| (hook, link)));
            failpoint::pass("link-attached");
        }
        if let Some(pinned) = &mut self.pinned {
            for (hook, link) in fresh {
                pinned.held.links.insert(hook.name(), pinned.pins.stage_link(hook.name(), link)?);
                pinned.pins.place_link(hook.name())?;
            }
            for name in [names::CGROUP_MKDIR, names::CGROUP_RELEASE] {
                pinned.pins.place_link(name)?;
            }
            // When those of an earlier daemon have ended, which may have kept what they decided by the tables that are in force now.
            self.maps.await_programs()?;
            self.maps.forget_verdicts()?;
            pinned.pins.remove_old_maps()?;
            pinned.held.hold_maps(pinned.pins.pinned_maps())?;
            failpoint::pass("swapped");
        }
        Ok(())
    }

    /// Says that the start has come to its end: from now on what is pinned stays. Before that, the value takes with it what
    /// it was the first to pin.
    pub fn commit(&mut self) {
        if let Some(pinned) = &mut self.pinned {
            pinned.pins.commit();
        }
    }

    /// Whether the programs stay attached when this process ends.
    pub fn outlives_us(&self) -> bool {
        self.pinned.is_some()
    }

    /// Goes on to the oldest book of an earlier daemon that is open. Returns whether there is one.
    ///
    /// # Errors
    ///
    /// It cannot be opened.
    pub fn open_left_book(&mut self) -> Result<bool, PinError> {
        let Some(pinned) = &mut self.pinned else { return Ok(false) };
        if pinned.book.is_none() {
            pinned.book = pinned.pins.oldest_book(pinned.ledger.get()?.first_open)?;
        }
        Ok(pinned.book.is_some())
    }

    /// The next message that waits in the ring of that book.
    pub fn next_left_message(&mut self) -> Option<Result<Message, InvalidEvent>> {
        self.pinned.as_mut()?.book.as_mut()?.next()
    }

    /// Events that its programs put into the ring, and events for which that had no room. None of these programs runs any
    /// longer, so it is final.
    ///
    /// # Errors
    ///
    /// A map is gone.
    pub fn left_events(&self) -> Result<(u64, u64), PinError> {
        let book = self.pinned.as_ref().and_then(|pinned| pinned.book.as_ref());
        book.map_or(Ok((0, 0)), Book::produced)
    }

    /// What has been told of the events in open books; `None` where nothing outlives the daemon.
    ///
    /// # Errors
    ///
    /// The map is gone.
    pub fn ledger(&self) -> Result<Option<Ledger>, PinError> {
        self.pinned.as_ref().map(|pinned| pinned.ledger.get()).transpose()
    }

    /// Counts records of what the daemon itself does.
    ///
    /// # Errors
    ///
    /// The map is gone.
    pub fn tally(&self) -> Result<Tally, PinError> {
        self.pinned.as_ref().map_or(Ok(Tally::default()), |pinned| pinned.ledger.tally())
    }

    /// Writes down what has been told.
    ///
    /// # Errors
    ///
    /// The map is gone.
    pub fn set_ledger(&mut self, ledger: Ledger) -> Result<(), PinError> {
        self.pinned.as_mut().map_or(Ok(()), |pinned| pinned.ledger.set(ledger))
    }

    /// Closes that book: everything in it has been told of. `ledger` is what is told of the next one's.
    ///
    /// # Errors
    ///
    /// It cannot be removed; it counts as closed none the less.
    pub fn close_left_book(&mut self, ledger: Ledger) -> Result<(), PinError> {
        let Some(pinned) = &mut self.pinned else { return Ok(()) };
        let Some(book) = pinned.book.take() else { return Ok(()) };
        pinned.ledger.set(Ledger { first_open: book.number() + 1, ..ledger })?;
        failpoint::pass("books-closed");
        book.remove()
    }

    /// Detaches every hook that is not pinned; maps and events stay readable.
    pub fn detach(&mut self) {
        if self.pinned.is_some() {
            return;
        }
        for hook in Hook::ALL {
            // An unloaded program takes its links with it.
            let unloaded = match self.object.program_mut(hook.name()) {
                Some(Program::CgroupSockAddr(program)) => program.unload(),
                Some(Program::CgroupSock(program)) => program.unload(),
                Some(Program::CgroupSkb(program)) => program.unload(),
                Some(_) | None => Ok(()),
            };
            if let Err(err) = unloaded {
                log::error!("detach program {}: {}", hook.name(), chain(&err));
            }
        }
    }

    /// Says in the policy in force whose a cgroup is.
    ///
    /// # Errors
    ///
    /// The map is full or gone; the cgroup stays unknown then, which is denied.
    pub fn set_cgroup(&mut self, id: u64, owner: Owner) -> Result<(), MapError> {
        self.maps.set_cgroup(id, owner)
    }

    /// What the policy in force says of a cgroup; `None` if it is not in the tables.
    pub fn cgroup(&self, id: u64) -> Option<Cgroup> {
        self.maps.cgroup(id)
    }

    /// Gives a cgroup of the policy in force another owner, if it is still there.
    ///
    /// # Errors
    ///
    /// The map is gone; the cgroup keeps its owner.
    pub fn set_owner(&mut self, id: u64, owner: Owner) -> Result<(), MapError> {
        self.maps.set_owner(id, owner)
    }

    /// Forgets a cgroup.
    ///
    /// # Errors
    ///
    /// The map is gone.
    pub fn remove_cgroup(&mut self, id: u64) -> Result<(), MapError> {
        self.maps.remove_cgroup(id)
    }

    /// Lets the programs keep verdicts again where they found no room for some since the last call; returns whether they did.
    ///
    /// # Errors
    ///
    /// A map is gone; such verdicts are made anew each time.
    pub fn make_room_for_verdicts(&mut self) -> Result<bool, MapError> {
        self.maps.make_room_for_verdicts()
    }

    /// Says which cgroup's a socket is, and in which network namespace, that is older than the hooks.
    ///
    /// # Errors
    ///
    /// There is no memory for it; the socket stays unknown then, which admits less.
    pub fn note_socket(&mut self, socket: &OwnedFd, note: SocketNote) -> Result<(), MapError> {
        self.maps.note_socket(socket, note)
    }

    /// Says what the network namespaces see of each other.
    ///
    /// # Errors
    ///
    /// A map is full or gone; what came over a device that could not be added counts as from an unknown peer then.
    pub fn set_views(&mut self, views: &Views) -> Result<(), MapError> {
        self.maps.set_views(views)
    }

    /// The network namespaces of which the programs have told, and that are still to be looked at.
    ///
    /// # Errors
    ///
    /// The map is gone.
    pub fn strangers(&self) -> Result<Vec<u64>, MapError> {
        self.maps.strangers()
    }

    /// Lets the programs tell of these namespaces again, should they still be unknown.
    ///
    /// # Errors
    ///
    /// The map is gone.
    pub fn forget_strangers(&mut self, cookies: &[u64]) -> Result<(), MapError> {
        self.maps.forget_strangers(cookies)
    }

    /// What the programs have counted since they were loaded.
    ///
    /// # Errors
    ///
    /// The map is gone.
    pub fn counts(&self) -> Result<Counts, MapError> {
        self.maps.counts()
    }

    /// One of these alone.
    ///
    /// # Errors
    ///
    /// The map is gone.
    pub fn count(&self, counter: Counter) -> Result<u64, MapError> {
        self.maps.count(counter)
    }

    /// The owners of cgroups in the policy in force.
    ///
    /// # Errors
    ///
    /// The map is gone, or this process may have no more descriptors.
    pub fn owners(&self) -> Result<CgroupOwners, MapError> {
        self.maps.owners()
    }

    /// The ids of the cgroups that the tables in force hold. One that comes or goes meanwhile may be missing.
    ///
    /// # Errors
    ///
    /// The map is gone.
    pub fn cgroups(&self) -> Result<Vec<u64>, MapError> {
        self.maps.cgroups()
    }

    /// Enters a cgroup into the tables in force, with the state of its path.
    ///
    /// # Errors
    ///
    /// The map is full or gone; the cgroup stays unknown then, which is denied.
    pub fn enter_cgroup(&mut self, id: u64, cgroup: Cgroup) -> Result<(), MapError> {
        self.maps.enter_cgroup(id, cgroup)
    }

    /// The next message that waits, if one does.
    pub fn next_message(&mut self) -> Option<Result<Message, InvalidEvent>> {
        self.ring.next().map(|bytes| Message::parse(&bytes))
    }

    /// Becomes readable when an event waits.
    pub fn events_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }

    /// Becomes readable when the programs have logged something; `None` if they do not log.
    pub fn log_fd(&self) -> Option<BorrowedFd<'_>> {
        self.logger.as_ref().map(AsFd::as_fd)
    }

    /// Hands what the programs have logged to the logger of this process.
    pub fn flush_log(&mut self) {
        if let Some(logger) = &mut self.logger {
            logger.flush();
        }
    }

    /// Per program: its name, the instructions that the verifier walked (kernel 5.16), and the bytes of the
    /// translated program.
    pub fn sizes(&self) -> Vec<(&'static str, Option<u32>, Option<u32>)> {
        Hook::ALL
            .map(Hook::name)
            .into_iter()
            .chain([names::CGROUP_MKDIR, names::CGROUP_RELEASE])
            .filter_map(|name| {
                let info = self.object.program(name)?.info().ok()?;
                Some((name, info.verified_instruction_count(), info.size_translated()))
            })
            .collect()
    }
}

fn load_program(object: &mut Ebpf, hook: Hook) -> Result<(), LoadError> {
    let program = object
        .program_mut(hook.name())
        .ok_or_else(|| LoadError::Program { program: hook.name(), cause: undefined() })?;
    let loaded = match hook {
        Hook::Connect4 | Hook::Connect6 | Hook::Sendmsg4 | Hook::Sendmsg6 | Hook::Bind4 | Hook::Bind6 => {
            <&mut CgroupSockAddr>::try_from(program).and_then(CgroupSockAddr::load)
        }
        Hook::PostBind4 | Hook::PostBind6 | Hook::SockCreate => {
            <&mut CgroupSock>::try_from(program).and_then(CgroupSock::load)
        }
        Hook::Ingress | Hook::Egress => <&mut CgroupSkb>::try_from(program).and_then(CgroupSkb::load),
    };
    loaded.map_err(|err| LoadError::Program { program: hook.name(), cause: shortened(&chain(&err)) })
}

fn undefined() -> String {
    String::from("the object does not define it")
}

/// Loads and attaches the programs that identify cgroups. They are attached before the tree is scanned, so that a
/// cgroup is seen by the scan or by them. Returns their links if these are to be `taken` from the object.
///
/// The program of such a link cannot be replaced, so those of an earlier daemon run beside these until the hooks are
/// replaced; where the maps are the same, both enter the same.
fn attach_tracepoints(object: &mut Ebpf, taken: bool) -> Result<Vec<(&'static str, FdLink)>, String> {
    let mut links = Vec::new();
    let types = Btf::from_sys_fs().map_err(|err| chain(&err))?;
    for tracepoint in [names::CGROUP_MKDIR, names::CGROUP_RELEASE] {
        let program = object
            .program_mut(tracepoint)
            .ok_or_else(|| format!("the object does not define {tracepoint}"))?;
        let program: &mut BtfTracePoint =
            program.try_into().map_err(|err: aya::programs::ProgramError| chain(&err))?;
        program
            .load(tracepoint, &types)
            .map_err(|err| format!("load {tracepoint}: {}", shortened(&chain(&err))))?;
        let failed = |err: ProgramError| format!("attach {tracepoint}: {}", chain(&err));
        let link = program.attach().map_err(failed)?;
        if taken {
            links.push((tracepoint, program.take_link(link).map_err(failed)?.into()));
        }
        failpoint::pass("tracepoint-attached");
    }
    Ok(links)
}

/// Attaches a program; returns its link if that is to be `taken` from the object, which else detaches it when dropped.
pub(super) fn attach_program(
    object: &mut Ebpf,
    hook: Hook,
    cgroup: &File,
    taken: bool,
) -> Result<Option<FdLink>, String> {
    let program: &mut Program = object.program_mut(hook.name()).ok_or_else(undefined)?;
    // A link is always of the "multi" kind: programs of others on the same hook go on running.
    let mode = CgroupAttachMode::Single;
    let failed = |err: ProgramError| chain(&err);
    match hook {
        Hook::Connect4 | Hook::Connect6 | Hook::Sendmsg4 | Hook::Sendmsg6 | Hook::Bind4 | Hook::Bind6 => {
            let program = <&mut CgroupSockAddr>::try_from(program).map_err(failed)?;
            let link = program.attach(cgroup, mode).map_err(failed)?;
            taken.then(|| of_its_own(program.take_link(link))).transpose()
        }
        Hook::PostBind4 | Hook::PostBind6 | Hook::SockCreate => {
            let program = <&mut CgroupSock>::try_from(program).map_err(failed)?;
            let link = program.attach(cgroup, mode).map_err(failed)?;
            taken.then(|| of_its_own(program.take_link(link))).transpose()
        }
        Hook::Ingress | Hook::Egress => {
            let program = <&mut CgroupSkb>::try_from(program).map_err(failed)?;
            let way = match hook {
                Hook::Egress => CgroupSkbAttachType::Egress,
                _ => CgroupSkbAttachType::Ingress,
            };
            let link = program.attach(cgroup, way, mode).map_err(failed)?;
            taken.then(|| of_its_own(program.take_link(link))).transpose()
        }
    }
}

/// A link that was taken from its program, so that it can be pinned.
fn of_its_own<L: TryInto<FdLink, Error = LinkError>>(
    taken: Result<L, ProgramError>,
) -> Result<FdLink, String> {
    taken.map_err(|err| chain(&err))?.try_into().map_err(|err| chain(&err))
}

/// The last lines of a long message, and how many were left out.
fn shortened(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    match lines.len().checked_sub(VERIFIER_LINES) {
        Some(left_out @ 1..) => {
            let (head, tail) = (lines[0], lines[left_out..].join("\n"));
            format!("{head}\n({left_out} lines left out)\n{tail}")
        }
        Some(0) | None => text.to_owned(),
    }
}
