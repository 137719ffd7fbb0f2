//! A username is authentic or refused, and what was minted opens as it was; time-limited ones too.

use std::sync::LazyLock;

use credentials::{
    Claims, CustomIdentifier, Keyring, MAX_SECRET_BYTES, MAX_TTL_SECS, MIN_SECRET_BYTES, MIN_TTL_SECS,
    MintError, OpenError, SealedSecret, SecretText, SharedSecret, SharedSecretId, TimeLimited, TurnKeyId,
};

use super::bytes::Bytes;

static KEYRING: LazyLock<Keyring> = LazyLock::new(|| super::keyring(1));

/// The first byte says what the others are: a username, claims to mint, a keyring's text, a time-limited username, or a
/// shared secret.
///
/// # Panics
/// When something forged opens, or something minted does not.
pub fn credential(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    match bytes.byte() {
        b't' => time_limited(bytes.rest()),
        b's' => shared_secret(bytes),
        other => match other % 4 {
            0 => open(bytes.rest()),
            1 => open(hex(bytes.rest()).as_bytes()),
            2 => mint(bytes),
            _ => keyring(bytes.rest()),
        },
    }
}

fn time_limited(username: &[u8]) {
    let Some(parsed) = TimeLimited::parse(username) else { return };
    assert_eq!(KEYRING.open(username), Err(OpenError::Malformed), "no username is of both kinds");
    assert!(username.len() <= 508);
    let digits = username.split(|byte| *byte == b':').next().unwrap_or_default();
    let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse::<u64>().ok());
    assert_eq!(number, Some(parsed.expires_at));
    let secret = |text: &str| text.parse::<SecretText>().expect("it is printable");
    let (one, two) = (secret("the first shared secret"), secret("the second shared secret"));
    let password = parsed.password(&one);
    assert!(password.ends_with(b"=") && password.is_ascii());
    assert_ne!(*password, *parsed.password(&two));
    let key = |n| TurnKeyId::from_bytes([n; 16]);
    assert_ne!(parsed.id(key(1)), parsed.id(key(2)));
    let mut longer = username.to_vec();
    longer.push(b':');
    if let Some(other) = TimeLimited::parse(&longer) {
        assert_ne!(other.id(key(1)), parsed.id(key(1)));
        assert_ne!(*other.password(&one), *password);
    }
}

fn shared_secret(mut bytes: Bytes<'_>) {
    let (key, id) = (TurnKeyId::from_bytes(bytes.array()), SharedSecretId::from_bytes(bytes.array()));
    let rest = bytes.rest();
    let sealed = SealedSecret::from_bytes(rest.to_vec());
    if let Ok(opened) = KEYRING.open_shared_secret(key, id, &sealed) {
        // Whoever made it had the keyring.
        assert_eq!(KEYRING.seal_shared_secret(key, &opened), Ok(sealed), "one secret has one sealed form");
    }
    let Ok(text) = std::str::from_utf8(rest) else { return };
    let Ok(text) = text.parse::<SecretText>() else { return };
    assert!((MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&text.as_str().len()));
    let secret = SharedSecret { id, text };
    let sealed = KEYRING.seal_shared_secret(key, &secret).expect("what can be a secret can be sealed");
    assert_eq!(KEYRING.open_shared_secret(key, id, &sealed), Ok(secret));
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes all");
        text
    })
}

fn open(username: &[u8]) {
    let opened = KEYRING.open(username);
    let password = KEYRING.password(username);
    match opened {
        Ok(opened) => {
            assert!(username.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "one spelling");
            assert_eq!(password.map(|it| it.len()), Ok(96));
            // Whoever made it had the key, so every other spelling of it is another one, and forged.
            let mut changed = username.to_vec();
            for (place, was) in username.iter().enumerate().skip(2) {
                let mut set = |to| changed.get_mut(place).map(|byte| *byte = to);
                set(if *was == b'0' { b'1' } else { b'0' });
                assert_eq!(KEYRING.open(&changed), Err(OpenError::Forged), "changed at {place}");
                changed.copy_from_slice(username);
            }
            assert!(opened.claims.custom_identifier.as_str().len() <= 128);
        }
        Err(OpenError::Malformed) => assert_eq!(password, Err(OpenError::Malformed)),
        Err(OpenError::UnknownKey) => assert_eq!(password, Err(OpenError::UnknownKey)),
        // It has the form of one of ours: the password says nothing about the username.
        Err(OpenError::Forged) => assert!(password.is_ok()),
    }
}

fn mint(mut bytes: Bytes<'_>) {
    let (key, salt) = (TurnKeyId::from_bytes(bytes.array()), bytes.array());
    let (issued_at, ttl_secs) = (u64::from_be_bytes(bytes.array()) >> 24, bytes.u32() >> 12);
    let Ok(text) = std::str::from_utf8(bytes.rest()) else { return };
    let Ok(custom_identifier) = CustomIdentifier::try_from(text) else {
        assert!(text.len() > credentials::MAX_CUSTOM_IDENTIFIER_BYTES);
        return;
    };
    let claims = Claims { key, issued_at, ttl_secs, custom_identifier };
    match KEYRING.mint_with_salt(&claims, salt) {
        Ok(minted) => {
            assert_eq!(minted.username.len(), 96 + 2 * claims.custom_identifier.as_str().len());
            let opened = KEYRING.open(minted.username.as_bytes()).expect("what was minted opens");
            assert_eq!((&opened.claims, opened.id), (&claims, minted.id));
            assert_eq!(KEYRING.password(minted.username.as_bytes()), Ok(minted.password));
            let other = super::keyring(2);
            assert_eq!(other.open(minted.username.as_bytes()), Err(OpenError::UnknownKey));
        }
        Err(MintError::Ttl) => assert!(!(MIN_TTL_SECS..=MAX_TTL_SECS).contains(&ttl_secs)),
        Err(MintError::Clock) => assert!(u32::try_from(issued_at).is_err()),
        Err(error) => panic!("{error}"),
    }
}

fn keyring(text: &[u8]) {
    let Ok(text) = std::str::from_utf8(text) else { return };
    let Ok(mut ring) = Keyring::parse(text) else { return };
    let written = ring.to_text();
    assert_eq!(Keyring::parse(&written).ok().as_ref(), Some(&ring), "a keyring is read as it was written");
    let claims = Claims {
        key: TurnKeyId::from_bytes([1; 16]),
        issued_at: 1_800_000_000,
        ttl_secs: 600,
        custom_identifier: CustomIdentifier::default(),
    };
    let minted = ring.mint_with_salt(&claims, [2; 8]).expect("a keyring mints");
    if ring.rotate(claims.issued_at).is_ok() {
        assert!(ring.open(minted.username.as_bytes()).is_ok(), "rotation keeps what may live");
    }
}
