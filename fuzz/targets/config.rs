//! YAML that shall become a configuration.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mesh_fuzz::config::check(input));
