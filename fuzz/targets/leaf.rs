//! DER that shall be a workload's certificate.
#![no_main]
libfuzzer_sys::fuzz_target!(|input: &[u8]| mesh_fuzz::leaf::check(input));
