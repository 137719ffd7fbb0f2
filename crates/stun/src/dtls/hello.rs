//! A ClientHello as it lies in a datagram. RFC 6347 §4.1, §4.2.2, RFC 9147 §5.3.

use super::{CLIENT_HELLO, DTLS_1_2, HANDSHAKE, HANDSHAKE_HEADER, RECORD_HEADER};

/// supported_versions names this for DTLS 1.3. RFC 9147 §5.3.
pub(super) const DTLS_1_3: u16 = 0xFEFC;
/// Suites of DTLS 1.2 with an ECDSA certificate: AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305.
const SUITES_1_2: [u16; 3] = [0xC02B, 0xC02C, 0xCCA9];
/// Suites of DTLS 1.3: AES-128-GCM, AES-256-GCM, ChaCha20-Poly1305.
const SUITES_1_3: [u16; 3] = [0x1301, 0x1302, 0x1303];
/// Groups for the key exchange: P-256, P-384, X25519.
const GROUPS: [u16; 3] = [23, 24, 29];

const PADDING: u16 = 21;
const SUPPORTED_VERSIONS: u16 = 43;
const COOKIE: u16 = 44;
const KEY_SHARE: u16 = 51;

/// The first ClientHello, or first part of one, in a datagram.
#[derive(Debug, Clone, Copy)]
pub(super) struct Hello<'d> {
    pub(super) record_sequence: [u8; 6],
    pub(super) message_sequence: u16,
    pub(super) version: u16,
    pub(super) random: [u8; 32],
    pub(super) session_id: &'d [u8],
    /// Of DTLS 1.2; empty in DTLS 1.3.
    pub(super) cookie: &'d [u8],
    pub(super) suites: &'d [u8],
    pub(super) compression: &'d [u8],
    /// The whole message where it is not in fragments, and what of it the extensions are.
    whole: Option<(&'d [u8], Extensions<'d>)>,
}

impl<'d> Hello<'d> {
    /// Reads the first record of a datagram; `None` if it is no plaintext ClientHello from its beginning at least up
    /// to its extensions.
    pub(super) fn parse(datagram: &'d [u8]) -> Option<Self> {
        let mut record = Reader(datagram);
        let header = record.take(RECORD_HEADER)?;
        let [HANDSHAKE, 0xFE, 0xFD | 0xFF, 0, 0, s0, s1, s2, s3, s4, s5, l0, l1] = *header else {
            return None;
        };
        let mut message = Reader(record.take(u16::from_be_bytes([l0, l1]).into())?);
        let [CLIENT_HELLO, n0, n1, n2, m0, m1, 0, 0, 0, f0, f1, f2] = *message.take(HANDSHAKE_HEADER)? else {
            return None;
        };
        let (length, here) = (u24([n0, n1, n2]), u24([f0, f1, f2]));
        let body = message.take(here)?;
        if here > length {
            return None;
        }
        let mut fields = Reader(body);
        let version = fields.u16()?;
        let random = *fields.take(32)?.first_chunk()?;
        let session_id = fields.vector_u8()?;
        let cookie = fields.vector_u8()?;
        let suites = fields.vector_u16()?;
        let compression = fields.vector_u8()?;
        if session_id.len() > 32 || suites.is_empty() || suites.len() % 2 != 0 || !compression.contains(&0) {
            return None;
        }
        let whole = if here < length { None } else { Some((body, Extensions::parse(fields.0)?)) };
        Some(Self {
            record_sequence: [s0, s1, s2, s3, s4, s5],
            message_sequence: u16::from_be_bytes([m0, m1]),
            version,
            random,
            session_id,
            cookie,
            suites,
            compression,
            whole,
        })
    }

    /// Whether it can become a session of DTLS 1.2.
    pub(super) fn offers_1_2(&self) -> bool {
        self.suites().any(|suite| SUITES_1_2.contains(&suite))
    }

    /// The suite of the session of DTLS 1.3 that it can become without any other change than a cookie.
    pub(super) fn suite_1_3(&self) -> Option<u16> {
        let (_, extensions) = self.whole?;
        let versions = Reader(extensions.find(SUPPORTED_VERSIONS)?).vector_u8()?;
        let shares = Reader(extensions.find(KEY_SHARE)?).vector_u16()?;
        let speaks = pairs(versions).any(|version| version == DTLS_1_3);
        (self.version == DTLS_1_2 && speaks && has_share(shares)).then_some(())?;
        self.suites().find(|suite| SUITES_1_3.contains(suite))
    }

    fn suites(&self) -> impl Iterator<Item = u16> + use<'d> {
        pairs(self.suites)
    }

    /// The cookie of DTLS 1.3, and the whole message that it is in.
    pub(super) fn retry_cookie(&self) -> Option<&'d [u8]> {
        Reader(self.whole?.1.find(COOKIE)?).vector_u16()
    }

    /// The whole message, which it has only if it is not in fragments.
    pub(super) fn body(&self) -> Option<&'d [u8]> {
        self.whole.map(|(body, _)| body)
    }

    /// Writes the message as it was before a cookie was put into it, when it had `length` bytes. RFC 8446 §4.1.2:
    /// beside the cookie only the padding may differ.
    pub(super) fn without_cookie<'b>(&self, length: usize, buffer: &'b mut [u8]) -> Option<&'b mut [u8]> {
        let (body, extensions) = self.whole?;
        let kept = extensions.all().filter(|extension| extension.kind != COOKIE);
        let front = body.len() - extensions.0.len();
        let bare: usize =
            kept.clone().filter(|extension| extension.kind != PADDING).map(Extension::len).sum();
        // What is not accounted for by anything else is the padding that it had.
        let padding = length.checked_sub(front + bare)?;
        let mut writer = Writer { buffer: buffer.get_mut(..length)?, written: 0 };
        writer.put(body.get(..front.checked_sub(2)?)?)?;
        writer.put(&u16::try_from(bare + padding).ok()?.to_be_bytes())?;
        let mut padded = padding == 0;
        for extension in kept {
            if extension.kind != PADDING {
                writer.put(extension.bytes)?;
            } else if !padded {
                writer.pad(padding)?;
                padded = true;
            }
        }
        if !padded {
            writer.pad(padding)?;
        }
        (writer.written == length).then_some(writer.buffer)
    }
}

/// Whether one of the key shares is of a group that is spoken here. RFC 8446 §4.2.8.
fn has_share(shares: &[u8]) -> bool {
    let mut rest = Reader(shares);
    let mut next = || Some((rest.u16()?, rest.vector_u16()?));
    std::iter::from_fn(&mut next).any(|(group, share)| GROUPS.contains(&group) && !share.is_empty())
}

/// Extensions, each of which is whole, and none twice among those that are looked for.
#[derive(Debug, Clone, Copy)]
struct Extensions<'d>(&'d [u8]);

#[derive(Debug, Clone, Copy)]
struct Extension<'d> {
    kind: u16,
    /// With kind and length in front.
    bytes: &'d [u8],
}

impl Extension<'_> {
    fn len(self) -> usize {
        self.bytes.len()
    }
}

impl<'d> Extensions<'d> {
    fn parse(field: &'d [u8]) -> Option<Self> {
        let mut reader = Reader(field);
        let extensions = if field.is_empty() { field } else { reader.vector_u16()? };
        let all = Self(extensions);
        let length: usize = all.all().map(Extension::len).sum();
        let is_single = |kind| all.all().filter(|extension| extension.kind == kind).count() < 2;
        let is_whole = reader.0.is_empty() && length == extensions.len();
        let is_clear = [PADDING, SUPPORTED_VERSIONS, COOKIE, KEY_SHARE].into_iter().all(is_single);
        (is_whole && is_clear).then_some(all)
    }

    /// Every extension up to one that is cut off.
    fn all(self) -> impl Iterator<Item = Extension<'d>> + Clone {
        let mut rest = self.0;
        std::iter::from_fn(move || {
            let mut reader = Reader(rest);
            let kind = reader.u16()?;
            let length = reader.vector_u16()?.len() + 4;
            let bytes = rest.get(..length)?;
            rest = rest.get(length..)?;
            Some(Extension { kind, bytes })
        })
    }

    fn find(self, kind: u16) -> Option<&'d [u8]> {
        self.all().find(|extension| extension.kind == kind)?.bytes.get(4..)
    }
}

fn pairs(bytes: &[u8]) -> impl Iterator<Item = u16> + use<'_> {
    bytes.as_chunks().0.iter().map(|pair| u16::from_be_bytes(*pair))
}

fn u24([b0, b1, b2]: [u8; 3]) -> usize {
    usize::from(b0) << 16 | usize::from(b1) << 8 | usize::from(b2)
}

struct Reader<'d>(&'d [u8]);

impl<'d> Reader<'d> {
    fn take(&mut self, length: usize) -> Option<&'d [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn u16(&mut self) -> Option<u16> {
        self.take(2)?.first_chunk().map(|bytes| u16::from_be_bytes(*bytes))
    }

    fn vector_u8(&mut self) -> Option<&'d [u8]> {
        let length = *self.take(1)?.first()?;
        self.take(length.into())
    }

    fn vector_u16(&mut self) -> Option<&'d [u8]> {
        let length = self.u16()?;
        self.take(length.into())
    }
}

struct Writer<'b> {
    buffer: &'b mut [u8],
    written: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) -> Option<()> {
        let end = self.written + bytes.len();
        self.buffer.get_mut(self.written..end)?.copy_from_slice(bytes);
        self.written = end;
        Some(())
    }

    /// Writes a padding extension of this length, header included. RFC 7685 §3.
    fn pad(&mut self, length: usize) -> Option<()> {
        let zeros = length.checked_sub(4)?;
        self.put(&PADDING.to_be_bytes())?;
        self.put(&u16::try_from(zeros).ok()?.to_be_bytes())?;
        let end = self.written + zeros;
        self.buffer.get_mut(self.written..end)?.fill(0);
        self.written = end;
        Some(())
    }
}
