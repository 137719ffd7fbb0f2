//! What a TURN key, an allocation and a stranger may use at most.

use std::num::NonZero;

use anyhow::{Context, Result, ensure};
use turn::{KeyLimits, Limits, Rate, StrangerLimit};

use super::layer::{Layer, Layers};

/// A number such as `2500`, `200k`, `10M` or `1G`, or `none`.
pub(crate) fn amount(text: &str) -> Result<Option<u64>> {
    if text.eq_ignore_ascii_case("none") {
        return Ok(None);
    }
    let (digits, unit) = match text.char_indices().last() {
        Some((end, 'k' | 'K')) => (text.get(..end), 1_000),
        Some((end, 'm' | 'M')) => (text.get(..end), 1_000_000),
        Some((end, 'g' | 'G')) => (text.get(..end), 1_000_000_000),
        _ => (Some(text), 1),
    };
    let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_digit()));
    let value = digits.and_then(|digits| digits.parse::<u64>().ok()?.checked_mul(unit));
    let explained = || format!("{text:?} is not a number such as 200, 64k, 10M or 1G, nor none");
    Ok(Some(value.with_context(explained)?))
}

/// The same where the number is a count.
fn count(text: &str) -> Result<Option<u32>> {
    let value = amount(text)?.map(u32::try_from).transpose();
    value.with_context(|| format!("{text:?} is more than {}", u32::MAX))
}

/// The limits of every key that has none of its own.
pub(super) fn of_keys(layers: &Layers) -> Result<KeyLimits> {
    let of = |field, part: fn(&Layer) -> &Option<String>| {
        layers.first(field, part).map_or(Ok(None), |given| given.read(|text| count(text)))
    };
    let rate = |field, part: fn(&Layer) -> &Option<String>| {
        layers.first(field, part).map_or(Ok(None), |given| given.read(|text| amount(text)))
    };
    let bounded = |field, part: fn(&Layer) -> &Option<String>, most: usize| {
        let Some(given) = layers.first(field, part) else { return Ok(None) };
        given.read(|text| {
            let limit = count(text)?;
            ensure!(limit.is_none_or(|limit| limit as usize <= most), "{text:?} is more than {most}");
            Ok(limit)
        })
    };
    let most = Limits::default();
    Ok(KeyLimits {
        allocations: of("max_allocations_per_key", |layer| &layer.max_allocations_per_key)?,
        allocations_per_credential: of("max_allocations_per_credential", |layer| {
            &layer.max_allocations_per_credential
        })?,
        new_peers_per_second: of("max_new_peers_per_second", |layer| &layer.max_new_peers_per_second)?,
        permissions: bounded("max_permissions", |layer| &layer.max_permissions, most.permissions)?,
        channels: bounded("max_channels", |layer| &layer.max_channels, most.channels)?,
        allocation_rate: Rate {
            packets_per_second: rate("max_packets_per_second", |layer| &layer.max_packets_per_second)?,
            bits_per_second: rate("max_bits_per_second", |layer| &layer.max_bits_per_second)?,
        },
        key_rate: Rate {
            packets_per_second: rate("max_key_packets_per_second", |layer| {
                &layer.max_key_packets_per_second
            })?,
            bits_per_second: rate("max_key_bits_per_second", |layer| &layer.max_key_bits_per_second)?,
        },
    })
}

/// How many answers the unauthenticated get.
pub(super) fn of_strangers(layers: &Layers) -> Result<Option<StrangerLimit>> {
    let mut limit = StrangerLimit::default();
    let prefixes = layers.first("unauthenticated_prefixes", |layer| &layer.unauthenticated_prefixes);
    if let Some(given) = prefixes {
        (limit.ipv4_prefix, limit.ipv6_prefix) = given.read(|text| {
            let lengths = text.split_once('/').and_then(|(v4, v6)| {
                let length =
                    |text: &str, most| text.parse().ok().filter(|length| (1..=most).contains(length));
                Some((length(v4, 32)?, length(v6, 128)?))
            });
            lengths.with_context(|| {
                format!("{text:?} is not the length of an IPv4 and of an IPv6 prefix, such as 24/56")
            })
        })?;
    }
    let field = "max_unauthenticated_answers_per_second";
    let Some(given) = layers.first(field, |layer| &layer.max_unauthenticated_answers_per_second) else {
        return Ok(Some(limit));
    };
    let Some(rate) = given.read(|text| count(text))? else { return Ok(None) };
    let rate = given.read(|_| NonZero::new(rate).context("0 would let no client in; none is no limit"))?;
    let (answers_per_second, burst) = (rate.get(), rate.get().saturating_mul(2));
    Ok(Some(StrangerLimit { answers_per_second, burst, ..limit }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_with_their_units_and_wrong_ones_explained() {
        for (text, value) in [
            ("0", Some(0)),
            ("2500", Some(2_500)),
            ("64k", Some(64_000)),
            ("64K", Some(64_000)),
            ("10M", Some(10_000_000)),
            ("1g", Some(1_000_000_000)),
            ("none", None),
            ("None", None),
        ] {
            assert_eq!(amount(text).unwrap(), value, "{text}");
        }
        for text in
            ["", "k", "-1", "+1", "1.5M", "10 M", "10Mb", "10Mi", "99999999999999999999", "20000000000G"]
        {
            let fault = amount(text).unwrap_err().to_string();
            assert!(fault.contains(text) && fault.contains("10M"), "{fault}");
        }
        assert!(count("5G").unwrap_err().to_string().contains("4294967295"));
    }
}
