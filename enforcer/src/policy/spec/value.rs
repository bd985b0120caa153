//! Scalars of the policy format: names, ports and address prefixes, each with what to write instead.

use std::net::{IpAddr, Ipv6Addr};

use enforcer_common::{Mode, Protocol};

use crate::policy::finding::{Problem, quoted};
use crate::policy::{Cidr, Existing, OnAuditLoss, OnUnsupported, PortRange};

/// Bytes of a name: it is a label in metrics and a key in maps.
const MAX_NAME: usize = 63;

/// Words that are no names: the reserved peers, and what an end without a known identity is called in records.
pub(super) const RESERVED: [&str; 4] = ["unmanaged", "world", "unknown", "pending"];

/// Protocols by the word that policies use.
const PROTOCOLS: [(&str, Protocol, bool); 7] = [
    ("tcp", Protocol::TCP, true),
    ("udp", Protocol::UDP, true),
    ("sctp", Protocol::SCTP, true),
    ("dccp", Protocol::DCCP, true),
    ("udplite", Protocol::UDPLITE, true),
    ("icmp", Protocol::ICMP, false),
    ("icmpv6", Protocol::ICMPV6, false),
];

/// Checks the form of a service's, network's or rule's name.
pub(super) fn check_name(text: &str) -> Result<(), Problem> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if first && text.len() <= MAX_NAME && text.bytes().all(allowed) {
        return Ok(());
    }
    let problem = Problem::new("invalid-name", format!("{} cannot be a name", quoted(text)));
    Err(problem
        .hint(format!("up to {MAX_NAME} of A-Z a-z 0-9 `_` `.` `-`, the first of them a letter or a digit")))
}

/// Whether a name reads like an address, which is what `enforcer check` would take it for.
pub(super) fn is_address(name: &str) -> bool {
    name.parse::<IpAddr>().is_ok()
}

/// Reads `enforce` or `audit`.
pub(super) fn parse_mode(text: &str) -> Result<Mode, Problem> {
    match text {
        "enforce" => Ok(Mode::Enforce),
        "audit" => Ok(Mode::Audit),
        _ => {
            let hint = suggest(text, ["enforce", "audit"])
                .unwrap_or_else(|| String::from("a mode is `enforce` or `audit`"));
            Err(Problem::new("unknown-mode", format!("no mode is called {}", quoted(text))).hint(hint))
        }
    }
}

/// Reads `refuse` or `open`.
pub(super) fn parse_on_unsupported(text: &str) -> Result<OnUnsupported, Problem> {
    match text {
        "refuse" => Ok(OnUnsupported::Refuse),
        "open" => Ok(OnUnsupported::Open),
        _ => {
            let hint = suggest(text, ["refuse", "open"])
                .unwrap_or_else(|| String::from("`on_unsupported` is `refuse` or `open`"));
            let message = format!("{} is no answer to a host that cannot enforce", quoted(text));
            Err(Problem::new("unknown-choice", message).hint(hint))
        }
    }
}

/// Reads `count` or `deny_new`.
pub(super) fn parse_on_audit_loss(text: &str) -> Result<OnAuditLoss, Problem> {
    match text {
        "count" => Ok(OnAuditLoss::Count),
        "deny_new" => Ok(OnAuditLoss::DenyNew),
        _ => {
            let hint = suggest(text, ["count", "deny_new"])
                .unwrap_or_else(|| String::from("`on_audit_loss` is `count` or `deny_new`"));
            let message = format!("{} is no answer to decisions that cannot be written down", quoted(text));
            Err(Problem::new("unknown-choice", message).hint(hint))
        }
    }
}

/// Reads `close`, `keep` or `audit`.
pub(super) fn parse_existing(text: &str) -> Result<Existing, Problem> {
    match text {
        "close" => Ok(Existing::Close),
        "keep" => Ok(Existing::Keep),
        "audit" => Ok(Existing::Audit),
        _ => {
            let hint = suggest(text, ["close", "keep", "audit"]).unwrap_or_else(|| {
                String::from("older connections are treated by `close`, `keep` or `audit`")
            });
            let message = format!("{} does not say what happens to older connections", quoted(text));
            Err(Problem::new("unknown-treatment", message).hint(hint))
        }
    }
}

/// Reads `N/proto`, `A-B/proto` or `proto`.
pub(super) fn parse_ports(text: &str) -> Result<PortRange, Problem> {
    let Some((range, word)) = text.split_once('/') else {
        if text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-') && !text.is_empty() {
            let problem = Problem::new("invalid-port", format!("{} names no protocol", quoted(text)));
            return Err(problem.hint(format!("write `{text}/tcp` or `{text}/udp`")));
        }
        return parse_protocol(text).map(|(protocol, _)| PortRange::Protocol(protocol));
    };
    if let (Some((_, true)), Ok(_)) = (protocol(range), word.parse::<u16>()) {
        let problem = Problem::new("invalid-port", format!("{} is the wrong way round", quoted(text)));
        return Err(problem.hint(format!("write `{word}/{range}`")));
    }
    let (protocol, has_ports) = parse_protocol(word)?;
    if !has_ports {
        let problem = Problem::new("protocol-without-ports", format!("{word} has no ports"));
        return Err(problem.hint(format!("write `{word}`")));
    }
    let (low_text, high_text) = range.split_once('-').unwrap_or((range, range));
    let low = parse_port(text, low_text, word)?;
    let high = parse_port(text, high_text, word)?;
    if low > high {
        let problem = Problem::new("reversed-range", format!("the range {} is reversed", quoted(range)));
        return Err(problem.hint(format!("write `{high}-{low}/{word}`")));
    }
    Ok(PortRange::Ports { protocol, low, high })
}

fn parse_port(text: &str, number: &str, word: &str) -> Result<u16, Problem> {
    if number.is_empty() || !number.bytes().all(|byte| byte.is_ascii_digit()) {
        let problem = Problem::new("invalid-port", format!("{} is not a port", quoted(text)));
        return Err(problem.hint(format!("write `8080/{word}`, `9000-9010/{word}` or `{word}`")));
    }
    let digits = number.trim_start_matches('0');
    if digits.is_empty() {
        let problem = Problem::new("invalid-port", "there is no port 0");
        return Err(problem.hint(format!("write `{word}` for every port, or a range that begins with 1")));
    }
    if digits.len() < number.len() {
        let problem = Problem::new("invalid-port", format!("{} begins with a zero", quoted(number)));
        return Err(problem.hint(format!("write `{digits}`")));
    }
    digits.parse().map_err(|error: std::num::ParseIntError| {
        // Digits only, so all that can be wrong is the size.
        debug_assert_eq!(*error.kind(), std::num::IntErrorKind::PosOverflow);
        Problem::new("invalid-port", format!("the port {} is too large", quoted(number)))
            .hint("ports end at 65535")
    })
}

fn parse_protocol(word: &str) -> Result<(Protocol, bool), Problem> {
    protocol(word).ok_or_else(|| {
        let names = PROTOCOLS.map(|(name, ..)| name);
        let hint = suggest(&word.to_ascii_lowercase(), names)
            .unwrap_or_else(|| format!("protocols are {}", names.join(", ")));
        Problem::new("unknown-protocol", format!("no protocol is called {}", quoted(word))).hint(hint)
    })
}

/// The protocol of that name, and whether it has ports.
fn protocol(word: &str) -> Option<(Protocol, bool)> {
    let found = PROTOCOLS.iter().find(|(name, ..)| *name == word);
    found.map(|(_, protocol, has_ports)| (*protocol, *has_ports))
}

/// Reads `address/prefix`.
pub(super) fn parse_cidr(text: &str) -> Result<Cidr, Problem> {
    let invalid = || Problem::new("invalid-cidr", format!("{} is not an address prefix", quoted(text)));
    let Some((address, prefix)) = text.split_once('/') else {
        let hint = match text.parse::<IpAddr>() {
            Ok(IpAddr::V4(_)) => format!("write `{text}/32`"),
            Ok(IpAddr::V6(_)) => format!("write `{text}/128`"),
            Err(_no_address) => String::from("write an address and a length, like `203.0.113.0/24`"),
        };
        return Err(invalid().hint(hint));
    };
    let hint = "write an address and a length, like `203.0.113.0/24` or `2001:db8::/32`";
    let digits = !prefix.is_empty() && prefix.len() <= 3 && prefix.bytes().all(|byte| byte.is_ascii_digit());
    if digits && prefix.len() > 1 && prefix.starts_with('0') {
        let shorter = prefix.trim_start_matches('0');
        let shorter = if shorter.is_empty() { "0" } else { shorter };
        let problem =
            Problem::new("invalid-cidr", format!("the length of {} begins with a zero", quoted(text)));
        return Err(problem.hint(format!("write `{address}/{shorter}`")));
    }
    let (Ok(address), Ok(prefix), true) = (address.parse::<IpAddr>(), prefix.parse::<u8>(), digits) else {
        return Err(invalid().hint(hint));
    };
    let (bits, value) = match address {
        IpAddr::V4(v4) => (32, u128::from(v4.to_bits()) << 96),
        IpAddr::V6(v6) => (128, v6.to_bits()),
    };
    if prefix > bits {
        return Err(invalid().hint(format!("the length ends at {bits}")));
    }
    let first = masked(value, prefix);
    let network = match address {
        IpAddr::V4(_) => {
            let octets = first.to_be_bytes();
            IpAddr::from([octets[0], octets[1], octets[2], octets[3]])
        }
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::from_bits(first)),
    };
    if let IpAddr::V6(v6) = network
        && let (Some(v4), 96..) = (v6.to_ipv4_mapped(), prefix)
    {
        let problem =
            Problem::new("mapped-cidr", format!("{} is IPv4 in the disguise of IPv6", quoted(text)));
        return Err(problem.hint(format!("write `{v4}/{}`; it covers both forms", prefix - 96)));
    }
    if first != value {
        let message = format!("{} has bits set beyond its length", quoted(text));
        let hint = format!("write `{network}/{prefix}`, or `{address}/{bits}` for the one address");
        return Err(Problem::new("host-bits", message).hint(hint));
    }
    Ok(Cidr { address: network, prefix })
}

/// Whether every address of a prefix means this host, on whatever host it is asked: loopback's and the unspecified ones.
pub(super) fn is_own(cidr: Cidr) -> bool {
    match cidr.address {
        IpAddr::V4(v4) => {
            (v4.is_loopback() && cidr.prefix >= 8) || (v4.is_unspecified() && cidr.prefix == 32)
        }
        IpAddr::V6(v6) => {
            (v6.is_loopback() && cidr.prefix == 128) || (v6.is_unspecified() && cidr.prefix >= 127)
        }
    }
}

/// The bits of an address that count, left-aligned for both families.
pub(super) fn masked(value: u128, prefix: u8) -> u128 {
    value & u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

/// "did you mean", if one of the known words is close enough to be meant.
pub(in crate::policy) fn suggest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(word, known).map(did_you_mean)
}

/// What a hint says of a word that is close enough.
pub(super) fn did_you_mean(word: &str) -> String {
    format!("did you mean `{word}`?")
}

/// The known word that is closest, if it is close enough to be meant.
pub(in crate::policy) fn nearest<'a>(
    word: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let length = word.chars().count();
    if length > 2 * MAX_NAME {
        return None;
    }
    // A third of the word may differ: more than that is another word, and so is one that has nothing in common with it.
    let most = (length / 3).max(1);
    known
        .into_iter()
        .filter(|candidate| candidate.len().abs_diff(word.len()) <= 4 * most)
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= most && *distance < length.max(candidate.len()))
        .min()
        .map(|(_, candidate)| candidate)
}

#[cfg(test)]
mod tests {
    use enforcer_common::Protocol;

    use super::{check_name, parse_cidr, parse_ports, suggest};
    use crate::policy::PortRange;

    #[test]
    fn ports() {
        let ports = |protocol, low, high| Some(PortRange::Ports { protocol, low, high });
        for (text, expected) in [
            ("8080/tcp", ports(Protocol::TCP, 8080, 8080)),
            ("1-65535/udp", ports(Protocol::UDP, 1, 65535)),
            ("7/sctp", ports(Protocol::SCTP, 7, 7)),
            ("7/dccp", ports(Protocol::DCCP, 7, 7)),
            ("7/udplite", ports(Protocol::UDPLITE, 7, 7)),
            ("tcp", Some(PortRange::Protocol(Protocol::TCP))),
            ("icmp", Some(PortRange::Protocol(Protocol::ICMP))),
            ("icmpv6", Some(PortRange::Protocol(Protocol::ICMPV6))),
            ("0/tcp", None),
            ("0-9/tcp", None),
            ("65536/tcp", None),
            ("99999999999999999999/tcp", None),
            ("9-8/tcp", None),
            ("1-2-3/tcp", None),
            ("-1/tcp", None),
            ("+1/tcp", None),
            ("1-/tcp", None),
            ("/tcp", None),
            ("1/", None),
            ("", None),
            (" 1/tcp", None),
            ("1/TCP", None),
            ("080/tcp", None),
            ("8/icmp", None),
            ("tcp/80", None),
            ("80", None),
            ("80-90", None),
            ("1/tcp/udp", None),
        ] {
            assert_eq!(parse_ports(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn cidrs() {
        for (text, expected) in [
            ("203.0.113.0/24", Ok("203.0.113.0/24")),
            ("0.0.0.0/0", Ok("0.0.0.0/0")),
            ("10.0.0.1/32", Ok("10.0.0.1/32")),
            ("::/0", Ok("::/0")),
            ("2001:db8:5::/48", Ok("2001:db8:5::/48")),
            ("2001:db8::1/128", Ok("2001:db8::1/128")),
            ("10.0.0.1/8", Err("host-bits")),
            ("2001:db8::1/127", Err("host-bits")),
            ("::ffff:10.0.0.0/104", Err("mapped-cidr")),
            ("::ffff:0:0/96", Err("mapped-cidr")),
            ("::ffff:10.0.0.1/104", Err("mapped-cidr")),
            ("10.0.0.0/33", Err("invalid-cidr")),
            ("::/129", Err("invalid-cidr")),
            ("10.0.0.0/-1", Err("invalid-cidr")),
            ("10.0.0.0/+8", Err("invalid-cidr")),
            ("10.0.0.0/", Err("invalid-cidr")),
            ("10.0.0.0/08", Err("invalid-cidr")),
            ("0.0.0.0/00", Err("invalid-cidr")),
            ("10.0.0/8", Err("invalid-cidr")),
            ("10.0.0.0", Err("invalid-cidr")),
            ("fe80::1%eth0/128", Err("invalid-cidr")),
            ("example.com/24", Err("invalid-cidr")),
            ("", Err("invalid-cidr")),
        ] {
            let found = parse_cidr(text).map(|cidr| format!("{}/{}", cidr.address, cidr.prefix));
            let found = found.as_deref().map_err(|problem| problem.code);
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn names() {
        let longest = "a".repeat(63);
        for name in ["a", "9", "web", "web-1.prod_x", longest.as_str()] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        let too_long = "a".repeat(64);
        for name in ["", "-a", ".a", "_a", "a b", "wéb", "a/b", "a\n", too_long.as_str()] {
            assert!(check_name(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn suggestions_are_close() {
        for (word, expected) in [
            ("order", Some("did you mean `orders`?")),
            ("ordesr", Some("did you mean `orders`?")),
            ("wbe", Some("did you mean `web`?")),
            ("payments", None),
            ("d", Some("did you mean `db`?")),
            ("*", None),
            ("", None),
        ] {
            assert_eq!(suggest(word, ["web", "orders", "db", "n"]).as_deref(), expected, "{word}");
        }
    }
}
