//! Verdicts that the programs keep: never of somebody who has become somebody else, and not needed for any to be right.

use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use enforcer_common::kept::{KeptVerdict, NO_GENERATION};
use enforcer_common::layout::KeyedCgroup;
use enforcer_tests::actor::{Request, Transport};
use enforcer_tests::sandbox::{Actor, Sandbox};
use enforcer_tests::slowness::patience;
use enforcer_tests::verdicts::{Call, Verdicts};
use enforcer_tests::{bpftool, fdinfo};

const POLICY: &str = "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
  db: { match: [{ cgroup: ROOT/db }] }
  other: { match: [{ cgroup: ROOT/other }] }
allow:
  - { name: reads, from: web, to: db, ports: [5432/tcp] }
";

/// Lets `db` serve; returns it, and the call that reaches it.
fn served(sandbox: &Sandbox) -> anyhow::Result<(Actor, Request)> {
    let mut db = sandbox.actor("db")?;
    let at = "127.0.0.1:5432".parse()?;
    assert!(db.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    Ok((db, Request::Connect { to: at, transport: Transport::Tcp, mapped: false }))
}

/// A cgroup's id.
fn number(sandbox: &Sandbox, cgroup: &str) -> anyhow::Result<u64> {
    Ok(sandbox.cgroup().join(cgroup).metadata()?.ino())
}

/// What that cgroup does at the port of `db`.
fn call(sandbox: &Sandbox, caller: &str) -> anyhow::Result<Call> {
    Ok(Call { caller: number(sandbox, caller)?, answerer: number(sandbox, "db")?, port: 5432 })
}

/// A cgroup's id, as keys of the kernel's tables have it.
fn id(sandbox: &Sandbox, cgroup: &str) -> anyhow::Result<[u8; 8]> {
    Ok(number(sandbox, cgroup)?.to_ne_bytes())
}

#[test]
fn what_was_decided_is_kept_for_both_ends_and_no_longer_than_the_policy() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("kept")?;
    let mut daemon = sandbox.daemon_with(POLICY, &["--log-allowed"])?;
    let (_db, connect) = served(&sandbox)?;
    let (mut web, mut other) = (sandbox.actor("web")?, sandbox.actor("other")?);
    let verdicts = Verdicts::of(daemon.pid())?;
    let (of_web, of_other) = (call(&sandbox, "web")?, call(&sandbox, "other")?);
    assert!(!verdicts.has(of_web)? && !verdicts.has(of_other)?);
    for round in 0..3 {
        assert_eq!(web.ask(&connect)?.text, "hello", "{round}");
        assert!(other.ask(&connect)?.is_refused(), "{round}");
        assert!(verdicts.has(of_web)? && verdicts.has(of_other)?, "{round}");
    }
    // What is kept says the same in every record.
    let permitted: Vec<_> = (0..6)
        .map(|_| daemon.wait_for(|record| record["kind"] == "attempt"))
        .collect::<anyhow::Result<Vec<_>>>()?
        .into_iter()
        .filter(|record| record["verdict"] == "allow")
        .collect();
    assert_eq!(permitted.len(), 3, "{permitted:?}");
    for record in &permitted {
        assert_eq!((&record["rule"], &record["reason"]), (&permitted[0]["rule"], &permitted[0]["reason"]));
        assert_eq!(
            (&record["source"]["service"], &record["destination"]["service"]),
            (&"web".into(), &"db".into())
        );
        assert_eq!(record["revision"], 1, "{record}");
    }
    // A policy without the rule knows nothing of it, and neither does one that has it again.
    let without = POLICY.replace("5432", "5433");
    for (policy, works) in
        [(without.as_str(), false), (POLICY, true), (without.as_str(), false), (POLICY, true)]
    {
        assert_eq!(daemon.reload(&sandbox, policy)?["result"], "applied");
        assert!(!verdicts.has(of_web)? && !verdicts.has(of_other)?, "{policy}");
        let reply = web.ask(&connect)?;
        assert_eq!((reply.text == "hello", reply.is_refused()), (works, !works), "{reply:?}");
        assert!(verdicts.has(of_web)? && !verdicts.has(of_other)?, "{policy}");
    }
    daemon.stop()?.check_totals()
}

#[test]
fn who_becomes_somebody_else_is_judged_as_that() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("retaken")?;
    let daemon = sandbox.daemon(POLICY)?;
    let (_db, connect) = served(&sandbox)?;
    let (mut web, mut other) = (sandbox.actor("web")?, sandbox.actor("other")?);
    assert_eq!(web.ask(&connect)?.text, "hello");

    // Somebody writes into the table that `other` is `web`, and what that may do is kept.
    let (web_id, other_id) = (id(&sandbox, "web")?, id(&sandbox, "other")?);
    let maps = fdinfo::hashes(daemon.pid(), size_of::<u64>(), size_of::<KeyedCgroup>())?;
    let start = Instant::now();
    loop {
        for map in &maps {
            if let Some(mut cgroup) = bpftool::value(*map, &web_id)? {
                // A value begins with its key.
                cgroup[..other_id.len()].copy_from_slice(&other_id);
                bpftool::write(*map, &other_id, &cgroup)?;
            }
        }
        // The daemon may have looked in between.
        if other.ask(&connect)?.text == "hello" {
            break;
        }
        ensure!(start.elapsed() < patience(Duration::from_secs(30)), "what was written has no effect");
    }
    // Put right, it is taken back.
    let start = Instant::now();
    while !other.ask(&connect)?.is_refused() {
        ensure!(start.elapsed() < patience(Duration::from_secs(30)), "what was kept of `web` serves `other`");
    }
    assert_eq!(web.ask(&connect)?.text, "hello");
    let finished = daemon.stop()?;
    finished.check_totals()?;
    assert!(finished.stop["cgroups_repaired"].as_u64() >= Some(1), "{}", finished.stop);
    Ok(())
}

#[test]
fn what_lies_behind_anothers_key_is_nobodys() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("anothers")?;
    let daemon = sandbox.daemon(POLICY)?;
    let (_db, connect) = served(&sandbox)?;
    let (_web, mut other) = (sandbox.actor("web")?, sandbox.actor("other")?);

    // As a program finds it that was about to read of `other` when the memory became an entry of `web`.
    let (web_id, other_id) = (id(&sandbox, "web")?, id(&sandbox, "other")?);
    for map in fdinfo::hashes(daemon.pid(), size_of::<u64>(), size_of::<KeyedCgroup>())? {
        if let Some(cgroup) = bpftool::value(map, &web_id)? {
            bpftool::write(map, &other_id, &cgroup)?;
        }
    }
    assert!(other.ask(&connect)?.is_refused());
    let finished = daemon.stop()?;
    finished.check_totals()?;
    let reasons: Vec<_> = finished.attempts().map(|record| record["reason"].clone()).collect();
    // Unless the daemon has put it right already.
    assert!(reasons == ["source-unknown"] || reasons == ["no-rule"], "{reasons:?}");
    Ok(())
}

#[test]
fn without_tables_everyone_is_denied() -> anyhow::Result<()> {
    /// `BPF_MAP_TYPE_ARRAY_OF_MAPS`.
    const ARRAY_OF_MAPS: u32 = 12;
    let sandbox = Sandbox::new("no-tables")?;
    let daemon = sandbox.daemon(POLICY)?;
    let (mut web, mut db, mut nobody) =
        (sandbox.actor("web")?, sandbox.actor("db")?, sandbox.actor("nobody")?);
    let (at, elsewhere) = ("127.0.0.1:5432".parse()?, "127.0.0.1:5433".parse()?);
    assert!(db.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    assert!(nobody.ask(&Request::Serve { at: elsewhere, transport: Transport::Tcp })?.is_ok());
    for info in fdinfo::of_process(daemon.pid())? {
        if fdinfo::field(&info, "map_type") == Some(ARRAY_OF_MAPS)
            && let Some(map) = fdinfo::field(&info, "map_id")
        {
            for slot in 0..2_u32 {
                bpftool::remove(map, &slot.to_ne_bytes())?;
            }
        }
    }
    for to in [at, elsewhere] {
        let connect = Request::Connect { to, transport: Transport::Tcp, mapped: false };
        assert!(web.ask(&connect)?.is_refused(), "{to}");
        assert!(nobody.ask(&connect)?.is_refused(), "{to}");
    }
    let finished = daemon.stop()?;
    finished.check_totals()?;
    let reasons: Vec<_> = finished.attempts().map(|record| record["reason"].clone()).collect();
    assert_eq!(reasons, ["table-missing"; 4]);
    Ok(())
}

#[test]
fn where_no_verdict_can_be_kept_all_are_made_anew_until_there_is_room() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("no-room")?;
    let daemon = sandbox.daemon(POLICY)?;
    let (_db, connect) = served(&sandbox)?;
    let (mut web, mut other) = (sandbox.actor("web")?, sandbox.actor("other")?);
    let verdicts = Verdicts::of(daemon.pid())?;
    let (of_web, of_other) = (call(&sandbox, "web")?, call(&sandbox, "other")?);
    // What is kept of a call that there is not, in the generation in force.
    let generation = u64::from(verdicts.active()?.generation());
    for call in [of_web, of_other] {
        verdicts.write(call, [u64::MAX << 8 | generation; KeptVerdict::WORDS])?;
    }

    let not_kept = || {
        let status = sandbox.ask_daemon(&["status"])?;
        status["cgroups"]["verdicts_not_kept"].as_u64().context("a status without the number")
    };
    assert_eq!(not_kept()?, 0);
    assert_eq!(web.ask(&connect)?.text, "hello");
    // At both ends.
    assert_eq!(not_kept()?, 2);
    assert!(other.ask(&connect)?.is_refused());
    assert_eq!(not_kept()?, 3);
    // The daemon sees it when it next looks.
    let start = Instant::now();
    let mut asked = 1;
    while u64::from(verdicts.active()?.generation()) == generation {
        ensure!(start.elapsed() < patience(Duration::from_secs(60)), "no room is made");
        assert_eq!(web.ask(&connect)?.text, "hello");
        assert!(other.ask(&connect)?.is_refused());
        asked += 1;
    }
    let counted = not_kept()?;
    for _ in 0..2 {
        assert_eq!(web.ask(&connect)?.text, "hello");
        assert!(other.ask(&connect)?.is_refused());
    }
    assert!(verdicts.has(of_web)? && verdicts.has(of_other)?);
    assert_eq!(not_kept()?, counted);
    let finished = daemon.stop()?;
    finished.check_totals()?;
    assert_eq!(finished.attempts().count(), asked + 2);
    assert!(finished.attempts().all(|record| record["verdict"] == "deny"));
    Ok(())
}

#[test]
fn what_is_not_wholly_of_the_call_and_the_generation_is_not_obeyed() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("torn")?;
    let daemon = sandbox.daemon(POLICY)?;
    let (_db, connect) = served(&sandbox)?;
    let (mut web, mut other) = (sandbox.actor("web")?, sandbox.actor("other")?);
    let verdicts = Verdicts::of(daemon.pid())?;
    let (of_web, of_other) = (call(&sandbox, "web")?, call(&sandbox, "other")?);
    let mut refusals = 0;
    let start = Instant::now();
    loop {
        assert_eq!(web.ask(&connect)?.text, "hello");
        let generation = verdicts.active()?.generation();
        // Written for `other`, the permission of `web` is obeyed: so it is what is read.
        let whole = verdicts.forge(of_web, of_other, generation)?;
        verdicts.plant(&whole)?;
        let obeyed = other.ask(&connect)?;
        let mut refused = Vec::new();
        // With any word of another generation it is nobody's, and neither is one that is in part somebody else's.
        let otherwise = (0..KeptVerdict::WORDS).flat_map(|at| {
            let word = whole.words[at];
            [(at, word - 1), (at, word + 1), (at, 0)]
        });
        let elses = (0..3).map(|at| (at, whole.words[at] ^ 1 << 8));
        for (at, word) in otherwise.chain(elses) {
            let mut torn = whole.clone();
            torn.words[at] = word;
            verdicts.plant(&torn)?;
            let reply = other.ask(&connect)?;
            refusals += usize::from(reply.is_refused());
            refused.push(((at, word), reply.is_refused()));
        }
        // The daemon may have had all of it forgotten in between, which leaves nothing to be seen.
        if verdicts.active()?.generation() == generation {
            assert_eq!(obeyed.text, "hello");
            assert!(refused.iter().all(|(_, refused)| *refused), "{refused:x?}");
            break;
        }
        refusals += usize::from(obeyed.is_refused());
        ensure!(
            start.elapsed() < patience(Duration::from_secs(120)),
            "everything is forgotten again and again"
        );
    }
    let finished = daemon.stop()?;
    finished.check_totals()?;
    assert_eq!(finished.attempts().count(), refusals);
    Ok(())
}

#[test]
fn when_generations_are_counted_anew_nothing_of_an_earlier_one_is_left() -> anyhow::Result<()> {
    let sandbox = Sandbox::new("anew")?;
    let mut daemon = sandbox.daemon(POLICY)?;
    let (_db, connect) = served(&sandbox)?;
    let (mut web, mut other) = (sandbox.actor("web")?, sandbox.actor("other")?);
    let verdicts = Verdicts::of(daemon.pid())?;
    let (of_web, of_other) = (call(&sandbox, "web")?, call(&sandbox, "other")?);
    verdicts.set_generation(u8::MAX - 1)?;
    assert_eq!(web.ask(&connect)?.text, "hello");
    // As if generations had been counted anew before, and this were left of the one that comes after the next one.
    let left = verdicts.forge(of_web, of_other, 2)?;
    verdicts.plant(&left)?;
    let mut generations = Vec::new();
    for round in 0..3 {
        assert_eq!(web.ask(&connect)?.text, "hello", "{round}");
        assert!(other.ask(&connect)?.is_refused(), "{round}");
        assert!(verdicts.has(of_web)? && verdicts.has(of_other)?, "{round}");
        generations.push(verdicts.active()?.generation());
        let without = POLICY.replace("5432", "5433");
        assert_eq!(daemon.reload(&sandbox, &without)?["result"], "applied");
        assert!(web.ask(&connect)?.is_refused(), "{round}");
        generations.push(verdicts.active()?.generation());
        assert_eq!(daemon.reload(&sandbox, POLICY)?["result"], "applied");
    }
    assert_eq!(generations, [254, 255, 2, 3, 4, 5]);
    // Left again, without being cleared, it is obeyed.
    verdicts.set_generation(2)?;
    verdicts.plant(&left)?;
    assert_eq!(other.ask(&connect)?.text, "hello");
    // In no generation nothing is kept and nothing found, as after a crash in the middle; the next policy ends that.
    verdicts.set_generation(NO_GENERATION)?;
    for _ in 0..2 {
        assert_eq!(web.ask(&connect)?.text, "hello");
        assert!(other.ask(&connect)?.is_refused());
    }
    assert_eq!(verdicts.at(of_web)?, [0; KeptVerdict::WORDS]);
    assert_eq!(daemon.reload(&sandbox, POLICY)?["result"], "applied");
    assert_eq!(verdicts.active()?.generation(), 2);
    assert_eq!(web.ask(&connect)?.text, "hello");
    assert!(other.ask(&connect)?.is_refused());
    assert!(verdicts.has(of_web)? && verdicts.has(of_other)?);
    daemon.stop()?.check_totals()
}
