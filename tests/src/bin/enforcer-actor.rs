//! See `enforcer_tests::actor`.
#![forbid(unsafe_code)]

fn main() -> anyhow::Result<()> {
    enforcer_tests::actor::run(std::env::args_os().skip(1))
}
