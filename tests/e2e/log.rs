//! Debug logs of the programs: there if asked for at start, and of no cost at all if not.

use std::net::SocketAddr;

use enforcer_common::Hook;
use enforcer_tests::actor::{Request, Transport};
use enforcer_tests::bpftool::{self, Attached};
use enforcer_tests::sandbox::{Finished, Sandbox};

const POLICY: &str = "version: 1
services:
  web: { match: [{ cgroup: ROOT/web }] }
";

/// The map through which aya-log sends what programs say.
const LOG_MAP: &str = "AYA_LOGS";

/// The hooks that have something to say.
const LOGGING: [Hook; 5] = [Hook::Connect4, Hook::Connect6, Hook::Sendmsg4, Hook::Sendmsg6, Hook::Ingress];

fn run(name: &str, level: &str) -> anyhow::Result<(Vec<Attached>, Finished)> {
    let sandbox = Sandbox::new(name)?;
    sandbox.make_cgroup("other")?;
    let mut command = sandbox.daemon_command(POLICY)?;
    command.args(["--kernel-log", level]).env("ENFORCER_LOG", "debug").env("NO_COLOR", "1");
    let mut daemon = sandbox.start_daemon(command)?;
    let (mut web, mut other) = (sandbox.actor("web")?, sandbox.actor("other")?);
    let at = SocketAddr::from(([127, 0, 0, 1], 8080));
    assert!(other.ask(&Request::Serve { at, transport: Transport::Tcp })?.is_ok());
    let connect = Request::Connect { to: at, transport: Transport::Tcp, mapped: false };
    assert!(web.ask(&connect)?.is_refused());
    daemon.wait_for(|record| record["verdict"] == "deny")?;
    let links = bpftool::links(sandbox.cgroup())?;
    Ok((links, daemon.stop()?))
}

#[test]
fn what_is_not_asked_for_is_not_in_the_programs() -> anyhow::Result<()> {
    let (silent, quiet) = run("log-off", "off")?;
    let (talking, loud) = run("log-debug", "debug")?;
    let message = format!("hook {} identity", Hook::Connect4 as u8);
    assert!(!quiet.words.contains(&message), "{}", quiet.words);
    assert!(loud.words.contains(&message), "{}", loud.words);
    assert_eq!((silent.len(), talking.len()), (Hook::ALL.len(), Hook::ALL.len()));
    for (silent, talking) in silent.iter().zip(&talking) {
        assert_eq!(silent.name, talking.name);
        assert!(!silent.maps.contains(LOG_MAP), "{silent:?}");
        if LOGGING.iter().any(|hook| hook.name() == silent.name) {
            assert!(talking.maps.contains(LOG_MAP), "{talking:?}");
            assert!(silent.bytes < talking.bytes, "{silent:?} {talking:?}");
        } else {
            assert_eq!(silent.bytes, talking.bytes, "{silent:?} {talking:?}");
        }
    }
    quiet.check_totals()?;
    loud.check_totals()
}
