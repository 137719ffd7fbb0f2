use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use credentials::{Claims, Credential, CustomIdentifier, Keyring, TurnKeyId};
use relay::{Bound, Config, DtlsIdentity, DtlsLimits, Listener, Relay, Reports, StreamLimits, Totals};
use testkit::client::BlockingClient;
use testkit::client::dtls::self_signed;
use turn::{PeerPolicy, PortRange, RelayAddress, Transport};

pub(crate) const KEY: TurnKeyId = TurnKeyId::from_bytes([7; 16]);
pub(crate) const SHORT: Duration = Duration::from_millis(300);
pub(crate) const LONG: Duration = Duration::from_secs(5);

/// A relay on loopback that is stopped when the test ends.
pub(crate) struct Running {
    relay: Option<Relay>,
    pub(crate) listeners: Vec<Listener>,
    keyring: Arc<Keyring>,
}

pub(crate) fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub(crate) fn config(listeners: &[&str]) -> Config {
    let loopback = |ip: &str| RelayAddress { public: ip.parse().unwrap(), local: ip.parse().unwrap() };
    let allow = ["127.0.0.0/8", "::1/128"].map(|cidr| cidr.parse().unwrap()).to_vec();
    Config {
        listeners: listeners.iter().map(|listener| listener.parse().unwrap()).collect(),
        alternates: vec![],
        workers: 2,
        turn: turn::Config {
            relay_addresses: vec![loopback("127.0.0.1"), loopback("::1")],
            policy: PeerPolicy::new(allow, vec![]),
            ..turn::Config::default()
        },
        relay_ports: PortRange::default(),
        keyring: Arc::new(Keyring::generate(unix_now()).unwrap()),
        proxies: vec![],
        tls: None,
        stream_limits: StreamLimits::default(),
        dtls: listeners.iter().any(|listener| listener.starts_with("dtls")).then(identity),
        dtls_limits: DtlsLimits::default(),
    }
}

fn identity() -> Arc<ArcSwap<DtlsIdentity>> {
    let (certificate, key) = self_signed("localhost");
    Arc::new(ArcSwap::from_pointee(DtlsIdentity::new(&certificate, &key).unwrap()))
}

impl Running {
    pub(crate) fn start(config: Config) -> Self {
        let keyring = Arc::clone(&config.keyring);
        let bound = Bound::bind(config).unwrap();
        let listeners = bound.listeners().to_vec();
        let relay = bound.start().unwrap();
        relay.admit();
        Self { relay: Some(relay), listeners, keyring }
    }

    pub(crate) fn relay(&self) -> &Relay {
        self.relay.as_ref().unwrap()
    }

    pub(crate) fn credential(&self, ttl_secs: u32) -> Credential {
        let claims = Claims {
            key: KEY,
            issued_at: unix_now(),
            ttl_secs,
            custom_identifier: CustomIdentifier::default(),
        };
        self.keyring.mint(&claims).unwrap()
    }

    pub(crate) fn connect(&self, listener: usize, credential: &Credential) -> BlockingClient {
        let Listener { transport, address } = self.listeners[listener];
        connect_to(address, transport, credential)
    }

    /// Stops it: what it still has to report.
    pub(crate) fn stop(mut self) -> Reports {
        self.relay.take().unwrap().stop()
    }

    /// Waits until the counters say so.
    pub(crate) fn wait_for(&self, what: &str, reached: impl Fn(Totals) -> bool) {
        let deadline = Instant::now() + LONG;
        while !reached(self.relay().totals()) {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.relay().totals());
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(relay) = self.relay.take() {
            relay.stop();
        }
    }
}

pub(crate) fn connect_to(
    address: SocketAddr,
    transport: Transport,
    credential: &Credential,
) -> BlockingClient {
    BlockingClient::connect(address, transport, &credential.username, &credential.password).unwrap()
}

/// A peer's socket.
pub(crate) fn peer(address: &str) -> UdpSocket {
    let socket = UdpSocket::bind(address).unwrap();
    socket.set_read_timeout(Some(LONG)).unwrap();
    socket
}

pub(crate) fn receive(peer: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = vec![0; 70_000];
    let (length, from) = peer.recv_from(&mut buffer).unwrap();
    buffer.truncate(length);
    (buffer, from)
}
