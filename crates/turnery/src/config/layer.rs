//! Where settings come from: flags, the environment, a file. Each gives the same fields, as text, and the first that
//! gives one wins.

use std::fmt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use serde::{Deserialize, Deserializer};

/// What one source says, not yet looked at. The field's name is its key in the file, with `TURNERY_` before it its
/// variable, with dashes its flag.
#[derive(Debug, Clone, Default, Args, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Layer {
    #[arg(skip)]
    pub(crate) data_dir: Option<String>,
    #[arg(skip)]
    pub(crate) store: Option<String>,
    #[arg(skip)]
    #[serde(deserialize_with = "text_or_bool")]
    pub(crate) keyring_in_store: Option<String>,
    #[arg(skip)]
    pub(crate) keyring_key_file: Option<String>,
    #[arg(skip)]
    pub(crate) log: Option<String>,
    /// Where HTTP is served: both APIs and the try page. IP:PORT, or https://IP:PORT with the certificates of
    /// --tls-cert or --acme-domain; port 0 takes any free one [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    pub(crate) api_listen: Option<String>,
    /// A certificate for TLS, with those that lead to its authority behind it, in a PEM file; repeatable, each with its
    /// --tls-key. Read again when the file changes. TCP listeners speak TLS, too, when there is one [default: none;
    /// with --dev one that nobody trusts, where it is needed]
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_cert: Option<Vec<String>>,
    /// The key of a certificate, ECDSA, Ed25519 or RSA, in a PEM file; repeatable, in the same order
    #[arg(long, value_name = "FILE")]
    pub(crate) tls_key: Option<Vec<String>>,
    /// Reverse proxies whose X-Forwarded-For is believed, repeatable: a prefix or one address
    #[arg(long, value_name = "CIDR")]
    pub(crate) api_proxy: Option<Vec<String>>,
    /// Origins whose pages may call the API from a browser, repeatable: such as https://HOST, or * for all
    /// [default: none]
    #[arg(long, value_name = "ORIGIN")]
    pub(crate) cors_origin: Option<Vec<String>>,
    /// Calls of one API token in a second, twice as many at once; more are answered with 429 [default: 1000, 5000 at
    /// once]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) max_calls_per_token: Option<String>,
    /// Calls from one address in a second, twice as many at once; loopback and --api-proxy are not limited [default:
    /// 5000]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) max_calls_per_address: Option<String>,
    /// HTTP connections of one address at once, 1 to 4096; loopback and --api-proxy are not limited [default: 256]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) max_api_connections_per_address: Option<String>,
    /// Networks that webhooks may reach although they are not the public internet, and without TLS, repeatable: a prefix
    /// or one address
    #[arg(long, value_name = "CIDR")]
    pub(crate) webhook_network: Option<Vec<String>>,
    /// How long the audit log is kept, in days, 1 to 36500 [default: 365]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) audit_days: Option<String>,
    /// A name that an ACME authority is to issue the certificate for, repeatable: one certificate has all of them, and
    /// *.example.org needs dns-01. Kept in the database, renewed ahead of its expiry, shown like that of --tls-cert
    /// [default: none]
    #[arg(long, value_name = "NAME")]
    pub(crate) acme_domain: Option<Vec<String>>,
    /// That you agree to the authority's terms of service; without it nothing is asked of one
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    #[serde(deserialize_with = "text_or_bool")]
    pub(crate) acme_accept_terms: Option<String>,
    /// Whom the authority writes to when something is wrong [default: nobody]
    #[arg(long, value_name = "ADDR")]
    pub(crate) acme_email: Option<String>,
    /// How the authority sees who answers at a name: tls-alpn-01 (it comes to port 443), http-01 (to port 80) or
    /// dns-01 (it asks the DNS; see --acme-dns-hook) [default: tls-alpn-01]
    #[arg(long, value_name = "TYPE")]
    pub(crate) acme_challenge: Option<String>,
    /// The URL of the authority's directory [default: Let's Encrypt's]
    #[arg(long, value_name = "URL")]
    pub(crate) acme_directory: Option<String>,
    /// The root certificate of a private authority, in a PEM file [default: those that the system trusts]
    #[arg(long, value_name = "FILE")]
    pub(crate) acme_root_ca: Option<String>,
    /// The program that puts TXT records into the DNS for dns-01, run as `PROGRAM set|cleanup DOMAIN RECORD VALUE`
    #[arg(long, value_name = "PROGRAM")]
    pub(crate) acme_dns_hook: Option<String>,
    /// Where http-01 is answered, IP:PORT, or none; the API answers it in any case [default: 0.0.0.0:80]
    #[arg(long, value_name = "ADDR")]
    pub(crate) acme_http_listen: Option<String>,
    /// What the authority calls the key of an account that you have with it (external account binding) [default: none]
    #[arg(long, value_name = "ID")]
    pub(crate) acme_eab_key_id: Option<String>,
    /// A file with that key, in base64url
    #[arg(long, value_name = "FILE")]
    pub(crate) acme_eab_key_file: Option<String>,
    /// Where TURN clients come in, repeatable: udp://IP:PORT, or tcp, tls or dtls instead of udp; tls beside tcp, and
    /// dtls beside udp, may be at the same address; port 0 takes any free one [default: udp and tcp on 0.0.0.0:3478,
    /// with a certificate tls and dtls on 0.0.0.0:5349, with --dev all on 127.0.0.1]
    #[arg(long, value_name = "URL")]
    pub(crate) turn_listen: Option<Vec<String>>,
    /// The host name or address in the URLs handed out: what clients connect to [default: the first relay address]
    #[arg(long, value_name = "NAME")]
    pub(crate) public_host: Option<String>,
    /// What clients are handed instead of URLs of --public-host and the listeners, repeatable and in this order: such
    /// as stun:HOST:PORT, turn:HOST:PORT?transport=udp or turns:HOST:PORT?transport=tcp
    #[arg(long, value_name = "URL")]
    pub(crate) ice_url: Option<Vec<String>>,
    /// The address that peers see and, behind a one-to-one NAT, after a slash the one to bind; at most one for IPv4
    /// and one for IPv6 [default: the machine's own, with --dev loopback]
    #[arg(long, value_name = "PUBLIC[/LOCAL]")]
    pub(crate) relay_address: Option<Vec<String>>,
    /// The UDP ports of relayed addresses, both ends included, from 1024 up [default: 49152-65535]
    #[arg(long, value_name = "MIN-MAX")]
    pub(crate) relay_ports: Option<String>,
    /// A second address of this machine, for clients that find out how their NAT behaves (RFC 5780), and behind a
    /// one-to-one NAT after a slash the one to bind; at most one for IPv4 and one for IPv6. Longer answers to
    /// Binding requests come with it [default: none, and not offered]
    #[arg(long, value_name = "PUBLIC[/LOCAL]")]
    pub(crate) alternate_address: Option<Vec<String>>,
    /// The second UDP port that goes with --alternate-address, on both addresses; 0 takes any free one [default: the
    /// one above the first UDP listener's]
    #[arg(long, value_name = "PORT")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) alternate_port: Option<String>,
    /// Peers that may be reached although they are not on the public internet, repeatable: a prefix such as
    /// 10.1.0.0/16, or one address
    #[arg(long, value_name = "CIDR")]
    pub(crate) allow_peer: Option<Vec<String>>,
    /// Peers that may not be reached in any case, repeatable; stronger than --allow-peer
    #[arg(long, value_name = "CIDR")]
    pub(crate) deny_peer: Option<Vec<String>>,
    /// Proxies whose PROXY protocol header, version 1 or 2, is believed on TCP connections, repeatable: a prefix or one
    /// address; their connections are the client's whom the header names
    #[arg(long, value_name = "CIDR")]
    pub(crate) proxy_protocol_from: Option<Vec<String>>,
    /// Relay threads, 1 to 256 [default: one for each core]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) workers: Option<String>,
    /// What this node does: all, or relay, without any API, for nodes of a fleet [default: all]
    #[arg(long, value_name = "ROLE")]
    pub(crate) role: Option<String>,
    /// The realm of STUN's long-term credentials, 1 to 127 characters [default: turnery]
    #[arg(long, value_name = "NAME")]
    pub(crate) realm: Option<String>,
    /// Refuse channel numbers above 0x4FFF, which RFC 8656 reserves; by default those up to 0x7FFF are taken too, for
    /// clients that follow RFC 5766, coturn's turnutils_uclient among them
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    #[serde(deserialize_with = "text_or_bool")]
    pub(crate) strict_channels: Option<String>,
    /// How far ahead the expiry of a time-limited username may lie, in seconds, 60 to 31622400 [default: 604800, a
    /// week]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) username_lifetime_secs: Option<String>,
    /// Let clients keep their allocation when their address changes (RFC 8016); whoever asks is refused with 405
    /// otherwise [default: true]
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    #[serde(deserialize_with = "text_or_bool")]
    pub(crate) mobility: Option<String>,
    /// Let clients relay TCP connections with their peers (RFC 6062); whoever asks is refused with 442 otherwise
    /// [default: true]
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    #[serde(deserialize_with = "text_or_bool")]
    pub(crate) tcp_relay: Option<String>,
    /// Offer SHA-256 keys in every 401 (RFC 8489 §9.2); the answer grows by 29 bytes, for spoofed requests too
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    #[serde(deserialize_with = "text_or_bool")]
    pub(crate) offer_sha256: Option<String>,
    /// Allocations that one TURN key may have at once [default: none, which is no limit]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) max_allocations_per_key: Option<String>,
    /// Allocations that one credential may have at once [default: none]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) max_allocations_per_credential: Option<String>,
    /// New peer addresses that one allocation may name in a second [default: none]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) max_new_peers_per_second: Option<String>,
    /// Permissions that one allocation may have at once, up to 128 [default: 128]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) max_permissions: Option<String>,
    /// Channels that one allocation may have at once, up to 128 [default: 128]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) max_channels: Option<String>,
    /// Datagrams that one allocation may relay in a second, each way; more are dropped, TCP slows down [default: none]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) max_packets_per_second: Option<String>,
    /// Bits of data that one allocation may relay in a second, each way, such as 10M; as with packets [default:
    /// none]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) max_bits_per_second: Option<String>,
    /// Datagrams that all allocations of one TURN key together may relay in a second, each way [default: none]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) max_key_packets_per_second: Option<String>,
    /// Bits of data that all allocations of one TURN key together may relay in a second, each way [default: none]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) max_key_bits_per_second: Option<String>,
    /// Answers over UDP to senders that have not authenticated, Binding responses and 401 among them, to one prefix
    /// in a second; twice as many at once; loopback is not limited [default: 1000]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) max_unauthenticated_answers_per_second: Option<String>,
    /// How many bits of an IPv4 and of an IPv6 address make such a prefix [default: 24/56]
    #[arg(long, value_name = "V4/V6")]
    pub(crate) unauthenticated_prefixes: Option<String>,
    /// What this machine is called in usage and session lists; the same after a restart, and no other node's [default: the
    /// host's name]
    #[arg(long, value_name = "NAME")]
    pub(crate) node_name: Option<String>,
    /// The city that this machine is in, as it is to stand in usage [default: none]
    #[arg(long, value_name = "NAME")]
    pub(crate) location_city: Option<String>,
    /// The code of that place, such as LIS [default: none]
    #[arg(long, value_name = "NAME")]
    pub(crate) location_code: Option<String>,
    /// Its country, such as PT [default: none]
    #[arg(long, value_name = "NAME")]
    pub(crate) location_country: Option<String>,
    /// Its region, such as EU [default: none]
    #[arg(long, value_name = "NAME")]
    pub(crate) location_region: Option<String>,
    /// How much of the fleet's new clients this node is given, compared with others, 1 to 1000 [default: 100]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) node_weight: Option<String>,
    /// From so many allocations on, send new clients to a node that has fewer (300 Try Alternate); where there is none
    /// they are served here [default: none]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) redirect_above: Option<String>,
    /// On SIGTERM take no new allocations, send new clients to other nodes, and wait so many seconds for live
    /// allocations to end, up to 86400; a second signal ends it at once [default: 0]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) drain_secs: Option<String>,
    /// Refuse new allocations (508) while what is revoked was not heard for more than so many seconds, 5 to 86400, or none;
    /// what is allocated goes on [default: none]
    #[arg(long, value_name = "SECS")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) refuse_when_feed_older_than: Option<String>,
    /// Whose URLs the credential API hands out: host, those of --public-host or --ice-url; node, those of one node,
    /// chosen by weight and load; region, the same among the nodes of this node's region [default: host]
    #[arg(long, value_name = "HOW")]
    pub(crate) steering: Option<String>,
    /// How many days usage is known by the minute; then by the hour [default: 14]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) usage_minutes_days: Option<String>,
    /// How many days usage is known by the hour; then by the day [default: 100]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) usage_hours_days: Option<String>,
    /// How many days usage is known at all [default: 800]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) usage_days: Option<String>,
    /// How many days sessions are kept after their end [default: 30]
    #[arg(long, value_name = "N")]
    #[serde(deserialize_with = "text_or_number")]
    pub(crate) sessions_days: Option<String>,
    /// How the log is written: text, for people, or json, one object in a line [default: text]
    #[arg(long, value_name = "FORMAT")]
    pub(crate) log_format: Option<String>,
    /// A file with the bearer token that GET /metrics asks for [default: none; whoever reaches the API may read them]
    #[arg(long, value_name = "FILE")]
    pub(crate) metrics_token_file: Option<String>,
    /// Where /healthz, /readyz and /metrics are served beside the API or, with --role relay, without one: IP:PORT
    /// [default: none]
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics_listen: Option<String>,
    /// For trying it out: listens on loopback, lets peers on loopback and private networks be reached, makes a first
    /// TURN key, and without --data-dir forgets everything at the end
    #[arg(long, value_name = "true|false", num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    #[serde(deserialize_with = "text_or_bool")]
    pub(crate) dev: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected a number")]
enum TextOrNumber {
    Text(String),
    Number(i64),
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "expected true or false")]
enum TextOrBool {
    Text(String),
    Bool(bool),
}

fn text_or_number<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Some(match TextOrNumber::deserialize(deserializer)? {
        TextOrNumber::Text(text) => text,
        TextOrNumber::Number(number) => number.to_string(),
    }))
}

fn text_or_bool<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Some(match TextOrBool::deserialize(deserializer)? {
        TextOrBool::Text(text) => text,
        TextOrBool::Bool(value) => value.to_string(),
    }))
}

/// Reads variables of the environment; tests give their own.
pub(crate) type Env<'a> = &'a dyn Fn(&str) -> Option<std::ffi::OsString>;

/// A variable's text; one that is empty counts as not set.
///
/// # Errors
/// When it is not UTF-8.
pub(crate) fn variable(env: Env<'_>, name: &str) -> Result<Option<String>> {
    match env(name).map(std::ffi::OsString::into_string) {
        None => Ok(None),
        Some(Ok(text)) => Ok(Some(text).filter(|text| !text.is_empty())),
        Some(Err(raw)) => Err(anyhow!("the environment's {name} is not UTF-8: {}", raw.display())),
    }
}

impl Layer {
    /// What the environment says. Lists are separated by commas.
    pub(crate) fn from_env(env: Env<'_>) -> Result<Self> {
        let text = |field: &str| variable(env, &variable_name(field));
        let list = |field: &str| -> Result<Option<Vec<String>>> {
            let split = |text: String| text.split(',').map(|item| item.trim().to_owned()).collect();
            Ok(text(field)?.map(split))
        };
        Ok(Self {
            data_dir: text("data_dir")?,
            store: text("store")?,
            keyring_in_store: text("keyring_in_store")?,
            keyring_key_file: text("keyring_key_file")?,
            log: text("log")?,
            api_listen: text("api_listen")?,
            tls_cert: list("tls_cert")?,
            tls_key: list("tls_key")?,
            api_proxy: list("api_proxy")?,
            cors_origin: list("cors_origin")?,
            max_calls_per_token: text("max_calls_per_token")?,
            max_calls_per_address: text("max_calls_per_address")?,
            max_api_connections_per_address: text("max_api_connections_per_address")?,
            webhook_network: list("webhook_network")?,
            audit_days: text("audit_days")?,
            acme_domain: list("acme_domain")?,
            acme_accept_terms: text("acme_accept_terms")?,
            acme_email: text("acme_email")?,
            acme_challenge: text("acme_challenge")?,
            acme_directory: text("acme_directory")?,
            acme_root_ca: text("acme_root_ca")?,
            acme_dns_hook: text("acme_dns_hook")?,
            acme_http_listen: text("acme_http_listen")?,
            acme_eab_key_id: text("acme_eab_key_id")?,
            acme_eab_key_file: text("acme_eab_key_file")?,
            turn_listen: list("turn_listen")?,
            public_host: text("public_host")?,
            ice_url: list("ice_url")?,
            relay_address: list("relay_address")?,
            relay_ports: text("relay_ports")?,
            alternate_address: list("alternate_address")?,
            alternate_port: text("alternate_port")?,
            allow_peer: list("allow_peer")?,
            deny_peer: list("deny_peer")?,
            proxy_protocol_from: list("proxy_protocol_from")?,
            workers: text("workers")?,
            role: text("role")?,
            realm: text("realm")?,
            strict_channels: text("strict_channels")?,
            username_lifetime_secs: text("username_lifetime_secs")?,
            mobility: text("mobility")?,
            tcp_relay: text("tcp_relay")?,
            offer_sha256: text("offer_sha256")?,
            max_allocations_per_key: text("max_allocations_per_key")?,
            max_allocations_per_credential: text("max_allocations_per_credential")?,
            max_new_peers_per_second: text("max_new_peers_per_second")?,
            max_permissions: text("max_permissions")?,
            max_channels: text("max_channels")?,
            max_packets_per_second: text("max_packets_per_second")?,
            max_bits_per_second: text("max_bits_per_second")?,
            max_key_packets_per_second: text("max_key_packets_per_second")?,
            max_key_bits_per_second: text("max_key_bits_per_second")?,
            max_unauthenticated_answers_per_second: text("max_unauthenticated_answers_per_second")?,
            unauthenticated_prefixes: text("unauthenticated_prefixes")?,
            node_name: text("node_name")?,
            location_city: text("location_city")?,
            location_code: text("location_code")?,
            location_country: text("location_country")?,
            location_region: text("location_region")?,
            node_weight: text("node_weight")?,
            redirect_above: text("redirect_above")?,
            drain_secs: text("drain_secs")?,
            refuse_when_feed_older_than: text("refuse_when_feed_older_than")?,
            steering: text("steering")?,
            usage_minutes_days: text("usage_minutes_days")?,
            usage_hours_days: text("usage_hours_days")?,
            usage_days: text("usage_days")?,
            sessions_days: text("sessions_days")?,
            log_format: text("log_format")?,
            metrics_token_file: text("metrics_token_file")?,
            metrics_listen: text("metrics_listen")?,
            dev: text("dev")?,
        })
    }

    /// What the file says.
    pub(crate) fn from_file(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| {
            anyhow!("cannot read the configuration {}: {}", path.display(), fault(&error))
        })?;
        toml::from_str(&text)
            .map_err(|error| {
                let start = error.span().map_or(0, |span| span.start);
                let line = text.get(..start).unwrap_or_default().matches('\n').count() + 1;
                anyhow!("line {line}: {}", error.message().replace('\n', ", "))
            })
            .with_context(|| format!("in the configuration {}", path.display()))
    }
}

/// What the operating system said, without the number.
pub(crate) fn fault(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

fn variable_name(field: &str) -> String {
    format!("TURNERY_{}", field.to_ascii_uppercase())
}

/// The layers, strongest first.
#[derive(Debug)]
pub(crate) struct Layers {
    pub(crate) flags: Layer,
    pub(crate) env: Layer,
    pub(crate) file: Option<(PathBuf, Layer)>,
}

/// A value and who gave it.
#[derive(Debug, Clone)]
pub(crate) struct Given<T> {
    pub(crate) value: T,
    pub(crate) source: Source,
}

/// Who gave a value: as an operator would look for it.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    Flag(String),
    Variable(String),
    Key(&'static str, PathBuf),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag(name) | Self::Variable(name) => f.write_str(name),
            Self::Key(name, path) => write!(f, "{name} in {}", path.display()),
        }
    }
}

impl Layers {
    /// The strongest layer's value of a field, by the field's name.
    pub(crate) fn first<T: Clone>(
        &self,
        field: &'static str,
        of: impl Fn(&Layer) -> &Option<T>,
    ) -> Option<Given<T>> {
        let flag = || Source::Flag(format!("--{}", field.replace('_', "-")));
        let given = |layer: &Layer, source: &dyn Fn() -> Source| {
            of(layer).clone().map(|value| Given { value, source: source() })
        };
        given(&self.flags, &flag)
            .or_else(|| given(&self.env, &|| Source::Variable(variable_name(field))))
            .or_else(|| {
                let (path, layer) = self.file.as_ref()?;
                given(layer, &|| Source::Key(field, path.clone()))
            })
    }
}

impl<T> Given<T> {
    /// The value as `parse` reads it; a fault is told with the source in front.
    pub(crate) fn read<U>(&self, parse: impl FnOnce(&T) -> Result<U>) -> Result<U> {
        parse(&self.value).with_context(|| self.source.to_string())
    }
}

impl Given<Vec<String>> {
    /// The same for every item of a list.
    pub(crate) fn read_each<U>(&self, parse: impl Fn(&str) -> Result<U>) -> Result<Vec<U>> {
        self.read(|items| items.iter().map(|item| parse(item)).collect())
    }
}
