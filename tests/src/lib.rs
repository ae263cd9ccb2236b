//! Builds real two-node worlds for the native tests and the demo.
