//! The language server in Neovim, a client that nobody here wrote. `tests/neovim.lua` is the person at it.

use std::process::Command;

#[test]
fn neovim_is_served() {
    if Command::new("nvim").arg("--version").output().is_err() {
        eprintln!("SKIPPED: there is no `nvim`; Debian's package `neovim` has it");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (file, out) = (folder.path().join("net.snn"), folder.path().join("said.json"));
    std::fs::write(
        &file,
        "net main(x: f32[T, B, 4]) -> f32[T, B, 2] {\n    layer fc = linear(4, 2)\n    let h = fc(x)\n    h |>      lifx()\n}\n",
    )
    .unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/neovim.lua");
    let output = Command::new("nvim")
        .args(["--headless", "-u", "NONE", "-i", "NONE", "-n", "-c", &format!("luafile {script}"), "-c", "cquit"])
        .env("SNNC", env!("CARGO_BIN_EXE_snnc"))
        .env("SNNC_FILE", &file)
        .env("SNNC_OUT", &out)
        .env("XDG_STATE_HOME", folder.path())
        .env("XDG_CACHE_HOME", folder.path())
        .output()
        .unwrap();
    let why = String::from_utf8_lossy(&output.stderr);
    let said = std::fs::read_to_string(&out).unwrap_or_else(|e| panic!("{e}: {why}"));
    let said: serde_json::Value = serde_json::from_str(&said).unwrap();
    let text = |key: &str| said[key].to_string();
    assert!(text("mistake").contains("`lifx` is not known"), "{said}");
    assert!(text("action").contains("lif"), "{said}");
    assert_eq!(said["mended"], serde_json::json!([]), "{said}");
    assert!(text("hover").contains("LIFNode"), "{said}");
    assert!(said["completion"].as_array().is_some_and(|l| l.iter().any(|n| n == "lif")), "{said}");
    assert_eq!(said["symbols"], serde_json::json!(["main"]), "{said}");
    let lines =
        ["net main(x: f32[T, B, 4]) -> f32[T, B, 2] {", "    layer first = linear(4, 2)", "    let h = first(x)", "    h |> lif()", "}"];
    assert_eq!(said["text"], serde_json::json!(lines), "{said}");
}
