//! Every code block of the book and of the README does what it says.
//!
//! A block of `snn` is a program without errors; with a name, as in ```` ```snn model.snn ````, it is also a file for the blocks after it.
//! A block of `repl` is a session, entries after `> ` (and `. ` where they go on) with their answers, one session for a page; none of them is an
//! error, except in a block of `repl fails`. The commands of a block of `sh` succeed. A block of `ir` is a graph that keeps the rules of the IR.
//! `text` is for the eye only. `SNNC_BOOK=write` writes answers, and the pages that are made, anew.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// A fenced block: its info string, its first and last line inside.
struct Block {
    info: String,
    lines: std::ops::Range<usize>,
}

fn blocks(page: &str, text: &str) -> Vec<Block> {
    let mut list = Vec::new();
    let mut open: Option<(String, usize)> = None;
    for (i, line) in text.lines().enumerate() {
        match (line.strip_prefix("```"), &open) {
            (Some(info), None) => open = Some((info.trim().to_string(), i + 1)),
            (Some(_), Some((info, start))) => {
                list.push(Block { info: info.clone(), lines: *start..i });
                open = None;
            }
            (None, None) => {
                let after_text = i > 0 && !text.lines().nth(i - 1).unwrap().is_empty();
                assert!(!line.starts_with("    ") || after_text, "{page}, line {}: code stands in fences", i + 1);
            }
            (None, Some(_)) => {}
        }
    }
    assert!(open.is_none(), "{page}: a fence is open");
    list
}

/// A folder in which a reader might try things, with the examples of the project.
fn workplace() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    #[cfg(unix)]
    for name in ["examples", "grammar"] {
        std::os::unix::fs::symlink(root().join(name), folder.path().join(name)).unwrap();
    }
    folder
}

fn snnc(folder: &Path, arguments: &[&str], input: &str) -> String {
    let mut child = Command::new(env!("CARGO_BIN_EXE_snnc"))
        .args(arguments)
        .current_dir(folder)
        .env("NO_COLOR", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let out = child.wait_with_output().unwrap();
    assert!(out.status.success(), "{arguments:?}\n{input}\n{}", String::from_utf8_lossy(&out.stderr));
    String::from_utf8(out.stdout).unwrap()
}

/// The entries of a block of a session.
fn entries(lines: &[&str]) -> String {
    let own = lines.iter().filter_map(|l| l.strip_prefix("> ").or(l.strip_prefix(". ")));
    own.map(|l| format!("{l}\n")).collect()
}

/// The text of a page with the answers of its sessions as they are.
fn answered(page: &str, text: &str, folder: &Path) -> String {
    let lines: Vec<&str> = text.lines().collect();
    let list = blocks(page, text);
    let sessions: Vec<&Block> = list.iter().filter(|b| b.info.split(' ').next() == Some("repl")).collect();
    let input: String = sessions.iter().map(|b| entries(&lines[b.lines.clone()])).collect();
    let output = if input.is_empty() { String::new() } else { snnc(folder, &["repl", "--echo"], &input) };
    let mut answers = output.lines().peekable();
    let mut out: Vec<String> = Vec::new();
    let mut at = 0;
    for block in sessions {
        out.extend(lines[at..block.lines.start].iter().map(|l| l.to_string()));
        let count = lines[block.lines.clone()].iter().filter(|l| l.starts_with("> ")).count();
        let (mut seen, mut fails) = (0, false);
        while let Some(line) = answers.peek() {
            seen += usize::from(line.starts_with("> "));
            if seen > count {
                break;
            }
            if line.starts_with("Error") && block.info == "repl" {
                panic!("{page}, line {}: {line}; a block of `repl fails` is for errors that are meant", block.lines.start);
            }
            fails |= line.starts_with("Error");
            out.push(line.trim_end().to_string());
            answers.next();
        }
        assert!(fails || block.info == "repl", "{page}, line {}: nothing of this block of `{}` fails", block.lines.start, block.info);
        at = block.lines.end;
    }
    out.extend(lines[at..].iter().map(|l| l.to_string()));
    out.join("\n") + "\n"
}

/// Commands that a page may name and that are not run here: they build, install or serve, or are other programs'.
const OTHERS: [&str; 10] = ["cargo ", ".ci/run", ".ci/gpu", "cd ", "npm ", "npx ", "code ", "mdbook ", "snnc lsp", "git "];

fn commands(page: &str, lines: &[&str], folder: &Path) {
    for line in lines.iter().filter(|l| !l.trim().is_empty() && !l.starts_with('#')) {
        let line = line.replace("cargo run --release -- ", "snnc ");
        // What takes minutes is begun.
        let line = line.replace("--epochs 15", "--epochs 1").replace("--epochs 10", "--epochs 1").replace("--epochs 20", "--epochs 1");
        if OTHERS.iter().any(|o| line.starts_with(o)) {
            continue;
        }
        let own = Path::new(env!("CARGO_BIN_EXE_snnc")).parent().unwrap();
        let path = format!("{}:{}", own.display(), std::env::var("PATH").unwrap_or_default());
        let out = Command::new("bash").args(["-c", &line]).current_dir(folder).env("PATH", path).output().unwrap();
        assert!(out.status.success(), "{page}: {line}\n{}", String::from_utf8_lossy(&out.stderr));
    }
}

/// Checks a page, or writes it anew; `made` is its text before answers, where it is not what the file has.
fn page(file: &str, made: Option<String>) {
    let path = root().join(file);
    let written = std::env::var("SNNC_BOOK").is_ok_and(|v| v == "write");
    let old = std::fs::read_to_string(&path).unwrap_or_default();
    let text = made.unwrap_or_else(|| old.clone());
    let folder = workplace();
    let lines: Vec<&str> = text.lines().collect();
    for block in blocks(file, &text) {
        let own = &lines[block.lines.clone()];
        let (kind, name) = block.info.split_once(' ').unwrap_or((&block.info, ""));
        match kind {
            "snn" => {
                let program = format!("{}\n", own.join("\n"));
                let place = folder.path().join(if name.is_empty() { "block.snn" } else { name });
                std::fs::write(&place, &program).unwrap();
                // A neuron or function of the library is shown as it is there, with what it calls.
                snnc(folder.path(), &["check", &place.display().to_string()], "");
            }
            "ir" => {
                let place = folder.path().join(name);
                std::fs::write(&place, format!("{}\n", own.join("\n"))).unwrap();
                snnc(folder.path(), &["emit", &place.display().to_string(), "--stage", "ir"], "");
            }
            "sh" => commands(file, own, folder.path()),
            // `cargo test --doc -p snnc` runs the blocks of Rust.
            "repl" | "text" | "python" | "lua" | "rust" => {}
            other => panic!("{file}: a block of `{other}` is not known to this test"),
        }
    }
    let new = answered(file, &text, folder.path());
    if written {
        std::fs::write(&path, &new).unwrap();
    } else if new != old {
        let differs =
            new.lines().zip(old.lines()).position(|(a, b)| a != b).unwrap_or_else(|| new.lines().count().min(old.lines().count()));
        let at = |t: &str| t.lines().nth(differs).unwrap_or_default().to_string();
        panic!("{file}, line {}: `{}` instead of `{}`; SNNC_BOOK=write writes it anew", differs + 1, at(&old), at(&new));
    }
}

#[test]
fn the_readme_is_true() {
    page("README.md", None);
}

#[test]
fn the_chapters_are_true() {
    let summary = std::fs::read_to_string(root().join("docs/SUMMARY.md")).unwrap();
    let mut chapters: Vec<&str> = summary.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect();
    chapters.sort_unstable();
    let mut files: Vec<String> = std::fs::read_dir(root().join("docs"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.ends_with(".md") && n != "SUMMARY.md")
        .collect();
    files.sort();
    assert_eq!(chapters, files, "every page of docs/ is a chapter");
    for file in files.iter().filter(|f| *f != "library.md" && *f != "operations.md") {
        page(&format!("docs/{file}"), None);
    }
}

#[test]
fn the_built_in_functions_are_true() {
    page("grammar/operations.md", None);
    // The chapter is the same text, so that it can be read without mdBook too.
    let (source, chapter) = (root().join("grammar/operations.md"), root().join("docs/operations.md"));
    let text = std::fs::read_to_string(source).unwrap();
    if std::env::var("SNNC_BOOK").is_ok_and(|v| v == "write") {
        std::fs::write(&chapter, &text).unwrap();
    }
    assert!(
        text == std::fs::read_to_string(&chapter).unwrap(),
        "docs/operations.md is not grammar/operations.md: SNNC_BOOK=write makes it"
    );
}

/// The chapter on the library is made from the library.
#[test]
fn the_chapter_on_the_library_is_made_from_it() {
    let mut text = String::from(
        "# The standard library\n\nMade from `grammar/std.snn`: its text is the definition. Times and delays are in time steps; \
         spikes are 0 and 1. `x` is `[T, ...]`, time first.\n",
    );
    // What has an example is for users; the rest helps the library itself, and comes last.
    let mut seen: Vec<String> = Vec::new();
    let mut helpers = String::new();
    for (title, names) in snn_front::library_parts() {
        let title = title[..1].to_uppercase() + &title[1..];
        let mut part = String::new();
        for name in names {
            let Some(about) = snn_front::documentation(&name).filter(|_| !seen.contains(&name)) else { continue };
            let is_helper = !about.contains("```repl");
            let about = about.replace("```snn\n", "```text\n");
            let own = if is_helper { &mut helpers } else { &mut part };
            own.push_str(&format!("\n### {name}\n\n{about}\n"));
            seen.push(name);
        }
        if !part.is_empty() {
            text.push_str(&format!("\n## {title}\n{part}"));
        }
    }
    text.push_str(&format!("\n## What the library uses itself\n{helpers}"));
    page("docs/library.md", Some(text));
}
