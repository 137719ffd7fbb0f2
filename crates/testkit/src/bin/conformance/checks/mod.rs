//! All checks, by what they are about. The slow ones stand last.

mod allocate;
mod authentication;
mod behaviour_discovery;
mod channel;
mod channel_data;
mod data;
mod hardening;
mod messages;
mod mobility;
mod permission;
mod refresh;
mod reservation;
mod sha256_integrity;
mod strangers;
mod stream;
mod tcp_relay;

use crate::check::Check;

/// Every check there is.
pub(crate) fn all() -> Vec<Check> {
    [
        messages::CHECKS,
        authentication::CHECKS,
        sha256_integrity::CHECKS,
        allocate::CHECKS,
        reservation::CHECKS,
        refresh::CHECKS,
        permission::CHECKS,
        data::CHECKS,
        channel::CHECKS,
        channel_data::CHECKS,
        tcp_relay::CHECKS,
        mobility::CHECKS,
        behaviour_discovery::CHECKS,
        strangers::CHECKS,
        hardening::CHECKS,
        stream::CHECKS,
    ]
    .concat()
}
