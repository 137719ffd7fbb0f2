//! Where certificates come from when no authority is asked, and what an operator hears of them.

use std::sync::Arc;

use anyhow::Result;

use super::{Certificates, Files, self_signed};
use crate::config::Settings;
use crate::keyring_file::unix_now;

/// What TLS is spoken with, if there is anything to speak it with.
pub(crate) fn certificates(settings: &Settings) -> Result<Option<Certificates>> {
    let is_wanted = settings.api_tls || settings.turn_listen.iter().any(|it| it.transport.is_secured());
    let certified = if !settings.certificates.is_empty() {
        settings.certificates.read()?
    } else if is_wanted {
        let addresses: Vec<_> = settings.relay_addresses.iter().map(|address| address.public).collect();
        vec![Arc::new(self_signed(&settings.public_host, &addresses)?)]
    } else {
        return Ok(None);
    };
    Certificates::new(certified).map(Some)
}

/// Shows what the files hold now, or what was shown before.
pub(crate) fn use_certificates(certificates: &Certificates, files: &Files) {
    match files.read() {
        Ok(certified) => {
            certificates.install(certified);
            tracing::info!(not_after = certificates.soonest_expiry(), "the certificates were read again");
        }
        Err(error) => tracing::error!("{error:#}; the certificates in use stay"),
    }
    warn_of_certificates(certificates);
}

pub(crate) fn warn_of_certificates(certificates: &Certificates) {
    for warning in certificates.warnings(i64::try_from(unix_now()).unwrap_or(i64::MAX)) {
        tracing::warn!("{warning}");
    }
}
