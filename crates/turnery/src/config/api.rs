//! How HTTP is served.

use anyhow::{Context, Result, anyhow, ensure};
use control::{Network, Rate};

use super::layer::{Given, Layer, Layers};
use super::limits::amount;

/// What the API's callers may do.
#[derive(Debug, Clone)]
pub(crate) struct ApiSettings {
    /// Whose `X-Forwarded-For` is believed.
    pub(crate) proxies: Vec<Network>,
    /// Which origins' pages may call.
    pub(crate) cors_origins: Vec<String>,
    /// How often an API token may call.
    pub(crate) token_rate: Rate,
    /// How often an address may call; `None`: as often as it likes.
    pub(crate) address_rate: Option<Rate>,
    /// Connections of one address at once.
    pub(crate) connections_per_address: usize,
    /// Networks that webhooks may reach, public or not.
    pub(crate) webhook_networks: Vec<Network>,
    /// How long the audit log is kept.
    pub(crate) audit_days: u32,
}

impl ApiSettings {
    /// In the place of the defaults.
    pub(crate) fn apply(&self, config: &mut control::Config) {
        let Self {
            proxies,
            cors_origins,
            token_rate,
            address_rate,
            connections_per_address,
            webhook_networks,
            audit_days,
        } = self.clone();
        config.webhook_networks = webhook_networks;
        (config.proxies, config.cors_origins) = (proxies, cors_origins);
        (config.account_rate, config.address_rate) = (token_rate, address_rate);
        (config.connections_per_address, config.audit_days) = (connections_per_address, audit_days);
    }
}

pub(super) fn settings(layers: &Layers) -> Result<ApiSettings> {
    let proxies = layers.first("api_proxy", |layer| &layer.api_proxy);
    let origins = layers.first("cors_origin", |layer| &layer.cors_origin);
    let unlimited = Rate { per_sec: u32::MAX, burst: u32::MAX };
    let tokens = Some(Rate { per_sec: 1_000, burst: 5_000 });
    let tokens = rate(layers, "max_calls_per_token", |layer| &layer.max_calls_per_token, tokens)?;
    let addresses = Some(Rate { per_sec: 5_000, burst: 10_000 });
    let addresses = rate(layers, "max_calls_per_address", |layer| &layer.max_calls_per_address, addresses)?;
    let within = |field, most: u32, of: fn(&Layer) -> &Option<String>| {
        layers.first(field, of).map(|given| given.read(|text| whole(text, most))).transpose()
    };
    let connections =
        within("max_api_connections_per_address", 4_096, |layer| &layer.max_api_connections_per_address)?;
    Ok(ApiSettings {
        proxies: networks(proxies)?,
        webhook_networks: networks(layers.first("webhook_network", |layer| &layer.webhook_network))?,
        cors_origins: origins.map_or(Ok(Vec::new()), |given| given.read_each(origin))?,
        token_rate: tokens.unwrap_or(unlimited),
        address_rate: addresses,
        connections_per_address: connections.map_or(256, |count| count as usize),
        audit_days: within("audit_days", 36_500, |layer| &layer.audit_days)?.unwrap_or(365),
    })
}

fn networks(given: Option<Given<Vec<String>>>) -> Result<Vec<Network>> {
    given.map_or(Ok(Vec::new()), |given| given.read_each(|text| Ok(text.parse()?)))
}

/// So many a second, and twice as many at once; `None` is no limit.
fn rate(
    layers: &Layers,
    field: &'static str,
    of: fn(&Layer) -> &Option<String>,
    otherwise: Option<Rate>,
) -> Result<Option<Rate>> {
    let Some(given) = layers.first(field, of) else { return Ok(otherwise) };
    given.read(|text| {
        let Some(calls) = amount(text)? else { return Ok(None) };
        let per_sec = u32::try_from(calls).ok().filter(|calls| *calls > 0);
        let per_sec =
            per_sec.with_context(|| format!("{text:?} is not a number from 1 to {}, nor none", u32::MAX))?;
        Ok(Some(Rate { per_sec, burst: per_sec.saturating_mul(2) }))
    })
}

fn whole(text: &str, most: u32) -> Result<u32> {
    let number = text.parse().ok().filter(|number| (1..=most).contains(number));
    number.ok_or_else(|| anyhow!("{text:?} is not a number from 1 to {most}"))
}

fn origin(text: &str) -> Result<String> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b".-:[]".contains(&b);
    ensure!(
        text == "*" || host.is_some_and(|host| !host.is_empty() && host.bytes().all(plain)),
        "{text:?} is not an origin such as https://app.example, in lower case and without a path, nor *"
    );
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_scheme_and_a_host() {
        for right in ["*", "https://app.example", "http://localhost:3000", "http://[::1]:8080"] {
            assert_eq!(origin(right).unwrap(), right);
        }
        for wrong in
            ["", "app.example", "https://", "https://app.example/", "https://App.example", "null", "ftp://a"]
        {
            assert!(origin(wrong).unwrap_err().to_string().contains("https://app.example"), "{wrong}");
        }
    }
}
