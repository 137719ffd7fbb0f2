//! The configuration: defaults, then the file, then the environment, then flags; the later one wins. What is wrong is
//! told with the place it came from, the value and what would be right.

mod acme;
mod address;
mod alternate;
mod api;
mod fleet;
mod keyring;
mod layer;
mod limits;
mod observability;
mod usage;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::NonZero;
use std::path::PathBuf;
use std::thread::available_parallelism;

use anyhow::{Context, Result, anyhow, bail, ensure};
use control::IceUrls;
use control::store::usage::{Location, Retention};
use control::store::{AccountId, TokenText};
use credentials::{Keyring, MAX_USERNAME_LIFETIME_SECS};
use relay::{Alternate, Listener};
use tracing_subscriber::EnvFilter;
use turn::{Cidr, KeyLimits, PeerPolicy, PortRange, RelayAddress, StrangerLimit, Transport};

use crate::certificates::{Files, Pair};

pub(crate) use acme::{AcmeSettings, ChallengeKind};
pub(crate) use fleet::FleetSettings;
pub(crate) use keyring::{KEYRING_VARIABLE, SEALING_KEY_VARIABLE, Sealing, SealingSource, sealing_key};
pub(crate) use layer::{Env, Layer, fault};
use layer::{Given, Layers, variable};
pub(crate) use limits::amount;
pub(crate) use observability::LogFormat;

const MAX_WORKERS: usize = 256;
const DEFAULT_LISTENERS: [&str; 2] = ["udp://0.0.0.0:3478", "tcp://0.0.0.0:3478"];
const TLS_LISTENER: &str = "tls://0.0.0.0:5349";
const DEV_TLS_LISTENER: &str = "tls://127.0.0.1:5349";
const DEV_LISTENERS: [&str; 2] = ["udp://127.0.0.1:3478", "tcp://127.0.0.1:3478"];
/// What `--dev` lets peers be on: loopback, private networks and carriers' shared space. Not link-local, where clouds
/// keep their metadata.
const DEV_PEERS: [&str; 7] =
    ["127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"];

/// The flags that every command has.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Global {
    /// The directory of the database and the keyring [default: $STATE_DIRECTORY, /var/lib/turnery for root, else
    /// ~/.local/state/turnery; with --dev a temporary one]
    #[arg(long, value_name = "DIR", global = true, display_order = 100)]
    pub(crate) data_dir: Option<String>,
    /// The database, as sqlite:PATH or, for many nodes, as postgres://USER@HOST/DATABASE; its password is best in PGPASSWORD
    /// or a password file [default: turnery.db in the data directory]
    #[arg(long, value_name = "URL", global = true, display_order = 100)]
    pub(crate) store: Option<String>,
    /// Keep the keyring in the store, for all nodes, sealed with the key of --keyring-key-file or TURNERY_KEYRING_KEY, in
    /// place of a file at each node [default: false]
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", require_equals = true,
        global = true, display_order = 100)]
    pub(crate) keyring_in_store: Option<String>,
    /// A file with that key, the same at every node and for its owner only, as `turnery keyring new-key FILE` makes it
    #[arg(long, value_name = "FILE", global = true, display_order = 100)]
    pub(crate) keyring_key_file: Option<String>,
    /// A TOML file with the same settings: keys are the flags' names with _ for -, unknown ones are refused
    #[arg(long, value_name = "FILE", global = true, display_order = 100)]
    pub(crate) config: Option<PathBuf>,
    /// What is logged to standard error: error, warn, info, debug, trace, or a filter such as info,relay=debug
    /// [default: info]
    #[arg(long, value_name = "FILTER", global = true, display_order = 100)]
    pub(crate) log: Option<String>,
}

/// Where the data is: what the commands beside `serve` need to know.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    /// Holds the keyring and, unless `store` says otherwise, the database. `None`: a temporary one, for `--dev`.
    pub(crate) data_dir: Option<PathBuf>,
    /// The store's URL; by default in the data directory.
    pub(crate) store: Option<String>,
    /// The keyring, where the environment has it.
    pub(crate) keyring: Option<Keyring>,
    /// Where the key is that seals the keyring, where the store has it.
    pub(crate) sealing: Option<SealingSource>,
}

/// What a node does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Role {
    /// It relays, and serves the API.
    All,
    /// It relays, and of the store it reads what relays must know and writes usage.
    Relay,
}

/// Everything `serve` is told. Each field has been checked as far as that is possible without opening anything.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Where the data is.
    pub(crate) place: Place,
    /// What this node does.
    pub(crate) role: Role,
    /// The filter of the log.
    pub(crate) log: EnvFilter,
    /// How the log is written.
    pub(crate) log_format: LogFormat,
    /// What `/metrics` asks for, if anything.
    pub(crate) metrics_token: Option<String>,
    /// Where HTTP is served.
    pub(crate) api_listen: SocketAddr,
    /// Whether it is served within TLS.
    pub(crate) api_tls: bool,
    /// Where certificates are.
    pub(crate) certificates: Files,
    /// What the API's callers may do.
    pub(crate) api: api::ApiSettings,
    /// Who issues them instead.
    pub(crate) acme: Option<AcmeSettings>,
    /// Where TURN clients come in; at least one.
    pub(crate) turn_listen: Vec<Listener>,
    /// The same for DTLS by default, if there is a certificate that it can be spoken with.
    pub(crate) dtls_listen: Option<Listener>,
    /// The host in the URLs handed out.
    pub(crate) public_host: String,
    /// The URLs handed out, where they are chosen.
    pub(crate) ice: Option<IceUrls>,
    /// At least one, at most one of each family.
    pub(crate) relay_addresses: Vec<RelayAddress>,
    /// The ports of relayed addresses.
    pub(crate) relay_ports: PortRange,
    /// Second addresses for NAT behaviour discovery, at most one of each family.
    pub(crate) alternates: Vec<Alternate>,
    /// Which peers may be reached.
    pub(crate) policy: PeerPolicy,
    /// Whose PROXY protocol headers are believed.
    pub(crate) proxies: Vec<Cidr>,
    /// Relay threads, 1 to 256.
    pub(crate) workers: usize,
    /// 1 to 127 characters that stand for themselves in a quoted string.
    pub(crate) realm: String,
    /// Whether channel numbers that RFC 8656 reserves are refused.
    pub(crate) strict_channels: bool,
    /// How far ahead a time-limited username may expire, in seconds, 60 to a year.
    pub(crate) username_lifetime_secs: u32,
    /// Whether clients may take their allocations to another address.
    pub(crate) mobility: bool,
    /// Whether clients may relay TCP connections.
    pub(crate) tcp_relay: bool,
    /// Whether a 401 offers SHA-256 keys.
    pub(crate) offer_sha256: bool,
    /// What each TURN key may use.
    pub(crate) key_limits: KeyLimits,
    /// How many answers the unauthenticated get; `None`: any number.
    pub(crate) stranger_limit: Option<StrangerLimit>,
    /// What this node is called, the same after a restart.
    pub(crate) node_name: String,
    /// Where it is.
    pub(crate) location: Location,
    /// What it is among others.
    pub(crate) fleet: FleetSettings,
    /// How long usage and sessions are kept.
    pub(crate) retention: Retention,
    /// Whether it is only tried out.
    pub(crate) dev: bool,
    /// The first account's id, if it is chosen.
    pub(crate) bootstrap_account: Option<AccountId>,
    /// The first API token's text, if it is chosen.
    pub(crate) bootstrap_token: Option<TokenText>,
    /// What the operator should hear once logging works.
    pub(crate) warnings: Vec<String>,
}

impl Place {
    /// For the commands beside `serve`.
    pub(crate) fn load(global: &Global, env: Env<'_>) -> Result<Self> {
        Self::read(&layers(global, Layer::default(), env)?, env, false)
    }

    fn read(layers: &Layers, env: Env<'_>, dev: bool) -> Result<Self> {
        let data_dir = match layers.first("data_dir", |layer| &layer.data_dir) {
            Some(given) => Some(PathBuf::from(given.read(|text| {
                ensure!(!text.is_empty(), "is empty; name a directory");
                Ok(text.clone())
            })?)),
            None if dev => None,
            None => Some(default_data_dir(env)?),
        };
        let store = layers.first("store", |layer| &layer.store).map(|given| given.value);
        Ok(Self { data_dir, store, keyring: keyring::keyring(env)?, sealing: keyring::sealing(layers, env)? })
    }
}

impl Settings {
    /// Reads all sources. Finds the machine's own addresses where none are given; opens nothing for good.
    ///
    /// # Errors
    /// Names the flag, variable or key, its value, the fault, and what would be right.
    pub(crate) fn load(global: &Global, flags: Layer, env: Env<'_>) -> Result<Self> {
        let layers = layers(global, flags, env)?;
        let dev = switch(layers.first("dev", |layer| &layer.dev), false)?;
        let mut warnings = Vec::new();
        let relay_addresses = relay_addresses(&layers, dev, &mut warnings)?;
        let certificates = certificates(&layers)?;
        let acme = acme::settings(&layers, dev)?;
        let is_certified = !certificates.is_empty() || acme.is_some();
        let turn_listen = turn_listen(&layers, dev, is_certified)?;
        let dtls_listen = match layers.first("turn_listen", |layer| &layer.turn_listen) {
            Some(_) => None,
            None => turn_listen.iter().find(|it| it.transport == Transport::Tls).copied(),
        };
        let dtls_listen = dtls_listen.map(|tls| Listener { transport: Transport::Dtls, ..tls });
        let (api_listen, api_tls) = api_listen(&layers)?;
        warnings.extend(acme.as_ref().and_then(|it| acme::warning(it, &turn_listen, (api_listen, api_tls))));
        if !is_certified && !dev {
            ensure_no_tls(&layers, &turn_listen, api_tls)?;
        }
        let place = Place::read(&layers, env, dev)?;
        place.sealing.as_ref().map(SealingSource::read).transpose()?;
        Ok(Self {
            role: role(&layers, &place, dev)?,
            place,
            log: log_filter(&layers)?,
            log_format: observability::log_format(&layers)?,
            metrics_token: observability::metrics_token(&layers)?,
            api_listen,
            api_tls,
            certificates,
            api: api::settings(&layers)?,
            public_host: public_host(&layers, dev, acme.as_ref(), &relay_addresses)?,
            acme,
            alternates: alternate::alternates(&layers, &turn_listen, &relay_addresses)?,
            turn_listen,
            dtls_listen,
            ice: ice_urls(&layers)?,
            relay_ports: match layers.first("relay_ports", |layer| &layer.relay_ports) {
                Some(given) => given.read(|text| text.parse().with_context(|| format!("{text:?}")))?,
                None => PortRange::default(),
            },
            policy: policy(&layers, dev)?,
            proxies: cidrs(layers.first("proxy_protocol_from", |layer| &layer.proxy_protocol_from))?,
            workers: workers(&layers)?,
            realm: realm(&layers)?,
            strict_channels: switch(layers.first("strict_channels", |layer| &layer.strict_channels), false)?,
            username_lifetime_secs: username_lifetime_secs(&layers)?,
            mobility: switch(layers.first("mobility", |layer| &layer.mobility), true)?,
            tcp_relay: switch(layers.first("tcp_relay", |layer| &layer.tcp_relay), true)?,
            offer_sha256: switch(layers.first("offer_sha256", |layer| &layer.offer_sha256), false)?,
            key_limits: limits::of_keys(&layers)?,
            stranger_limit: limits::of_strangers(&layers)?,
            node_name: usage::node_name(&layers)?,
            location: usage::location(&layers)?,
            fleet: fleet::settings(&layers)?,
            retention: usage::retention(&layers)?,
            dev,
            bootstrap_account: bootstrap_account(env)?,
            bootstrap_token: bootstrap_token(env)?,
            relay_addresses,
            warnings,
        })
    }
}

fn role(layers: &Layers, place: &Place, dev: bool) -> Result<Role> {
    let Some(given) = layers.first("role", |layer| &layer.role) else { return Ok(Role::All) };
    given.read(|text| match text.as_str() {
        "all" => Ok(Role::All),
        "relay" => {
            ensure!(!dev, "a relay without an API cannot be tried out: leave out --dev");
            let is_shared = place.store.as_ref().is_some_and(|url| url.starts_with("postgres"));
            ensure!(is_shared, "the store of a relay is one that others share: give --store postgres://…");
            Ok(Role::Relay)
        }
        _ => bail!("{text:?} is neither all nor relay"),
    })
}

fn layers(global: &Global, flags: Layer, env: Env<'_>) -> Result<Layers> {
    let Global { data_dir, store, keyring_in_store, keyring_key_file, config, log } = global.clone();
    let flags = Layer { data_dir, store, keyring_in_store, keyring_key_file, log, ..flags };
    let config = config.or(variable(env, "TURNERY_CONFIG")?.map(PathBuf::from));
    let file = match config {
        Some(path) => {
            let layer = Layer::from_file(&path)?;
            Some((path, layer))
        }
        None => None,
    };
    Ok(Layers { flags, env: Layer::from_env(env)?, file })
}

fn default_data_dir(env: Env<'_>) -> Result<PathBuf> {
    // systemd names it where a unit has StateDirectory=; of several, separated by colons, the first is taken.
    if let Some(given) = variable(env, "STATE_DIRECTORY")? {
        return Ok(PathBuf::from(given.split(':').next().unwrap_or_default()));
    }
    if is_root() {
        return Ok(PathBuf::from("/var/lib/turnery"));
    }
    if let Some(state) = variable(env, "XDG_STATE_HOME")? {
        return Ok(PathBuf::from(state).join("turnery"));
    }
    let home = variable(env, "HOME")?.context("where the data should be is not known: give --data-dir")?;
    Ok(PathBuf::from(home).join(".local/state/turnery"))
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

fn switch(given: Option<Given<String>>, otherwise: bool) -> Result<bool> {
    given.map_or(Ok(otherwise), |given| given.read(|text| boolean(text)))
}

fn boolean(text: &str) -> Result<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "1" | "yes" | "on" => Ok(true),
        "false" | "0" | "no" | "off" => Ok(false),
        _ => bail!("{text:?} is neither true nor false"),
    }
}

fn log_filter(layers: &Layers) -> Result<EnvFilter> {
    match layers.first("log", |layer| &layer.log) {
        Some(given) => given.read(|text| {
            EnvFilter::try_new(text).map_err(|error| {
                anyhow!("{text:?}: {error}; write a level or a filter such as info,relay=debug")
            })
        }),
        None => Ok(EnvFilter::new("info")),
    }
}

/// Where, and whether within TLS.
fn api_listen(layers: &Layers) -> Result<(SocketAddr, bool)> {
    let Some(given) = layers.first("api_listen", |layer| &layer.api_listen) else {
        return Ok((SocketAddr::from((Ipv4Addr::LOCALHOST, 8080)), false));
    };
    given.read(|text| {
        let (address, tls) = match text.strip_prefix("https://") {
            Some(address) => (address, true),
            None => (text.strip_prefix("http://").unwrap_or(text), false),
        };
        let address = address.parse().map_err(|_| {
            anyhow!("{text:?} is not IP:PORT or https://IP:PORT, such as 127.0.0.1:8080 or https://[::]:443")
        });
        Ok((address?, tls))
    })
}

fn certificates(layers: &Layers) -> Result<Files> {
    let paths = |given: Option<Given<Vec<String>>>| {
        given.map_or(Ok(Vec::new()), |given| {
            given.read_each(|text| {
                ensure!(!text.is_empty(), "is empty; name a PEM file");
                Ok(PathBuf::from(text))
            })
        })
    };
    let certificates = paths(layers.first("tls_cert", |layer| &layer.tls_cert))?;
    let keys = paths(layers.first("tls_key", |layer| &layer.tls_key))?;
    ensure!(
        certificates.len() == keys.len(),
        "--tls-cert is given {} times and --tls-key {} times; each certificate goes with a key",
        certificates.len(),
        keys.len()
    );
    let pairs = certificates.into_iter().zip(keys).map(|(certificate, key)| Pair { certificate, key });
    Ok(Files::new(pairs.collect()))
}

/// Without a certificate nothing can be within TLS.
fn ensure_no_tls(layers: &Layers, turn_listen: &[Listener], api_tls: bool) -> Result<()> {
    const HINT: &str = "needs a certificate: give --tls-cert and --tls-key, or --acme-domain";
    if let Some(given) = layers.first("turn_listen", |layer| &layer.turn_listen)
        && let Some(listener) = turn_listen.iter().find(|listener| listener.transport.is_secured())
    {
        return given.read(|_| bail!("{listener} {HINT}"));
    }
    if let Some(given) = layers.first("api_listen", |layer| &layer.api_listen).filter(|_| api_tls) {
        return given.read(|text| bail!("{text:?} {HINT}"));
    }
    Ok(())
}

fn turn_listen(layers: &Layers, dev: bool, tls: bool) -> Result<Vec<Listener>> {
    let Some(given) = layers.first("turn_listen", |layer| &layer.turn_listen) else {
        let (plain, secured) =
            if dev { (DEV_LISTENERS, DEV_TLS_LISTENER) } else { (DEFAULT_LISTENERS, TLS_LISTENER) };
        let defaults = plain.into_iter().chain(tls.then_some(secured));
        return defaults.map(|text| Ok(text.parse()?)).collect();
    };
    let listeners: Vec<Listener> = given.read_each(|text| Ok(text.parse::<Listener>()?))?;
    given.read(|_| {
        ensure!(!listeners.is_empty(), "the list is empty; a relay needs at least one listener");
        for (index, listener) in listeners.iter().enumerate() {
            let before = listeners.get(..index).unwrap_or_default();
            ensure!(listener.address.port() == 0 || !before.contains(listener), "{listener} is given twice");
        }
        Ok(())
    })?;
    Ok(listeners)
}

fn public_host(
    layers: &Layers,
    dev: bool,
    acme: Option<&AcmeSettings>,
    relay_addresses: &[RelayAddress],
) -> Result<String> {
    if let Some(given) = layers.first("public_host", |layer| &layer.public_host) {
        return given.read(|text| address::host(text));
    }
    // The certificate is for this name and not for an address.
    if let Some(name) = acme.and_then(AcmeSettings::public_host) {
        return Ok(name.to_owned());
    }
    let own = relay_addresses.first().filter(|_| !dev).map(|address| address.public.to_string());
    Ok(own.unwrap_or_else(|| Ipv4Addr::LOCALHOST.to_string()))
}

fn ice_urls(layers: &Layers) -> Result<Option<IceUrls>> {
    let Some(given) = layers.first("ice_url", |layer| &layer.ice_url) else { return Ok(None) };
    given.read(|urls| Ok(IceUrls::chosen(urls)?)).map(Some)
}

fn relay_addresses(layers: &Layers, dev: bool, warnings: &mut Vec<String>) -> Result<Vec<RelayAddress>> {
    if let Some(given) = layers.first("relay_address", |layer| &layer.relay_address) {
        let addresses = given.read_each(address::relay_address)?;
        given.read(|_| address::one_per_family(&addresses))?;
        return Ok(addresses);
    }
    if dev {
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        return Ok(loopback.into_iter().filter(|ip| address::is_bindable(*ip)).map(address::same).collect());
    }
    let own = address::own_addresses();
    if own.is_empty() {
        warnings.push(
            "this machine has no route to the internet, so relayed addresses are on 127.0.0.1; name the address \
             that peers see with --relay-address"
                .to_owned(),
        );
        return Ok(vec![address::same(Ipv4Addr::LOCALHOST.into())]);
    }
    for ip in own.iter().filter(|ip| !address::is_global(**ip)) {
        warnings.push(format!(
            "relayed addresses are on {ip}, which is private: peers elsewhere cannot reach it; name the address \
             that they see with --relay-address PUBLIC/{ip}"
        ));
    }
    Ok(own.into_iter().map(address::same).collect())
}

fn cidrs(given: Option<Given<Vec<String>>>) -> Result<Vec<Cidr>> {
    given.map_or(Ok(Vec::new()), |given| given.read_each(|text| Ok(text.parse()?)))
}

fn policy(layers: &Layers, dev: bool) -> Result<PeerPolicy> {
    let mut allow = cidrs(layers.first("allow_peer", |layer| &layer.allow_peer))?;
    let deny = cidrs(layers.first("deny_peer", |layer| &layer.deny_peer))?;
    if dev {
        let more: Result<Vec<Cidr>, _> = DEV_PEERS.iter().map(|text| text.parse()).collect();
        allow.extend(more?);
    }
    Ok(PeerPolicy::new(allow, deny))
}

fn workers(layers: &Layers) -> Result<usize> {
    let cores = || available_parallelism().map_or(1, NonZero::get).min(MAX_WORKERS);
    let Some(given) = layers.first("workers", |layer| &layer.workers) else { return Ok(cores()) };
    given.read(|text| {
        let count = text.parse().ok().filter(|count| (1..=MAX_WORKERS).contains(count));
        count.ok_or_else(|| anyhow!("{text:?} is not a number of threads from 1 to {MAX_WORKERS}"))
    })
}

fn username_lifetime_secs(layers: &Layers) -> Result<u32> {
    const DEFAULT_SECS: u32 = 604_800;
    const LIMITS: std::ops::RangeInclusive<u32> = 60..=MAX_USERNAME_LIFETIME_SECS;
    let given = layers.first("username_lifetime_secs", |layer| &layer.username_lifetime_secs);
    let Some(given) = given else { return Ok(DEFAULT_SECS) };
    given.read(|text| {
        let secs = text.parse().ok().filter(|secs| LIMITS.contains(secs));
        secs.ok_or_else(|| {
            anyhow!("{text:?} is not a number of seconds from 60 to {MAX_USERNAME_LIFETIME_SECS}")
        })
    })
}

fn realm(layers: &Layers) -> Result<String> {
    let Some(given) = layers.first("realm", |layer| &layer.realm) else { return Ok("turnery".to_owned()) };
    given.read(|text| {
        // RFC 8489 §14.9: a realm is what may stand in a quoted string; without the escapes, so that it has one form.
        let plain = |b: u8| (b' '..=b'~').contains(&b) && b != b'"' && b != b'\\';
        ensure!(
            (1..=127).contains(&text.len()) && text.bytes().all(plain),
            "{text:?} is not 1 to 127 printable ASCII characters without \" and \\"
        );
        Ok(text.clone())
    })
}

fn bootstrap_account(env: Env<'_>) -> Result<Option<AccountId>> {
    let name = "TURNERY_BOOTSTRAP_ACCOUNT";
    let Some(text) = variable(env, name)? else { return Ok(None) };
    let id = text.parse().ok().filter(|_| text.len() == 32);
    Ok(Some(id.with_context(|| {
        format!("{name}: {text:?} is not 32 hex digits; `openssl rand -hex 16` makes a good one")
    })?))
}

fn bootstrap_token(env: Env<'_>) -> Result<Option<TokenText>> {
    let name = "TURNERY_BOOTSTRAP_TOKEN";
    let Some(text) = variable(env, name)? else { return Ok(None) };
    // The value is a secret, so it is not shown.
    let token = text.parse().ok();
    let length = text.len();
    Ok(Some(token.with_context(|| {
        format!(
            "{name}: a value of {length} bytes that is not 32 to 128 characters of A-Z, a-z, 0-9, _ and -; \
             `openssl rand -hex 32` makes a good one"
        )
    })?))
}

#[cfg(test)]
mod tests;
