//! What else is read from a certificate: who issued it, and by what an authority knows it. RFC 5280 §4.1.

use rustls::pki_types::{CertificateDer, Der};

use super::der::element;

const INTEGER: u8 = 0x02;
const OBJECT_IDENTIFIER: u8 = 0x06;
const VERSION: u8 = 0xA0;
const EXTENSIONS: u8 = 0xA3;
const KEY_IDENTIFIER: u8 = 0x80;
/// RFC 5280 §4.2.1.1: `authorityKeyIdentifier`, 2.5.29.35.
const AUTHORITY_KEY_IDENTIFIER: &[u8] = &[0x55, 0x1D, 0x23];
/// RFC 5280 appendix A: `organizationName`, 2.5.4.10, and `commonName`, 2.5.4.3.
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0A];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The fields of a certificate, from its serial number on.
fn fields(certificate: &[u8]) -> Option<&[u8]> {
    let (_, certificate, _) = element(certificate)?;
    let (_, fields, _) = element(certificate)?;
    let (tag, _, rest) = element(fields)?;
    Some(if tag == VERSION { rest } else { fields })
}

/// Who issued it, as `organization, name`, whatever there is of both.
pub(crate) fn issuer(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, _, rest) = element(fields(certificate)?)?;
    let (_, _, rest) = element(rest)?;
    let (_, mut issuer, _) = element(rest)?;
    let mut found = [None, None];
    while let Some((_, set, rest)) = element(issuer) {
        issuer = rest;
        let Some((_, attribute, _)) = element(set) else { continue };
        let Some((OBJECT_IDENTIFIER, kind, value)) = element(attribute) else { continue };
        let Some((_, text, _)) = element(value) else { continue };
        let place = [ORGANIZATION, COMMON_NAME].iter().position(|it| *it == kind);
        if let Some(place) = place.and_then(|place| found.get_mut(place)) {
            *place = Some(String::from_utf8_lossy(text).into_owned());
        }
    }
    let said: Vec<String> = found.into_iter().flatten().collect();
    (!said.is_empty()).then(|| said.join(", "))
}

/// What an authority knows it by: its authority's key identifier and its serial number. RFC 9773 §4.1.
pub(crate) fn renewal_id<'a>(certificate: &'a CertificateDer<'_>) -> Option<(Der<'a>, Der<'a>)> {
    let (tag, serial, rest) = element(fields(certificate)?)?;
    let mut rest = if tag == INTEGER { rest } else { return None };
    let extensions = loop {
        let (tag, content, behind) = element(rest)?;
        if tag == EXTENSIONS {
            break content;
        }
        rest = behind;
    };
    let (_, mut extensions, _) = element(extensions)?;
    while let Some((_, extension, behind)) = element(extensions) {
        extensions = behind;
        let (_, kind, mut value) = element(extension)?;
        if kind != AUTHORITY_KEY_IDENTIFIER {
            continue;
        }
        // A flag whether it is critical may stand before the value.
        while let Some((_, content, behind)) = element(value) {
            if behind.is_empty() {
                let (_, sequence, _) = element(content)?;
                let (tag, identifier, _) = element(sequence)?;
                return (tag == KEY_IDENTIFIER)
                    .then(|| (Der::from_slice(identifier), Der::from_slice(serial)));
            }
            value = behind;
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn issuers_and_identifiers_are_read() {
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, "Authorities");
        params.distinguished_name.push(rcgen::DnType::CommonName, "A 1");
        let key_id = vec![7; 20];
        params.key_identifier_method = rcgen::KeyIdMethod::PreSpecified(key_id.clone());
        let issuer_key = rcgen::KeyPair::generate().unwrap();
        let authority = rcgen::Issuer::new(params, issuer_key);
        let mut params = rcgen::CertificateParams::new(vec!["t.example".to_owned()]).unwrap();
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(rcgen::SerialNumber::from_slice(&[0x87, 0x65, 0x43, 0x21]));
        let key = rcgen::KeyPair::generate().unwrap();
        let made = params.signed_by(&key, &authority).unwrap();
        assert_eq!(issuer(made.der()).as_deref(), Some("Authorities, A 1"));
        // RFC 9773 §4.1: the serial number as it is encoded, with the zero that keeps it positive.
        let (by, serial) = renewal_id(made.der()).unwrap();
        assert_eq!((by.as_ref(), serial.as_ref()), (&key_id[..], &[0, 0x87, 0x65, 0x43, 0x21][..]));
        for length in 0..made.der().len() {
            let cut = CertificateDer::from(made.der().get(..length).unwrap().to_vec());
            let _ = (issuer(&cut), renewal_id(&cut));
        }
        let own = rcgen::generate_simple_self_signed(vec!["t.example".to_owned()]).unwrap();
        assert!(renewal_id(own.cert.der()).is_none(), "nobody else has issued it");
    }
}
