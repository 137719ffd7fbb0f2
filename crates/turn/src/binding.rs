//! Binding. RFC 8489 §6.3.1.

use stun::Message;

use crate::Refusal;
use crate::auth::is_known;
use crate::reply::Answer;

/// Binding needs no authentication: it says only what the sender knows of itself.
pub(crate) fn binding(message: &Message<'_>) -> Result<Answer, Refusal> {
    // RFC 8489 §6.3.1: unknown comprehension-required attributes are 420.
    if message.unknown_attributes(is_known).next().is_some() {
        return Err(Refusal::UnknownAttributes);
    }
    Ok(Answer::Binding)
}
