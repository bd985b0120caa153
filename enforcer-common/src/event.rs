//! What the ring buffer carries: one fixed-size record per decision or cgroup, and its safe reading on the host.

use crate::{Address, Hook, Identity, Mode, Port, Protocol, Reason, RuleId, Verdict};

/// Changes with every change to a layout in this file, so that a newer host knows which rings it can read.
pub const EVENT_LAYOUT: u32 = 1;

/// One decision, as a program writes it. What a hook does not know is marked in `flags`, never by a magic value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct Event {
    /// Nanoseconds of `CLOCK_MONOTONIC`.
    pub at: u64,
    /// cgroup v2 id of the caller; with [`Event::CALLER_CGROUP`].
    pub caller_cgroup: u64,
    /// cgroup v2 id of the answerer; with [`Event::ANSWERER_CGROUP`].
    pub answerer_cgroup: u64,
    /// Identity of the caller.
    pub caller: u32,
    /// Identity of the answerer.
    pub answerer: u32,
    /// Policy revision that decided.
    pub revision: u32,
    /// The rule that allows it; with [`Event::RULE`].
    pub rule: u32,
    /// Process id in the initial pid namespace; with [`Event::PROCESS`].
    pub pid: u32,
    /// Real user id; with [`Event::PROCESS`].
    pub uid: u32,
    /// The caller's address; with [`Event::CALLER_ADDRESS`].
    pub caller_address: Address,
    /// The answerer's address; with [`Event::ANSWERER_ADDRESS`].
    pub answerer_address: Address,
    /// The caller's port; with [`Event::CALLER_ADDRESS`].
    pub caller_port: [u8; 2],
    /// The answerer's port; with [`Event::ANSWERER_ADDRESS`].
    pub answerer_port: [u8; 2],
    /// [`Hook`] number.
    pub hook: u8,
    /// [`Protocol`] number.
    pub protocol: u8,
    /// [`Verdict`] number.
    pub verdict: u8,
    /// [`Mode`] number.
    pub mode: u8,
    /// [`Reason`] number.
    pub reason: u8,
    /// Which optional fields hold something.
    pub flags: u8,
    /// Command name of the task, NUL padded; with [`Event::PROCESS`].
    pub comm: [u8; 16],
    /// Keeps the size a multiple of eight; always zero.
    pub _pad: [u8; 6],
}

const _: () = assert!(size_of::<Event>() == 112);

impl Event {
    /// `caller_cgroup` holds something.
    pub const CALLER_CGROUP: u8 = 1;
    /// `answerer_cgroup` holds something.
    pub const ANSWERER_CGROUP: u8 = 2;
    /// `caller_address` and `caller_port` hold something.
    pub const CALLER_ADDRESS: u8 = 4;
    /// `answerer_address` and `answerer_port` hold something.
    pub const ANSWERER_ADDRESS: u8 = 8;
    /// `pid`, `uid` and `comm` hold something: the hook runs in the task that makes the attempt.
    pub const PROCESS: u8 = 16;
    /// `rule` holds something.
    pub const RULE: u8 = 32;

    /// Bytes of one event.
    pub const SIZE: usize = size_of::<Self>();

    const ALL_FLAGS: u8 = 63;

    /// Reads an event from the bytes of a ring-buffer record.
    ///
    /// # Errors
    ///
    /// Names the first thing about `bytes` that no program of this version writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidEvent> {
        let mut fields = Fields(bytes);
        let event = Self {
            at: u64::from_ne_bytes(fields.take()?),
            caller_cgroup: u64::from_ne_bytes(fields.take()?),
            answerer_cgroup: u64::from_ne_bytes(fields.take()?),
            caller: u32::from_ne_bytes(fields.take()?),
            answerer: u32::from_ne_bytes(fields.take()?),
            revision: u32::from_ne_bytes(fields.take()?),
            rule: u32::from_ne_bytes(fields.take()?),
            pid: u32::from_ne_bytes(fields.take()?),
            uid: u32::from_ne_bytes(fields.take()?),
            caller_address: Address::new(fields.take()?),
            answerer_address: Address::new(fields.take()?),
            caller_port: fields.take()?,
            answerer_port: fields.take()?,
            hook: fields.byte()?,
            protocol: fields.byte()?,
            verdict: fields.byte()?,
            mode: fields.byte()?,
            reason: fields.byte()?,
            flags: fields.byte()?,
            comm: fields.take()?,
            _pad: fields.take()?,
        };
        if !fields.0.is_empty() {
            return Err(InvalidEvent::Size(bytes.len()));
        }
        if Hook::from_raw(event.hook).is_none() {
            return Err(InvalidEvent::Hook(event.hook));
        }
        if Verdict::from_raw(event.verdict).is_none() {
            return Err(InvalidEvent::Verdict(event.verdict));
        }
        if Reason::from_raw(event.reason).is_none() {
            return Err(InvalidEvent::Reason(event.reason));
        }
        if event.flags & !Self::ALL_FLAGS != 0 {
            return Err(InvalidEvent::Flags(event.flags));
        }
        Ok(event)
    }

    const fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// The hook that decided; `None` only for an event that [`Event::parse`] did not return.
    pub fn hook(&self) -> Option<Hook> {
        Hook::from_raw(self.hook)
    }

    /// The verdict; `None` only for an event that [`Event::parse`] did not return.
    pub const fn verdict(&self) -> Option<Verdict> {
        Verdict::from_raw(self.verdict)
    }

    /// The reason; `None` only for an event that [`Event::parse`] did not return.
    pub const fn reason(&self) -> Option<Reason> {
        Reason::from_raw(self.reason)
    }

    /// How a denial was handled.
    pub const fn mode(&self) -> Mode {
        Mode::from_raw(self.mode)
    }

    /// The protocol of the flow or socket.
    pub const fn protocol(&self) -> Protocol {
        Protocol(self.protocol)
    }

    /// Who calls.
    pub const fn caller(&self) -> Identity {
        Identity::from_raw(self.caller)
    }

    /// Who would answer.
    pub const fn answerer(&self) -> Identity {
        Identity::from_raw(self.answerer)
    }

    /// The rule that allows it, if one does.
    pub const fn rule(&self) -> Option<RuleId> {
        if self.has(Self::RULE) { Some(RuleId(self.rule)) } else { None }
    }

    /// The caller's cgroup, if the hook knew it.
    pub const fn caller_cgroup(&self) -> Option<u64> {
        if self.has(Self::CALLER_CGROUP) { Some(self.caller_cgroup) } else { None }
    }

    /// The answerer's cgroup, if the hook knew it.
    pub const fn answerer_cgroup(&self) -> Option<u64> {
        if self.has(Self::ANSWERER_CGROUP) { Some(self.answerer_cgroup) } else { None }
    }

    /// The caller's address and port, if the hook knew them.
    pub const fn caller_endpoint(&self) -> Option<(Address, Port)> {
        if self.has(Self::CALLER_ADDRESS) {
            Some((self.caller_address, Port(self.caller_port)))
        } else {
            None
        }
    }

    /// The answerer's address and port, if the hook knew them.
    pub const fn answerer_endpoint(&self) -> Option<(Address, Port)> {
        if self.has(Self::ANSWERER_ADDRESS) {
            Some((self.answerer_address, Port(self.answerer_port)))
        } else {
            None
        }
    }

    /// Process id, user id and command name of the task, if the hook ran in it.
    pub fn process(&self) -> Option<(u32, u32, &[u8])> {
        let end = self.comm.iter().position(|byte| *byte == 0).unwrap_or(self.comm.len());
        let comm = self.comm.split_at(end).0;
        if self.has(Self::PROCESS) { Some((self.pid, self.uid, comm)) } else { None }
    }
}

/// Word of a cgroup that was made or is gone, from the programs on its tracepoints.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct CgroupEvent {
    /// Its id.
    pub id: u64,
    /// Its parent's id.
    pub parent: u64,
    /// 1 if it was made, 0 if it is gone and nothing refers to it any more.
    pub made: u32,
    /// Bytes of its name.
    pub length: u32,
    /// Its name, as bytes; not of any encoding.
    pub name: [u8; Self::NAME],
}

const _: () = assert!(size_of::<CgroupEvent>() == 280);

impl CgroupEvent {
    /// Room for a name and the NUL behind it.
    pub const NAME: usize = crate::claims::MAX_NAME + 1;

    /// Bytes of one event.
    pub const SIZE: usize = size_of::<Self>();

    /// Reads an event from the bytes of a ring-buffer record.
    ///
    /// # Errors
    ///
    /// Names the first thing about `bytes` that no program of this version writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidEvent> {
        let mut fields = Fields(bytes);
        let event = Self {
            id: u64::from_ne_bytes(fields.take()?),
            parent: u64::from_ne_bytes(fields.take()?),
            made: u32::from_ne_bytes(fields.take()?),
            length: u32::from_ne_bytes(fields.take()?),
            name: fields.take()?,
        };
        if !fields.0.is_empty() {
            return Err(InvalidEvent::Size(bytes.len()));
        }
        Ok(event)
    }

    /// The cgroup's name.
    pub fn name(&self) -> &[u8] {
        let end = usize::try_from(self.length).unwrap_or(0).min(crate::claims::MAX_NAME);
        self.name.split_at(end).0
    }
}

/// Word of a network namespace that the host has not taken in, from a process that calls or binds in it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub struct NamespaceEvent {
    /// Its cookie.
    pub cookie: u64,
    /// Process id of the task, in the initial pid namespace.
    pub pid: u64,
}

const _: () = assert!(size_of::<NamespaceEvent>() == 16);

impl NamespaceEvent {
    /// Bytes of one event.
    pub const SIZE: usize = size_of::<Self>();

    /// Reads an event from the bytes of a ring-buffer record.
    ///
    /// # Errors
    ///
    /// Names the first thing about `bytes` that no program of this version writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidEvent> {
        let mut fields = Fields(bytes);
        let event =
            Self { cookie: u64::from_ne_bytes(fields.take()?), pid: u64::from_ne_bytes(fields.take()?) };
        if fields.0.is_empty() { Ok(event) } else { Err(InvalidEvent::Size(bytes.len())) }
    }
}

/// What the ring buffer carries, told apart by its size.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Message {
    /// A decision.
    Decision(Event),
    /// A cgroup that was made or is gone.
    Cgroup(CgroupEvent),
    /// A network namespace that is not known.
    Namespace(NamespaceEvent),
}

impl Message {
    /// Reads a message from the bytes of a ring-buffer record.
    ///
    /// # Errors
    ///
    /// Names the first thing about `bytes` that no program of this version writes.
    pub fn parse(bytes: &[u8]) -> Result<Self, InvalidEvent> {
        match bytes.len() {
            CgroupEvent::SIZE => CgroupEvent::parse(bytes).map(Self::Cgroup),
            NamespaceEvent::SIZE => NamespaceEvent::parse(bytes).map(Self::Namespace),
            _ => Event::parse(bytes).map(Self::Decision),
        }
    }
}

/// Why bytes are not an [`Event`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum InvalidEvent {
    /// There are this many of them.
    Size(usize),
    /// No hook has this number.
    Hook(u8),
    /// No verdict has this number.
    Verdict(u8),
    /// No reason has this number.
    Reason(u8),
    /// Some of these flags have no meaning.
    Flags(u8),
}

impl core::fmt::Display for InvalidEvent {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Size(size) => write!(f, "read event: {size} bytes instead of {}", Event::SIZE),
            Self::Hook(raw) => write!(f, "read event: no hook has number {raw}"),
            Self::Verdict(raw) => write!(f, "read event: no verdict has number {raw}"),
            Self::Reason(raw) => write!(f, "read event: no reason has number {raw}"),
            Self::Flags(raw) => write!(f, "read event: flags {raw:#04x} have no meaning"),
        }
    }
}

impl core::error::Error for InvalidEvent {}

struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], InvalidEvent> {
        let (field, rest) = self.0.split_first_chunk::<N>().ok_or(InvalidEvent::Size(self.0.len()))?;
        self.0 = rest;
        Ok(*field)
    }

    fn byte(&mut self) -> Result<u8, InvalidEvent> {
        self.take::<1>().map(|[byte]| byte)
    }
}

#[cfg(test)]
mod tests {
    use super::{Event, InvalidEvent};

    fn valid() -> [u8; Event::SIZE] {
        let mut bytes = [0; Event::SIZE];
        bytes[84] = 1;
        bytes[86] = 2;
        bytes
    }

    #[test]
    fn the_parser_reads_fields_where_the_struct_has_them() {
        assert_eq!(core::mem::offset_of!(Event, hook), 84);
        assert_eq!(core::mem::offset_of!(Event, verdict), 86);
        let mut bytes = valid();
        for (index, byte) in bytes.iter_mut().enumerate().take(84) {
            *byte = u8::try_from(index).expect("below 84");
        }
        bytes[89] = 63;
        bytes[90..106].copy_from_slice(b"comm\0\0\0\0\0\0\0\0\0\0\0\0");
        let event = Event::parse(&bytes).expect("valid");
        assert_eq!(event.at.to_ne_bytes(), [0, 1, 2, 3, 4, 5, 6, 7]);
        assert_eq!(event.uid.to_ne_bytes(), [44, 45, 46, 47]);
        assert_eq!(event.caller_address.bytes()[0], 48);
        assert_eq!(event.answerer_port, [82, 83]);
        assert_eq!(event.process().map(|(_, _, comm)| comm), Some(&b"comm"[..]));
    }

    #[test]
    fn every_other_length_is_refused() {
        let bytes = [0; Event::SIZE + 8];
        for length in (0..=bytes.len()).filter(|length| *length != Event::SIZE) {
            assert!(matches!(Event::parse(&bytes[..length]), Err(InvalidEvent::Size(_))), "{length}");
        }
    }

    #[test]
    fn numbers_without_meaning_are_refused() {
        for (offset, raw, error) in [
            (84, 0, InvalidEvent::Hook(0)),
            (84, 12, InvalidEvent::Hook(12)),
            (86, 0, InvalidEvent::Verdict(0)),
            (88, 18, InvalidEvent::Reason(18)),
            (89, 64, InvalidEvent::Flags(64)),
        ] {
            let mut bytes = valid();
            bytes[offset] = raw;
            assert_eq!(Event::parse(&bytes), Err(error));
        }
    }

    #[test]
    fn what_is_not_marked_is_absent() {
        let event = Event::parse(&valid()).expect("valid");
        assert_eq!(event.caller_cgroup(), None);
        assert_eq!(event.answerer_cgroup(), None);
        assert_eq!(event.caller_endpoint(), None);
        assert_eq!(event.answerer_endpoint(), None);
        assert_eq!(event.process(), None);
        assert_eq!(event.rule(), None);
    }
}
