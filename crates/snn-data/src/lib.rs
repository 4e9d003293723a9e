//! Tensor files: safetensors, npz and npy
