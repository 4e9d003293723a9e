//! Nothing lives here: see `tests/tests`.
