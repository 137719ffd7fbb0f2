//! When to renew, as an authority suggests it: the one thing that the authority of the end-to-end tests cannot say.

use std::io::{Read, Write};
use std::net::TcpListener as Listener;

use rcgen::{CertificateParams, Issuer, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::{ServerConfig, ServerConnection, Stream};
use tempfile::TempDir;

use super::*;
use crate::config::ChallengeKind;

const DAY: i64 = 86_400;

/// An authority that answers whoever asks for a path with what is given for it, once for each connection.
fn authority(dir: &TempDir, answers: impl Fn(&str, u16) -> String + Send + 'static) -> u16 {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    std::fs::write(dir.path().join("root.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
    let root = Issuer::new(params, key);
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().signed_by(&key, &root).unwrap();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![leaf.der().clone()], key).unwrap();
    let config = Arc::new(config);
    let listener = Listener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut tls = ServerConnection::new(Arc::clone(&config)).unwrap();
            let mut tls = Stream::new(&mut tls, &mut stream);
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && tls.read(&mut byte).is_ok_and(|count| count == 1) {
                request.push(byte[0]);
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let path = request.split(' ').nth(1).unwrap_or_default();
            let body = answers(path, port);
            let head = "HTTP/1.1 200 OK\r\nConnection: close\r\nRetry-After: 7200\r\nContent-Length:";
            let _ = write!(tls, "{head} {}\r\n\r\n{body}", body.len());
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
    });
    port
}

/// A certificate that somebody has issued until then.
fn issued(not_after_days: i64) -> (String, Vec<u8>, CertificateDer<'static>) {
    let root = Issuer::new(CertificateParams::new(Vec::new()).unwrap(), KeyPair::generate().unwrap());
    let mut params = CertificateParams::new(vec!["turn.example.org".to_owned()]).unwrap();
    params.use_authority_key_identifier_extension = true;
    params.not_before = std::time::SystemTime::now().into();
    let lifetime = Duration::from_secs(u64::try_from(not_after_days * DAY).unwrap());
    params.not_after = (std::time::SystemTime::now() + lifetime).into();
    let key = KeyPair::generate().unwrap();
    let made = params.signed_by(&key, &root).unwrap();
    (made.pem(), key.serialize_der(), made.der().clone())
}

#[tokio::test]
async fn rfc9773_4_2_a_certificate_is_renewed_within_the_suggested_window() {
    let dir = tempfile::tempdir().unwrap();
    let (chain, key, leaf) = issued(90);
    let wanted = format!("/ari/{}", identifier(&leaf).unwrap());
    let port = authority(&dir, move |path, port| {
        let url = |name: &str| format!("https://localhost:{port}/{name}");
        if path == "/dir" {
            let names =
                ["newNonce", "newAccount", "newOrder"].map(|name| format!("\"{name}\":\"{}\"", url(name)));
            return format!("{{{},\"renewalInfo\":\"{}\"}}", names.join(","), url("ari"));
        }
        assert_eq!(path, wanted);
        let at =
            |days: i64| control::store::Timestamp::from_unix_secs(u64::try_from(now() + days * DAY).unwrap());
        format!("{{\"suggestedWindow\":{{\"start\":\"{}\",\"end\":\"{}\"}}}}", at(20), at(21))
    });
    let settings = AcmeSettings {
        names: vec!["turn.example.org".to_owned()],
        email: None,
        challenge: ChallengeKind::TlsAlpn01,
        directory: format!("https://localhost:{port}/dir"),
        root_ca: Some(dir.path().join("root.pem")),
        dns_hook: None,
        http_listen: None,
        external_account: None,
    };
    let store = Store::open(&format!("sqlite:{}", dir.path().join("t.db").display())).await.unwrap();
    let keyring = Keyring::generate(unix_now()).unwrap();
    let id = id(&settings);
    store.acme_certificate(&id).await.unwrap();
    assert!(store.claim_acme(&id, "x", now(), now() + 60).await.unwrap());
    let renew_at = renewal(now(), now() + 90 * DAY, 0);
    let new = ObtainedCertificate { chain: &chain, key: &key, not_after: now() + 90 * DAY, renew_at };
    assert!(store.acme_obtained(&keyring, &id, "x", new).await.unwrap());
    // An account that is known already: the authority is not asked for one.
    let (_, pkcs8) = instant_acme::Key::generate_pkcs8().unwrap();
    let account = serde_json::json!({
        "id": "https://localhost/account/1",
        "key_pkcs8": base64url(pkcs8.secret_pkcs8_der()),
        "directory": settings.directory,
    });
    store.set_acme_account(&keyring, &settings.directory, "", account.to_string().as_bytes()).await.unwrap();
    let certificates = Arc::new(certificates(&settings, &store, &keyring).await.unwrap());
    let keyring = Arc::new(ArcSwap::from_pointee(keyring));
    let acme = Acme::new(settings, store.clone(), keyring, certificates, None);
    acme.look().await.unwrap();
    let known = store.acme_certificate(&id).await.unwrap();
    assert!((20 * DAY..=21 * DAY).contains(&(known.renew_at - now())), "{}", known.renew_at - now());
    assert!((7_190..=7_200).contains(&(known.ask_at - now())), "{}", known.ask_at - now());
}

fn base64url(bytes: &[u8]) -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().chain(&[0, 0]).take(3).fold(0_usize, |bits, byte| bits << 8 | usize::from(*byte));
        let places = 0..=chunk.len();
        text.extend(places.map(|place| char::from(ALPHABET[bits >> (18 - 6 * place) & 0x3F])));
    }
    text
}

#[test]
fn public_authorities_are_trusted_as_the_system_trusts_them() {
    assert!(instant_acme::Account::builder().is_ok(), "ca-certificates is missing");
}
