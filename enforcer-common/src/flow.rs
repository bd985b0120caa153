//! A flow whose ends are identified: what is left to decide, in as few registers as the programs can hand it on in.

use crate::Asked;
use crate::facts::{Known, Port, Protocol};
use crate::layout::Owner;

/// Everything that decides about a flow but the rules.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Flow {
    /// Who opens it.
    pub from: Owner,
    /// Who would answer.
    pub to: Owner,
    /// How the answerer is known.
    pub known: Known,
    /// As in [`Facts`](crate::Facts).
    pub asked: Asked,
    /// Likewise.
    pub protocol: Protocol,
    /// Likewise.
    pub port: Port,
    /// Likewise.
    pub reply_port: Port,
}

impl Flow {
    /// The flow in four words: its ends, whom the answerer has asked, and the rest.
    #[inline(always)]
    pub const fn pack(&self) -> [u64; 4] {
        let ([a, b], [c, d]) = (self.port.0, self.reply_port.0);
        let rest = u64::from_le_bytes([a, b, c, d, self.protocol.0, self.known as u8, 0, 0]);
        [self.from.pack(), self.to.pack(), self.asked.bits(), rest]
    }

    /// Undoes [`pack`](Self::pack). What no flow is packed as enforces, and is of an unknown answerer.
    #[inline(always)]
    pub const fn unpack([from, to, asked, rest]: [u64; 4]) -> Self {
        let [a, b, c, d, protocol, known, ..] = rest.to_le_bytes();
        Self {
            from: Owner::unpack(from),
            to: Owner::unpack(to),
            known: Known::from_raw(known),
            asked: Asked::from_bits(asked),
            protocol: Protocol(protocol),
            port: Port([a, b]),
            reply_port: Port([c, d]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Flow;
    use crate::layout::Owner;
    use crate::{Asked, Identity, Known, Mode, Port, Protocol};

    #[test]
    fn a_flow_comes_out_as_it_was_packed() {
        let end = |raw, mode| Owner::new(Identity::from_raw(raw), mode);
        for known in
            [Known::Cgroup, Known::Below, Known::Address, Known::LeftToIngress, Known::Nobody, Known::Unknown]
        {
            for (from, to) in [
                (end(u32::MAX, Mode::Audit), end(0, Mode::Enforce)),
                (end(0x1234_5678, Mode::Enforce), end(0x9abc_def0, Mode::Audit)),
            ] {
                let flow = Flow {
                    from,
                    to,
                    known,
                    asked: Asked::NOBODY.and(Identity::WORLD),
                    protocol: Protocol(0xfe),
                    port: Port::new(0x1234),
                    reply_port: Port::new(0xabcd),
                };
                assert_eq!(Flow::unpack(flow.pack()), flow);
            }
        }
    }

    #[test]
    fn what_no_flow_is_packed_as_is_of_nobody_known_and_enforces() {
        let flow = Flow::unpack([u64::MAX, u64::MAX, 0, u64::MAX]);
        assert_eq!(
            (flow.known, flow.from.mode(), flow.to.mode()),
            (Known::Unknown, Mode::Enforce, Mode::Enforce)
        );
    }
}
