//! Mistakes that people make who come from elsewhere, or forget something, and what they are told: `tests/mistakes.txt`, one after the other.

use snnc::{Mode, Program};

#[test]
fn each_leads_to_its_fix() {
    let file = std::fs::read_to_string(format!("{}/mistakes.txt", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let (mut said, mut silent, mut count) = (String::new(), vec![], 0);
    for case in file.split("=== ").filter(|c| !c.is_empty()) {
        let (name, text) = case.split_once('\n').unwrap();
        let rendered = match Program::parse("net.snn", text) {
            Ok(program) => {
                let found = program.check(Mode::Eval);
                if found.is_empty() { String::new() } else { program.render(&found, false) }
            }
            Err(e) => e.to_string(),
        };
        count += 1;
        if rendered.is_empty() {
            silent.push(name.to_string());
        }
        // No mistake of the list is told as the grammar sees it, and each says what to do.
        assert!(!rendered.contains("syntax error"), "{name}: {rendered}");
        said.push_str(&format!("=== {name}\n{}\n", rendered.trim_end()));
    }
    assert!(count >= 75, "{count}");
    assert!(silent.is_empty(), "nothing is said of {silent:?}");
    insta::assert_snapshot!(said);
}
