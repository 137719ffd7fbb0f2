//! See `testkit::fuzz::demux`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| testkit::fuzz::demux(data));
