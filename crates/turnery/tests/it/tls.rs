//! TLS for clients of the relay and of the API, as OpenSSL and the test kit's client see it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use testkit::client::BlockingClient;
use testkit::tls;
use turn::Transport;

use crate::fixture::{LONG, Running, Server, echo_peer, known, relays, start_command, turnery};

const TLS: [&str; 3] = ["--dev", "--turn-listen", "tls://127.0.0.1:0"];

pub(crate) fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < LONG, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// What `openssl s_client` says of a handshake, and whether it went well. It is left talking until `enough` holds.
pub(crate) fn s_client(address: SocketAddr, flags: &[&str], enough: impl Fn() -> bool) -> (bool, String) {
    let mut command = Command::new("openssl");
    command.args(["s_client", "-connect", &address.to_string()]).args(flags);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = Running(command.spawn().expect("openssl is missing: apt-get install openssl"));
    let begun = Instant::now();
    while !enough() && child.0.try_wait().unwrap().is_none() && begun.elapsed() < LONG {
        std::thread::sleep(Duration::from_millis(20));
    }
    drop(child.0.stdin.take());
    let (mut told, mut more) = (String::new(), String::new());
    child.0.stdout.take().unwrap().read_to_string(&mut told).unwrap();
    child.0.stderr.take().unwrap().read_to_string(&mut more).unwrap();
    (child.0.wait().unwrap().success(), told + &more)
}

pub(crate) fn at_once() -> bool {
    true
}

#[test]
fn openssl_speaks_tls_1_2_and_1_3_and_nothing_older() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_command(known(dir.path(), &TLS));
    // Where TCP is spoken TLS is, too.
    for address in [server.listener(Transport::Tls), server.listener(Transport::Tcp)] {
        for (flag, version) in [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")] {
            let (is_well, told) = s_client(address, &[flag], at_once);
            assert!(is_well && told.contains(&format!("New, {version}, Cipher is")), "{told}");
        }
    }
    let address = server.listener(Transport::Tls);
    let weak = ["-cipher", "ALL:@SECLEVEL=0"];
    for flag in ["-tls1", "-tls1_1"] {
        let (is_well, told) = s_client(address, &[&[flag], &weak[..]].concat(), at_once);
        assert!(!is_well && told.contains("SSL alert number"), "{flag}: {told}");
    }
    // Neither without forward secrecy nor without AEAD.
    for suites in
        ["AES128-GCM-SHA256:AES256-GCM-SHA384:AES128-SHA", "ECDHE-ECDSA-AES128-SHA:ECDHE-RSA-AES128-SHA"]
    {
        let (is_well, told) = s_client(address, &["-tls1_2", "-cipher", suites], at_once);
        assert!(!is_well && told.contains("handshake failure"), "{suites}: {told}");
    }
}

#[test]
fn rfc7443_3_known_protocols_are_chosen_and_others_refused() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_command(known(dir.path(), &TLS));
    let address = server.listener(Transport::Tls);
    for version in ["-tls1_2", "-tls1_3"] {
        for offered in ["stun.turn", "stun.nat-discovery", "h2,stun.turn"] {
            let (is_well, told) = s_client(address, &[version, "-alpn", offered], at_once);
            let chosen = offered.trim_start_matches("h2,");
            assert!(is_well && told.contains(&format!("ALPN protocol: {chosen}")), "{told}");
        }
        let (is_well, told) = s_client(address, &[version], at_once);
        assert!(is_well && told.contains("No ALPN negotiated"), "{told}");
        for unknown in ["h2,http/1.1", "acme-tls/1"] {
            let (is_well, told) = s_client(address, &[version, "-alpn", unknown], at_once);
            assert!(!is_well && told.contains("no application protocol"), "{told}");
        }
    }
}

#[test]
fn sessions_are_resumed_at_any_worker() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_command(known(dir.path(), &[&TLS[..], &["--workers", "4"]].concat()));
    let address = server.listener(Transport::Tls);
    for version in ["-tls1_2", "-tls1_3"] {
        let session = dir.path().join(format!("session{version}"));
        let path = session.to_str().unwrap();
        let is_there = || session.metadata().is_ok_and(|it| it.len() > 0);
        let (is_well, told) = s_client(address, &[version, "-sess_out", path], is_there);
        assert!(is_well && is_there() && told.contains("New, "), "{told}");
        for _ in 0..8 {
            let (is_well, told) = s_client(address, &[version, "-sess_in", path], at_once);
            assert!(is_well && told.contains("Reused, "), "{told}");
        }
    }
}

#[test]
fn frames_and_data_connections_go_through_tls() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_command(known(dir.path(), &[&TLS[..], &["--workers", "4"]].concat()));
    let minted = server.mint(&server.create_key(), 600);
    relays(&mut server.client(Transport::Tls, &minted));
    // At the listener for TCP the first byte tells.
    let at_tcp = server.listener(Transport::Tcp);
    relays(&mut BlockingClient::connect(at_tcp, Transport::Tls, &minted.username, &minted.password).unwrap());

    let peer = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut client = server.client(Transport::Tls, &minted);
    client.allocate_tcp().unwrap();
    // More than one worker's chance to have it accepted.
    for _ in 0..8 {
        let connection = client.connect_peer(peer.local_addr().unwrap()).unwrap();
        let (mut at_peer, _) = peer.accept().unwrap();
        let (mut stream, early) = client.data_connection(connection).unwrap();
        assert!(early.is_empty());
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n.to_le_bytes()[0] ^ n.to_le_bytes()[1]).collect();
        let echo = std::thread::spawn(move || {
            let mut came = Vec::new();
            at_peer.read_to_end(&mut came).unwrap();
            at_peer.write_all(&came).unwrap();
            came
        });
        stream.write_all(&sent).unwrap();
        // Its end goes through as well, and so does the peer's.
        stream.shutdown(std::net::Shutdown::Write).unwrap();
        let mut back = Vec::new();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let _ = stream.read_to_end(&mut back);
        assert_eq!(echo.join().unwrap().len(), sent.len());
        assert!(back == sent, "{} bytes of {} came back", back.len(), sent.len());
    }
}

/// Puts a new certificate and its key there; the certificate.
pub(crate) fn renew(dir: &Path) -> (PathBuf, PathBuf, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()]).unwrap();
    let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    // Each in one step, as ACME clients do it.
    for (path, text) in [(&certificate, made.cert.pem()), (&key, made.signing_key.serialize_pem())] {
        std::fs::write(path.with_extension("new"), text).unwrap();
        std::fs::rename(path.with_extension("new"), path).unwrap();
    }
    (certificate, key, made.cert.der().to_vec())
}

fn shown(server: &Server) -> Vec<u8> {
    tls::connect(server.listener(Transport::Tls)).unwrap().certificate.unwrap().to_vec()
}

#[test]
fn a_new_certificate_is_shown_and_no_connection_drops() {
    const CLIENTS: usize = 100;
    let dir = tempfile::tempdir().unwrap();
    let (certificate, key, first) = renew(dir.path());
    let files = ["--tls-cert", certificate.to_str().unwrap(), "--tls-key", key.to_str().unwrap()];
    let server = start_command(known(dir.path(), &[&TLS[..], &files].concat()));
    assert_eq!(shown(&server), first);
    let minted = server.mint(&server.create_key(), 600);
    let peer = echo_peer();
    let mut clients: Vec<BlockingClient> = (0..CLIENTS)
        .map(|_| {
            let mut client = server.client(Transport::Tls, &minted);
            client.allocate().unwrap();
            client.channel_bind(peer).unwrap();
            client
        })
        .collect();
    let (_, _, second) = renew(dir.path());
    until("the new certificate is not shown", || shown(&server) == second);
    // What cannot be used is told, and changes nothing.
    std::fs::write(&key, "no key").unwrap();
    until("a bad key is not told", || server.log().contains("the certificates in use stay"));
    assert_eq!(shown(&server), second);
    for (n, client) in clients.iter_mut().enumerate() {
        let data = format!("still {n}");
        client.send_to(peer, data.as_bytes()).unwrap();
        let (_, back) = client.recv(LONG).unwrap().expect("an echo");
        assert_eq!(back, data.as_bytes());
    }
}

#[test]
fn datagrams_go_through_dtls_with_the_same_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_command(known(dir.path(), &["--dev", "--turn-listen", "dtls://127.0.0.1:0"]));
    let minted = server.mint(&server.create_key(), 600);
    relays(&mut server.client(Transport::Dtls, &minted));
    // Where UDP is spoken DTLS is, too.
    let at_udp = server.listener(Transport::Udp);
    relays(
        &mut BlockingClient::connect(at_udp, Transport::Dtls, &minted.username, &minted.password).unwrap(),
    );
}

#[test]
fn whoever_does_not_read_loses_whole_frames_and_stalls_nobody() {
    const SENT: usize = 40_000;
    let dir = tempfile::tempdir().unwrap();
    let server = start_command(known(dir.path(), &[&TLS[..], &["--workers", "1"]].concat()));
    let minted = server.mint(&server.create_key(), 600);
    let peer = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut deaf = server.client(Transport::Tls, &minted);
    let relayed = deaf.allocate().unwrap();
    deaf.channel_bind(peer.local_addr().unwrap()).unwrap();
    let mut other = server.client(Transport::Tls, &minted);
    other.allocate().unwrap();
    let echo = echo_peer();
    other.channel_bind(echo).unwrap();
    for n in 0..SENT {
        let _ = peer.send_to(&[n.to_le_bytes()[0]; 1_200], relayed);
        if n.is_multiple_of(1_000) {
            other.send_to(echo, b"between").unwrap();
            assert!(other.recv(LONG).unwrap().is_some(), "the other one waits");
        }
    }
    // It reads at last: what comes is whole, and its session is as good as before.
    let mut came = 0;
    while let Some((_, data)) = deaf.recv(Duration::from_secs(1)).unwrap() {
        assert!(data.len() == 1_200 && data.iter().all(|byte| *byte == data[0]), "a frame that is not whole");
        came += 1;
    }
    assert!((1..SENT).contains(&came), "{came} came");
    deaf.refresh(600).unwrap();
}

#[test]
fn whoever_does_not_go_on_is_closed() {
    const HELLO: [u8; 9] = [22, 3, 1, 0, 200, 1, 0, 0, 196];
    let dir = tempfile::tempdir().unwrap();
    let server = start_command(known(dir.path(), &TLS));
    let open = |bytes: &[u8]| {
        let mut stream = TcpStream::connect(server.listener(Transport::Tls)).unwrap();
        stream.write_all(bytes).unwrap();
        stream.set_read_timeout(Some(LONG)).unwrap();
        stream
    };
    let closed_after = |mut stream: TcpStream| {
        let begun = Instant::now();
        let mut rest = Vec::new();
        // An error is a reset, which is an end as well.
        let timed_out =
            stream.read_to_end(&mut rest).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock);
        assert!(!timed_out, "it is still open");
        (begun.elapsed(), rest)
    };
    // Half a handshake, once for each of many.
    let half: Vec<_> = (0..200).map(|_| open(&HELLO)).collect();
    // What is not TLS has no place there, and a record that is none is told so.
    let (after, rest) = closed_after(open(b"\0\x01\0\0\x21\x12\xA4\x42twelve bytes"));
    assert!(after < Duration::from_secs(2) && rest.is_empty(), "{after:?} {rest:?}");
    let (after, rest) = closed_after(open(&[22, 3, 1, 0, 5, 1, 0, 0, 1, 0]));
    assert!(after < Duration::from_secs(2) && rest.first() == Some(&21), "an alert: {after:?} {rest:?}");
    // Others are served meanwhile.
    let minted = server.mint(&server.create_key(), 600);
    relays(&mut server.client(Transport::Tls, &minted));
    for stream in half {
        closed_after(stream);
    }
    relays(&mut server.client(Transport::Tls, &minted));
}

#[test]
fn the_api_is_served_within_tls() {
    let dir = tempfile::tempdir().unwrap();
    let ports = ["--api-listen", "https://127.0.0.1:0", "--turn-listen", "udp://127.0.0.1:0"];
    let data_dir = ["serve", "--dev", "--data-dir", dir.path().to_str().unwrap()];
    let server = start_command(turnery(&[&data_dir[..], &ports].concat()));
    let api: SocketAddr =
        server.api.strip_prefix("https://").expect("the ready line says so").parse().unwrap();
    let mut command = Command::new("openssl");
    command.args(["s_client", "-quiet", "-ign_eof", "-alpn", "http/1.1", "-connect", &api.to_string()]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut child = Running(command.spawn().unwrap());
    let request = "GET /client/v4/accounts HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    child.0.stdin.as_mut().unwrap().write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    child.0.stdout.take().unwrap().read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("9106"), "{answer}");
    let (is_well, told) = s_client(api, &["-alpn", "stun.turn"], at_once);
    assert!(!is_well && told.contains("no application protocol"), "{told}");
    // Nobody waits for whoever says nothing, and what is not TLS is closed.
    let mut plain = TcpStream::connect(api).unwrap();
    plain.write_all(request.as_bytes()).unwrap();
    plain.set_read_timeout(Some(LONG)).unwrap();
    let mut rest = Vec::new();
    let _ = plain.read_to_end(&mut rest);
    assert!(!rest.starts_with(b"HTTP"), "{rest:?}");
}
