//! Texts that are kept for a while and must not be read from the database: sealed by the keyring.

use zeroize::Zeroizing;

use crate::{Keyring, MintError, OpenError};

const CONTEXT: &[u8] = b"turnery sealed text v1";

impl Keyring {
    /// Seals a text with the current key. It opens with the same `context` only, which is authenticated and not kept.
    ///
    /// # Errors
    /// When the cipher refuses, which it does only for texts of impossible length.
    pub fn seal_text(&self, context: &[u8], text: &[u8]) -> Result<Vec<u8>, MintError> {
        let by = self.current_id();
        let sealed = self.seal(&associated_data(by, context), text)?;
        Ok([&[by], &*sealed].concat())
    }

    /// Whether the current key sealed it; if not, it is to be sealed again before that key retires.
    pub fn sealed_text_currently(&self, sealed: &[u8]) -> bool {
        sealed.first() == Some(&self.current_id())
    }

    /// Opens a sealed text.
    ///
    /// # Errors
    /// When it was sealed with a key that is not held, in another context, or by nobody.
    pub fn open_text(&self, context: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, OpenError> {
        let (&by, rest) = sealed.split_first().ok_or(OpenError::Malformed)?;
        Ok(Zeroizing::new(self.unseal(by, &associated_data(by, context), rest)?))
    }
}

fn associated_data(by: u8, context: &[u8]) -> Vec<u8> {
    [CONTEXT, &[by], context].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_text_opens_in_its_context_only() {
        let mut ring = Keyring::generate(1_800_000_000).unwrap();
        let sealed = ring.seal_text(b"here", b"a secret text").unwrap();
        assert!(!sealed.windows(6).any(|it| it == b"secret"));
        assert_eq!(ring.open_text(b"here", &sealed).unwrap().as_slice(), b"a secret text");
        assert_eq!(ring.open_text(b"there", &sealed), Err(OpenError::Forged));
        assert_eq!(ring.open_text(b"here", &[]), Err(OpenError::Malformed));
        let mut changed = sealed.clone();
        *changed.last_mut().unwrap() ^= 1;
        assert_eq!(ring.open_text(b"here", &changed), Err(OpenError::Forged));
        assert!(ring.sealed_text_currently(&sealed));
        ring.rotate(1_800_000_010).unwrap();
        assert!(!ring.sealed_text_currently(&sealed));
        assert!(ring.open_text(b"here", &sealed).is_ok());
    }
}
