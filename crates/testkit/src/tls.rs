//! The client's side of TLS: a connection to a server, and a TCP connection on this machine that carries what is within
//! it. Whoever speaks over TCP speaks over TLS so.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, Error, SignatureScheme};

use crate::sys::CountingHeap;

const PATIENCE: Duration = Duration::from_secs(5);

/// A connection whose bytes go through TLS on their way.
#[derive(Debug)]
pub struct Secured {
    /// What is sent here is sent within TLS, and what comes within TLS comes here.
    pub stream: TcpStream,
    /// The client's end of the connection that TLS is spoken on.
    pub local: SocketAddr,
    /// The certificate that the server has shown.
    pub certificate: Option<CertificateDer<'static>>,
}

/// Connects and shakes hands without asking whose certificate it is.
///
/// # Errors
/// When the server cannot be reached, or refuses the handshake.
pub fn shake_hands(server: SocketAddr) -> io::Result<(TcpStream, ClientConnection)> {
    shake_hands_behind(&[], server)
}

/// The same with these bytes in front of the ClientHello, in one segment with it.
///
/// # Errors
/// When the server cannot be reached, or refuses the handshake.
pub fn shake_hands_behind(front: &[u8], server: SocketAddr) -> io::Result<(TcpStream, ClientConnection)> {
    let mut outer = TcpStream::connect_timeout(&server, PATIENCE)?;
    outer.set_nodelay(true)?;
    outer.set_read_timeout(Some(PATIENCE))?;
    let mut tls = ClientConnection::new(config(), server.ip().into()).map_err(io::Error::other)?;
    let mut first = front.to_vec();
    tls.write_tls(&mut first)?;
    outer.write_all(&first)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut outer)?;
    }
    outer.set_read_timeout(None)?;
    Ok((outer, tls))
}

/// The same, and carries bytes until either side ends.
///
/// # Errors
/// When the server cannot be reached, or refuses the handshake.
pub fn connect(server: SocketAddr) -> io::Result<Secured> {
    let (outer, tls) = shake_hands(server)?;
    let local = outer.local_addr()?;
    let certificate =
        tls.peer_certificates().and_then(|chain| chain.first()).map(|it| it.clone().into_owned());

    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let stream = TcpStream::connect(listener.local_addr()?)?;
    let (inner, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    inner.set_nodelay(true)?;
    let tls = Arc::new(Mutex::new(tls));
    let (from, to, shared) = (outer.try_clone()?, inner.try_clone()?, Arc::clone(&tls));
    std::thread::spawn(move || {
        CountingHeap::exempt_this_thread();
        let _ = inward(from, &to, &shared);
        let _ = to.shutdown(Shutdown::Write);
    });
    std::thread::spawn(move || {
        CountingHeap::exempt_this_thread();
        let _ = outward(inner, &outer, &tls);
        let _ = outer.shutdown(Shutdown::Write);
    });
    Ok(Secured { stream, local, certificate })
}

/// A ClientHello as [`connect`] sends it, in its record.
///
/// # Errors
/// When the system has no random bytes.
pub fn client_hello() -> io::Result<Vec<u8>> {
    let server = ServerName::from(std::net::IpAddr::from(Ipv4Addr::LOCALHOST));
    let mut tls = ClientConnection::new(config(), server).map_err(io::Error::other)?;
    let mut hello = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut hello)?;
    }
    Ok(hello)
}

fn inward(mut from: TcpStream, mut to: &TcpStream, tls: &Mutex<ClientConnection>) -> io::Result<()> {
    let mut records = vec![0; 1 << 15];
    let mut content = Vec::new();
    let mut is_over = false;
    while !is_over {
        let count = from.read(&mut records)?;
        if count == 0 {
            break;
        }
        let mut rest = records.get(..count).unwrap_or_default();
        let mut tls = tls.lock().unwrap_or_else(PoisonError::into_inner);
        while !rest.is_empty() {
            tls.read_tls(&mut rest)?;
            let state = tls.process_new_packets().map_err(io::Error::other)?;
            let before = content.len();
            content.resize(before + state.plaintext_bytes_to_read(), 0);
            tls.reader().read_exact(content.get_mut(before..).unwrap_or_default())?;
            is_over |= state.peer_has_closed();
        }
        drop(tls);
        to.write_all(&content)?;
        content.clear();
    }
    Ok(())
}

fn outward(mut from: TcpStream, mut to: &TcpStream, tls: &Mutex<ClientConnection>) -> io::Result<()> {
    let mut content = vec![0; 1 << 14];
    loop {
        let count = from.read(&mut content)?;
        let mut tls = tls.lock().unwrap_or_else(PoisonError::into_inner);
        if count == 0 {
            tls.send_close_notify();
        } else {
            tls.writer().write_all(content.get(..count).unwrap_or_default())?;
        }
        let mut records = Vec::new();
        while tls.wants_write() {
            tls.write_tls(&mut records)?;
        }
        drop(tls);
        to.write_all(&records)?;
        if count == 0 {
            return Ok(());
        }
    }
}

fn config() -> Arc<ClientConfig> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_safe_default_protocol_versions().expect("the provider has suites for them");
    let anyone = Arc::new(Anyone(provider));
    let mut config = builder.dangerous().with_custom_certificate_verifier(anyone).with_no_client_auth();
    config.alpn_protocols = vec![b"stun.turn".to_vec()];
    Arc::new(config)
}

/// Whoever shows a certificate and has its key.
#[derive(Debug)]
struct Anyone(Arc<CryptoProvider>);

impl ServerCertVerifier for Anyone {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
