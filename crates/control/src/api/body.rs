//! A request's body: a JSON object of optional fields, whatever `Content-Type` says. Unknown fields are ignored.

use std::future::poll_fn;
use std::pin::Pin;

use axum::body::{Bytes, HttpBody};
use axum::extract::{FromRequest, Request};
use credentials::{CustomIdentifier, MAX_TTL_SECS, MIN_TTL_SECS, SecretText};
use serde_json::{Map, Value};

use crate::api::error::MAX_NAME_CHARS;
use crate::api::{ApiError, MAX_BODY_BYTES, MAX_READ_BYTES};
use crate::store::{EVENTS, KeyLimits, MAX_OVERLAP_SECS, MAX_THRESHOLDS, MonthLimit, Timestamp};
use crate::webhooks::Target;

const DEFAULT_TTL_SECS: u32 = 86_400;
/// The percentage at which a monthly limit is told unless the body says others.
const DEFAULT_THRESHOLD: u8 = 80;

/// What a body asks to revoke.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Revoke<'a> {
    /// One credential.
    Username(&'a str),
    /// All of one customIdentifier.
    Identifier(CustomIdentifier),
    /// All that were issued before this, unix seconds.
    IssuedBefore(u64),
}

/// The object; empty where there was no body.
#[derive(Debug)]
pub(super) struct Fields(Map<String, Value>);

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        Self::of(request.into_body()).await
    }
}

impl Fields {
    /// What a body says, once it is there. It is read to its end, if that is not too far, for a client that is cut off
    /// while it sends may never see why.
    pub(super) async fn of<B: HttpBody<Data = Bytes> + Unpin>(mut body: B) -> Result<Self, ApiError> {
        let mut bytes = Vec::new();
        while let Some(frame) = poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await {
            let Ok(data) = frame.map_err(|_| ApiError::BodyUnreadable)?.into_data() else { continue };
            if bytes.len() + data.len() > MAX_READ_BYTES {
                return Err(ApiError::BodyTooLarge);
            }
            bytes.extend_from_slice(&data);
        }
        if bytes.len() > MAX_BODY_BYTES {
            return Err(ApiError::BodyTooLarge);
        }
        Self::read(&bytes)
    }

    fn read(bytes: &[u8]) -> Result<Self, ApiError> {
        if bytes.trim_ascii().is_empty() {
            return Ok(Self(Map::new()));
        }
        match serde_json::from_slice(bytes) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(ApiError::BodyNotObject),
            Err(_) => Err(ApiError::BodyNotJson),
        }
    }

    /// The object, always written in the same way.
    pub(super) fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.0).unwrap_or_default()
    }

    pub(super) fn name(&self) -> Result<Option<&str>, ApiError> {
        match self.0.get("name") {
            None => Ok(None),
            Some(Value::String(name)) if name.chars().count() > MAX_NAME_CHARS => Err(ApiError::NameTooLong),
            Some(Value::String(name)) => Ok(Some(name)),
            Some(_) => Err(ApiError::NameType),
        }
    }

    pub(super) fn secret(&self) -> Result<Option<SecretText>, ApiError> {
        let Some(value) = self.0.get("secret") else { return Ok(None) };
        let text = value.as_str().and_then(|text| text.parse().ok());
        text.map(Some).ok_or(ApiError::SharedSecret)
    }

    pub(super) fn key_limits(&self) -> Result<KeyLimits, ApiError> {
        let mut limits = Map::new();
        for (field, max) in KeyLimits::FIELDS {
            let value = self.0.get(field).filter(|value| !value.is_null());
            let Some(value) = value else { continue };
            let in_range = value.as_u64().is_some_and(|value| (1..=max).contains(&value));
            if !in_range {
                return Err(ApiError::Limit { field, max });
            }
            limits.insert(field.to_owned(), value.clone());
        }
        serde_json::from_value(Value::Object(limits)).map_err(|_| ApiError::Internal)
    }

    /// `action`, `counts` and `notify_at` may be missing.
    pub(super) fn month_limit(&self) -> Result<MonthLimit, ApiError> {
        let wrong = |field| ApiError::MonthLimit { field };
        let text = |field: &'static str| match self.0.get(field) {
            None => Ok(None),
            Some(value) => value.as_str().map(Some).ok_or(wrong(field)),
        };
        let bytes = self.0.get("bytes").and_then(Value::as_u64).filter(|it| (1..=1 << 53).contains(it));
        let (counts, action) = (text("counts")?, text("action")?);
        let mut notify_at = vec![DEFAULT_THRESHOLD];
        if let Some(value) = self.0.get("notify_at") {
            let list = value.as_array().filter(|list| list.len() <= MAX_THRESHOLDS);
            let percent = |value: &Value| {
                let percent = value.as_u64().and_then(|percent| u8::try_from(percent).ok());
                percent.filter(|percent| (1..=99).contains(percent))
            };
            let read: Option<Vec<u8>> = list.and_then(|list| list.iter().map(percent).collect());
            notify_at = read.ok_or(wrong("notify_at"))?;
        }
        Ok(MonthLimit {
            bytes: bytes.ok_or(wrong("bytes"))?,
            counts: counts.unwrap_or("egress").parse().map_err(|_| wrong("counts"))?,
            action: action.unwrap_or("refuse").parse().map_err(|_| wrong("action"))?,
            notify_at,
        })
    }

    pub(super) fn ttl_secs(&self) -> Result<u32, ApiError> {
        let Some(value) = self.0.get("ttl") else { return Ok(DEFAULT_TTL_SECS) };
        let secs = value.as_u64().and_then(|secs| u32::try_from(secs).ok());
        secs.filter(|secs| (MIN_TTL_SECS..=MAX_TTL_SECS).contains(secs)).ok_or(ApiError::Ttl)
    }

    pub(super) fn custom_identifier(&self) -> Result<CustomIdentifier, ApiError> {
        match self.0.get("customIdentifier") {
            None => Ok(CustomIdentifier::default()),
            Some(Value::String(text)) => {
                CustomIdentifier::try_from(text.as_str()).map_err(|_| ApiError::CustomIdentifierTooLong)
            }
            Some(_) => Err(ApiError::CustomIdentifierType),
        }
    }

    /// For how long a rolled secret stays good; not at all unless this is said.
    pub(super) fn overlap_secs(&self) -> Result<u32, ApiError> {
        let Some(value) = self.0.get("overlap_secs") else { return Ok(0) };
        let secs = value.as_u64().and_then(|secs| u32::try_from(secs).ok());
        secs.filter(|secs| *secs <= MAX_OVERLAP_SECS).ok_or(ApiError::Overlap)
    }

    /// What is to be revoked: exactly one of its three forms.
    pub(super) fn revocation(&self) -> Result<Revoke<'_>, ApiError> {
        let named = |field: &str| self.0.contains_key(field);
        match (named("username"), named("customIdentifier"), named("issuedBefore")) {
            (false, true, false) => Ok(Revoke::Identifier(self.custom_identifier()?)),
            (false, false, true) => Ok(Revoke::IssuedBefore(self.issued_before()?)),
            (_, false, false) => Ok(Revoke::Username(self.username()?)),
            _ => Err(ApiError::RevocationForms),
        }
    }

    /// Unix seconds, or RFC 3339; a second that has begun counts whole.
    fn issued_before(&self) -> Result<u64, ApiError> {
        match self.0.get("issuedBefore") {
            Some(Value::String(text)) => {
                let moment: Timestamp = text.parse().map_err(|_| ApiError::IssuedBefore)?;
                u64::try_from(moment.unix_micros())
                    .map(|micros| micros.div_ceil(1_000_000))
                    .map_err(|_| ApiError::IssuedBefore)
            }
            Some(value) => value.as_u64().ok_or(ApiError::IssuedBefore),
            None => Err(ApiError::IssuedBefore),
        }
    }

    pub(super) fn webhook_url(&self) -> Result<&str, ApiError> {
        let url = self.0.get("url").and_then(Value::as_str).ok_or(ApiError::WebhookUrl)?;
        url.parse::<Target>().map(|_| url).map_err(|_| ApiError::WebhookUrl)
    }

    /// Which events; none where nothing is said, which stands for all.
    pub(super) fn events(&self) -> Result<Vec<String>, ApiError> {
        let Some(value) = self.0.get("events") else { return Ok(Vec::new()) };
        let list = value.as_array().filter(|list| list.len() <= EVENTS.len()).ok_or(ApiError::Events)?;
        let known = |event: &Value| event.as_str().filter(|it| EVENTS.contains(it)).map(str::to_owned);
        list.iter().map(|event| known(event).ok_or(ApiError::Events)).collect()
    }

    /// The id of one event.
    pub(super) fn event(&self) -> Result<Option<&str>, ApiError> {
        let Some(value) = self.0.get("event") else { return Ok(None) };
        value.as_str().map(Some).ok_or(ApiError::Event)
    }

    pub(super) fn username(&self) -> Result<&str, ApiError> {
        self.0.get("username").and_then(Value::as_str).filter(|it| !it.is_empty()).ok_or(ApiError::Username)
    }
}
