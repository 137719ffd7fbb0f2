//! The PROXY protocol, versions 1 and 2: the header that a proxy puts in front of a connection to say whose it is.
//! HAProxy's proxy-protocol.txt, sections 2.1 and 2.2.
//!
//! Whether the sender may be believed is not decided here.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest header of version 1, its line end included.
pub const MAX_V1: usize = 107;
/// The longest header of version 2 that is read; what it says beside the addresses is skipped.
pub const MAX_V2: usize = V2_FIXED + 2_048;

const V1_SIGNATURE: &[u8] = b"PROXY";
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// The signature, version and command, family and protocol, and the length of what follows.
const V2_FIXED: usize = 16;

/// What stands at the front of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// No header.
    Absent,
    /// Perhaps a header, but not enough of it yet.
    Incomplete {
        /// How many bytes, from the first one, are needed at least to go on.
        needed: usize,
    },
    /// A header.
    Header {
        /// Its length: what the client sent comes behind.
        length: usize,
        /// The client's address; `None` where the connection is the proxy's own, or of a kind without one.
        client: Option<SocketAddr>,
    },
}

/// It begins as a header and is none, or is too long: the connection has to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the PROXY protocol header is malformed")]
pub struct BadHeader;

/// Looks at the first bytes of a connection.
///
/// Neither version begins as STUN does, nor as a ChannelData message that could come first; version 1 looks like
/// one of channel 0x5052, which cannot be bound yet.
///
/// # Errors
/// As soon as the bytes can no longer become a header, once they have begun as one.
pub fn read(bytes: &[u8]) -> Result<Front, BadHeader> {
    match bytes.first() {
        None => Ok(Front::Incomplete { needed: 1 }),
        Some(b'P') => match begins(bytes, V1_SIGNATURE) {
            Some(needed) => Ok(needed),
            None => read_v1(bytes),
        },
        Some(b'\r') => match begins(bytes, V2_SIGNATURE) {
            Some(needed) => Ok(needed),
            None => read_v2(bytes),
        },
        Some(_) => Ok(Front::Absent),
    }
}

/// What is to say when the signature is not there, or not whole; `None` when it is.
fn begins(bytes: &[u8], signature: &[u8]) -> Option<Front> {
    let seen = bytes.len().min(signature.len());
    if bytes.get(..seen) != signature.get(..seen) {
        return Some(Front::Absent);
    }
    (seen < signature.len()).then_some(Front::Incomplete { needed: signature.len() })
}

fn read_v1(bytes: &[u8]) -> Result<Front, BadHeader> {
    let line = bytes.get(..MAX_V1.min(bytes.len())).unwrap_or_default();
    // A line ends with CR and LF together and holds neither before.
    let end = match line.iter().position(|byte| matches!(byte, b'\r' | b'\n')) {
        Some(at) => match line.get(at..) {
            Some([b'\r', b'\n', ..]) => at,
            Some([b'\r']) if line.len() < MAX_V1 => return Ok(Front::Incomplete { needed: at + 2 }),
            _ => return Err(BadHeader),
        },
        None if line.len() < MAX_V1 => return Ok(Front::Incomplete { needed: line.len() + 1 }),
        None => return Err(BadHeader),
    };
    let text = line.get(V1_SIGNATURE.len()..end).and_then(|text| std::str::from_utf8(text).ok());
    let text = text.and_then(|text| text.strip_prefix(' ')).ok_or(BadHeader)?;
    Ok(Front::Header { length: end + 2, client: v1_client(text)? })
}

/// What stands between "PROXY " and the line's end.
fn v1_client(text: &str) -> Result<Option<SocketAddr>, BadHeader> {
    let mut fields = text.split(' ');
    let family = fields.next().unwrap_or_default();
    if family == "UNKNOWN" {
        // What else the line says is ignored.
        return Ok(None);
    }
    let mut field = || fields.next().ok_or(BadHeader);
    let (source, destination, source_port, destination_port) = (field()?, field()?, field()?, field()?);
    if fields.next().is_some() {
        return Err(BadHeader);
    }
    let ip = |text: &str| -> Result<IpAddr, BadHeader> {
        match family {
            "TCP4" => Ok(text.parse::<Ipv4Addr>().map_err(|_| BadHeader)?.into()),
            "TCP6" => Ok(text.parse::<Ipv6Addr>().map_err(|_| BadHeader)?.into()),
            _ => Err(BadHeader),
        }
    };
    let client = SocketAddr::new(ip(source)?, port(source_port)?);
    ip(destination)?;
    port(destination_port)?;
    Ok(Some(client))
}

/// Digits without a zero in front.
fn port(text: &str) -> Result<u16, BadHeader> {
    let plain = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    text.parse().ok().filter(|_| plain).ok_or(BadHeader)
}

fn read_v2(bytes: &[u8]) -> Result<Front, BadHeader> {
    let rest = bytes.get(V2_SIGNATURE.len()..).unwrap_or_default();
    // Version 2, and the commands LOCAL and PROXY.
    let is_local = match rest.first() {
        Some(0x20) => true,
        Some(0x21) | None => false,
        Some(_) => return Err(BadHeader),
    };
    // Unspecified, IPv4, IPv6, UNIX; unspecified, stream, datagram. A LOCAL header's is ignored.
    let family = rest.get(1).copied().unwrap_or_default();
    if !is_local && (family >> 4 > 3 || family & 0x0F > 2) {
        return Err(BadHeader);
    }
    let Some((&[_, _, high, low], rest)) = rest.split_first_chunk::<4>() else {
        return Ok(Front::Incomplete { needed: V2_FIXED });
    };
    let follows = usize::from(u16::from_be_bytes([high, low]));
    let length = V2_FIXED + follows;
    if length > MAX_V2 {
        return Err(BadHeader);
    }
    let Some(block) = rest.get(..follows) else { return Ok(Front::Incomplete { needed: length }) };
    let client = match family {
        _ if is_local => None,
        // TCP over IPv4: two addresses, then two ports.
        0x11 => {
            let (&[a, b, c, d, _, _, _, _, high, low, _, _], _) =
                block.split_first_chunk::<12>().ok_or(BadHeader)?;
            Some(SocketAddr::new([a, b, c, d].into(), u16::from_be_bytes([high, low])))
        }
        // TCP over IPv6.
        0x21 => {
            let (ip, rest) = block.split_first_chunk::<16>().ok_or(BadHeader)?;
            let (_, ports) = rest.split_first_chunk::<16>().ok_or(BadHeader)?;
            let (&[high, low, _, _], _) = ports.split_first_chunk::<4>().ok_or(BadHeader)?;
            Some(SocketAddr::new((*ip).into(), u16::from_be_bytes([high, low])))
        }
        // Nothing that could be a TCP client's address.
        _ => None,
    };
    Ok(Front::Header { length, client })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn header(length: usize, client: Option<&str>) -> Front {
        Front::Header { length, client: client.map(|text| text.parse().unwrap()) }
    }

    fn v2(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
        let length = u16::try_from(block.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[command, family], &length, block].concat()
    }

    #[test]
    fn headers_of_version_1_are_read() {
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(MAX_V1 - 16));
        for (text, client) in [
            ("PROXY TCP4 192.0.2.1 192.0.2.2 56324 443\r\n", Some("192.0.2.1:56324")),
            ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", Some("255.255.255.255:65535")),
            ("PROXY TCP6 2001:db8::1 ::1 0 65535\r\n", Some("[2001:db8::1]:0")),
            ("PROXY UNKNOWN\r\n", None),
            ("PROXY UNKNOWN anything at all\r\n", None),
            (longest.as_str(), None),
        ] {
            let bytes = [text.as_bytes(), b"\0\x01"].concat();
            assert_eq!(read(&bytes), Ok(header(text.len(), client)), "{text}");
        }
    }

    #[test]
    fn broken_headers_of_version_1_are_refused() {
        let too_long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(MAX_V1 - 15));
        for text in [
            "PROXY \r\n",
            "PROXY\r\n",
            "PROXYTCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4\r\n",
            "PROXY TCP5 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 \r\n",
            "PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
            "PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3 1.2.3.4 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 65536\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2\rX",
            "PROXY TCP4 1.2.3.4 \u{e9} 1 2\r\n",
            too_long.as_str(),
        ] {
            assert_eq!(read(text.as_bytes()), Err(BadHeader), "{text:?}");
        }
    }

    #[test]
    fn headers_of_version_2_are_read() {
        let four = [192, 0, 2, 1, 192, 0, 2, 2, 0xDC, 4, 1, 0xBB];
        let mut six = [0; 36];
        (six[0], six[1], six[15], six[32], six[33]) = (0x20, 1, 7, 0x12, 0x34);
        let with_more = [&four[..], &[4, 0, 1, 9]].concat();
        for (command, family, block, client) in [
            (0x21, 0x11, &four[..], Some("192.0.2.1:56324")),
            (0x21, 0x11, &with_more, Some("192.0.2.1:56324")),
            (0x21, 0x21, &six, Some("[2001::7]:4660")),
            (0x21, 0x12, &four, None),
            (0x21, 0x22, &six, None),
            (0x21, 0x31, &[b'x'; 216], None),
            (0x21, 0x32, &[b'x'; 216], None),
            (0x21, 0x00, &[], None),
            (0x21, 0x00, &[7; 9], None),
            (0x20, 0x00, &[], None),
            (0x20, 0x11, &four, None),
            (0x20, 0xFF, &[1], None),
            (0x21, 0x00, &[0; 2_048], None),
        ] {
            let bytes = v2(command, family, block);
            let followed = [&bytes[..], b"\0\x01"].concat();
            assert_eq!(
                read(&followed),
                Ok(header(bytes.len(), client)),
                "{command:x} {family:x} {}",
                block.len()
            );
        }
    }

    #[test]
    fn broken_headers_of_version_2_are_refused() {
        for (command, family, block) in [
            (0x11, 0x11, &[0; 12][..]),
            (0x31, 0x11, &[0; 12]),
            (0x22, 0x11, &[0; 12]),
            (0x21, 0x41, &[0; 12]),
            (0x21, 0x13, &[0; 12]),
            (0x21, 0x11, &[0; 11]),
            (0x21, 0x21, &[0; 35]),
            (0x21, 0x11, &[0; 2_049]),
            (0x20, 0x00, &[0; 2_049]),
        ] {
            let bytes = v2(command, family, block);
            assert_eq!(read(&bytes), Err(BadHeader), "{command:x} {family:x} {}", block.len());
        }
    }

    #[test]
    fn what_is_no_header_is_left_alone() {
        for bytes in
            [&[0, 1, 0, 0][..], &[0x40, 0, 0, 0], b"GET /", b"PROXI", b"PUT", b"\r\r", b"\x16\x03\x01"]
        {
            assert_eq!(read(bytes), Ok(Front::Absent), "{bytes:?}");
        }
        assert_eq!(read(b""), Ok(Front::Incomplete { needed: 1 }));
    }

    proptest! {
        #[test]
        fn addresses_survive_both_versions(v6 in any::<bool>(), bits in any::<u128>(), port in any::<u16>(), extra in 0usize..100) {
            let octets = bits.to_be_bytes();
            let (name, family, ip, block) = if v6 {
                ("TCP6", 0x21, IpAddr::from(octets), [&octets[..], &[9; 16]].concat())
            } else {
                let four = [octets[0], octets[1], octets[2], octets[3]];
                ("TCP4", 0x11, IpAddr::from(four), [&four[..], &[9; 4]].concat())
            };
            let client = Some(SocketAddr::new(ip, port));
            let destination = if v6 { "::1" } else { "127.0.0.1" };
            let first = format!("PROXY {name} {ip} {destination} {port} 443\r\n").into_bytes();
            let [high, low] = port.to_be_bytes();
            let second = v2(0x21, family, &[&block[..], &[high, low, 1, 0xBB], &vec![4; extra]].concat());
            for bytes in [first, second] {
                prop_assert_eq!(read(&bytes), Ok(Front::Header { length: bytes.len(), client }));
                for end in 0..bytes.len() {
                    let Ok(Front::Incomplete { needed }) = read(&bytes[..end]) else {
                        return Err(TestCaseError::fail(format!("cut at {end}")));
                    };
                    prop_assert!(end < needed && needed <= bytes.len());
                }
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(version in 0usize..3, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let signature = [&b""[..], b"PROXY ", V2_SIGNATURE][version];
            let _ = read(&[signature, &bytes].concat());
        }
    }
}
