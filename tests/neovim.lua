-- A person at Neovim: opens a file with a mistake, mends it as the server says, looks, renames and formats. What happens is written as JSON.
local server, file, out = vim.env.SNNC, vim.env.SNNC_FILE, vim.env.SNNC_OUT
local said = {}

vim.cmd("edit " .. file)
vim.bo.filetype = "snn"
local buffer = vim.api.nvim_get_current_buf()
local client = vim.lsp.start_client({ name = "snnc", cmd = { server, "lsp" }, root_dir = vim.fn.fnamemodify(file, ":h") })
vim.lsp.buf_attach_client(buffer, client)

local function diagnostics(count)
  vim.wait(10000, function() return vim.lsp.get_client_by_id(client).initialized and #vim.diagnostic.get(buffer) == count end, 20)
  return vim.tbl_map(function(d) return d.message end, vim.diagnostic.get(buffer))
end

local function ask(method, line, column, more)
  local params = vim.tbl_extend("force", {
    textDocument = { uri = vim.uri_from_bufnr(buffer) },
    position = { line = line, character = column },
  }, more or {})
  local answers, why = vim.lsp.buf_request_sync(buffer, method, params, 10000)
  local answer = answers and answers[client] or {}
  return answer.result or error(method .. ": " .. vim.inspect(why or answer))
end

said.mistake = diagnostics(1)
local place = { start = { line = 3, character = 14 }, ["end"] = { line = 3, character = 18 } }
local actions = ask("textDocument/codeAction", 3, 14, { range = place, context = { diagnostics = {} } })
said.action = actions[1].title
vim.lsp.util.apply_workspace_edit(actions[1].edit, "utf-16")
said.mended = diagnostics(0)
said.hover = ask("textDocument/hover", 3, 15).contents.value
local completion = ask("textDocument/completion", 3, 16)
said.completion = vim.tbl_map(function(i) return i.label end, completion.items or completion)
vim.lsp.util.apply_workspace_edit(ask("textDocument/rename", 1, 10, { newName = "first" }), "utf-16")
vim.lsp.util.apply_text_edits(ask("textDocument/formatting", 0, 0, { options = { tabSize = 4, insertSpaces = true } }), buffer, "utf-16")
said.text = vim.api.nvim_buf_get_lines(buffer, 0, -1, false)
said.symbols = vim.tbl_map(function(s) return s.name end, ask("textDocument/documentSymbol", 0, 0))

local handle = io.open(out, "w")
handle:write(vim.fn.json_encode(said))
handle:close()
vim.cmd("qall!")
