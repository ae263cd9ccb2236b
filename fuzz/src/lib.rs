//! What must hold for any input that a stranger, a peer or a typing error may bring, one module a fuzz target.
//!
//! Each `check` panics if a promise is broken; that nothing else panics, hangs or grows is a promise too. `cargo xtask
//! fuzz` looks for inputs that break one; the tests here replay what it has found so far (`corpus/`). A new target is a
//! module here, three lines in `targets/`, and its `[[bin]]` in Cargo.toml.

pub mod bundle;
pub mod config;
pub mod control;
pub mod handshake;
pub mod hello;
pub mod leaf;
pub mod spiffe_id;

#[cfg(test)]
mod tests;
