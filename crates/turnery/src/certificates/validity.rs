//! When a certificate is good. RFC 5280 §4.1.

use super::der::element;

/// `notBefore` and `notAfter`, in Unix seconds. RFC 5280 §4.1.2.5.
pub(crate) fn of(certificate: &[u8]) -> Option<(i64, i64)> {
    const VERSION: u8 = 0xA0;
    let (_, certificate, _) = element(certificate)?;
    let (_, mut fields, _) = element(certificate)?;
    if element(fields)?.0 == VERSION {
        fields = element(fields)?.2;
    }
    // The serial number, the signature's algorithm and the issuer.
    for _ in 0..3 {
        fields = element(fields)?.2;
    }
    let (_, validity, _) = element(fields)?;
    let (kind, not_before, rest) = element(validity)?;
    let not_before = time(kind, not_before)?;
    let (kind, not_after, _) = element(rest)?;
    Some((not_before, time(kind, not_after)?))
}

fn time(kind: u8, text: &[u8]) -> Option<i64> {
    const UTC_TIME: u8 = 0x17;
    const GENERALIZED_TIME: u8 = 0x18;
    let digits = text.strip_suffix(b"Z")?;
    let number = |range: std::ops::Range<usize>| {
        digits
            .get(range)?
            .iter()
            .try_fold(0_i64, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + i64::from(byte - b'0')))
    };
    let (year, rest) = match kind {
        // RFC 5280 §4.1.2.5.1: two digits of a year from 1950 to 2049.
        UTC_TIME => (number(0..2).map(|year| if year < 50 { 2_000 + year } else { 1_900 + year })?, 2),
        GENERALIZED_TIME => (number(0..4)?, 4),
        _ => return None,
    };
    let part = |index: usize| number(rest + 2 * index..rest + 2 * index + 2);
    let (month, day) = (part(0)?, part(1)?);
    let seconds = (part(2)? * 60 + part(3)?) * 60 + part(4)?;
    (1..=12).contains(&month).then(|| days(year, month, day) * 86_400 + seconds)
}

/// Days since 1970-01-01 of a day in the Gregorian calendar, whose years are taken to begin in March.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_in_both_forms() {
        for (kind, text, expected) in [
            (0x17, "700101000000Z", Some(0)),
            (0x17, "491231235959Z", Some(2_524_607_999)),
            (0x17, "500101000000Z", Some(-631_152_000)),
            (0x18, "20240229120000Z", Some(1_709_208_000)),
            (0x18, "40960101000000Z", Some(67_090_118_400)),
            (0x17, "701301000000Z", None),
            (0x17, "7001010000Z", None),
            (0x17, "700101000000", None),
            (0x17, "70010100000xZ", None),
            (0x13, "700101000000Z", None),
        ] {
            assert_eq!(time(kind, text.as_bytes()), expected, "{text}");
        }
    }

    #[test]
    fn a_certificate_says_how_long_it_is_good() {
        let mut params = rcgen::CertificateParams::new(vec!["t.example".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 2, 3);
        params.not_after = rcgen::date_time_ymd(2060, 4, 5);
        let key = rcgen::KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().der().to_vec();
        assert_eq!(of(&der), Some((1_580_688_000, 2_848_348_800)));
        for length in 0..der.len() {
            // Cut anywhere it is refused, and harms nobody.
            assert_eq!(of(&der[..length]), None, "{length}");
        }
    }
}
