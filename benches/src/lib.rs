//! Micro-benchmarks of the pure rules.
