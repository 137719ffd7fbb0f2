//! What a node is called and where it is, and how long what is known of usage is kept.

use anyhow::{Result, anyhow, ensure};
use control::store::usage::{Location, Retention};

use super::layer::{Given, Layers};

const MAX_NAME_CHARS: usize = 64;
/// A hundred years.
const MAX_DAYS: u32 = 36_500;

fn named(given: Option<Given<String>>) -> Result<Option<String>> {
    given
        .map(|given| {
            given.read(|text| {
                ensure!(
                    text.chars().count() <= MAX_NAME_CHARS && !text.chars().any(char::is_control),
                    "{text:?} is not at most {MAX_NAME_CHARS} printable characters"
                );
                Ok(text.clone())
            })
        })
        .transpose()
}

/// The node's name: the host's, unless another is given.
pub(super) fn node_name(layers: &Layers) -> Result<String> {
    let given = named(layers.first("node_name", |layer| &layer.node_name))?;
    let host =
        || std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
    Ok(given.or_else(host).filter(|name| !name.is_empty()).unwrap_or_else(|| "node".to_owned()))
}

pub(super) fn location(layers: &Layers) -> Result<Location> {
    let text = |given| named(given).map(Option::unwrap_or_default);
    Ok(Location {
        city: text(layers.first("location_city", |layer| &layer.location_city))?,
        code: text(layers.first("location_code", |layer| &layer.location_code))?,
        country: text(layers.first("location_country", |layer| &layer.location_country))?,
        region: text(layers.first("location_region", |layer| &layer.location_region))?,
    })
}

fn days(given: Option<Given<String>>, otherwise: u32) -> Result<u32> {
    let Some(given) = given else { return Ok(otherwise) };
    given.read(|text| {
        let days = text.parse().ok().filter(|days| (1..=MAX_DAYS).contains(days));
        days.ok_or_else(|| anyhow!("{text:?} is not a number of days from 1 to {MAX_DAYS}"))
    })
}

pub(super) fn retention(layers: &Layers) -> Result<Retention> {
    let default = Retention::default();
    let kept = |given, otherwise| days(given, otherwise);
    let minutes_days =
        kept(layers.first("usage_minutes_days", |layer| &layer.usage_minutes_days), default.minutes_days)?;
    let hours_days =
        kept(layers.first("usage_hours_days", |layer| &layer.usage_hours_days), default.hours_days)?;
    let days_days = kept(layers.first("usage_days", |layer| &layer.usage_days), default.days_days)?;
    let sessions_days =
        kept(layers.first("sessions_days", |layer| &layer.sessions_days), default.sessions_days)?;
    // What is kept finely is known coarsely, too.
    let hours_days = hours_days.max(minutes_days);
    Ok(Retention { minutes_days, hours_days, days_days: days_days.max(hours_days), sessions_days })
}
