//! What MOBILITY-TICKET carries: sealed, so that nobody but this process can make one or read it, and no table of
//! tickets is needed. RFC 8016 §3.3 and §5.
//!
//! ```text
//! tag         16 bytes   AES-SIV's synthetic IV over the rest
//! worker       2         encrypted, as all that follows: whose allocation it is
//! identity    10         random: which of that worker's
//! generation   3         how often the allocation had moved
//! salt         1         chosen so that no byte of the whole is zero
//! ```
//!
//! No zero and no more than 32 bytes, because there are clients that keep a ticket as a C string in so much room: coturn's
//! is one. Whose the allocation is stands with the allocation.

use aes_siv::KeyInit;
use aes_siv::siv::Aes128Siv;
use zeroize::ZeroizeOnDrop;

use crate::{NonceKey, WorkerId};

// RFC 8016 §3.1.2: short, for nobody knows the MTU of the paths that answers with it will take.
/// A ticket's length in bytes.
pub(crate) const LEN: usize = 32;
const PURPOSE: &[u8] = b"turnery mobility ticket v1";

/// A MOBILITY-TICKET attribute's value.
pub(crate) type Sealed = [u8; LEN];

/// Tells an allocation from every other one that was or will be.
pub(crate) type Identity = [u8; 10];

/// A generation is counted modulo this: three bytes.
pub(crate) const GENERATIONS: u32 = 1 << 24;

/// A ticket's contents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub(crate) worker: WorkerId,
    pub(crate) identity: Identity,
    /// Below [`GENERATIONS`].
    pub(crate) generation: u32,
}

/// Seals and opens tickets; the same for all workers of a process.
#[derive(Clone, ZeroizeOnDrop)]
pub(crate) struct TicketKey([u8; 32]);

impl TicketKey {
    pub(crate) fn new(process: &NonceKey) -> Self {
        Self(process.derive_key(PURPOSE))
    }

    fn cipher(&self) -> Aes128Siv {
        Aes128Siv::new_from_slice(&self.0).expect("32 bytes are AES-128-SIV's key size")
    }

    pub(crate) fn seal(&self, ticket: &Ticket) -> Sealed {
        let mut cipher = self.cipher();
        let mut seal = |salt| {
            // RFC 8016 §5: a ticket is authenticated and encrypted.
            let sealed = cipher.encrypt([b""], &plain(ticket, salt)).expect("so few bytes can be sealed");
            Sealed::try_from(sealed).expect("a tag and the fields")
        };
        // Seven of eight are without a zero at once. That none is will not be seen; it would be a good ticket, too.
        (0..=u8::MAX).map(&mut seal).find(|sealed| !sealed.contains(&0)).unwrap_or_else(|| seal(0))
    }

    /// A ticket's contents, if it was sealed here; compared in constant time.
    pub(crate) fn open(&self, sealed: &[u8]) -> Option<Ticket> {
        if sealed.len() != LEN {
            return None;
        }
        let plain = self.cipher().decrypt([b""], sealed).ok()?;
        let (worker, rest) = plain.split_first_chunk::<2>()?;
        let (identity, rest) = rest.split_first_chunk::<10>()?;
        let (&[high, middle, low], _salt) = rest.split_first_chunk::<3>()?;
        Some(Ticket {
            worker: WorkerId(u16::from_be_bytes(*worker)),
            identity: *identity,
            generation: u32::from_be_bytes([0, high, middle, low]),
        })
    }
}

fn plain(ticket: &Ticket, salt: u8) -> [u8; LEN - 16] {
    let [_, generation @ ..] = ticket.generation.to_be_bytes();
    let fields = ticket.worker.0.to_be_bytes().into_iter().chain(ticket.identity);
    let fields = fields.chain(generation).chain([salt]);
    let mut plain = [0; LEN - 16];
    plain.iter_mut().zip(fields).for_each(|(to, from)| *to = from);
    plain
}

impl std::fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TicketKey")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rfc8016_5_a_ticket_is_sealed() {
        let key = TicketKey::new(&NonceKey::new([7; 32]));
        let ticket = Ticket { worker: WorkerId(3), identity: *b"ten secret", generation: 0x0005_0607 };
        let sealed = key.seal(&ticket);
        assert_eq!(key.open(&sealed), Some(ticket));
        assert!(!sealed.windows(6).any(|window| window == b"secret"), "in the clear");
        let next = key.seal(&Ticket { generation: 6, ..ticket });
        assert!(sealed.iter().zip(&next).filter(|(a, b)| a == b).count() < 12, "nothing can be gleaned");
        for place in 0..LEN {
            let mut forged = sealed;
            forged[place] ^= 1;
            assert_eq!(key.open(&forged), None, "forged at {place}");
        }
        // As a C string it is the same.
        for generation in 0..2_000 {
            let ticket = Ticket { generation, ..ticket };
            let sealed = key.seal(&ticket);
            assert!(!sealed.contains(&0));
            assert_eq!(key.open(&sealed), Some(ticket));
        }
        assert_eq!(key.open(&sealed[..LEN - 1]), None);
        assert_eq!(key.open(&[&sealed[..], &[0]].concat()), None);
        assert_eq!(key.open(b""), None);
        assert_eq!(TicketKey::new(&NonceKey::new([8; 32])).open(&sealed), None, "another process's");
    }
}
