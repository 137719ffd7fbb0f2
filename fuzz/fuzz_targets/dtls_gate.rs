//! See `testkit::fuzz::dtls_gate`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| testkit::fuzz::dtls_gate(data));
