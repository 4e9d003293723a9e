// Starts `snnc lsp` for files of the language.
const { workspace } = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

exports.activate = async () => {
  const command = workspace.getConfiguration("snnc").get("path");
  const documents = { documentSelector: [{ language: "snn" }] };
  client = new LanguageClient("snnc", "snnc", { command, args: ["lsp"] }, documents);
  await client.start();
};

exports.deactivate = () => client && client.stop();
