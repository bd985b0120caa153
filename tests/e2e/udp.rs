//! UDP as servers use it: what works without an enforcer works for those who may call, and for nobody else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context as _, ensure};
use enforcer_tests::actor::Reply;
use enforcer_tests::datagrams::{Heard, Request};
use enforcer_tests::sandbox::{Actor, Daemon, Neighbour, Sandbox};
use nix::libc;
use serde_json::Value;

const POLICY: &str = "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
  db: { match: [{ cgroup: ROOT/db }], listens: [5353/udp] }
  thief: { match: [{ cgroup: ROOT/thief }] }
allow:
  - { name: lookup, from: web, to: db, ports: [5353/udp] }
";

const PORT: u16 = 5353;

/// Addresses of the sandbox beside those of the loopback device.
const OWN: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 9, 0, 1), Ipv4Addr::new(10, 9, 0, 2)];
const OWN6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 1), Ipv6Addr::new(0xfd00, 9, 0, 0, 0, 0, 0, 2)];

/// How long a word may take that is expected to come, and how long one is waited for that is not, in milliseconds.
const EXPECTED: u64 = 10_000;
const UNEXPECTED: u64 = 200;

/// A sandbox with a device that has several addresses.
fn with_addresses(name: &str) -> anyhow::Result<Sandbox> {
    let sandbox = Sandbox::new(name)?;
    let mut script = String::from("link add own type bridge\nlink set own up\n");
    for address in OWN {
        script += &format!("address add {address}/24 dev own\n");
    }
    for address in OWN6 {
        script += &format!("address add {address}/64 dev own nodad\n");
    }
    sandbox.ip(&script)?;
    Ok(sandbox)
}

/// What actors do with one of their sockets, each of which is called `socket`.
trait Datagrams {
    fn request(&mut self, request: Request) -> anyhow::Result<Reply>;

    fn open(&mut self, at: Option<SocketAddr>, to: Option<SocketAddr>) -> anyhow::Result<SocketAddr> {
        let reply = self.try_open(at, to)?;
        ensure!(reply.is_ok(), "open {at:?} {to:?}: {reply:?}");
        reply.text.parse().with_context(|| reply.text)
    }

    fn try_open(&mut self, at: Option<SocketAddr>, to: Option<SocketAddr>) -> anyhow::Result<Reply> {
        self.request(Request::Open { name: String::from("socket"), at, to, shared: false, lite: false })
    }

    fn open_lite(&mut self, at: Option<SocketAddr>, to: Option<SocketAddr>) -> anyhow::Result<()> {
        let name = String::from("socket");
        let reply = self.request(Request::Open { name, at, to, shared: false, lite: true })?;
        ensure!(reply.is_ok(), "open {at:?} {to:?}: {reply:?}");
        Ok(())
    }

    fn say(&mut self, word: &str, to: Option<SocketAddr>, from: Option<IpAddr>) -> anyhow::Result<Reply> {
        self.request(Request::Say { name: String::from("socket"), word: word.to_owned(), to, from })
    }

    fn hear(&mut self, millis: u64) -> anyhow::Result<Option<Heard>> {
        let reply = self.request(Request::Hear { name: String::from("socket"), millis })?;
        if reply.is_ok() { Ok(Some(serde_json::from_str(&reply.text)?)) } else { Ok(None) }
    }

    fn close(&mut self) -> anyhow::Result<()> {
        let reply = self.request(Request::Close { name: String::from("socket") })?;
        ensure!(reply.is_ok(), "close: {reply:?}");
        Ok(())
    }
}

impl Datagrams for Actor {
    fn request(&mut self, request: Request) -> anyhow::Result<Reply> {
        self.ask(&enforcer_tests::actor::Request::Datagram(request))
    }
}

/// How a server chooses the address that it answers from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Answer {
    /// It leaves that to the kernel.
    Plain,
    /// The one that was asked.
    Asked,
    /// Another one of its own.
    Other(IpAddr),
}

/// One question and its answer.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Exchange {
    server: SocketAddr,
    asked: IpAddr,
    /// Where the client is bound.
    client: Option<IpAddr>,
    connected: bool,
    answer: Answer,
}

/// What came of one: the errno of each end's sending, and whether the other end heard it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Outcome {
    asked: Option<i32>,
    heard_question: bool,
    answered: Option<i32>,
    heard_answer: bool,
}

/// Every way in which a server and its client may use their addresses.
fn exchanges() -> Vec<Exchange> {
    let v4: [IpAddr; 4] =
        [Ipv4Addr::LOCALHOST.into(), Ipv4Addr::new(127, 0, 0, 2).into(), OWN[0].into(), OWN[1].into()];
    let v6: [IpAddr; 3] = [Ipv6Addr::LOCALHOST.into(), OWN6[0].into(), OWN6[1].into()];
    let any4: IpAddr = Ipv4Addr::UNSPECIFIED.into();
    let any6: IpAddr = Ipv6Addr::UNSPECIFIED.into();
    let servers = [
        (any4, &v4[..]),
        (any6, &v4[..]),
        (any6, &v6[..]),
        (OWN[1].into(), &v4[3..]),
        (OWN6[1].into(), &v6[2..]),
    ];
    let mut exchanges = Vec::new();
    for (server, addresses) in servers {
        let server = SocketAddr::new(server, PORT);
        for asked in addresses {
            let any = if asked.is_ipv4() { any4 } else { any6 };
            let own = addresses[addresses.len().saturating_sub(2)];
            for client in [None, Some(any), Some(own)] {
                // A loopback address and another reach each other, since both are this host's.
                for connected in [false, true] {
                    let mut answers = vec![Answer::Plain, Answer::Asked];
                    if server.ip().is_unspecified() && !connected {
                        // A connected client hears nothing from other addresses, whoever judges.
                        answers.extend(addresses.iter().map(|address| Answer::Other(*address)));
                    }
                    exchanges.extend(answers.into_iter().map(|answer| Exchange {
                        server,
                        asked: *asked,
                        client,
                        connected,
                        answer,
                    }));
                }
            }
        }
    }
    exchanges
}

fn exchange(one: &Exchange, db: &mut Actor, web: &mut Actor) -> anyhow::Result<Outcome> {
    let to = SocketAddr::new(one.asked, PORT);
    let at = match one.client {
        Some(address) => SocketAddr::new(address, 0),
        // Bound by nobody's hand, as most clients' sockets are.
        None if one.connected => to,
        None => SocketAddr::new(to.ip(), 0),
    };
    let bound = one.client.is_some().then_some(at);
    web.open(bound.or((!one.connected).then_some(at)), one.connected.then_some(to))?;
    let asked = web.say("what?", (!one.connected).then_some(to), None)?;
    let Some(heard) = db.hear(if asked.is_ok() { EXPECTED } else { UNEXPECTED })? else {
        return Ok(Outcome { asked: asked.errno, ..Outcome::default() });
    };
    ensure!(heard.word == "what?" && canonical(heard.at) == one.asked, "{heard:?}");
    let from = match one.answer {
        Answer::Plain => None,
        Answer::Asked => Some(heard.at),
        Answer::Other(address) => Some(in_family_of(address, heard.at)),
    };
    let answered = db.say("that", Some(heard.from), from)?;
    let told = web.hear(UNEXPECTED)?;
    if let Some(told) = &told {
        ensure!(told.word == "that" && told.from.port() == PORT, "{told:?}");
    }
    Ok(Outcome {
        asked: asked.errno,
        heard_question: true,
        answered: answered.errno,
        heard_answer: told.is_some(),
    })
}

fn canonical(address: IpAddr) -> IpAddr {
    address.to_canonical()
}

/// A socket of both families has IPv4 addresses in their mapped form.
fn in_family_of(address: IpAddr, like: IpAddr) -> IpAddr {
    match (address, like) {
        (IpAddr::V4(v4), IpAddr::V6(_)) => v4.to_ipv6_mapped().into(),
        (address, _) => address,
    }
}

/// Has every exchange made, the server bound anew for each address that it is to have.
fn outcomes(exchanges: &[Exchange], db: &mut Actor, web: &mut Actor) -> anyhow::Result<Vec<Outcome>> {
    let mut outcomes = Vec::new();
    let mut server = None;
    for one in exchanges {
        if server != Some(one.server) {
            db.open(Some(one.server), None)?;
            server = Some(one.server);
        }
        outcomes.push(exchange(one, db, web).with_context(|| format!("{one:?}"))?);
    }
    db.close()?;
    web.close()?;
    Ok(outcomes)
}

#[test]
fn answers_come_from_whichever_address_a_server_chooses() -> anyhow::Result<()> {
    let sandbox = with_addresses("udp-answers")?;
    let mut web = sandbox.actor("web")?;
    let mut db = sandbox.actor("db")?;
    let mut thief = sandbox.actor("thief")?;
    let exchanges = exchanges();
    let without = outcomes(&exchanges, &mut db, &mut web)?;
    let heard = without.iter().filter(|outcome| outcome.heard_answer).count();
    assert!(heard > exchanges.len() / 2, "{heard} of {}", exchanges.len());

    let daemon = sandbox.daemon(POLICY)?;
    let with = outcomes(&exchanges, &mut db, &mut web)?;
    // To whom an answer goes that the kernel gives to nobody cannot be told, so that may be refused.
    let unheard = Outcome { heard_question: true, answered: Some(libc::EPERM), ..Outcome::default() };
    let is_as_good =
        |without: &Outcome, with: &Outcome| with == without || (!without.heard_answer && *with == unheard);
    let compared = exchanges.iter().zip(without.iter().zip(&with));
    let worse: Vec<String> = compared
        .filter(|(_, (without, with))| !is_as_good(without, with))
        .map(|(one, (without, with))| format!("{one:?}: without {without:?}, with {with:?}"))
        .collect();
    assert!(worse.is_empty(), "of {}: {}", exchanges.len(), worse.join("\n"));
    let unheard = with.iter().filter(|outcome| outcome.answered.is_some()).count();

    // Nobody else gets as far as a question, whichever address he asks and however.
    let mut refused = unheard;
    for one in exchanges.iter().filter(|one| one.answer == Answer::Plain) {
        db.open(Some(one.server), None)?;
        let to = SocketAddr::new(one.asked, PORT);
        let at = SocketAddr::new(one.client.unwrap_or(one.asked), 0);
        if one.connected {
            let opened = thief.try_open(Some(at), Some(to))?;
            assert!(opened.is_refused(), "{one:?}: {opened:?}");
        } else {
            thief.open(Some(at), None)?;
            let said = thief.say("what?", Some(to), None)?;
            assert!(said.is_refused(), "{one:?}: {said:?}");
        }
        refused += 1;
        // What was said before it would have come before it.
        web.open(Some(at), None)?;
        web.say("last", Some(to), None)?;
        let heard = db.hear(EXPECTED)?.context("the server hears nothing")?;
        assert_eq!(heard.word, "last", "{one:?}");
    }
    let finished = daemon.stop()?;
    finished.check_totals()?;
    assert_eq!(finished.stop["denied"], refused, "{}", finished.stop);
    let by_thief = finished.attempts().filter(|record| record["source"]["service"] == "thief");
    assert_eq!(by_thief.count(), refused - unheard, "{:#?}", finished.records);
    Ok(())
}

#[test]
fn an_answer_goes_only_to_the_socket_that_asked() -> anyhow::Result<()> {
    let sandbox = with_addresses("udp-restarts")?;
    let mut daemon = sandbox.daemon(POLICY)?;
    let mut db = sandbox.actor("db")?;
    for (any, asked) in [
        (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(OWN[1])),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
        (Ipv6Addr::UNSPECIFIED.into(), OWN6[0].into()),
    ] {
        let to = SocketAddr::new(asked, PORT);
        let bound = Some(SocketAddr::new(asked, 6000));
        db.open(Some(SocketAddr::new(any, PORT)), None)?;
        let mut web = sandbox.actor("web")?;
        web.open(bound, None)?;
        web.say("first", Some(to), None)?;
        let question = db.hear(EXPECTED)?.context("the server hears nothing")?;
        let mut answer = |word: &str, socket: Option<IpAddr>| {
            db.say(word, Some(question.from), socket.or(Some(question.at)))
        };
        assert!(answer("one", None)?.is_ok());
        assert_eq!(web.hear(EXPECTED)?.map(|heard| heard.word), Some(String::from("one")));
        drop(web);

        // Whoever takes the port after a client has ended gets nothing that was meant for that, be it his next life.
        for (name, service) in [("thief", "thief"), ("other", "unmanaged"), ("web", "web")] {
            let mut heir = sandbox.actor(name)?;
            heir.open(bound, None)?;
            let late = answer("late", None)?;
            assert!(late.is_refused(), "{name}: {late:?}");
            let record = denial(&mut daemon, "db", service)?;
            assert_eq!(record["destination"]["port"], 6000, "{record}");
            assert_eq!(heir.hear(UNEXPECTED)?, None, "{name}");
        }
        // Until it has asked itself.
        let mut web = sandbox.actor("web")?;
        web.open(bound, None)?;
        assert!(web.say("again", Some(to), None)?.is_ok());
        let question = db.hear(EXPECTED)?.context("the server hears nothing")?;
        assert_eq!(question.word, "again");
        assert!(db.say("two", Some(question.from), Some(question.at))?.is_ok());
        assert_eq!(web.hear(EXPECTED)?.map(|heard| heard.word), Some(String::from("two")));

        // A server that restarts answers whoever asks it again, also over a socket that was connected to the one before.
        web.open(bound, Some(to))?;
        for _ in 0..2 {
            db = sandbox.actor("db")?;
            db.open(Some(SocketAddr::new(any, PORT)), None)?;
            assert!(web.say("still there?", None, None)?.is_ok());
            let question = db.hear(EXPECTED)?.context("the server hears nothing")?;
            assert!(db.say("yes", Some(question.from), Some(question.at))?.is_ok());
            assert_eq!(web.hear(EXPECTED)?.map(|heard| heard.word), Some(String::from("yes")));
        }
    }
    let finished = daemon.stop()?;
    finished.check_totals()?;
    assert_eq!(finished.stop["denied"], 9, "{:#?}", finished.records);
    Ok(())
}

#[test]
fn being_asked_opens_no_way_to_other_ports() -> anyhow::Result<()> {
    let sandbox = with_addresses("udp-ports")?;
    let mut daemon = sandbox.daemon(POLICY)?;
    let mut refused = 0;
    for (any, asked) in [
        (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(OWN[0])),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv4Addr::LOCALHOST.into()),
        (Ipv6Addr::UNSPECIFIED.into(), Ipv6Addr::LOCALHOST.into()),
    ] {
        let (mut db, mut web) = (sandbox.actor("db")?, sandbox.actor("web")?);
        let mut waiting = sandbox.actor("web")?;
        let mut thief = sandbox.actor("thief")?;
        waiting.open(Some(SocketAddr::new(asked, 6001)), None)?;
        thief.open(Some(SocketAddr::new(asked, 6002)), None)?;
        db.open(Some(SocketAddr::new(any, PORT)), None)?;
        web.open(Some(SocketAddr::new(asked, 6000)), None)?;
        assert!(web.say("what?", Some(SocketAddr::new(asked, PORT)), None)?.is_ok());
        let question = db.hear(EXPECTED)?.context("the server hears nothing")?;
        let port = |number| Some(SocketAddr::new(question.from.ip(), number));

        // Not to another port of who asked, nor to anybody else, from whichever address.
        for from in [None, Some(question.at)] {
            for (number, service) in [(6001, "web"), (6002, "thief")] {
                let said = db.say("psst", port(number), from)?;
                assert!(said.is_refused(), "{number}: {said:?}");
                let record = denial(&mut daemon, "db", service)?;
                assert_eq!((&record["reason"], &record["direction"]), (&"no-rule".into(), &"egress".into()));
                refused += 1;
            }
        }
        // Nor by a connection.
        for number in [6001, 6002] {
            let mut other = sandbox.actor("db")?;
            let opened = other.try_open(None, Some(SocketAddr::new(asked, number)))?;
            assert!(opened.is_refused(), "{number}: {opened:?}");
            refused += 1;
        }
        // Nor from another port to the one that asked.
        let mut other = sandbox.actor("db")?;
        other.open(Some(SocketAddr::new(any, 5354)), None)?;
        let said = other.say("psst", port(6000), Some(question.at))?;
        assert!(said.is_refused(), "{said:?}");
        denial(&mut daemon, "db", "web")?;
        refused += 1;
        // None of which came, and none of which keeps the answer from coming.
        assert!(db.say("that", port(6000), Some(question.at))?.is_ok());
        assert_eq!(web.hear(EXPECTED)?.map(|heard| heard.word), Some(String::from("that")));
        for (name, listener) in [("web", &mut waiting), ("thief", &mut thief)] {
            assert_eq!(listener.hear(UNEXPECTED)?, None, "{name}");
        }
    }
    let finished = daemon.stop()?;
    finished.check_totals()?;
    assert_eq!(finished.stop["denied"], refused, "{:#?}", finished.records);
    Ok(())
}

#[test]
fn another_host_is_answered_from_the_address_that_it_asked() -> anyhow::Result<()> {
    let sandbox = with_addresses("udp-afar")?;
    let neighbour = sandbox.neighbour(&[])?;
    let (near, near6) = (Neighbour::NEAR, Neighbour::NEAR6);
    let routes = format!("ip route add {}/32 via {near} && ip route add {}/128 via {near6}", OWN[1], OWN6[1]);
    let routed = neighbour.output("sh", &["-c", &routes])?;
    ensure!(routed.status.success(), "{routed:?}");
    let mut daemon = sandbox.daemon(
        "version: 1
services:
  db: { match: [{ cgroup: ROOT/db }], listens: [5353/udp] }
allow:
  - { name: public, from: world, to: db, ports: [5353/udp] }
",
    )?;
    let mut db = sandbox.actor("db")?;
    let mut far = neighbour.actor()?;
    for (any, far_end, asked) in [
        (IpAddr::from(Ipv4Addr::UNSPECIFIED), IpAddr::from(Neighbour::FAR), IpAddr::from(near)),
        (Ipv4Addr::UNSPECIFIED.into(), Neighbour::FAR.into(), OWN[1].into()),
        (Ipv6Addr::UNSPECIFIED.into(), Neighbour::FAR.into(), OWN[1].into()),
        (Ipv6Addr::UNSPECIFIED.into(), Neighbour::FAR6.into(), near6.into()),
        (Ipv6Addr::UNSPECIFIED.into(), Neighbour::FAR6.into(), OWN6[1].into()),
    ] {
        db.open(Some(SocketAddr::new(any, PORT)), None)?;
        for connected in [false, true] {
            let to = SocketAddr::new(asked, PORT);
            let at = SocketAddr::new(far_end, 0);
            far.open(Some(at), connected.then_some(to))?;
            assert!(far.say("what?", (!connected).then_some(to), None)?.is_ok());
            let question = db.hear(EXPECTED)?.with_context(|| format!("the server hears nothing at {to}"))?;
            assert!(db.say("that", Some(question.from), Some(question.at))?.is_ok());
            let told = far.hear(EXPECTED)?.with_context(|| format!("no answer from {to}"))?;
            assert_eq!((told.word.as_str(), told.from), ("that", to));
        }
        // The other way is another matter: nobody asked from that port's neighbour.
        let mut other = sandbox.actor("db")?;
        other.open(Some(SocketAddr::new(any, 5354)), None)?;
        let to = in_family_of(far_end, any);
        let said = other.say("psst", Some(SocketAddr::new(to, 6000)), None)?;
        assert!(said.is_refused(), "{said:?}");
        denial(&mut daemon, "db", "world")?;
    }
    let finished = daemon.stop()?;
    finished.check_totals()?;
    assert_eq!(finished.stop["denied"], 5, "{:#?}", finished.records);
    Ok(())
}

#[test]
fn a_group_is_heard_by_those_who_may_hear_it_alone() -> anyhow::Result<()> {
    let groups: [IpAddr; 2] =
        [Ipv4Addr::new(239, 1, 2, 3).into(), Ipv6Addr::new(0xff15, 0, 0, 0, 0, 0, 0, 0x123).into()];
    let sandbox = with_addresses("udp-groups")?;
    let mut daemon = sandbox.daemon(
        "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
  db: { match: [{ cgroup: ROOT/db }], listens: [5353/udp] }
  thief: { match: [{ cgroup: ROOT/thief }] }
networks:
  groups: { cidrs: [239.0.0.0/8, 'ff15::/16'] }
allow:
  - { name: group, from: web, to: groups, ports: [5353/udp] }
  - { name: lookup, from: web, to: db, ports: [5353/udp] }
",
    )?;
    // The loopback device has the number 1, and the next one is the first that is made.
    let device = 2;
    for group in groups {
        let any = match group {
            IpAddr::V4(_) => IpAddr::from(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let own = if group.is_ipv4() { IpAddr::from(OWN[0]) } else { OWN6[0].into() };
        let join = |actor: &mut Actor, at: SocketAddr| -> anyhow::Result<()> {
            let name = String::from("socket");
            let shared =
                Request::Open { name: name.clone(), at: Some(at), to: None, shared: true, lite: false };
            let opened = actor.request(shared)?;
            ensure!(opened.is_ok(), "open {at}: {opened:?}");
            let joined = actor.request(Request::Join { name, group, device })?;
            ensure!(joined.is_ok(), "join {group}: {joined:?}");
            Ok(())
        };
        // Two who may hear web, one of them bound to the group alone, and one who may not.
        let mut receivers = [sandbox.actor("db")?, sandbox.actor("db")?];
        for (receiver, address) in receivers.iter_mut().zip([any, group]) {
            join(receiver, SocketAddr::new(address, PORT))?;
        }
        let mut other = sandbox.actor("thief")?;
        // The port is reserved, so that who is no holder of it hears groups at another.
        let taken = other.try_open(Some(SocketAddr::new(any, PORT)), None)?;
        assert!(taken.is_refused(), "{taken:?}");
        denial(&mut daemon, "thief", "db")?;
        join(&mut other, SocketAddr::new(any, 5454))?;

        let mut web = sandbox.actor("web")?;
        join(&mut web, SocketAddr::new(any, 7000))?;
        let said = web.say("anybody?", Some(SocketAddr::new(group, PORT)), Some(own))?;
        assert!(said.is_ok(), "{group}: {said:?}");
        let questions = [receivers[0].hear(EXPECTED)?, receivers[1].hear(EXPECTED)?];
        for question in &questions {
            let question = question.as_ref().with_context(|| format!("{group} is not heard"))?;
            assert_eq!((question.word.as_str(), question.at), ("anybody?", group));
            assert_eq!(question.from, SocketAddr::new(own, 7000));
        }
        // Who was asked through the group answers in his own name.
        for (number, receiver) in receivers.iter_mut().enumerate() {
            let answered = receiver.say("me", Some(SocketAddr::new(own, 7000)), Some(own))?;
            assert!(answered.is_ok(), "{group}: {number}: {answered:?}");
            let told = web.hear(EXPECTED)?.with_context(|| format!("{group}: no answer from {number}"))?;
            assert_eq!((told.word.as_str(), told.from), ("me", SocketAddr::new(own, PORT)));
        }
        // The rule is for one port of the group.
        let said = web.say("anybody?", Some(SocketAddr::new(group, 5454)), Some(own))?;
        assert!(said.is_refused(), "{group}: {said:?}");
        denial(&mut daemon, "web", "groups")?;
        // Somebody of no service may send to the group, and the service does not hear him.
        let mut stranger = sandbox.actor("stranger")?;
        join(&mut stranger, SocketAddr::new(any, 7001))?;
        for port in [PORT, 5454] {
            let said = stranger.say("hello", Some(SocketAddr::new(group, port)), Some(own))?;
            assert!(said.is_ok(), "{group}: {said:?}");
        }
        let record = denial(&mut daemon, "unmanaged", "db")?;
        assert_eq!(record["hook"], "ingress", "{record}");
        for (name, receiver) in receivers.iter_mut().map(|db| ("db", db)).chain([("thief", &mut other)]) {
            assert_eq!(receiver.hear(UNEXPECTED)?, None, "{group}: {name}");
        }
        // Nor does a service that has no rule get as far as sending.
        let mut mute = sandbox.actor("thief")?;
        join(&mut mute, SocketAddr::new(any, 7002))?;
        let said = mute.say("hello", Some(SocketAddr::new(group, PORT)), Some(own))?;
        assert!(said.is_refused(), "{group}: {said:?}");
        denial(&mut daemon, "thief", "groups")?;
    }
    daemon.stop()?.check_totals()
}

/// Waits for the denial of an attempt from one end to the other, and returns its record.
fn denial(daemon: &mut Daemon, from: &str, to: &str) -> anyhow::Result<Value> {
    daemon.wait_for(|record| {
        record["verdict"] == "deny"
            && record["source"]["service"] == from
            && record["destination"]["service"] == to
    })
}

#[test]
fn udp_lite_leads_where_a_rule_leads_and_nowhere_on_its_own_host() -> anyhow::Result<()> {
    let sandbox = with_addresses("udp-lite")?;
    sandbox.ip("route add 198.51.100.0/24 dev own\nroute add 203.0.113.0/24 dev own\n")?;
    let daemon = sandbox.daemon_with(
        "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
networks:
  partner: { cidrs: [198.51.100.0/24] }
  office: { cidrs: [203.0.113.0/24] }
allow:
  - { name: push, from: web, to: [partner, unmanaged], ports: [5353/udplite] }
  - { name: pull, from: office, to: web, ports: [5500/udplite] }
",
        &["--log-allowed"],
    )?;
    let at = |address: [u8; 4], port| SocketAddr::from((address, port));
    let mut other = sandbox.actor("other")?;
    other.open_lite(Some(at([0, 0, 0, 0], PORT)), None)?;
    let mut web = sandbox.actor("web")?;
    let mut asked = 0;
    for (to, from, refused) in [
        (at([198, 51, 100, 7], PORT), 0, None),
        (at([198, 51, 100, 7], 5354), 0, Some("port-not-listed")),
        (at([203, 0, 113, 7], PORT), 0, Some("no-rule")),
        // Whom it may answer.
        (at([203, 0, 113, 7], 9), 5500, None),
        (at([203, 0, 113, 7], 9), 5501, Some("no-rule")),
        // Nobody on this host is found.
        (at([127, 0, 0, 1], PORT), 0, Some("destination-unknown")),
        (SocketAddr::new(OWN[0].into(), PORT), 0, Some("destination-unknown")),
    ] {
        web.open_lite(Some(at([0, 0, 0, 0], from)), Some(to))?;
        let reply = web.say("word", None, None)?;
        assert_eq!(reply.errno, refused.map(|_| libc::EPERM), "{to} from {from}");
        asked += 1;
    }
    assert_eq!(other.hear(UNEXPECTED)?, None);
    let mut third = sandbox.actor("third")?;
    third.open_lite(None, Some(at([127, 0, 0, 1], PORT)))?;
    assert!(third.say("hello", None, None)?.is_ok());
    let heard = other.hear(EXPECTED)?.context("what is no service's is not heard")?;
    assert_eq!(heard.word, "hello");

    let finished = daemon.stop()?;
    let told: Vec<(&Value, &Value)> =
        finished.attempts().map(|told| (&told["reason"], &told["protocol"])).collect();
    assert_eq!(told.len(), asked - 1, "an answer is no attempt: {told:?}");
    assert!(
        finished.attempts().all(|told| told["hook"] == "egress" && told["protocol"] == "udplite"),
        "{told:?}"
    );
    assert_eq!(finished.stop["denied"], 5, "{}", finished.stop);
    finished.check_totals()
}

/// What is sent while loopback is slow may reach a socket after the one that sent it was closed, and its port is another's.
#[test]
fn a_datagram_is_of_whoever_sent_it_also_when_its_socket_is_gone() -> anyhow::Result<()> {
    const FROM: u16 = 40_001;
    let sandbox = Sandbox::new("gone")?;
    let mut daemon = sandbox.daemon(POLICY)?;
    // So many bits a second that these take a second.
    sandbox.slow_down(40_000)?;
    let filling = "x".repeat(1400);
    let mut denied = 0;
    for address in [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()] {
        let at = |port: u16| Some(SocketAddr::from((address, port)));
        let [mut web, mut filler, mut sink] =
            [sandbox.actor("web")?, sandbox.actor("web")?, sandbox.actor("web")?];
        let [mut thief, mut db] = [sandbox.actor("thief")?, sandbox.actor("db")?];
        let sink_at = sink.open(at(0), None)?;
        filler.open(at(0), Some(sink_at))?;
        let mut fill = || -> anyhow::Result<()> {
            for _ in 0..4 {
                ensure!(filler.say(&filling, None, None)?.is_ok());
            }
            Ok(())
        };
        // While nobody listens there, anybody may connect; then who it is is told by what arrives alone.
        thief.open(at(FROM), at(PORT))?;
        db.open(at(PORT), None)?;

        fill()?;
        ensure!(thief.say("stolen", None, None)?.is_ok());
        thief.close()?;
        web.open(at(FROM), None)?;
        assert_eq!(db.hear(3 * UNEXPECTED)?, None, "{address}");
        let record =
            daemon.wait_for(|record| record["verdict"] == "deny" && record["source"]["port"] == FROM)?;
        denied += 1;
        assert_eq!((&record["hook"], &record["reason"]), (&"ingress".into(), &"no-rule".into()), "{record}");
        assert_eq!(record["source"]["service"], "thief", "{record}");
        assert_eq!(record["destination"]["service"], "db", "{record}");

        // Who may call and is gone may have called.
        fill()?;
        ensure!(web.say("goodbye", at(PORT), None)?.is_ok());
        web.close()?;
        let heard = db.hear(EXPECTED)?.context("what is permitted comes")?;
        assert_eq!((heard.word.as_str(), Some(heard.from)), ("goodbye", at(FROM)));
    }
    let finished = daemon.stop()?;
    assert_eq!(finished.stop["denied"], denied, "{}", finished.stop);
    finished.check_totals()
}
