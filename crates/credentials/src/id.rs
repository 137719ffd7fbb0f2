use std::fmt;
use std::str::FromStr;

use sha2::{Digest, Sha256};

use crate::CustomIdentifier;

const IDENTIFIER_CONTEXT: &[u8] = b"turnery custom identifier v1";

macro_rules! id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; 16]);

        impl $name {
            /// The id with these 16 bytes.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// The id's 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        /// 32 lower-case hex digits.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        /// Reads exactly 32 hex digits, in lower case only: an id has one spelling.
        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                if text.bytes().any(|b| b.is_ascii_uppercase()) {
                    return Err(IdError);
                }
                let mut bytes = [0; 16];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| IdError)?;
                Ok(Self(bytes))
            }
        }
    };
}

id! {
    /// A TURN key's `uid`: what the account API calls `key_id`. Never used again after the key is deleted.
    TurnKeyId
}

id! {
    /// Names one credential. It is derived from the username, so it needs no table.
    CredentialId
}

id! {
    /// Names one shared secret of a TURN key.
    SharedSecretId
}

id! {
    /// Names a `customIdentifier` of one TURN key, without telling it.
    IdentifierId
}

impl IdentifierId {
    /// Of what this key calls its user.
    pub fn of(key: TurnKeyId, identifier: &CustomIdentifier) -> Self {
        let mut hash = Sha256::new();
        hash.update(IDENTIFIER_CONTEXT);
        hash.update(key.as_bytes());
        hash.update(identifier.as_str());
        let hash: [u8; 32] = hash.finalize().into();
        let (id, _) = hash.split_first_chunk().expect("a hash is longer than an id");
        Self(*id)
    }
}

/// The text is not 32 lower-case hex digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an id is 32 lower-case hex digits")]
pub struct IdError;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_spelling() {
        let text = "00112233445566778899aabbccddeeff";
        assert_eq!(text.parse::<TurnKeyId>().map(|id| id.to_string()), Ok(text.to_owned()));
        for wrong in ["", "0011", &text.to_uppercase(), &format!("{text}00"), &text.replace('0', "g")] {
            assert_eq!(wrong.parse::<TurnKeyId>(), Err(IdError), "{wrong}");
        }
    }
}
