//! See `testkit::fuzz::message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| testkit::fuzz::message(data));
