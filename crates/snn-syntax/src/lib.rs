//! The grammar of snnc: text to syntax tree, diagnostics and the formatter
