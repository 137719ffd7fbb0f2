//! How times and amounts are written for people: short, and the exact value beside it.

use std::fmt::{self, Write};

use askama::filters::HtmlSafe;

use crate::store::Timestamp;

/// A moment, as RFC 3339 to the second and how long ago that is.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    pub(super) at: Timestamp,
    pub(super) now: Timestamp,
}

/// Writes digits and fixed words only.
impl HtmlSafe for Moment {}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = to_the_second(self.at);
        write!(
            f,
            r#"<time datetime="{at}">{at}</time> <small class="hint">{}</small>"#,
            hint(self.at, self.now)
        )
    }
}

/// Without its fraction.
pub(super) fn to_the_second(at: Timestamp) -> Timestamp {
    Timestamp::from_unix_micros(at.unix_micros().div_euclid(1_000_000) * 1_000_000)
}

/// `3 minutes ago`, `in 2 days`.
fn hint(at: Timestamp, now: Timestamp) -> String {
    let secs = now.unix_micros().div_euclid(1_000_000) - at.unix_micros().div_euclid(1_000_000);
    let span = span(secs.unsigned_abs());
    match secs {
        ..=-1 => format!("in {span}"),
        0 => "now".to_owned(),
        1.. => format!("{span} ago"),
    }
}

/// A stretch of time by its greatest unit.
pub(super) fn span(secs: u64) -> String {
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute")];
    let (count, unit) = units
        .into_iter()
        .find(|(unit, _)| secs >= *unit)
        .map_or((secs, "second"), |(unit, name)| (secs / unit, name));
    format!("{count} {unit}{}", if count == 1 { "" } else { "s" })
}

/// An amount of bytes, in powers of a thousand, as it is billed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bytes(pub(super) u64);

/// Writes digits and fixed words only.
impl HtmlSafe for Bytes {}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(bytes) = self;
        write!(f, r#"<data value="{bytes}" title="{} bytes">{}</data>"#, grouped(*bytes), short_bytes(*bytes))
    }
}

/// `1.23 MB`.
pub(super) fn short_bytes(bytes: u64) -> String {
    let (text, unit) = short(bytes, &["B", "kB", "MB", "GB", "TB", "PB", "EB"]);
    format!("{text} {unit}")
}

/// `1.23 M`; `17` as it is.
pub(super) fn short_count(count: u64) -> String {
    let (text, unit) = short(count, &["", "k", "M", "G", "T", "P", "E"]);
    format!("{text} {unit}").trim_end().to_owned()
}

/// Three digits of a number, and the unit.
fn short(number: u64, units: &[&'static str]) -> (String, &'static str) {
    let mut unit = 1_u64;
    let mut names = units.iter();
    let mut name = names.next().copied().unwrap_or_default();
    for next in names {
        // What rounds up to a thousand is one of the next unit.
        if u128::from(number) * 1_000 < u128::from(unit) * 999_500 {
            break;
        }
        unit = unit.saturating_mul(1_000);
        name = next;
    }
    let thousandths = u128::from(number) * 1_000 / u128::from(unit);
    let text = match thousandths {
        _ if unit == 1 => number.to_string(),
        100_000.. => ((thousandths + 500) / 1_000).to_string(),
        10_000.. => decimal((thousandths + 50) / 100, 1),
        _ => decimal((thousandths + 5) / 10, 2),
    };
    (text, name)
}

/// A number of tenths or hundredths.
fn decimal(number: u128, digits: u32) -> String {
    let unit = 10_u128.pow(digits);
    format!("{}.{:0width$}", number / unit, number % unit, width = digits as usize)
}

/// `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A text as a query's value.
pub(super) fn in_query(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // A string takes all that is written.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

/// With a full stop.
pub(super) fn sentence(text: &str) -> String {
    if text.ends_with('.') { text.to_owned() } else { format!("{text}.") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_short_and_exact() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1_000, "1.00 kB"),
            (1_234, "1.23 kB"),
            (12_345, "12.3 kB"),
            (123_456, "123 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (1_500_000_000, "1.50 GB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(short_bytes(bytes), text, "{bytes}");
        }
        let written = Bytes(1_234_567).to_string();
        assert_eq!(written, r#"<data value="1234567" title="1,234,567 bytes">1.23 MB</data>"#);
        assert_eq!(short_count(17), "17");
        assert_eq!(short_count(1_700), "1.70 k");
    }

    #[test]
    fn moments_say_how_long_ago_they_were() {
        let now = Timestamp::from_unix_secs(1_000_000);
        for (secs, text) in [
            (1_000_000, "now"),
            (999_999, "1 second ago"),
            (999_400, "10 minutes ago"),
            (1_000_000 - 7_300, "2 hours ago"),
            (1_000_000 + 200_000, "in 2 days"),
        ] {
            assert_eq!(hint(Timestamp::from_unix_secs(secs), now), text);
        }
    }

    #[test]
    fn a_text_in_a_query_is_nothing_but_a_text() {
        assert_eq!(in_query("a b&c=/é\"<"), "a%20b%26c%3D%2F%C3%A9%22%3C");
    }
}
