//! What the service tells of itself: the log's form, and who may read the metrics.

use std::fs;

use anyhow::{Result, anyhow, bail, ensure};

use super::layer::{Layers, fault};

/// Fewer characters could be guessed, more do not fit into a header that everybody takes.
const TOKEN_CHARS: std::ops::RangeInclusive<usize> = 16..=256;

/// How a line of the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// For people.
    Text,
    /// One JSON object each.
    Json,
}

pub(super) fn log_format(layers: &Layers) -> Result<LogFormat> {
    let Some(given) = layers.first("log_format", |layer| &layer.log_format) else {
        return Ok(LogFormat::Text);
    };
    given.read(|text| match text.as_str() {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => bail!("{other:?} is neither text nor json"),
    })
}

/// The token in the file that is named, if one is.
pub(super) fn metrics_token(layers: &Layers) -> Result<Option<String>> {
    let Some(given) = layers.first("metrics_token_file", |layer| &layer.metrics_token_file) else {
        return Ok(None);
    };
    given.read(|path| {
        let text =
            fs::read_to_string(path).map_err(|error| anyhow!("cannot read {path:?}: {}", fault(&error)))?;
        let token = text.trim();
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~+/=".contains(&b);
        ensure!(
            TOKEN_CHARS.contains(&token.len()) && token.bytes().all(is_plain),
            "{path:?} does not hold a token: one line of {} to {} of A-Za-z0-9-._~+/=",
            TOKEN_CHARS.start(),
            TOKEN_CHARS.end()
        );
        Ok(Some(token.to_owned()))
    })
}
