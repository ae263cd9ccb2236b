//! The node agent of Hauberk as a library: `main.rs` is a thin shell, and tests build whole agents from these parts.
//!
//! Modules are in reading order, lower layers first; imports point down only (ARCHITECTURE.md).
#![deny(unsafe_code)]

pub mod api;
pub mod model;

pub mod config;
pub mod policy;
pub mod state;

pub mod store;
#[expect(unsafe_code, reason = "system calls that have no safe wrapper elsewhere")]
pub mod sys;
pub mod telemetry;

pub mod bpf;
pub mod identity;
pub mod kubernetes;
pub mod opa;
pub mod tls;

pub mod admin;
pub mod cni;
pub mod pod;
pub mod proxy;
pub mod signing;
pub mod sources;

pub mod app;
pub mod args;
