//! Each hook is taken off while the daemon runs, and what then goes wrong must be exactly what the hook is there for:
//! a suite that could not fail would not show it.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread;

use anyhow::Context as _;
use enforcer_common::Hook;
use enforcer_tests::actor::{Reply, Request, Transport};
use enforcer_tests::sandbox::{Actor, Neighbour, Sandbox};
use enforcer_tests::{bpftool, datagrams};
use nix::libc;

const POLICY: &str = "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
  db: { match: [{ cgroup: ROOT/db }], listens: [5432/tcp] }
allow:
  - { name: ledger, from: web, to: db, ports: [5432-5440/tcp, 5432-5440/udp] }
  - { name: notify, from: db, to: world, ports: [udp] }
  - { name: stream, from: web, to: world, ports: [5432/udplite] }
";

/// What an enforcer promises about one situation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Promise {
    /// The judged call itself fails with `EPERM`.
    Refused,
    /// Nobody answers.
    Unanswered,
    /// It works.
    Works,
}

impl Promise {
    fn is_kept(self, reply: &Reply) -> bool {
        match self {
            Self::Refused => reply.is_refused(),
            Self::Unanswered => !reply.is_ok(),
            Self::Works => reply.is_ok(),
        }
    }
}

struct Situation {
    name: &'static str,
    promise: Promise,
    /// The hooks without which the promise is broken, each by itself.
    broken_without: &'static [Hook],
    act: fn(&Stage) -> anyhow::Result<Reply>,
}

const SITUATIONS: &[Situation] = &[
    Situation {
        name: "TCP to another host over IPv4",
        promise: Promise::Refused,
        broken_without: &[Hook::Connect4],
        act: |stage| stage.connect(Neighbour::FAR.into(), Transport::Tcp, false),
    },
    Situation {
        name: "TCP to another host over IPv4, mapped",
        promise: Promise::Refused,
        broken_without: &[Hook::Connect6],
        act: |stage| stage.connect(Neighbour::FAR.into(), Transport::Tcp, true),
    },
    Situation {
        name: "TCP to another host over IPv6",
        promise: Promise::Refused,
        broken_without: &[Hook::Connect6],
        act: |stage| stage.connect(Neighbour::FAR6.into(), Transport::Tcp, false),
    },
    Situation {
        name: "connected UDP to another host over IPv4",
        promise: Promise::Refused,
        broken_without: &[Hook::Connect4],
        act: |stage| stage.connect(Neighbour::FAR.into(), Transport::Udp, false),
    },
    Situation {
        name: "connected UDP to another host over IPv4, mapped",
        promise: Promise::Refused,
        // Two hooks see it: for a mapped destination the kernel names it again with each datagram.
        broken_without: &[],
        act: |stage| stage.connect(Neighbour::FAR.into(), Transport::Udp, true),
    },
    Situation {
        name: "connected UDP to another host over IPv6",
        promise: Promise::Refused,
        broken_without: &[Hook::Connect6],
        act: |stage| stage.connect(Neighbour::FAR6.into(), Transport::Udp, false),
    },
    Situation {
        name: "unconnected UDP to another host over IPv4",
        promise: Promise::Refused,
        broken_without: &[Hook::Sendmsg4],
        act: |stage| stage.send(Neighbour::FAR.into(), false),
    },
    Situation {
        name: "unconnected UDP to another host over IPv4, mapped",
        promise: Promise::Refused,
        broken_without: &[Hook::Sendmsg4],
        act: |stage| stage.send(Neighbour::FAR.into(), true),
    },
    Situation {
        name: "unconnected UDP to another host over IPv6",
        promise: Promise::Refused,
        broken_without: &[Hook::Sendmsg6],
        act: |stage| stage.send(Neighbour::FAR6.into(), false),
    },
    Situation {
        name: "TCP from another host",
        promise: Promise::Unanswered,
        broken_without: &[Hook::Ingress],
        act: |stage| stage.call_from_afar(Transport::Tcp),
    },
    Situation {
        name: "UDP from another host",
        promise: Promise::Unanswered,
        broken_without: &[Hook::Ingress],
        act: |stage| stage.call_from_afar(Transport::Udp),
    },
    Situation {
        name: "a caller with a socket from outside of its service",
        promise: Promise::Unanswered,
        broken_without: &[Hook::Ingress],
        act: |stage| {
            let _answerer = stage.serve("db", Ipv4Addr::LOCALHOST.into(), Transport::Tcp)?;
            let to = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT);
            let cgroup = stage.sandbox.make_cgroup("web")?;
            stage.sandbox.actor("other")?.ask(&Request::MoveThenConnect { cgroup, to })
        },
    },
    Situation {
        name: "an answerer with a socket from outside of its service",
        promise: Promise::Unanswered,
        broken_without: &[Hook::Ingress],
        act: |stage| {
            let at = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT);
            let cgroup = stage.sandbox.make_cgroup("db")?;
            let mut answerer = stage.sandbox.actor("other")?;
            let served = answerer.ask(&Request::MoveThenServe { cgroup, at })?;
            anyhow::ensure!(served.is_ok(), "serve: {served:?}");
            stage.connect_to_service(at)
        },
    },
    Situation {
        name: "a datagram to a group in the name of a service's socket",
        promise: Promise::Refused,
        // Two hooks see it: the one what leaves, the other what the kernel makes this host a copy of.
        broken_without: &[],
        act: |stage| stage.speak_as_another(),
    },
    Situation {
        name: "a service sends over UDP-Lite to its own host",
        promise: Promise::Refused,
        broken_without: &[Hook::Egress],
        act: |stage| {
            let (mut web, name) = (stage.sandbox.actor("web")?, "lite".to_owned());
            let to = Some(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
            let open =
                datagrams::Request::Open { name: name.clone(), at: None, to, shared: false, lite: true };
            let opened = web.ask(&Request::Datagram(open))?;
            anyhow::ensure!(opened.is_ok(), "open: {opened:?}");
            let say = datagrams::Request::Say { name, word: "hello".to_owned(), to: None, from: None };
            web.ask(&Request::Datagram(say))
        },
    },
    Situation {
        name: "somebody else binds a reserved port over IPv4",
        promise: Promise::Refused,
        broken_without: &[Hook::Bind4],
        act: |stage| stage.bind(Ipv4Addr::LOCALHOST.into()),
    },
    Situation {
        name: "somebody else binds a reserved port over IPv4, mapped",
        promise: Promise::Refused,
        broken_without: &[Hook::Bind6],
        act: |stage| stage.bind(Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()),
    },
    Situation {
        name: "somebody else binds a reserved port over IPv6",
        promise: Promise::Refused,
        broken_without: &[Hook::Bind6],
        act: |stage| stage.bind(Ipv6Addr::LOCALHOST.into()),
    },
    Situation {
        name: "somebody else asks for any port, and the kernel chooses a reserved one, over IPv4",
        promise: Promise::Refused,
        // One marks the socket, the other sees what was chosen.
        broken_without: &[Hook::Bind4, Hook::PostBind4],
        act: |stage| stage.bind_any(Ipv4Addr::UNSPECIFIED.into()),
    },
    Situation {
        name: "somebody else asks for any port, and the kernel chooses a reserved one, over IPv6",
        promise: Promise::Refused,
        broken_without: &[Hook::Bind6, Hook::PostBind6],
        act: |stage| stage.bind_any(Ipv6Addr::LOCALHOST.into()),
    },
    Situation {
        name: "a permitted call over IPv4",
        promise: Promise::Works,
        // Nobody says then whose the listener is, and a listener that may be anybody's is denied.
        broken_without: &[Hook::PostBind4],
        act: |stage| stage.permitted(Ipv4Addr::LOCALHOST.into(), Transport::Tcp),
    },
    Situation {
        name: "a permitted call over IPv6",
        promise: Promise::Works,
        broken_without: &[Hook::PostBind6],
        act: |stage| stage.permitted(Ipv6Addr::LOCALHOST.into(), Transport::Tcp),
    },
    Situation {
        name: "a permitted datagram over IPv4",
        promise: Promise::Works,
        broken_without: &[Hook::PostBind4],
        act: |stage| stage.permitted(Ipv4Addr::LOCALHOST.into(), Transport::Udp),
    },
    Situation {
        name: "a service opens a raw socket",
        promise: Promise::Refused,
        broken_without: &[Hook::SockCreate],
        act: |stage| {
            let (domain, kind, protocol) = (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_UDP);
            stage.sandbox.actor("web")?.ask(&Request::Create { domain, kind, protocol })
        },
    },
    Situation {
        name: "a service opens a raw IPv6 socket",
        promise: Promise::Refused,
        broken_without: &[Hook::SockCreate],
        act: |stage| {
            let (domain, kind, protocol) = (libc::AF_INET6, libc::SOCK_RAW, libc::IPPROTO_ICMPV6);
            stage.sandbox.actor("web")?.ask(&Request::Create { domain, kind, protocol })
        },
    },
];

#[test]
fn every_hook_is_needed_for_exactly_its_own_part() -> anyhow::Result<()> {
    let whole = [None].into_iter().chain(Hook::ALL.map(Some));
    let without: Vec<Option<Hook>> = whole.collect();
    let wrong = thread::scope(|scope| {
        let shares: Vec<_> = (0..AT_ONCE)
            .map(|share| {
                let without = without.iter().skip(share).step_by(AT_ONCE).copied().collect();
                scope.spawn(move || break_each(&format!("hooks{share}"), without))
            })
            .collect();
        shares.into_iter().try_fold(Vec::new(), |wrong, share| {
            let more = share.join().map_err(|_panic| anyhow::anyhow!("a thread panicked"))??;
            Ok::<_, anyhow::Error>([wrong, more].concat())
        })
    })?;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// Sandboxes that run at once: most of the time is spent on waiting for what is not answered.
const AT_ONCE: usize = 4;

fn break_each(name: &str, hooks: Vec<Option<Hook>>) -> anyhow::Result<Vec<String>> {
    let sandbox = Sandbox::new(name)?;
    for name in ["web", "db", "other"] {
        sandbox.make_cgroup(name)?;
    }
    let neighbour = sandbox.neighbour(&[])?;
    let stage = Stage { sandbox: &sandbox, neighbour: &neighbour };
    let mut wrong = Vec::new();
    for without in hooks {
        let daemon = sandbox.daemon(POLICY)?;
        if let Some(hook) = without {
            let links = bpftool::links(sandbox.cgroup())?;
            let link = links.iter().find(|link| link.name == hook.name()).context("link of the hook")?;
            bpftool::detach(link.link)?;
        }
        let mut broken = BTreeSet::new();
        let mut seen = Vec::new();
        for situation in SITUATIONS {
            let reply = (situation.act)(&stage).with_context(|| situation.name)?;
            if !situation.promise.is_kept(&reply) {
                broken.insert(situation.name);
                seen.push(format!("  {}: {reply:?}", situation.name));
            }
        }
        let expected: BTreeSet<&str> = SITUATIONS
            .iter()
            .filter(|situation| without.is_some_and(|hook| situation.broken_without.contains(&hook)))
            .map(|situation| situation.name)
            .collect();
        if without.is_some() && broken.is_empty() {
            wrong.push(format!("without {without:?}: nothing is broken"));
        }
        if broken != expected {
            let seen = seen.join("\n");
            wrong.push(format!("without {without:?}: expected {expected:?}, but broken are\n{seen}"));
        }
        daemon.stop()?.check_totals()?;
    }
    Ok(wrong)
}

/// A port of `db` that `web` may call and that nobody reserves.
const PORT: u16 = 5433;

/// A port that no rule names.
const OTHER_PORT: u16 = 7000;

struct Stage<'a> {
    sandbox: &'a Sandbox,
    neighbour: &'a Neighbour,
}

impl Stage<'_> {
    fn serve(&self, service: &str, address: IpAddr, transport: Transport) -> anyhow::Result<Actor> {
        let mut answerer = self.sandbox.actor(service)?;
        let served = answerer.ask(&Request::Serve { at: SocketAddr::new(address, PORT), transport })?;
        anyhow::ensure!(served.is_ok(), "serve: {served:?}");
        Ok(answerer)
    }

    fn far_server(&self, at: SocketAddr, transport: Transport) -> anyhow::Result<Actor> {
        let mut answerer = self.neighbour.actor()?;
        let served = answerer.ask(&Request::Serve { at, transport })?;
        anyhow::ensure!(served.is_ok(), "serve: {served:?}");
        Ok(answerer)
    }

    fn connect(&self, address: IpAddr, transport: Transport, mapped: bool) -> anyhow::Result<Reply> {
        let to = SocketAddr::new(address, OTHER_PORT);
        let _answerer = self.far_server(to, transport)?;
        self.sandbox.actor("web")?.ask(&Request::Connect { to, transport, mapped })
    }

    fn send(&self, address: IpAddr, mapped: bool) -> anyhow::Result<Reply> {
        let to = SocketAddr::new(address, OTHER_PORT);
        let _answerer = self.far_server(to, Transport::Udp)?;
        self.sandbox.actor("web")?.ask(&Request::Send { to, mapped, from_port: 0 })
    }

    fn call_from_afar(&self, transport: Transport) -> anyhow::Result<Reply> {
        let _answerer = self.serve("db", Neighbour::NEAR.into(), transport)?;
        let to = SocketAddr::new(Neighbour::NEAR.into(), PORT);
        self.neighbour.actor()?.ask(&Request::Connect { to, transport, mapped: false })
    }

    fn permitted(&self, address: IpAddr, transport: Transport) -> anyhow::Result<Reply> {
        let _answerer = self.serve("db", address, transport)?;
        let to = SocketAddr::new(address, PORT);
        self.sandbox.actor("web")?.ask(&Request::Connect { to, transport, mapped: false })
    }

    /// Has somebody of no service send to a group that a service listens to, from the address and port of another service's socket.
    fn speak_as_another(&self) -> anyhow::Result<Reply> {
        const GROUP: Ipv4Addr = Ipv4Addr::new(239, 1, 1, 1);
        const LOOPBACK: u32 = 1;
        let open = |actor: &mut Actor, at: SocketAddr| {
            let request = datagrams::Request::Open {
                name: "own".to_owned(),
                at: Some(at),
                to: None,
                shared: false,
                lite: false,
            };
            let reply = actor.ask(&Request::Datagram(request))?;
            anyhow::ensure!(reply.is_ok(), "open {at}: {reply:?}");
            Ok(())
        };
        let join = |actor: &mut Actor| {
            let request =
                datagrams::Request::Join { name: "own".to_owned(), group: GROUP.into(), device: LOOPBACK };
            let reply = actor.ask(&Request::Datagram(request))?;
            anyhow::ensure!(reply.is_ok(), "join: {reply:?}");
            Ok(())
        };
        let (mut db, mut web) = (self.sandbox.actor("db")?, self.sandbox.actor("web")?);
        let mut other = self.sandbox.actor("other")?;
        open(&mut db, SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), PORT))?;
        join(&mut db)?;
        open(&mut web, SocketAddr::new(Ipv4Addr::LOCALHOST.into(), OTHER_PORT))?;
        open(&mut other, SocketAddr::new(Ipv4Addr::new(127, 0, 0, 2).into(), OTHER_PORT))?;
        join(&mut other)?;
        other.ask(&Request::Datagram(datagrams::Request::Say {
            name: "own".to_owned(),
            word: "hello".to_owned(),
            to: Some(SocketAddr::new(GROUP.into(), PORT)),
            from: Some(Ipv4Addr::LOCALHOST.into()),
        }))
    }

    fn connect_to_service(&self, to: SocketAddr) -> anyhow::Result<Reply> {
        self.sandbox.actor("web")?.ask(&Request::Connect { to, transport: Transport::Tcp, mapped: false })
    }

    /// Binds where the kernel has but the reserved port to choose from.
    fn bind_any(&self, address: IpAddr) -> anyhow::Result<Reply> {
        let mut other = self.sandbox.actor("other")?;
        self.sandbox.set("net/ipv4/ip_local_port_range", "5432 5432")?;
        let bind = Request::Bind { at: SocketAddr::new(address, 0), transport: Transport::Tcp };
        let reply = other.ask(&bind);
        self.sandbox.set("net/ipv4/ip_local_port_range", "32768 60999")?;
        reply
    }

    fn bind(&self, address: IpAddr) -> anyhow::Result<Reply> {
        let at = SocketAddr::new(address, 5432);
        self.sandbox.actor("other")?.ask(&Request::Bind { at, transport: Transport::Tcp })
    }
}
