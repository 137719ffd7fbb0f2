//! What a node is among others: how much it is given, when it sends clients elsewhere, and how it ends.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use control::Steering;
use control::store::MAX_NODE_WEIGHT;

use super::layer::Layers;
use super::limits::amount;

const DEFAULT_WEIGHT: u32 = 100;
/// A day.
const MAX_DRAIN_SECS: u64 = 86_400;
/// The feed is looked at once a second, and a database may be slow. Up to a day.
const FEED_AGES_SECS: RangeInclusive<u64> = 5..=86_400;

/// What a node is among others.
#[derive(Debug, Clone)]
pub(crate) struct FleetSettings {
    /// How much of what comes anew it is to be given, 1 to 1000.
    pub(crate) weight: u32,
    /// From how many allocations on it sends clients elsewhere.
    pub(crate) redirect_above: Option<u64>,
    /// How long live allocations are waited for at the end.
    pub(crate) drain: Duration,
    /// How old what is known of revocations may be where new allocations are taken.
    pub(crate) max_feed_age: Option<Duration>,
    /// Whose URLs are handed out.
    pub(crate) steering: Steering,
    /// Where health and metrics are served beside the API, or without one.
    pub(crate) metrics_listen: Option<SocketAddr>,
}

pub(super) fn settings(layers: &Layers) -> Result<FleetSettings> {
    let weight = layers.first("node_weight", |layer| &layer.node_weight).map(|given| {
        given.read(|text| {
            let weight = text.parse().ok().filter(|weight| (1..=MAX_NODE_WEIGHT).contains(weight));
            weight.ok_or_else(|| anyhow!("{text:?} is not a number from 1 to {MAX_NODE_WEIGHT}"))
        })
    });
    let above = layers.first("redirect_above", |layer| &layer.redirect_above).map(|given| {
        given.read(|text| {
            let above = amount(text)?;
            if above == Some(0) {
                bail!("with 0 nobody would ever be served; none is no limit");
            }
            Ok(above)
        })
    });
    let drain = layers.first("drain_secs", |layer| &layer.drain_secs).map(|given| {
        given.read(|text| {
            let secs = text.parse().ok().filter(|secs| *secs <= MAX_DRAIN_SECS);
            secs.ok_or_else(|| anyhow!("{text:?} is not a number of seconds from 0 to {MAX_DRAIN_SECS}"))
        })
    });
    let max_feed_age = max_feed_age(layers)?;
    let steering = layers.first("steering", |layer| &layer.steering).map(|given| {
        given.read(|text| match text.as_str() {
            "host" => Ok(Steering::Host),
            "node" => Ok(Steering::Node),
            "region" => Ok(Steering::Region),
            _ => bail!("{text:?} is neither host, node nor region"),
        })
    });
    let metrics_listen = layers.first("metrics_listen", |layer| &layer.metrics_listen).map(|given| {
        given.read(|text| text.parse().with_context(|| format!("{text:?} is not IP:PORT, as 127.0.0.1:9100")))
    });
    Ok(FleetSettings {
        weight: weight.transpose()?.unwrap_or(DEFAULT_WEIGHT),
        redirect_above: above.transpose()?.flatten(),
        drain: Duration::from_secs(drain.transpose()?.unwrap_or(0)),
        max_feed_age,
        steering: steering.transpose()?.unwrap_or(Steering::Host),
        metrics_listen: metrics_listen.transpose()?,
    })
}

fn max_feed_age(layers: &Layers) -> Result<Option<Duration>> {
    let given = layers.first("refuse_when_feed_older_than", |layer| &layer.refuse_when_feed_older_than);
    let Some(given) = given else { return Ok(None) };
    given.read(|text| {
        if text == "none" {
            return Ok(None);
        }
        let secs = text.parse().ok().filter(|secs| FEED_AGES_SECS.contains(secs));
        let (least, most) = (FEED_AGES_SECS.start(), FEED_AGES_SECS.end());
        let secs = secs.ok_or_else(|| {
            anyhow!("{text:?} is neither none nor a number of seconds from {least} to {most}")
        });
        secs.map(|secs| Some(Duration::from_secs(secs)))
    })
}
