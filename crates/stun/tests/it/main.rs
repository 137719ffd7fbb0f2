//! What the STUN crate writes and reads, held against the RFCs' own bytes.

mod rfc5769;
mod round_trip;
