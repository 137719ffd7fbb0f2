//! Binding. RFC 8489 §6.3.1.

use stun::{AttributeType, Message};

use crate::auth::is_known;
use crate::discovery::{Place, is_known_here};
use crate::reply::Answer;
use crate::{Client, Refusal};

/// The comprehension-required attributes that a Binding request may have which came to this place.
pub(crate) fn known_at(place: Option<Place<'_>>) -> fn(AttributeType) -> bool {
    // RFC 5780 §6: without two addresses and two ports CHANGE-REQUEST is unknown, and answered with 420.
    if place.is_some() { is_known_here } else { is_known }
}

/// Binding needs no authentication: it says only what the sender knows of itself.
pub(crate) fn binding(
    place: Option<Place<'_>>,
    client: Client,
    message: &Message<'_>,
) -> Result<Answer, Refusal> {
    // RFC 8489 §6.3.1: unknown comprehension-required attributes are 420.
    if message.unknown_attributes(known_at(place)).next().is_some() {
        return Err(Refusal::UnknownAttributes);
    }
    let discovered = place.map(|place| place.discover(client, message)).transpose()?;
    Ok(Answer::Binding(discovered))
}
