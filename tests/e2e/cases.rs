//! Every case, answered by the kernel: what the caller sees, and what the audit log tells.

use std::collections::BTreeMap;
use std::thread;

use enforcer_tests::case::Case;
use enforcer_tests::kernel::{self, Answers, Skip};

/// Sandboxes that run at once: a packet that is dropped is waited for, and others need not wait with it.
const AT_ONCE: usize = 4;

/// Attempts that processes make. A case that is added raises it; it never falls.
const FLOOR: usize = 226;

#[test]
fn the_kernel_answers_every_case_as_expected() -> anyhow::Result<()> {
    let cases = Case::load_all()?;
    let answers = thread::scope(|scope| {
        let shares: Vec<_> = (0..AT_ONCE)
            .map(|share| {
                let cases: Vec<&Case> = cases.iter().skip(share).step_by(AT_ONCE).collect();
                scope.spawn(move || kernel::answer(&format!("cases{share}"), &cases))
            })
            .collect();
        shares.into_iter().try_fold(Answers::default(), |answers, share| {
            let more = share.join().map_err(|_panic| anyhow::anyhow!("a thread panicked"))??;
            Ok::<_, anyhow::Error>(answers.and(more))
        })
    })?;
    assert!(answers.mismatches.is_empty(), "{}", answers.mismatches.join("\n"));
    let attempts: usize = cases.iter().map(|case| case.attempts.len()).sum();
    let skipped: usize = answers.skipped.values().sum();
    assert_eq!(answers.made + skipped, attempts);
    assert!(answers.made >= FLOOR, "{} made, skipped {:?}", answers.made, answers.skipped);
    let skipped = [(Skip::Protocol, 5), (Skip::UnknownEnd, 24), (Skip::PermittedReply, 3)];
    assert_eq!(answers.skipped, BTreeMap::from(skipped), "a case that is skipped is to be known here");
    Ok(())
}
