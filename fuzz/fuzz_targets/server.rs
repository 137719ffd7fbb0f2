//! See `testkit::fuzz::server`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| testkit::fuzz::server(data));
