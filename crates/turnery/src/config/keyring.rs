//! The keyring where it comes with the environment, as secrets do that an orchestrator keeps.

use anyhow::{Context, Result, anyhow};
use credentials::Keyring;
use zeroize::Zeroizing;

use super::acme::base64url;
use super::layer::Env;

/// Not a setting: it has no flag, which others would see, and is never shown.
pub(crate) const KEYRING_VARIABLE: &str = "TURNERY_KEYRING";

/// The keyring that the environment has: what stands in the file, or that in base64.
pub(super) fn keyring(env: Env<'_>) -> Result<Option<Keyring>> {
    let Some(raw) = env(KEYRING_VARIABLE) else { return Ok(None) };
    // What is wrong is told without its text.
    let text = raw.into_string().map_err(|_| anyhow!("{KEYRING_VARIABLE} is not UTF-8"))?;
    let text = Zeroizing::new(text);
    if text.trim().is_empty() {
        return Ok(None);
    }
    let decoded = if text.contains('[') { None } else { Some(decoded(&text)?) };
    let keyring = Keyring::parse(decoded.as_ref().unwrap_or(&text));
    keyring.map(Some).with_context(|| format!("the keyring in {KEYRING_VARIABLE} cannot be used"))
}

/// RFC 4648 §4 or §5, in lines or not.
fn decoded(text: &str) -> Result<Zeroizing<String>> {
    let plain = |c: char| match c {
        '+' => '-',
        '/' => '_',
        other => other,
    };
    let text: Zeroizing<String> =
        Zeroizing::new(text.chars().filter(|c| !c.is_ascii_whitespace()).map(plain).collect());
    let bytes = base64url(&text).map(String::from_utf8);
    let wrong = || {
        anyhow!(
            "{KEYRING_VARIABLE} is neither what stands in a keyring.toml nor that in base64, as `base64 -w0` makes it"
        )
    };
    Ok(Zeroizing::new(bytes.ok_or_else(wrong)?.map_err(|_| wrong())?))
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::*;

    fn read(text: &str) -> Result<Option<Keyring>> {
        keyring(&|name: &str| (name == KEYRING_VARIABLE).then(|| OsString::from(text)))
    }

    /// Standard base64 with lines of 76 characters, as `base64` writes it.
    fn base64(text: &str) -> String {
        const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut encoded = String::new();
        for three in text.as_bytes().chunks(3) {
            let bits =
                three.iter().fold(0, |bits, byte| bits << 8 | usize::from(*byte)) << (8 * (3 - three.len()));
            let four = (0..4).map(|place| char::from(ALPHABET[bits >> (18 - 6 * place) & 63]));
            encoded.extend(four.take(three.len() + 1).chain("==".chars().take(3 - three.len())));
            if encoded.len() % 77 == 76 {
                encoded.push('\n');
            }
        }
        encoded
    }

    #[test]
    fn it_is_what_stands_in_the_file_or_that_in_base64() {
        let mut keyring = Keyring::generate(1_700_000_000).unwrap();
        keyring.rotate(1_700_000_100).unwrap();
        let text = keyring.to_text();
        assert_eq!(read(&text).unwrap(), Some(keyring.clone()));
        assert_eq!(read(&base64(&text)).unwrap(), Some(keyring));
        for unset in ["", " \n"] {
            assert_eq!(read(unset).unwrap(), None);
        }
    }

    #[test]
    fn what_is_wrong_is_told_and_no_secret() {
        let text = Keyring::generate(1_700_000_000).unwrap().to_text();
        let secret = text.split("secret = \"").nth(1).unwrap().split('"').next().unwrap();
        let cut = text.replace(&secret[64..], "");
        for (given, hint) in [
            ("s3cret!", "base64"),
            ("s3cret", "base64"),
            (&base64("s3cret")[..], "line 1"),
            ("[[key]]\nid = \"s3cret\"", "line"),
            ("[x]\n# =", "line"),
            (&cut, "128 hex digits"),
            (&base64(&cut), "128 hex digits"),
        ] {
            let error = format!("{:#}", read(given).unwrap_err());
            assert!(error.contains(KEYRING_VARIABLE) && error.contains(hint), "{error} lacks {hint}");
            assert!(!error.contains("s3cret") && !error.contains(&secret[..16]), "{error}");
        }
    }
}
