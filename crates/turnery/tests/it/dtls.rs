//! DTLS with the certificates of an operator.

use std::path::Path;
use std::process::Command;

use testkit::client::BlockingClient;
use testkit::client::dtls::{DtlsSocket, DtlsVersion};
use turn::Transport;

use crate::fixture::{LONG, Server, echo_peer, finish, known, relays, start_command};
use crate::tls::{renew, until};

const DTLS: [&str; 3] = ["--dev", "--turn-listen", "dtls://127.0.0.1:0"];

#[test]
fn a_client_relays_within_dtls_also_where_udp_is_spoken() {
    let dir = tempfile::tempdir().unwrap();
    let udp = ["--turn-listen", "udp://127.0.0.1:0"];
    let server = start_command(known(dir.path(), &[&DTLS[..], &udp].concat()));
    let minted = server.mint(&server.create_key(), 600);
    relays(&mut server.client(Transport::Dtls, &minted));
    let at_udp = server.listener(Transport::Udp);
    let mut client = BlockingClient::connect(at_udp, Transport::Dtls, &minted.username, &minted.password);
    relays(client.as_mut().unwrap());
}

fn shown(server: &Server) -> Vec<u8> {
    let session = DtlsSocket::connect(server.listener(Transport::Dtls), DtlsVersion::Either).unwrap();
    session.certificate().to_vec()
}

fn with_files(dir: &Path) -> Command {
    let [certificate, key] = ["cert.pem", "key.pem"].map(|name| dir.join(name));
    let files = ["--tls-cert", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    known(dir, &[&DTLS[..], &files].concat())
}

#[test]
fn a_new_certificate_is_shown_and_no_session_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (_, key, first) = renew(dir.path());
    let server = start_command(with_files(dir.path()));
    assert_eq!(shown(&server), first);
    let minted = server.mint(&server.create_key(), 600);
    let peer = echo_peer();
    let mut client = server.client(Transport::Dtls, &minted);
    client.allocate().unwrap();
    client.channel_bind(peer).unwrap();
    let (_, _, second) = renew(dir.path());
    until("the new certificate is not shown", || shown(&server) == second);
    std::fs::write(&key, "no key").unwrap();
    until("a bad key is not told", || server.log().contains("the certificates in use stay"));
    assert_eq!(shown(&server), second);
    client.send_to(peer, b"still there").unwrap();
    assert_eq!(client.recv(LONG).unwrap().unwrap().1, b"still there");
}

#[test]
fn an_rsa_key_is_refused_for_a_dtls_listener() {
    let dir = tempfile::tempdir().unwrap();
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]);
    make.args(["-keyout", "key.pem", "-out", "cert.pem"]).current_dir(dir.path());
    assert!(make.output().expect("openssl is missing: apt-get install openssl").status.success());
    let output = finish(with_files(dir.path()));
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && told.contains("needs a certificate with an ECDSA key"), "{told}");
}
