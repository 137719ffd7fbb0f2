//! `turnery certificates`.

use anyhow::Result;
use control::store::Timestamp;
use control::store::acme::AcmeCertificate;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use serde::Serialize;

use crate::certificates::{issuer, validity};
use crate::cli::Output;
use crate::config::Place;
use crate::keyring_file::unix_now;
use crate::table::printable;

/// What is told of one. Times that are `None` are not known yet.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    names: Vec<String>,
    source: &'static str,
    directory: String,
    issuer: Option<String>,
    not_before: Option<Timestamp>,
    not_after: Option<Timestamp>,
    /// Not before this is the next obtained; the past is now.
    next_renewal: Option<Timestamp>,
    /// Whether somebody is at it.
    is_being_obtained: bool,
    failures: u32,
    last_error: Option<String>,
    next_try: Option<Timestamp>,
}

pub(crate) async fn certificates(place: &Place, renew: bool, output: Output) -> Result<()> {
    let store = place.open_store().await?;
    if renew {
        store.renew_acme().await?;
    }
    let told: Vec<Told> = store.acme_certificates().await?.iter().map(told).collect();
    output.show(&told, || text(&told))
}

fn told(known: &AcmeCertificate) -> Told {
    let time = |secs: i64| u64::try_from(secs).ok().map(Timestamp::from_unix_secs);
    let leaf = known.chain.as_deref().and_then(|chain| CertificateDer::from_pem_slice(chain.as_bytes()).ok());
    let now = i64::try_from(unix_now()).unwrap_or(i64::MAX);
    Told {
        names: known.id.names.split(',').map(str::to_owned).collect(),
        source: "acme",
        directory: known.id.directory.clone(),
        issuer: leaf.as_ref().and_then(issuer).map(|issuer| printable(&issuer)),
        not_before: leaf.as_ref().and_then(|leaf| validity(leaf)).and_then(|(from, _)| time(from)),
        not_after: known.not_after.and_then(time),
        next_renewal: known.chain.as_ref().and_then(|_| time(known.renew_at.max(known.next_try).max(0))),
        is_being_obtained: known.claimed_until.is_some_and(|until| until > now),
        failures: known.failures,
        last_error: known.last_error.as_deref().map(printable),
        next_try: (known.failures > 0).then(|| time(known.next_try)).flatten(),
    }
}

fn text(all: &[Told]) -> String {
    if all.is_empty() {
        return "No certificate was asked of an authority; --acme-domain has `turnery serve` do so.\n"
            .to_owned();
    }
    let one = |told: &Told| {
        let time =
            |time: Option<Timestamp>| time.map_or_else(|| "not yet".to_owned(), |time| time.to_string());
        let mut lines = vec![
            ("names", told.names.join(" ")),
            ("source", format!("ACME, {}", told.directory)),
            ("issuer", told.issuer.clone().unwrap_or_else(|| "none yet".to_owned())),
            ("not before", time(told.not_before)),
            ("not after", time(told.not_after)),
            ("next renewal", time(told.next_renewal)),
        ];
        if told.is_being_obtained {
            lines.push(("state", "being obtained".to_owned()));
        }
        if let Some(error) = &told.last_error.as_ref().filter(|_| told.failures > 0) {
            lines.push(("failures", told.failures.to_string()));
            lines.push(("last error", (*error).clone()));
            lines.push(("next try", time(told.next_try)));
        }
        lines.iter().map(|(name, value)| format!("{name:<12}  {value}")).collect::<Vec<_>>().join("\n") + "\n"
    };
    all.iter().map(one).collect::<Vec<_>>().join("\n")
}
