//! The REPL at a terminal: completion, history, Ctrl-C, several lines at once. What the terminal shows is read from its bytes.
#![cfg(unix)]

use std::io::{Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

/// A terminal with a REPL in it.
struct Terminal {
    seen: Arc<Mutex<String>>,
    keys: Arc<Mutex<Box<dyn Write + Send>>>,
    child: Box<dyn Child + Send + Sync>,
    /// Closed when dropped.
    _master: Box<dyn MasterPty + Send>,
}

impl Terminal {
    fn new(data: &std::path::Path) -> Terminal {
        let pair = native_pty_system().openpty(PtySize { rows: 40, cols: 120, pixel_width: 0, pixel_height: 0 }).unwrap();
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_snnc"));
        command.arg("repl");
        command.env("XDG_DATA_HOME", data);
        command.env("TERM", "xterm-256color");
        command.env("NO_COLOR", "1");
        command.cwd(data);
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let seen = Arc::new(Mutex::new(String::new()));
        let keys = Arc::new(Mutex::new(pair.master.take_writer().unwrap()));
        let (mut reader, kept, answers) = (pair.master.try_clone_reader().unwrap(), seen.clone(), keys.clone());
        std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n) = reader.read(&mut bytes) {
                if n == 0 {
                    break;
                }
                let text = String::from_utf8_lossy(&bytes[..n]).into_owned();
                // Where is the cursor? A terminal answers.
                if text.contains("\x1b[6n") {
                    let _ = answers.lock().unwrap().write_all(b"\x1b[1;1R");
                }
                kept.lock().unwrap().push_str(&text);
            }
        });
        Terminal { seen, keys, child, _master: pair.master }
    }

    fn press(&self, keys: &str) {
        // Keys that come before the line is edited are the terminal's: a person is slower.
        std::thread::sleep(Duration::from_millis(250));
        let mut writer = self.keys.lock().unwrap();
        writer.write_all(keys.as_bytes()).unwrap();
        writer.flush().unwrap();
    }

    /// Waits until something is shown, and forgets what was shown up to its end.
    fn wait_for(&self, wanted: &str) {
        let started = Instant::now();
        loop {
            {
                let mut seen = self.seen.lock().unwrap();
                let plain = without_escapes(&seen);
                if let Some(at) = plain.find(wanted) {
                    *seen = plain[at + wanted.len()..].to_string();
                    return;
                }
                assert!(started.elapsed() < Duration::from_secs(60), "`{wanted}` is not shown: {plain:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// The text without what moves the cursor and colours.
fn without_escapes(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text.chars().peekable();
    while let Some(c) = rest.next() {
        if c != '\x1b' {
            plain.push(c);
            continue;
        }
        match rest.next() {
            Some('[') => while rest.next().is_some_and(|c| !c.is_ascii_alphabetic() && c != '~') {},
            Some(']') => while rest.next().is_some_and(|c| c != '\x07' && c != '\\') {},
            _ => {}
        }
    }
    plain
}

#[test]
fn a_session_at_a_terminal() {
    let folder = tempfile::tempdir().unwrap();
    let terminal = Terminal::new(folder.path());
    terminal.wait_for("`:help` lists commands");
    terminal.press("1 + 2\r");
    terminal.wait_for("i64[] 3");
    // Tab completes a name that only one begins with, and the fields of a layer.
    terminal.press("first_spike_i\t([0.0, 1.0])\r");
    terminal.wait_for("first_spike_index([0.0, 1.0])");
    terminal.wait_for("[false,  true]");
    terminal.press("layer cell = lif()\r");
    terminal.press("cell([3.0, 3.0]) |> sum\r");
    terminal.wait_for("f32[] 2.0000");
    terminal.press("sum(cell.v\t)\r");
    terminal.wait_for("f32[]");
    // Ctrl-C forgets a line, and the session goes on.
    terminal.press("this line is forgotten\x03");
    terminal.press("2 * 21\r");
    terminal.wait_for("i64[] 42");
    // The arrow up is the entry before, also in the next session.
    terminal.press("\x1b[A\r");
    terminal.wait_for("i64[] 42");
    // What is pasted may have several lines: an entry goes on while a bracket is open.
    terminal.press("\x1b[200~fn twice(x) {\n    x * 2\n}\x1b[201~\r");
    terminal.press("twice(4)\r");
    terminal.wait_for("i64[] 8");
    terminal.press("nothing_of_this_name + 1\r");
    terminal.wait_for("`nothing_of_this_name` is not known");
    terminal.press("exit\r");
    let Terminal { mut child, .. } = terminal;
    assert!(child.wait().unwrap().success());
    let history = std::fs::read_to_string(folder.path().join("snnc/history")).unwrap();
    assert!(history.contains("2 * 21") && history.contains("exit"), "{history}");

    let again = Terminal::new(folder.path());
    again.wait_for("`:help` lists commands");
    again.press("\x1b[A\x1b[A\x1b[A\r");
    again.wait_for("twice(4)");
    again.wait_for("`twice` is not known");
    again.press("\x04");
    let Terminal { mut child, .. } = again;
    assert!(child.wait().unwrap().success());
}
