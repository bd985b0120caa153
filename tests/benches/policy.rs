//! How long it takes to read a policy, to compile it, and to decide by it, as the host does.
#![forbid(unsafe_code)]

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, criterion_group, criterion_main};
use enforcer::identities::Identities;
use enforcer::policy::{Document, compile_documents};
use enforcer::tables::Tables;
use enforcer_tests::bench::decisions::Decisions;
use enforcer_tests::bench::workload::{Place, Workload};

const SIZES: [usize; 3] = [10, 1000, 100_000];

fn reading(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read");
    group.sample_size(10);
    for rules in SIZES {
        let text = Workload::new(rules, Place::Middle).yaml("/bench", false);
        let documents = [Document::new("policy.yaml", text)];
        group.bench_with_input(BenchmarkId::from_parameter(rules), &documents, |bencher, documents| {
            bencher.iter(|| compile_documents(black_box(documents)));
        });
    }
    group.finish();
}

fn compiling(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("compile");
    group.sample_size(10);
    for rules in SIZES {
        let text = Workload::new(rules, Place::Middle).yaml("/bench", false);
        let loaded = compile_documents(&[Document::new("policy.yaml", text)]);
        let policy = loaded.policy.expect("a valid policy");
        group.bench_with_input(BenchmarkId::from_parameter(rules), &policy, |bencher, policy| {
            bencher.iter_batched(
                Identities::default,
                |mut identities| Tables::compile(black_box(policy), &mut identities, 1),
                BatchSize::LargeInput,
            );
        });
    }
    group.finish();
}

fn deciding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decide");
    for rules in SIZES {
        let decisions = Decisions::new(rules).expect("a valid policy");
        group.bench_with_input(BenchmarkId::from_parameter(rules), &decisions, |bencher, decisions| {
            bencher.iter(|| decisions.permitted());
        });
    }
    group.finish();
}

criterion_group!(benches, reading, compiling, deciding);
criterion_main!(benches);
