//! However a PROXY header is cut into segments, it says the same, and it says what it was made to say.

use std::net::SocketAddr;

use stun::proxy_protocol::{BadHeader, Front, MAX_V1, MAX_V2, read};

use crate::message;

/// Reads a connection's first bytes, all at once and one more at a time.
///
/// # Panics
/// When they are read differently, or an address comes out of both versions differently.
pub fn proxy(data: &[u8]) {
    let whole = read(data);
    let mut promised = 0;
    for end in 0..=data.len().min(MAX_V2) {
        match read(data.get(..end).unwrap_or_default()) {
            Ok(Front::Incomplete { needed }) => {
                assert!(end < needed && needed <= MAX_V2.max(MAX_V1), "{needed} of {end}");
                assert!(promised <= needed, "{needed} after {promised}");
                promised = needed;
            }
            // More bytes unmake nothing.
            decided => {
                if let Ok(Front::Header { length, .. }) = decided {
                    assert!(length == end && promised <= length, "{length} of {end}");
                }
                assert_eq!(whole, decided, "after {end} bytes");
                break;
            }
        }
    }
    match whole {
        Ok(Front::Header { length, client }) => {
            assert!(length <= data.len());
            if let Some(client) = client {
                again(client);
            }
        }
        Ok(Front::Incomplete { needed }) => assert!(needed > data.len()),
        Ok(Front::Absent) | Err(BadHeader) => {}
    }
}

/// Written in either version the address is read again.
fn again(client: SocketAddr) {
    for header in [message::proxy_v1(client), message::proxy_v2(client, &[4, 0, 1, 0])] {
        let expected = Front::Header { length: header.len(), client: Some(client) };
        assert_eq!(read(&header), Ok(expected));
    }
}
