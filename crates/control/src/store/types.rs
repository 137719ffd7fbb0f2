//! What the store holds, as values.

use std::fmt;
use std::str::FromStr;

use credentials::{
    Denial, Keyring, OpenError, SealedSecret, SecretText, SharedSecret, SharedSecretId, TurnKeyId,
};
use serde::ser::SerializeStruct;
use serde::{Serialize, Serializer};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::store::secret::{SecretHash, TokenText};
use crate::store::{KeyringMark, Stop};

/// A text does not have the form that its type wants; says which form that is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TypeError(pub(super) &'static str);

/// A moment, in microseconds since 1970-01-01T00:00:00Z. Prints as RFC 3339 in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp(i64);

impl Timestamp {
    /// The wall clock's time.
    pub fn now() -> Self {
        let nanos = OffsetDateTime::now_utc().unix_timestamp_nanos();
        Self(i64::try_from(nanos / 1_000).unwrap_or(i64::MAX))
    }

    /// The moment so many microseconds after the epoch.
    pub fn from_unix_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// The moment so many seconds after the epoch.
    pub fn from_unix_secs(secs: u64) -> Self {
        Self(i64::try_from(secs).unwrap_or(i64::MAX).saturating_mul(1_000_000))
    }

    /// So many seconds later.
    #[must_use]
    pub fn plus_secs(self, secs: u64) -> Self {
        let micros = i64::try_from(secs).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        Self(self.0.saturating_add(micros))
    }

    /// So many seconds earlier.
    #[must_use]
    pub fn minus_secs(self, secs: u64) -> Self {
        let micros = i64::try_from(secs).unwrap_or(i64::MAX).saturating_mul(1_000_000);
        Self(self.0.saturating_sub(micros))
    }

    /// Microseconds since the epoch.
    pub fn unix_micros(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch; 0 before it.
    pub fn unix_secs(self) -> u64 {
        u64::try_from(self.0.div_euclid(1_000_000)).unwrap_or(0)
    }
}

/// `2026-01-02T03:04:05.678901Z`; without a fraction where it is a whole second.
impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let moment =
            OffsetDateTime::from_unix_timestamp_nanos(i128::from(self.0) * 1_000).map_err(|_| fmt::Error)?;
        let year = u32::try_from(moment.year()).map_err(|_| fmt::Error)?;
        let mut text = *b"0000-00-00T00:00:00.000000Z";
        for (end, mut number) in [
            (4, year),
            (7, u8::from(moment.month()).into()),
            (10, moment.day().into()),
            (13, moment.hour().into()),
            (16, moment.minute().into()),
            (19, moment.second().into()),
            (26, moment.microsecond()),
        ] {
            // Each credential says its expiry: the formatter's own way takes ten times as long.
            for digit in text.iter_mut().take(end).rev().take_while(|it| it.is_ascii_digit()) {
                *digit = b'0' + u8::try_from(number % 10).unwrap_or_default();
                number /= 10;
            }
        }
        let whole = moment.microsecond() == 0;
        let text = std::str::from_utf8(&text).map_err(|_| fmt::Error)?;
        match text.split_once('.').filter(|_| whole) {
            Some((seconds, _)) => write!(f, "{seconds}Z"),
            None => f.write_str(text),
        }
    }
}

/// Reads RFC 3339.
impl FromStr for Timestamp {
    type Err = TypeError;

    fn from_str(text: &str) -> Result<Self, TypeError> {
        OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339)
            .ok()
            .and_then(|moment| i64::try_from(moment.unix_timestamp_nanos().div_euclid(1_000)).ok())
            .map(Self)
            .ok_or(TypeError("a time is written in RFC 3339, as in 2026-01-02T03:04:05Z"))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// An account's id: 1 to 32 hex digits, kept in lower case.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct AccountId(String);

/// An API token's id: 32 lower-case hex digits. It is no secret.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct TokenId(String);

impl AccountId {
    pub(super) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(hex::encode(bytes))
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TokenId {
    pub(super) fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(hex::encode(bytes))
    }

    /// The id's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for AccountId {
    type Err = TypeError;

    fn from_str(text: &str) -> Result<Self, TypeError> {
        if !(1..=32).contains(&text.len()) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(TypeError("an account id is 1 to 32 hex digits"));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl FromStr for TokenId {
    type Err = TypeError;

    fn from_str(text: &str) -> Result<Self, TypeError> {
        if text.len() != 32 || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(TypeError("an API token's id is 32 hex digits"));
        }
        Ok(Self(text.to_ascii_lowercase()))
    }
}

impl fmt::Display for AccountId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An account: what keys and API tokens belong to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct Account {
    /// Its id.
    #[schema(value_type = String, pattern = "^[0-9a-f]{1,32}$")]
    pub id: AccountId,
    /// Its name, for people.
    pub name: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created_on: Timestamp,
}

/// What an API token may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Permission {
    /// Calls Read: get and list.
    Read,
    /// Calls Write: that, and create, update, delete.
    Write,
}

impl Permission {
    pub(super) fn as_column(self) -> &'static str {
        match self {
            Self::Read => "calls_read",
            Self::Write => "calls_write",
        }
    }

    pub(super) fn from_column(text: &str) -> Option<Self> {
        [Self::Read, Self::Write].into_iter().find(|permission| permission.as_column() == text)
    }

    /// Its name as users know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "Calls Read",
            Self::Write => "Calls Write",
        }
    }
}

/// Reads `Calls Read` and `Calls Write`, also as `calls-read`, `calls_read` or `read`.
impl FromStr for Permission {
    type Err = TypeError;

    fn from_str(text: &str) -> Result<Self, TypeError> {
        match text.to_ascii_lowercase().replace(['-', '_'], " ").as_str() {
            "calls read" | "read" => Ok(Self::Read),
            "calls write" | "write" => Ok(Self::Write),
            _ => Err(TypeError("a permission is `calls-read` or `calls-write`")),
        }
    }
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Serialize for Permission {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.name())
    }
}

/// Whether an API token is accepted, its expiry aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenStatus {
    /// It is.
    Active,
    /// It is not, but it is kept.
    Disabled,
}

impl TokenStatus {
    pub(super) fn as_column(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Disabled => "disabled",
        }
    }

    pub(super) fn from_column(text: &str) -> Option<Self> {
        [Self::Active, Self::Disabled].into_iter().find(|status| status.as_column() == text)
    }
}

/// An API token, without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ApiToken {
    /// Its id.
    pub id: TokenId,
    /// The account it belongs to.
    #[serde(rename = "account_id")]
    pub account: AccountId,
    /// Its name, for people.
    pub name: String,
    /// What it may do.
    pub permission: Permission,
    /// When it was made.
    pub created_on: Timestamp,
    /// From when on it is refused; never, where none is given.
    pub expires_on: Option<Timestamp>,
    /// Whether it is accepted until then.
    pub status: TokenStatus,
}

impl ApiToken {
    /// Whether the token is accepted at `now`.
    pub fn is_active(&self, now: Timestamp) -> bool {
        self.status == TokenStatus::Active && self.expires_on.is_none_or(|expiry| now < expiry)
    }
}

/// A TURN key, without its secret: the API's key object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct TurnKey {
    /// Its id.
    #[serde(serialize_with = "as_display")]
    #[schema(value_type = String, pattern = "^[0-9a-f]{32}$")]
    pub uid: TurnKeyId,
    /// Its name, for people; need not be unique.
    pub name: String,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
    /// When its name was last set, or its secret rolled.
    #[schema(value_type = String, format = DateTime)]
    pub modified: Timestamp,
}

fn as_display<S: Serializer>(value: &impl fmt::Display, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// A shared secret of a TURN key, as it is kept. Written out it is its id and when it was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct StoredSecret {
    /// Its id.
    #[serde(serialize_with = "as_display")]
    #[schema(value_type = String, pattern = "^[0-9a-f]{32}$")]
    pub id: SharedSecretId,
    /// The key it belongs to.
    #[serde(skip)]
    pub key: TurnKeyId,
    /// Its text, sealed.
    #[serde(skip)]
    pub sealed: SealedSecret,
    /// When it was made.
    #[schema(value_type = String, format = DateTime)]
    pub created: Timestamp,
}

impl StoredSecret {
    /// Opens it.
    ///
    /// # Errors
    /// When this keyring did not seal it, or not with a key that it still has.
    pub fn open(&self, keyring: &Keyring) -> Result<SharedSecret, OpenError> {
        keyring.open_shared_secret(self.key, self.id, &self.sealed)
    }
}

/// A shared secret that was just given to a TURN key.
#[derive(Debug, Clone)]
pub struct NewSharedSecret {
    /// Its id.
    pub id: SharedSecretId,
    /// When it was made.
    pub created: Timestamp,
    /// Its text. This is the only time it is to be seen.
    pub text: SecretText,
}

/// Written out with its text, for whoever made it.
impl Serialize for NewSharedSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = serializer.serialize_struct("NewSharedSecret", 3)?;
        fields.serialize_field("id", &self.id.to_string())?;
        fields.serialize_field("created", &self.created)?;
        fields.serialize_field("secret", self.text.as_str())?;
        fields.end()
    }
}

/// What came of sealing shared secrets again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Resealed {
    /// How many were.
    pub count: usize,
    /// How many the keyring could not open.
    pub unreadable: usize,
}

/// A TURN key whose settings were changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SettingChange {
    /// Its place in the order of changes.
    pub seq: i64,
    /// Which key.
    pub key: TurnKeyId,
}

/// What the credential API must know of a TURN key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// The account it belongs to.
    pub account: AccountId,
    /// The hash of its secret.
    pub secret_hash: SecretHash,
    /// The hash of the secret that it had before, and until when that is good.
    pub former: Option<(SecretHash, Timestamp)>,
    /// Whether it mints nothing for now.
    pub suspended: bool,
    /// What its monthly limit does to it.
    pub stopped: Option<Stop>,
}

/// A TURN key that was just made.
#[derive(Clone)]
pub struct NewKey {
    /// The key.
    pub key: TurnKey,
    /// What the credential API must know of it.
    pub record: KeyRecord,
    /// Its secret, 64 lower-case hex digits. This is the only time it is to be seen.
    pub secret: String,
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").field("key", &self.key).finish_non_exhaustive()
    }
}

/// An API token that was just made.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// The token.
    pub token: ApiToken,
    /// Its text. This is the only time it is to be seen.
    pub text: TokenText,
}

/// What the first start on an empty store makes.
#[derive(Debug, Clone)]
pub struct Bootstrapped {
    /// The first account.
    pub account: Account,
    /// A token that may do everything in it.
    pub token: NewToken,
}

/// The last numbers of the tables that make the feed; 0 where one is empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FeedEnds {
    pub(crate) denials: i64,
    pub(crate) settings: i64,
    pub(crate) orders: i64,
    /// What tells the tables from others of the same names, as a backup that is restored makes them; empty where nobody can
    /// put others in their place.
    pub(crate) tables: String,
    /// The database's clock, in microseconds of unix time, where it has one.
    pub(crate) now: Option<i64>,
    /// Which keyring the store has, where that was asked and it has one.
    pub(crate) keyring: Option<KeyringMark>,
}

/// One row of the deny feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FeedEntry {
    /// Its place in the feed.
    pub seq: i64,
    /// What it refuses.
    pub denial: Denial,
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn times_print_as_rfc3339() {
        let check = |micros: i64, text: &str| {
            let time = Timestamp::from_unix_micros(micros);
            assert_eq!(time.to_string(), text);
            assert_eq!(text.parse::<Timestamp>().unwrap(), time);
        };
        check(0, "1970-01-01T00:00:00Z");
        check(1_767_323_045_678_901, "2026-01-02T03:04:05.678901Z");
        check(1_767_323_045_000_001, "2026-01-02T03:04:05.000001Z");
    }

    #[test]
    fn account_ids_are_up_to_32_hex_digits() {
        let check = |text: &str, id: Option<&str>| {
            let read = text.parse::<AccountId>().ok();
            assert_eq!(read.as_ref().map(AccountId::as_str), id, "{text}");
        };
        check("a", Some("a"));
        check("00112233445566778899AABBCCDDEEFF", Some("00112233445566778899aabbccddeeff"));
        check("", None);
        check("g", None);
        check("00112233445566778899aabbccddeeff0", None);
    }

    #[test]
    fn permissions_are_read_in_each_spelling() {
        for text in ["Calls Read", "calls-read", "calls_read", "read"] {
            assert_eq!(text.parse(), Ok(Permission::Read), "{text}");
        }
        assert_eq!("Calls Write".parse(), Ok(Permission::Write));
        assert!("admin".parse::<Permission>().is_err());
    }
}
