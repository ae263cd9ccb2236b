//! Builds real two-node worlds for the native tests and the demo.
//!
//! A world is made of network namespaces, cgroups and one wire, so that what the tests claim is seen on real packets
//! and by real programs. Nothing here knows how the agent works inside: it starts the binary and looks from outside.
#![forbid(unsafe_code)]

pub mod agent;
pub mod apiserver;
pub mod app;
pub mod capture;
pub mod census;
pub mod cgroup;
pub mod claims;
pub mod cluster;
pub mod cni;
pub mod demo;
pub mod guard;
pub mod issuer;
pub mod mesh;
pub mod metrics;
pub mod netns;
pub mod oci;
pub mod openssl;
pub mod process;
pub mod scale;
pub mod script;
pub mod stage;
pub mod traffic;
pub mod wait;
pub mod world;
