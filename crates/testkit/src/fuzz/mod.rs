//! What the fuzzers run, as plain functions of bytes, so that `cargo fuzz` (in `fuzz/`) and the ordinary tests,
//! which run the checked-in corpora, do exactly the same. A function panics when an invariant is broken.

mod bytes;
mod credential;
mod demux;
mod dtls_gate;
mod framing;
mod hellos;
mod message;
mod proxy;
mod seeds;
mod server;

pub use credential::credential;
pub use demux::demux;
pub use dtls_gate::dtls_gate;
pub use framing::framing;
pub use message::message;
pub use proxy::proxy;
pub use seeds::seeds;
pub use server::server;

/// A target's name, which is its file's in `fuzz/fuzz_targets` and its folder's in `fuzz/corpus`, and what it runs.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: [Target; 7] = [
    ("message", message),
    ("framing", framing),
    ("server", server),
    ("credential", credential),
    ("proxy", proxy),
    ("demux", demux),
    ("dtls_gate", dtls_gate),
];

/// The keyring that seeds and targets share. Its key is anything but secret.
fn keyring(id: u8) -> credentials::Keyring {
    let secret = format!("{id:02x}").repeat(64);
    let text = format!("[[key]]\nid = {id}\ncreated_at = 1700000000\nsecret = \"{secret}\"\n");
    credentials::Keyring::parse(&text).expect("the text is a keyring")
}
