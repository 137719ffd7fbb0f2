//! Every way in which the API says no: one table of status, code and text.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use credentials::{
    MAX_CUSTOM_IDENTIFIER_BYTES, MAX_SECRET_BYTES, MAX_TTL_SECS, MIN_SECRET_BYTES, MIN_TTL_SECS,
};

use crate::api::MAX_BODY_BYTES;
use crate::api::envelope;
use crate::keys::Miss;
use crate::store::{
    EVENTS, MAX_IDENTIFIER_RULES_OF_KEY, MAX_OVERLAP_SECS, MAX_SHARED_SECRETS, MAX_SHARED_SECRETS_OF_KEY,
    MAX_WEBHOOKS, StoreError,
};

/// Most characters of a TURN key's name.
pub(crate) const MAX_NAME_CHARS: usize = 255;

/// When to come back once the database did not answer: it is found again within seconds.
const UNAVAILABLE_RETRY_SECS: u64 = 2;

/// A refusal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ApiError {
    /// The account API was asked without an `Authorization` header.
    NoCredentials,
    /// `Authorization` is there, but is not `Bearer` and a token.
    MalformedAuthorization,
    /// No such API token, or not any more.
    UnknownToken,
    /// The token may not do this.
    LacksPermission,
    /// The token belongs to another account.
    ForeignAccount,
    /// The credential API was asked without a TURN key's secret.
    NoSecret,
    /// The TURN key has another secret.
    WrongSecret,
    /// No such TURN key.
    NoSuchKey,
    /// Not a credential of this TURN key.
    NoSuchCredential,
    /// Not a shared secret of this TURN key.
    NoSuchSharedSecret,
    /// Nothing has this path.
    NoRoute,
    /// The path is right and the method is not.
    MethodNotAllowed,
    /// The body is longer than anybody needs.
    BodyTooLarge,
    /// The connection broke in the body.
    BodyUnreadable,
    /// The body is not JSON.
    BodyNotJson,
    /// The body is JSON, but not an object.
    BodyNotObject,
    /// `name` is no string.
    NameType,
    /// `name` is too long.
    NameTooLong,
    /// `ttl` is no whole number in its range.
    Ttl,
    /// `customIdentifier` is no string.
    CustomIdentifierType,
    /// `customIdentifier` is too long.
    CustomIdentifierTooLong,
    /// `username` is missing or no string.
    Username,
    /// The account may have no more TURN keys.
    TooManyKeys {
        /// How many it may have.
        limit: u32,
    },
    /// `secret` is no string, or cannot be a shared secret.
    SharedSecret,
    /// The TURN key may have no more shared secrets.
    TooManySharedSecretsOfKey,
    /// The deployment may have no more shared secrets.
    TooManySharedSecrets,
    /// The shared secret is in use.
    SharedSecretExists,
    /// `service` is not `turn`.
    Service,
    /// The `username` that a credential is asked for is too long.
    UserTooLong,
    /// A limit of a TURN key is no whole number in its range.
    Limit {
        /// Which one.
        field: &'static str,
        /// The greatest.
        max: u64,
    },
    /// A parameter of the query is missing, or not what it has to be.
    Parameter {
        /// Which one.
        field: &'static str,
    },
    /// No such session, or it has ended.
    NoSuchSession,
    /// The TURN key is suspended.
    KeySuspended,
    /// `overlap_secs` is no whole number in its range.
    Overlap,
    /// A revocation names several things at once.
    RevocationForms,
    /// `issuedBefore` is no moment.
    IssuedBefore,
    /// The TURN key may have no more revocations by customIdentifier.
    TooManyIdentifierRules,
    /// `cursor` or `per_page` is no number in its range.
    Paging,
    /// `since` is no moment.
    Since,
    /// `Idempotency-Key` is empty, too long, or there twice.
    IdempotencyKey,
    /// The same `Idempotency-Key` came with another request.
    IdempotencyKeyReused,
    /// The API token has used too many of them.
    TooManyIdempotencyKeys,
    /// The account has no such webhook.
    NoSuchWebhook,
    /// `url` is none that a webhook may have.
    WebhookUrl,
    /// `events` is no list of events.
    Events,
    /// The account may have no more webhooks.
    TooManyWebhooks,
    /// The TURN key has relayed what it may in this month.
    MonthLimitReached,
    /// A monthly limit's field is not what it has to be.
    MonthLimit {
        /// Which.
        field: &'static str,
    },
    /// The body's `event` is no string.
    Event,
    /// Asked too often.
    RateLimited {
        /// When to come back, in seconds.
        retry_after_secs: u64,
    },
    /// A request for the try page's own use came from elsewhere.
    ForeignOrigin,
    /// The request did not arrive in time.
    TimedOut,
    /// The database does not answer, or was busy with the same rows.
    StoreUnavailable,
    /// What is revoked was not heard for too long.
    CutOff,
    /// Our fault; the log knows more.
    Internal,
}

impl ApiError {
    fn status_and_code(self) -> (StatusCode, u32) {
        match self {
            Self::NoCredentials => (StatusCode::BAD_REQUEST, 9106),
            Self::MalformedAuthorization => (StatusCode::BAD_REQUEST, 6003),
            Self::UnknownToken | Self::NoSecret | Self::WrongSecret => (StatusCode::UNAUTHORIZED, 10_000),
            Self::LacksPermission | Self::ForeignAccount => (StatusCode::FORBIDDEN, 10_000),
            Self::NoSuchKey => (StatusCode::NOT_FOUND, 20_008),
            Self::NoSuchCredential => (StatusCode::NOT_FOUND, 20_009),
            Self::NoRoute => (StatusCode::NOT_FOUND, 7003),
            Self::MethodNotAllowed => (StatusCode::METHOD_NOT_ALLOWED, 10_405),
            Self::BodyTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, 20_010),
            Self::BodyUnreadable => (StatusCode::BAD_REQUEST, 20_011),
            Self::BodyNotJson => (StatusCode::BAD_REQUEST, 20_012),
            Self::BodyNotObject => (StatusCode::BAD_REQUEST, 20_013),
            Self::NameType => (StatusCode::BAD_REQUEST, 20_014),
            Self::NameTooLong => (StatusCode::BAD_REQUEST, 20_015),
            Self::Ttl => (StatusCode::BAD_REQUEST, 20_016),
            Self::CustomIdentifierType => (StatusCode::BAD_REQUEST, 20_017),
            Self::CustomIdentifierTooLong => (StatusCode::BAD_REQUEST, 20_018),
            Self::Username => (StatusCode::BAD_REQUEST, 20_019),
            Self::TooManyKeys { .. } => (StatusCode::CONFLICT, 20_020),
            Self::RateLimited { .. } => (StatusCode::TOO_MANY_REQUESTS, 20_021),
            Self::ForeignOrigin => (StatusCode::FORBIDDEN, 20_022),
            Self::TimedOut => (StatusCode::REQUEST_TIMEOUT, 20_023),
            Self::NoSuchSharedSecret => (StatusCode::NOT_FOUND, 20_024),
            Self::SharedSecret => (StatusCode::BAD_REQUEST, 20_025),
            Self::TooManySharedSecretsOfKey => (StatusCode::CONFLICT, 20_026),
            Self::TooManySharedSecrets => (StatusCode::CONFLICT, 20_027),
            Self::SharedSecretExists => (StatusCode::CONFLICT, 20_028),
            Self::Service => (StatusCode::BAD_REQUEST, 20_029),
            Self::UserTooLong => (StatusCode::BAD_REQUEST, 20_030),
            Self::Limit { .. } => (StatusCode::BAD_REQUEST, 20_031),
            Self::Parameter { .. } => (StatusCode::BAD_REQUEST, 20_040),
            Self::NoSuchSession => (StatusCode::NOT_FOUND, 20_041),
            Self::KeySuspended => (StatusCode::FORBIDDEN, 20_032),
            Self::Overlap => (StatusCode::BAD_REQUEST, 20_033),
            Self::RevocationForms => (StatusCode::BAD_REQUEST, 20_034),
            Self::IssuedBefore => (StatusCode::BAD_REQUEST, 20_035),
            Self::TooManyIdentifierRules => (StatusCode::CONFLICT, 20_036),
            Self::Paging => (StatusCode::BAD_REQUEST, 20_037),
            Self::Since => (StatusCode::BAD_REQUEST, 20_038),
            Self::IdempotencyKey => (StatusCode::BAD_REQUEST, 20_039),
            Self::IdempotencyKeyReused => (StatusCode::UNPROCESSABLE_ENTITY, 20_046),
            Self::TooManyIdempotencyKeys => (StatusCode::CONFLICT, 20_047),
            Self::NoSuchWebhook => (StatusCode::NOT_FOUND, 20_042),
            Self::WebhookUrl => (StatusCode::BAD_REQUEST, 20_043),
            Self::Events => (StatusCode::BAD_REQUEST, 20_044),
            Self::TooManyWebhooks => (StatusCode::CONFLICT, 20_045),
            Self::Event => (StatusCode::BAD_REQUEST, 20_048),
            Self::MonthLimitReached => (StatusCode::FORBIDDEN, 20_049),
            Self::MonthLimit { .. } => (StatusCode::BAD_REQUEST, 20_050),
            Self::StoreUnavailable => (StatusCode::SERVICE_UNAVAILABLE, 20_051),
            Self::CutOff => (StatusCode::SERVICE_UNAVAILABLE, 20_052),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, 20_500),
        }
    }

    pub(crate) fn status(self) -> StatusCode {
        self.status_and_code().0
    }

    pub(crate) fn message(self) -> String {
        let fixed = match self {
            Self::NoCredentials => "No credentials: send the header `Authorization: Bearer <API token>`",
            Self::MalformedAuthorization => "Invalid request headers",
            Self::UnknownToken => "Authentication error",
            Self::LacksPermission => "Authentication error: the API token lacks the permission Calls Write",
            Self::ForeignAccount => "Authentication error: the API token belongs to another account",
            Self::NoSecret => {
                "Authentication error: send the header `Authorization: Bearer <the TURN key's secret>`"
            }
            Self::WrongSecret => "Authentication error: this is not the secret of the TURN key",
            Self::NoSuchKey => "There is no such TURN key",
            Self::NoSuchSession => "There is no such session, or it has ended",
            Self::NoSuchCredential => "The username is no credential of this TURN key",
            Self::NoSuchSharedSecret => "The TURN key has no such shared secret",
            Self::SharedSecretExists => "This shared secret is in use already: choose another",
            Self::Service => "service must be `turn`",
            Self::NoRoute => "Could not route the request: the path is unknown, or an id in it cannot be one",
            Self::MethodNotAllowed => "Method not allowed: the header `Allow` lists those that are",
            Self::BodyUnreadable => "The body could not be read to its end",
            Self::BodyNotJson => "The body is not JSON in UTF-8",
            Self::BodyNotObject => "The body must be a JSON object",
            Self::NameType => "name must be a string",
            Self::CustomIdentifierType => "customIdentifier must be a string",
            Self::Username => "username is missing: give the credential's username as a string",
            Self::KeySuspended => "The TURN key is suspended: it mints nothing until it is resumed",
            Self::MonthLimitReached => {
                "The TURN key has relayed what it may in this month: it mints nothing until the next"
            }
            Self::MonthLimit { field: "bytes" } => "bytes must be a whole number from 1 to 2^53",
            Self::MonthLimit { field: "counts" } => "counts must be `egress` or `total`",
            Self::MonthLimit { field: "action" } => "action must be `refuse`, `cut` or `notify`",
            Self::MonthLimit { .. } => {
                "notify_at must be a list of at most ten percentages, each from 1 to 99"
            }
            Self::RevocationForms => "Give one of username, customIdentifier and issuedBefore, not several",
            Self::IssuedBefore => {
                "issuedBefore must be a time as in 2026-01-02T03:04:05Z, or a whole number of unix seconds"
            }
            Self::IdempotencyKey => "Idempotency-Key must be there once, with 1 to 255 printable characters",
            Self::IdempotencyKeyReused => "Another request came with this Idempotency-Key: choose a new one",
            Self::TooManyIdempotencyKeys => {
                "The API token has used as many Idempotency-Keys within a day as it may"
            }
            Self::NoSuchWebhook => "The account has no such webhook",
            Self::WebhookUrl => {
                "url must be https://HOST/PATH, or http:// to a host that --webhook-network names"
            }
            Self::Event => "event must be a string: the webhook-id of what was given up",
            Self::Events => return format!("events must be a list of {}", EVENTS.join(", ")),
            Self::TooManyWebhooks => {
                return format!(
                    "The account has {MAX_WEBHOOKS} webhooks, and may have no more: delete one first"
                );
            }
            Self::Paging => "cursor must be the number that the last page gave, per_page one from 1 to 1000",
            Self::Since => "since must be a time as in 2026-01-02T03:04:05Z",
            Self::RateLimited { .. } => "Too many requests: wait as the header `Retry-After` says",
            Self::ForeignOrigin => {
                "Only the try page itself may ask for this, opened by address or as localhost"
            }
            Self::TimedOut => "The request took too long to arrive or to be answered",
            Self::StoreUnavailable => {
                "The database does not answer, and the change may or may not have been made: ask again, as the header \
                 `Retry-After` says"
            }
            Self::CutOff => {
                "This node has not heard for too long what is revoked, and mints nothing until it does: ask another"
            }
            Self::Internal => "Internal error: the server's log says more",
            Self::BodyTooLarge
            | Self::NameTooLong
            | Self::Ttl
            | Self::CustomIdentifierTooLong
            | Self::Limit { .. }
            | Self::Overlap
            | Self::TooManyIdentifierRules
            | Self::Parameter { .. }
            | Self::UserTooLong
            | Self::SharedSecret
            | Self::TooManySharedSecretsOfKey
            | Self::TooManySharedSecrets
            | Self::TooManyKeys { .. } => return self.message_with_figures(),
        };
        fixed.to_owned()
    }

    fn message_with_figures(self) -> String {
        match self {
            Self::BodyTooLarge => format!("The body is longer than {MAX_BODY_BYTES} bytes"),
            Self::NameTooLong => format!("name must have at most {MAX_NAME_CHARS} characters"),
            Self::Ttl => {
                format!("ttl must be a whole number of seconds from {MIN_TTL_SECS} to {MAX_TTL_SECS}")
            }
            Self::CustomIdentifierTooLong => {
                format!("customIdentifier must have at most {MAX_CUSTOM_IDENTIFIER_BYTES} bytes of UTF-8")
            }
            Self::Limit { field, max } => {
                format!("{field} must be a whole number from 1 to {max}, or null for no limit")
            }
            Self::Overlap => {
                format!("overlap_secs must be a whole number of seconds from 0 to {MAX_OVERLAP_SECS}")
            }
            Self::TooManyIdentifierRules => {
                format!(
                    "The TURN key has {MAX_IDENTIFIER_RULES_OF_KEY} revocations by customIdentifier in force, and may \
                     have no more: use issuedBefore instead"
                )
            }
            Self::Parameter { field } => {
                format!("The query's {field} is missing, or is not what it has to be: see docs/usage.md")
            }
            Self::UserTooLong => {
                format!("username must have at most {MAX_CUSTOM_IDENTIFIER_BYTES} bytes of UTF-8")
            }
            Self::SharedSecret => {
                format!(
                    "secret must be a string of {MIN_SECRET_BYTES} to {MAX_SECRET_BYTES} printable characters of ASCII"
                )
            }
            Self::TooManySharedSecretsOfKey => {
                format!(
                    "The TURN key has {MAX_SHARED_SECRETS_OF_KEY} shared secrets, and may have no more: remove one first"
                )
            }
            Self::TooManySharedSecrets => {
                format!(
                    "There are {MAX_SHARED_SECRETS} shared secrets, and there may be no more: remove one first"
                )
            }
            Self::TooManyKeys { limit } => {
                format!("The account has {limit} TURN keys, and may have no more: delete one first")
            }
            // All others are in `message`.
            _ => String::new(),
        }
    }

    /// What lies behind it, for callers that look deeper.
    fn chain(self) -> Option<(u32, &'static str)> {
        match self {
            Self::MalformedAuthorization => {
                Some((6111, "Invalid format for Authorization header: it must be `Bearer <API token>`"))
            }
            _ => None,
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = self.status_and_code();
        let mut response = envelope::failure(status, code, &self.message(), self.chain());
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        let retry_after_secs = match self {
            Self::RateLimited { retry_after_secs } => Some(retry_after_secs),
            Self::StoreUnavailable | Self::CutOff => Some(UNAVAILABLE_RETRY_SECS),
            _ => None,
        };
        if let Some(secs) = retry_after_secs {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(secs));
        }
        response
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::TooManyKeys { limit } => Self::TooManyKeys { limit },
            StoreError::TooManySharedSecretsOfKey => Self::TooManySharedSecretsOfKey,
            StoreError::TooManySharedSecrets => Self::TooManySharedSecrets,
            StoreError::SharedSecretExists => Self::SharedSecretExists,
            StoreError::TooManyWebhooks => Self::TooManyWebhooks,
            StoreError::TooManyAnswers => Self::TooManyIdempotencyKeys,
            StoreError::TooManyIdentifierRules => Self::TooManyIdentifierRules,
            // The account was deleted while its token was looked at.
            StoreError::NoSuchAccount(_) => Self::UnknownToken,
            error @ (StoreError::Unavailable(_) | StoreError::Conflict(_)) => {
                tracing::warn!(request = %crate::api::request_id(), error = &error as &dyn std::error::Error, "the store did not answer a request");
                Self::StoreUnavailable
            }
            error => {
                tracing::error!(request = %crate::api::request_id(), error = &error as &dyn std::error::Error, "a request failed");
                Self::Internal
            }
        }
    }
}

impl From<Miss> for ApiError {
    fn from(miss: Miss) -> Self {
        match miss {
            Miss::Busy(retry_after_secs) => Self::RateLimited { retry_after_secs },
            Miss::Store(error) => error.into(),
        }
    }
}
