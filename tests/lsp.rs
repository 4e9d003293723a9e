//! The language server over standard input and output, as an editor talks to it.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use serde_json::{Value, json};

/// An editor with one server.
struct Editor {
    child: Child,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    next: i64,
    /// What the server said unasked.
    said: Vec<Value>,
}

const FILE: &str = "file:///model.snn";

impl Editor {
    fn new() -> Editor {
        let mut child = Command::new(env!("CARGO_BIN_EXE_snnc")).arg("lsp").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (to, from) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
        let mut editor = Editor { child, to, from, next: 0, said: vec![] };
        let started = editor.ask("initialize", json!({ "capabilities": {} }));
        assert_eq!(started["serverInfo"]["name"], "snnc");
        editor.tell("initialized", json!({}));
        editor
    }

    fn send(&mut self, message: &Value) {
        let text = message.to_string();
        write!(self.to, "Content-Length: {}\r\n\r\n{text}", text.len()).unwrap();
        self.to.flush().unwrap();
    }

    fn tell(&mut self, method: &str, parameters: Value) {
        self.send(&json!({ "jsonrpc": "2.0", "method": method, "params": parameters }));
    }

    fn read(&mut self) -> Value {
        let mut length = 0;
        loop {
            let mut line = String::new();
            self.from.read_line(&mut line).unwrap();
            match line.trim().split_once(": ") {
                Some(("Content-Length", n)) => length = n.parse().unwrap(),
                None => break,
                _ => {}
            }
        }
        let mut text = vec![0; length];
        self.from.read_exact(&mut text).unwrap();
        serde_json::from_slice(&text).unwrap()
    }

    /// The result of a request, or its error.
    fn ask(&mut self, method: &str, parameters: Value) -> Value {
        self.next += 1;
        let id = self.next;
        self.send(&json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": parameters }));
        loop {
            let message = self.read();
            if message["id"] == id {
                return if message["error"].is_null() { message["result"].clone() } else { message["error"].clone() };
            }
            self.said.push(message);
        }
    }

    /// Replaces the text and waits for its diagnostics.
    fn write(&mut self, version: i64, text: &str) -> Vec<Value> {
        if version == 1 {
            let document = json!({ "uri": FILE, "languageId": "snn", "version": 1, "text": text });
            self.tell("textDocument/didOpen", json!({ "textDocument": document }));
        } else {
            let changes = json!([{ "text": text }]);
            self.tell("textDocument/didChange", json!({ "textDocument": { "uri": FILE, "version": version }, "contentChanges": changes }));
        }
        loop {
            if let Some(i) = self.said.iter().position(|m| m["params"]["version"] == version) {
                return self.said.remove(i)["params"]["diagnostics"].as_array().unwrap().clone();
            }
            let message = self.read();
            self.said.push(message);
        }
    }

    fn at(&mut self, method: &str, line: usize, character: usize) -> Value {
        let mut parameters = json!({ "textDocument": { "uri": FILE }, "position": { "line": line, "character": character } });
        if method.ends_with("references") {
            parameters["context"] = json!({ "includeDeclaration": true });
        }
        self.ask(method, parameters)
    }
}

const MODEL: &str = "\
// A layer of spikes.
net block(x: f32[T, B, C]; C) -> f32[T, B, C] {
    layer fc = linear(C, C)
    x |> fc |> lif()
}
net main(x: f32[T, B, 8]) -> f32[T, B, 8] {
    layer a = block(C = 8)
    let h = a(x)
    let rec r = lif(h + delay(r, 1))
    h + r |> delay(2)
}
";

#[test]
fn an_editor_is_served() {
    let mut editor = Editor::new();
    assert_eq!(editor.write(1, MODEL), Vec::<Value>::new());

    let text = |v: &Value| v["contents"]["value"].as_str().unwrap_or_default().to_string();
    let hover = editor.at("textDocument/hover", 9, 4);
    assert!(text(&hover).contains("`h`: `f32[T, B, 8]`"), "{hover}");
    let hover = editor.at("textDocument/hover", 8, 12);
    assert!(text(&hover).contains("`r`: `f32[T, B, 8]`"), "{hover}");
    let hover = editor.at("textDocument/hover", 9, 14);
    assert!(text(&hover).contains("y[t] = x[t - steps]"), "{hover}");
    let hover = editor.at("textDocument/hover", 6, 16);
    assert!(text(&hover).starts_with("A layer of spikes.\n"), "{hover}");
    let hover = editor.at("textDocument/hover", 3, 16);
    assert!(text(&hover).contains("neuron lif(\n    x;\n    tau = 2.0"), "{hover}");
    assert!(editor.at("textDocument/hover", 4, 0).is_null());

    let definition = editor.at("textDocument/definition", 6, 15);
    assert_eq!(definition["range"]["start"], json!({ "line": 1, "character": 4 }));
    let setting = editor.at("textDocument/definition", 6, 20);
    assert_eq!(setting["range"]["start"], json!({ "line": 1, "character": 27 }));
    let references = editor.at("textDocument/references", 7, 8);
    assert_eq!(references.as_array().unwrap().len(), 3, "{references}");

    let renamed = editor.ask(
        "textDocument/rename",
        json!({ "textDocument": { "uri": FILE }, "position": { "line": 7, "character": 8 }, "newName": "hidden" }),
    );
    assert_eq!(renamed["changes"][FILE].as_array().map(Vec::len), Some(3), "{renamed}");
    let refused = editor.ask(
        "textDocument/rename",
        json!({ "textDocument": { "uri": FILE }, "position": { "line": 7, "character": 8 }, "newName": "let" }),
    );
    assert_eq!(refused["message"], "`let` is not a name");
    let known = editor.ask(
        "textDocument/rename",
        json!({ "textDocument": { "uri": FILE }, "position": { "line": 9, "character": 14 }, "newName": "late" }),
    );
    assert_eq!(known["message"], "what stands here is not declared in this file");

    // While something is typed the file does not parse, and completion still knows its names.
    let broken = MODEL.replace("h + r |> delay(2)", "h + ");
    let diagnostics = editor.write(2, &broken);
    assert_eq!(diagnostics.len(), 1, "{diagnostics:?}");
    let completion = editor.at("textDocument/completion", 9, 8);
    let labels: Vec<&str> = completion.as_array().unwrap().iter().filter_map(|i| i["label"].as_str()).collect();
    for label in ["h", "r", "x", "a", "block", "lif", "delay", "linear", "atan"] {
        assert!(labels.contains(&label), "{label}: {labels:?}");
    }

    // An error of types, with the place; emoji count as two units in the editor's columns.
    let wrong = "net main(x: f32[T, 4]) -> f32[T, 3] {\n    /**/ x\n}\n".replace("/**/ ", "");
    let diagnostics = editor.write(3, &wrong);
    assert_eq!(diagnostics.len(), 1, "{diagnostics:?}");
    assert_eq!(diagnostics[0]["range"]["start"]["line"], 1);
    assert_eq!(diagnostics[0]["severity"], 1);
    editor.write(4, "// 🙂\nnet main(x:f32[T]) -> f32[T] { x }\n");
    let edits = editor
        .ask("textDocument/formatting", json!({ "textDocument": { "uri": FILE }, "options": { "tabSize": 4, "insertSpaces": true } }));
    assert_eq!(edits[0]["newText"], "// 🙂\nnet main(x: f32[T]) -> f32[T] {\n    x\n}\n");

    // Hostile input does not end the server.
    editor.write(5, &"(".repeat(100_000));
    editor.write(6, "net main(x: f32[T]) -> f32[T] { let rec a = a\n a }");
    assert!(editor.at("textDocument/hover", 1_000_000, 1_000_000).is_null());

    assert!(editor.ask("shutdown", Value::Null).is_null());
    editor.tell("exit", Value::Null);
    drop(editor.to);
    assert!(editor.child.wait().unwrap().success());
}

const RICH: &str = "\
// Two lines
// of a comment.
neuron leaky_sum(x; decay = 0.5) {
    state total = 0.0
    total = decay * total + x
    emit total
}

net main(x: f32[T, B, 8]; width = 4) -> f32[T, B, 4] {
    layer fc = linear(8, width)
    layer sum = leaky_sum(decay = 0.9)
    let h = x |> fc
    let s = sum(h)
    s + sum.total
}
";

#[test]
fn an_editor_shows_what_it_shows_elsewhere() {
    let mut editor = Editor::new();
    assert_eq!(editor.write(1, RICH), Vec::<Value>::new());
    let document = || json!({ "textDocument": { "uri": FILE } });

    let symbols = editor.ask("textDocument/documentSymbol", document());
    let names: Vec<&str> = symbols.as_array().unwrap().iter().filter_map(|s| s["name"].as_str()).collect();
    assert_eq!(names, ["leaky_sum", "main"]);
    let inside: Vec<&str> = symbols[1]["children"].as_array().unwrap().iter().filter_map(|s| s["name"].as_str()).collect();
    assert_eq!(inside, ["x", "width", "fc", "sum", "h", "s"]);
    assert_eq!(symbols[0]["detail"], "neuron leaky_sum(x; decay = 0.5)");
    let found = editor.ask("workspace/symbol", json!({ "query": "LEAKY" }));
    assert_eq!(found[0]["name"], "leaky_sum");

    // Inside of `linear(8, |width)` and of `leaky_sum(decay = |0.9)`.
    let help = editor.at("textDocument/signatureHelp", 9, 24);
    assert!(help["signatures"][0]["label"].as_str().unwrap().starts_with("net linear("), "{help}");
    assert_eq!(help["activeParameter"], 1);
    let help = editor.at("textDocument/signatureHelp", 10, 34);
    assert_eq!(help["signatures"][0]["label"], "neuron leaky_sum(x; decay = 0.5)");
    assert_eq!(help["activeParameter"], 1);

    let hints = editor.ask(
        "textDocument/inlayHint",
        json!({ "textDocument": { "uri": FILE }, "range": { "start": { "line": 0, "character": 0 }, "end": { "line": 20, "character": 0 } } }),
    );
    let labels: Vec<&str> = hints.as_array().unwrap().iter().filter_map(|h| h["label"].as_str()).collect();
    assert_eq!(labels, [": f32[T, B, 4]", ": f32[T, B, 4]"], "{hints}");

    // Tokens are numbers in fives, whose lines add up to places of the file.
    let tokens = editor.ask("textDocument/semanticTokens/full", document());
    let data: Vec<u64> = tokens["data"].as_array().unwrap().iter().filter_map(Value::as_u64).collect();
    let (mut line, mut start, mut words) = (0, 0, Vec::new());
    for t in data.chunks(5) {
        start = if t[0] == 0 { start + t[1] } else { t[1] };
        line += t[0];
        let text = RICH.lines().nth(line as usize).unwrap();
        words.push((&text[start as usize..(start + t[2]) as usize], t[3]));
    }
    for wanted in
        [("// of a comment.", 7), ("neuron", 6), ("leaky_sum", 0), ("state", 6), ("decay", 2), ("linear", 1), ("fc", 3), ("h", 4), ("T", 5)]
    {
        assert!(words.contains(&wanted), "{wanted:?}: {words:?}");
    }

    let marks = editor.at("textDocument/documentHighlight", 11, 8);
    assert_eq!(marks.as_array().map(Vec::len), Some(2), "{marks}");
    let folds = editor.ask("textDocument/foldingRange", document());
    let lines: Vec<(u64, u64)> =
        folds.as_array().unwrap().iter().map(|f| (f["startLine"].as_u64().unwrap(), f["endLine"].as_u64().unwrap())).collect();
    assert_eq!(lines, [(0, 1), (2, 6), (8, 14)]);

    let prepared = editor.at("textDocument/prepareRename", 11, 8);
    assert_eq!(prepared["placeholder"], "h");
    assert_eq!(editor.at("textDocument/prepareRename", 9, 16)["message"], "what stands here is not declared in this file");
    let rename = |new: &str| json!({ "textDocument": { "uri": FILE }, "position": { "line": 11, "character": 8 }, "newName": new });
    assert_eq!(editor.ask("textDocument/rename", rename("s"))["message"], "`s` has a meaning here already, in line 13");
    assert_eq!(editor.ask("textDocument/rename", rename("leaky_sum"))["message"], "`leaky_sum` has a meaning here already, in line 3");

    let library = editor.at("textDocument/definition", 9, 16);
    let path = library["uri"].as_str().unwrap().strip_prefix("file://").unwrap();
    let line = library["range"]["start"]["line"].as_u64().unwrap() as usize;
    assert!(std::fs::read_to_string(path).unwrap().lines().nth(line).unwrap().starts_with("net linear("));

    // Behind a dot fields; in a call its settings first.
    let labels = |v: &Value| v.as_array().unwrap().iter().filter_map(|i| i["label"].as_str().map(str::to_string)).collect::<Vec<_>>();
    assert_eq!(labels(&editor.at("textDocument/completion", 13, 12)), ["total"]);
    let of_call = editor.at("textDocument/completion", 10, 26);
    assert_eq!(labels(&of_call)[0], "decay");
    assert!(labels(&of_call).iter().any(|l| l == "state"));
}

#[test]
fn mistakes_have_fixes() {
    let mut editor = Editor::new();
    let cases = [
        ("net main(x: f32[T, 4]) {\n    x |> lif(tua = 2.0)\n}\n", "tau"),
        ("net main(x: f32[T, 4]) {\n    x |> lof()\n}\n", "lif"),
        ("net main(x: f32[T, 4]) {\n    let hidden = lif(x)\n    hiden\n}\n", "hidden"),
        ("net main(x: f32[T, 4]) {\n    where(x > 0 and x < 1, x, 0.0)\n}\n", "&&"),
    ];
    for (i, (text, wanted)) in cases.into_iter().enumerate() {
        let diagnostics = editor.write(i as i64 + 1, text);
        let range = &diagnostics[0]["range"];
        let asked = json!({ "textDocument": { "uri": FILE }, "range": range, "context": { "diagnostics": diagnostics } });
        let actions = editor.ask("textDocument/codeAction", asked);
        let edit = &actions[0]["edit"]["changes"][FILE][0];
        assert_eq!(edit["newText"], wanted, "{text}: {diagnostics:?} {actions}");
        // The fix mends the program.
        let line = edit["range"]["start"]["line"].as_u64().unwrap() as usize;
        let (from, to) =
            (edit["range"]["start"]["character"].as_u64().unwrap() as usize, edit["range"]["end"]["character"].as_u64().unwrap() as usize);
        let mut lines: Vec<String> = text.lines().map(str::to_string).collect();
        lines[line].replace_range(from..to, wanted);
        let mended = editor.write(i as i64 + 100, &lines.join("\n"));
        assert!(mended.iter().all(|d| d["severity"] != 1), "{}: {mended:?}", lines.join("\n"));
    }
}

/// The colours of the extension know every word of the language.
/// Half of programs, doubled tokens, characters of several bytes, places that are none: every request is answered.
#[test]
fn nothing_that_is_typed_ends_the_server() {
    let mut state = 11u64;
    let mut roll = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % n
    };
    const WORDS: [&str; 20] = [
        "(",
        ")",
        "{",
        "}",
        "[",
        "net",
        "neuron",
        "|>",
        "let rec ",
        "τ",
        "“",
        "\u{feff}",
        "\u{a0}",
        "😀",
        "9999999999999999999",
        "\"",
        "//",
        "..",
        "\r\n",
        "= 1 / 0",
    ];
    let mut editor = Editor::new();
    for version in 1..if cfg!(debug_assertions) { 120 } else { 600 } {
        let mut text = MODEL.to_string();
        for _ in 0..1 + roll(4) {
            let places: Vec<usize> = text.char_indices().map(|(i, _)| i).collect();
            let (a, b) = (places[roll(places.len())], places[roll(places.len())]);
            match roll(4) {
                0 => text.truncate(a.max(1)),
                1 => text.insert_str(a, WORDS[roll(WORDS.len())]),
                2 => text.replace_range(a.min(b)..a.max(b), ""),
                _ => {
                    let again = text[a.min(b)..a.max(b)].to_string();
                    text.insert_str(b, &again);
                }
            }
            if text.is_empty() {
                text.push('x');
            }
        }
        editor.write(version, &text);
        // Past the ends of lines and of the file too.
        let (line, character) = (roll(16), roll(60));
        for method in ["hover", "definition", "references", "completion", "signatureHelp", "documentHighlight", "prepareRename"] {
            editor.at(&format!("textDocument/{method}"), line, character);
        }
        for method in ["documentSymbol", "foldingRange", "semanticTokens/full"] {
            editor.ask(&format!("textDocument/{method}"), json!({ "textDocument": { "uri": FILE } }));
        }
        let range = json!({ "start": { "line": 0, "character": 0 }, "end": { "line": line, "character": character } });
        editor.ask("textDocument/inlayHint", json!({ "textDocument": { "uri": FILE }, "range": range }));
        let context = json!({ "diagnostics": [] });
        editor.ask("textDocument/codeAction", json!({ "textDocument": { "uri": FILE }, "range": range, "context": context }));
        editor.ask("workspace/symbol", json!({ "query": "m" }));
        let document = json!({ "uri": FILE });
        let place = json!({ "line": line, "character": character });
        editor.ask("textDocument/rename", json!({ "textDocument": document, "position": place, "newName": WORDS[roll(WORDS.len())] }));
        let options = json!({ "tabSize": 4, "insertSpaces": true });
        editor.ask("textDocument/formatting", json!({ "textDocument": document, "options": options }));
    }
    // What is no request of the protocol, and documents that were never opened.
    editor.ask("textDocument/unknown", json!({ "a": 1 }));
    editor.ask("textDocument/hover", json!({ "textDocument": { "uri": "file:///other.snn" }, "position": { "line": 0, "character": 0 } }));
    editor.ask("textDocument/hover", json!({ "nothing": true }));
    assert!(editor.write(1000, MODEL).is_empty());
    assert_eq!(editor.ask("shutdown", Value::Null), Value::Null);
    editor.tell("exit", Value::Null);
    assert!(editor.child.wait().unwrap().success());
}

#[test]
fn the_extension_knows_the_words_of_the_grammar() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let read = |path: &str| std::fs::read_to_string(format!("{root}/{path}")).unwrap();
    for file in ["package.json", "language-configuration.json", "syntaxes/snn.tmLanguage.json"] {
        let _: Value = serde_json::from_str(&read(&format!("editors/vscode/{file}"))).unwrap();
    }
    let colours = read("editors/vscode/syntaxes/snn.tmLanguage.json");
    let grammar = read("grammar/snn.pest");
    let words = grammar.lines().filter(|l| l.starts_with("keyword")).flat_map(|l| l.split('"').skip(1).step_by(2));
    let mut count = 0;
    for word in words {
        let known = ["(", "|", "+"].iter().any(|before| colours.contains(&format!("{before}{word}")));
        assert!(known, "the extension does not know `{word}`");
        count += 1;
    }
    assert!(count > 15);
}
