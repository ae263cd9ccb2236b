//! The signing API: `mesh-agent ca serve` issues SVIDs to agents, each for the workloads of its own node.
//!
//! HTTP/1.1 with JSON over mutual TLS 1.3. An agent joins with a token and then holds its node's identity, which is
//! good here and nowhere else. Which node runs a workload comes from the service's own documents, never from a request.

pub mod client;
mod exchange;
pub mod journal;
pub mod server;
mod service;
mod turns;
mod wire;

pub use client::{Anchor, Introducer, Introduction, JoinTokenFile, RemoteIssuer};
pub use journal::JournalError;
pub use server::Reviewer;
