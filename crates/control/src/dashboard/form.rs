//! What a form or a link says, field by field.

use axum::extract::{FromRequest, Query, Request};
use axum::http::Uri;
use axum::response::IntoResponse;
use credentials::CustomIdentifier;

use crate::api::MAX_NAME_CHARS;
use crate::dashboard::fault::Fault;

/// The fields, in their order.
#[derive(Debug, Default)]
pub(super) struct Form(Vec<(String, String)>);

impl Form {
    /// Of a link. What cannot be read is not there.
    pub(super) fn of_query(uri: &Uri) -> Self {
        Query::try_from_uri(uri).map(|Query(fields)| Self(fields)).unwrap_or_default()
    }

    /// A field as it stands.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    /// All that a field is given.
    pub(super) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.0.iter().filter(move |(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    /// A field without the space around it, unless nothing is left of it.
    pub(super) fn filled(&self, name: &str) -> Option<&str> {
        self.text(name).map(str::trim).filter(|text| !text.is_empty())
    }

    /// The name of a TURN key.
    pub(super) fn name(&self) -> Result<&str, String> {
        let name = self.filled("name").unwrap_or_default();
        let chars = name.chars().count();
        if chars > MAX_NAME_CHARS {
            return Err(format!(
                "Name: it has {chars} characters, and may have {MAX_NAME_CHARS}. Choose a shorter one."
            ));
        }
        Ok(name)
    }

    pub(super) fn custom_identifier(&self) -> Result<CustomIdentifier, String> {
        let text = self.filled("custom_identifier").unwrap_or_default();
        CustomIdentifier::try_from(text).map_err(|_| {
            format!(
                "Custom identifier: it has {} bytes of UTF-8, and may have {}. Choose a shorter one.",
                text.len(),
                credentials::MAX_CUSTOM_IDENTIFIER_BYTES
            )
        })
    }

    /// A whole number of a range, which may have `k`, `M` or `G` behind it; nothing where nothing is given.
    pub(super) fn number(&self, name: &str, label: &str, max: u64) -> Result<Option<u64>, String> {
        let Some(text) = self.filled(name) else { return Ok(None) };
        number(text).filter(|number| (1..=max).contains(number)).map(Some).ok_or_else(|| {
            format!(
                "{label}: “{text}” is no whole number from 1 to {max}. Write one, such as 500 or 10M, or nothing for \
                 no limit."
            )
        })
    }
}

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = Fault;

    async fn from_request(request: Request, state: &S) -> Result<Self, Fault> {
        let form = axum::Form::from_request(request, state).await;
        let axum::Form(fields) =
            form.map_err(|rejection| Fault::Unreadable(rejection.into_response().status()))?;
        Ok(Self(fields))
    }
}

fn number(text: &str) -> Option<u64> {
    let (digits, factor) = match text.char_indices().last()? {
        (at, 'k' | 'K') => (text.get(..at)?, 1_000),
        (at, 'm' | 'M') => (text.get(..at)?, 1_000_000),
        (at, 'g' | 'G') => (text.get(..at)?, 1_000_000_000),
        _ => (text, 1),
    };
    let digits = digits.trim_end();
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    digits.parse::<u64>().ok().filter(|_| is_number)?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_with_their_unit() {
        for (text, value) in [
            ("1", Some(1)),
            ("500", Some(500)),
            ("10M", Some(10_000_000)),
            ("2 k", Some(2_000)),
            ("3G", Some(3_000_000_000)),
            ("99999999999999999999", None),
            ("18446744073709551615k", None),
            ("+1", None),
            ("-1", None),
            ("1.5", None),
            ("M", None),
            ("ten", None),
            ("1é", None),
        ] {
            assert_eq!(number(text), value, "{text}");
        }
    }
}
