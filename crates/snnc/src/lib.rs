//! The snnc compiler: its library and its command
