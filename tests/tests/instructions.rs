//! How many instructions kernels take, counted by valgrind: a kernel that became slower is seen on every machine, however busy it is.
//!
//! `cargo test -p snn-tests --test instructions -- --ignored`; `SNNC_INSTRUCTIONS=write` writes `instructions.txt` anew. valgrind has no AVX-512, so the
//! counts are those of AVX2 everywhere; they are of the test profile, whose kernels are compiled at level 2.

use std::collections::BTreeMap;
use std::process::Command;

use snn_tests::workloads::WORKLOADS;
use snnc::Prepared;

mod common {
    pub mod prepared;
}
use common::prepared::prepared;

/// How much more than is written down a kernel may take; less than so much should be written down.
const ALLOWED: f64 = 1.05;

/// A run whose instructions are counted. valgrind knows it by its name.
#[inline(never)]
fn counted_run(prepared: &Prepared) {
    prepared.recycle(prepared.run().unwrap());
}

/// In a process of its own, under valgrind: every workload twice, of which the second is counted. The first packs weights and takes memory.
#[test]
#[ignore = "it is the work that the other test counts"]
fn work() {
    for w in WORKLOADS {
        let prepared = prepared(w);
        prepared.recycle(prepared.run().unwrap());
        counted_run(&prepared);
    }
}

/// The instructions of each workload.
fn counted() -> Vec<f64> {
    let folder = tempfile::tempdir().unwrap();
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--dump-before=instructions::counted_run", "--dump-after=instructions::counted_run"])
        .arg(format!("--callgrind-out-file={}", folder.path().join("counts").display()))
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "work", "--ignored", "--test-threads", "1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{said}");
    // Files of what was counted since the last: before each run, and behind it. Runs are on threads of their own, which are counted too.
    let count = |i: usize| {
        let text = std::fs::read_to_string(folder.path().join(format!("counts.{}", 2 * i + 2))).unwrap_or_default();
        let count =
            text.lines().find_map(|l| l.strip_prefix("summary: ").or(l.strip_prefix("totals: ")).and_then(|n| n.trim().parse().ok()));
        count.unwrap_or_else(|| panic!("valgrind does not say how many instructions it saw:\n{said}"))
    };
    (0..WORKLOADS.len()).map(count).collect()
}

#[test]
#[ignore = "it takes minutes, and needs valgrind"]
fn kernels_take_no_more_instructions_than_before() {
    if !Command::new("valgrind").arg("--version").output().is_ok_and(|o| o.status.success()) {
        eprintln!("SKIPPED: there is no valgrind to count instructions");
        return;
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/instructions.txt");
    let old = std::fs::read_to_string(path).unwrap_or_default();
    let known: BTreeMap<&str, f64> =
        old.lines().filter_map(|l| l.split_once(": ")).filter_map(|(n, x)| Some((n, x.parse().ok()?))).collect();
    let (mut new, mut wrong) = (String::new(), vec![]);
    for (w, own) in WORKLOADS.iter().zip(counted()) {
        let own = (own / 1000.0).round() * 1000.0;
        new.push_str(&format!("{}: {own:.0}\n", w.name));
        match known.get(w.name) {
            Some(old) if own <= old * ALLOWED && own >= old / ALLOWED => {}
            Some(old) => wrong.push(format!("{}: {own} instructions instead of {old}", w.name)),
            None => wrong.push(format!("{}: {own} instructions are not written down", w.name)),
        }
    }
    if std::env::var("SNNC_INSTRUCTIONS").is_ok_and(|v| v == "write") {
        std::fs::write(path, new).unwrap();
        return;
    }
    assert!(wrong.is_empty(), "{}\nSNNC_INSTRUCTIONS=write writes the counts anew", wrong.join("\n"));
}
