//! Every case, answered by the oracle and by `decide` over compiled tables.

use enforcer_tests::case::Case;
use enforcer_tests::compiled::Compiled;
use enforcer_tests::oracle::{self, Answer, Attempt};

#[test]
fn the_oracle_answers_every_case_as_expected() {
    check(|case| {
        let policy = case.policy.clone();
        Box::new(move |attempt| oracle::answer(&policy, attempt))
    });
}

#[test]
fn compiled_tables_answer_every_case_as_expected() {
    check(|case| {
        let compiled = Compiled::of(&case.policy).expect("cases fit");
        Box::new(move |attempt| compiled.answer(attempt))
    });
}

#[test]
fn a_wrong_expectation_is_noticed() {
    let text =
        "description: d\npolicy: |\n  version: 1\n  services: { a: { match: [{ cgroup: /case/a }] } }\n";
    for (expected, noticed) in [
        ("{ expect: deny, reason: no-rule }", false),
        ("{ expect: allow, reason: no-rule }", true),
        ("{ expect: would-deny, reason: no-rule }", true),
        ("{ expect: deny, reason: port-not-listed }", true),
    ] {
        let attempt = expected.replace('{', "{ from: a, to: unmanaged, port: 1,");
        let case = Case::parse("wrong", &format!("{text}attempts: [{attempt}]\n")).expect("valid");
        let attempt = case.attempts[0].attempt(&case.policy).expect("valid");
        let answer = oracle::answer(&case.policy, &attempt);
        assert_eq!(case.mismatch(0, &answer).expect("valid").is_some(), noticed, "{expected}");
    }
}

#[test]
fn a_case_that_says_nothing_is_refused() {
    let policy = "policy: |\n  version: 1\n";
    for text in [
        format!("description: d\n{policy}attempts: []\n"),
        format!(
            "description: d\n{policy}attempts: [{{ from: world, to: unmanaged, port: 1, expect: allow }}]\n"
        ),
        format!(
            "description: d\n{policy}attempts: [{{ from: a, to: world, port: 1, expect: allow, reason: rule }}]\n"
        ),
        format!(
            "description: d\n{policy}attempts: [{{ from: world, to: unmanaged, expect: allow, reason: rule }}]\n"
        ),
        format!(
            "description: d\n{policy}attempts: [{{ from: world, to: unmanaged, port: 1, expect: allow, rule: r }}]\n"
        ),
    ] {
        assert!(Case::parse("nothing", &text).is_err(), "{text}");
    }
}

type Executor = Box<dyn Fn(&Attempt) -> Answer>;

fn check(executor: impl Fn(&Case) -> Executor) {
    let mut mismatches = Vec::new();
    for case in Case::load_all().expect("cases are valid") {
        let answer = executor(&case);
        for (number, attempt) in case.attempts.iter().enumerate() {
            let attempt = attempt.attempt(&case.policy).expect("loaded");
            mismatches.extend(case.mismatch(number, &answer(&attempt)).expect("loaded"));
        }
    }
    assert!(mismatches.is_empty(), "{}", mismatches.join("\n"));
}
