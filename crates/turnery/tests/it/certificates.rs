//! Certificates of an operator, as clients of different names and abilities see them, and connections through a proxy.

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;

use stun::{AttributeType, Message, Method, TransactionId, address};
use testkit::message::{self, proxy_v1, proxy_v2};
use testkit::{fuzz, tls};
use turn::Transport;

use crate::fixture::{LONG, known, relays, start_command};
use crate::tls::{at_once, s_client};

const ECDSA: [&str; 3] = ["ec", "-pkeyopt", "ec_paramgen_curve:P-256"];
const RSA: [&str; 1] = ["rsa:2048"];
const TLS: [&str; 3] = ["--dev", "--turn-listen", "tls://127.0.0.1:0"];

/// A certificate of this name with a key of this kind: the flags that name their files, and the certificate's text.
fn certificate(dir: &Path, number: usize, name: &str, key: &[&str]) -> ([String; 4], String) {
    let [certificate, private] = ["cert", "key"].map(|what| dir.join(format!("{what}-{number}.pem")));
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-nodes", "-days", "30", "-newkey"]).args(key);
    make.args(["-subj", "/CN=turnery", "-addext", &format!("subjectAltName=DNS:{name}")]);
    make.arg("-keyout").arg(&private).arg("-out").arg(&certificate);
    assert!(make.output().expect("openssl is missing: apt-get install openssl").status.success());
    let text = std::fs::read_to_string(&certificate).unwrap();
    let [certificate, private] = [certificate, private].map(|path| path.to_str().unwrap().to_owned());
    (["--tls-cert".to_owned(), certificate, "--tls-key".to_owned(), private], text)
}

fn binding() -> Vec<u8> {
    message::request(Method::BINDING, TransactionId::from_bytes([5; 12]), |_| {})
}

#[test]
fn a_client_is_shown_the_certificate_of_the_name_that_it_asks_for() {
    let dir = tempfile::tempdir().unwrap();
    let made = [
        certificate(dir.path(), 0, "first.example", &ECDSA),
        certificate(dir.path(), 1, "second.example", &ECDSA),
        certificate(dir.path(), 2, "*.third.example", &ECDSA),
        certificate(dir.path(), 3, "second.example", &RSA),
    ];
    let files: Vec<&str> = made.iter().flat_map(|(flags, _)| flags).map(String::as_str).collect();
    let server = start_command(known(dir.path(), &[&TLS[..], &files].concat()));
    let address = server.listener(Transport::Tls);
    let ecdsa = ["-sigalgs", "ecdsa_secp256r1_sha256"];
    let rsa = ["-sigalgs", "rsa_pss_rsae_sha256"];
    let check = |flags: &[&str], shown: usize| {
        let (is_well, told) = s_client(address, flags, at_once);
        assert!(is_well && told.contains(made[shown].1.trim()), "{flags:?}: {told}");
    };
    for version in ["-tls1_2", "-tls1_3"] {
        check(&[version, "-servername", "first.example"], 0);
        check(&[version, "-servername", "SECOND.example"], 1);
        check(&[version, "-servername", "turn.third.example"], 2);
        // A wildcard is for one label. RFC 6125 §6.4.3.
        check(&[version, "-servername", "a.turn.third.example"], 0);
        check(&[version, "-servername", "unknown.example"], 0);
        check(&[version, "-noservername"], 0);
        // Of one name the one that the client can verify.
        check(&[&[version, "-servername", "second.example"], &rsa[..]].concat(), 3);
        check(&[&[version, "-servername", "second.example"], &ecdsa[..]].concat(), 1);
        check(&[&[version, "-noservername"], &rsa[..]].concat(), 3);
    }
}

#[test]
fn with_an_rsa_key_tls_is_spoken_and_dtls_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let (files, _) = certificate(dir.path(), 0, "localhost", &RSA);
    let files = files.each_ref().map(String::as_str);
    let server = start_command(known(dir.path(), &[&TLS[..], &files].concat()));
    assert!(server.log().contains("DTLS is not spoken"), "{}", server.log());
    let minted = server.mint(&server.create_key(), 600);
    for listener in [Transport::Tls, Transport::Udp, Transport::Tcp] {
        relays(&mut server.client(listener, &minted));
    }
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server.listener(Transport::Udp)).unwrap();
    client.set_read_timeout(Some(LONG)).unwrap();
    for (_, hello) in fuzz::seeds("dtls_gate") {
        client.send(&hello[1..]).unwrap();
    }
    // What comes first is the answer to what was sent last.
    client.send(&binding()).unwrap();
    let mut answer = [0; 256];
    let length = client.recv(&mut answer).unwrap();
    assert_eq!(Message::parse(&answer[..length]).unwrap().method(), Method::BINDING);
}

#[test]
fn a_proxys_header_may_stand_before_the_handshake() {
    let dir = tempfile::tempdir().unwrap();
    let proxy = ["--proxy-protocol-from", "127.0.0.0/8"];
    let server = start_command(known(dir.path(), &[&TLS[..], &proxy].concat()));
    let client: SocketAddr = "203.0.113.7:4000".parse().unwrap();
    for listener in [Transport::Tls, Transport::Tcp] {
        for (front, expected) in
            [(proxy_v1(client), Some(client)), (proxy_v2(client, &[]), Some(client)), (vec![], None)]
        {
            let (mut socket, mut session) =
                tls::shake_hands_behind(&front, server.listener(listener)).unwrap();
            let own = socket.local_addr().unwrap();
            let mut stream = rustls::Stream::new(&mut session, &mut socket);
            stream.write_all(&binding()).unwrap();
            let mut answer = [0; 256];
            let length = stream.read(&mut answer).unwrap();
            let answer = Message::parse(&answer[..length]).unwrap();
            let value = answer.attribute(AttributeType::XOR_MAPPED_ADDRESS).unwrap();
            let mapped = address::decode_xor(value, answer.transaction());
            assert_eq!(mapped, Some(expected.unwrap_or(own)), "{listener:?}");
        }
    }
    // Where nobody trusts whoever sends it, it is no handshake.
    drop(server);
    let server = start_command(known(dir.path(), &TLS));
    tls::shake_hands_behind(&proxy_v1(client), server.listener(Transport::Tls)).unwrap_err();
}
