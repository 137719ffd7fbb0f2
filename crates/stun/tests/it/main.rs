//! What the STUN crate writes and reads, held against the RFCs' own bytes.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod rfc5769;
mod rfc8489;
mod round_trip;
