//! The CPU backend of snnc: planner, Cranelift step kernels, contractions
