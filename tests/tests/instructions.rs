//! How many instructions kernels take, counted by valgrind: a kernel that became slower is seen on every machine, however busy it is.
//!
//! `cargo test -p snn-tests --test instructions -- --ignored`; `SNNC_INSTRUCTIONS=write` writes `instructions.txt` anew. valgrind has no AVX-512, so the
//! counts are those of AVX2 everywhere; they are of the test profile, whose kernels are compiled at level 2.

use std::collections::BTreeMap;
use std::process::Command;

use snn_tests::workloads::WORKLOADS;

mod common {
    pub mod prepared;
}
use common::prepared::prepared;

/// How much more than is written down a kernel may take; less than so much should be written down.
const ALLOWED: f64 = 1.05;

/// In a process of its own: a workload so many times.
#[test]
#[ignore = "it is the work that the other test counts"]
fn work() {
    let Ok(name) = std::env::var("SNNC_WORKLOAD") else { return };
    let runs: usize = std::env::var("SNNC_RUNS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    let prepared = prepared(WORKLOADS.iter().find(|w| w.name == name).unwrap());
    for _ in 0..runs {
        prepared.recycle(prepared.run().unwrap());
    }
}

/// The instructions of a workload that runs so many times, with all that comes before.
fn counted(name: &str, runs: usize) -> f64 {
    let out = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "work", "--ignored", "--test-threads", "1"])
        .env("SNNC_WORKLOAD", name)
        .env("SNNC_RUNS", runs.to_string())
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}");
    let count = text.lines().find_map(|l| l.split_once("Collected : ")).and_then(|(_, n)| n.trim().parse().ok());
    count.unwrap_or_else(|| panic!("valgrind does not say how many instructions it saw:\n{text}"))
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
    for w in WORKLOADS {
        // The first run packs weights and takes memory; the next ones do not.
        let own = (counted(w.name, 4) - counted(w.name, 2)) / 2.0;
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
