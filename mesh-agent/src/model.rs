//! The values that everything else speaks in (layer 0).
//!
//! A value here is valid by construction: parsing happened at the edge. Nothing in this module does I/O, reads a clock,
//! logs, or knows how a value came to be.

pub mod budget;
pub mod bundle;
pub mod cluster;
pub mod connection;
pub mod crl;
pub mod kernel;
pub mod mesh;
pub mod policy;
pub mod rego;
pub mod revocation;
pub mod service;
pub mod socket;
pub mod spiffe;
pub mod svid;
pub mod window;
pub mod workload;
