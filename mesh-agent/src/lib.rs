//! The node agent of Hauberk as a library: `main.rs` is a thin shell, and tests build whole agents from these parts.
//!
//! Modules are in reading order, lower layers first; imports point down only (ARCHITECTURE.md).

pub mod model;

pub mod config;

pub mod identity;
pub mod tls;

pub mod sources;
