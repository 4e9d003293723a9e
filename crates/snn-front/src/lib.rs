//! From syntax tree to IR: names, layers, settings, types and shapes
