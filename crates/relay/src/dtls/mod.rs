//! DTLS below the datagrams of UDP clients: RFC 7350, with DTLS 1.2 (RFC 6347) and 1.3 (RFC 9147). Nothing is kept
//! for a client before the gate of [`stun::dtls`] let it through.

mod gate;
mod identity;
mod session;
mod sessions;

pub(crate) use gate::Gate;
pub use identity::{DtlsIdentity, IdentityError};
pub(crate) use session::{Over, Polled, Session};
pub(crate) use sessions::{Refused, Sessions, Which};
