use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use axum::Router;
use credentials::{Denial, Keyring, TurnKeyId};
use tokio::net::TcpListener;

use crate::acme::HttpChallenges;
use crate::api;
use crate::dashboard::About;
use crate::feed::{Feed, News};
use crate::health::Check;
use crate::ice::IceUrls;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::network::Network;
use crate::rate::{Buckets, Rate};
use crate::serve::{self, Answers, ServeError, Tls};
use crate::steering::{Handout, Steering};
use crate::store::{DELIVERY_LIFETIME_SECS, KnownNode, Store, StoreError, Timestamp, TokenId};
use crate::{upkeep, webhooks};

/// What the HTTP side has to be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The URLs that callers of the credential API are handed.
    pub ice: IceUrls,
    /// How often one API token may call the account API. 1,000 a second by default, 5,000 at once.
    pub account_rate: Rate,
    /// How often one address may call, whatever it calls; IPv6 addresses by their /64. Loopback and trusted proxies may
    /// call as often as they like. 5,000 a second by default, twice as many at once; `None` is no limit.
    pub address_rate: Option<Rate>,
    /// Connections that one address may hold at once; loopback and trusted proxies as many as they like. 256 by default.
    pub connections_per_address: usize,
    /// Which origins' pages may call from a browser: such as `https://app.example`, or `*` for all. None by default.
    pub cors_origins: Vec<String>,
    /// How often the credential API, for all callers together, may ask the store for a TURN key that is not held in
    /// memory: anyone can make up such a key. 500 a second by default, 1,000 at once.
    pub unknown_key_rate: Rate,
    /// What `/metrics` tells. Empty by default, but for what this crate counts.
    pub metrics: Metrics,
    /// The bearer token that `/metrics` asks for; `None`: everybody who reaches the API may read them.
    pub metrics_token: Option<String>,
    /// What `/readyz` asks beside the store and the feed.
    pub checks: Vec<Check>,
    /// Proxies that are believed when `X-Forwarded-For` names a client.
    pub proxies: Vec<Network>,
    /// Networks that webhooks may reach although they are not the public internet, and without TLS.
    pub webhook_networks: Vec<Network>,
    /// For how many seconds it is tried to deliver an event to a webhook; a day by default.
    pub webhook_lifetime_secs: u64,
    /// For how many days the audit log is kept; 365 by default.
    pub audit_days: u32,
    /// What the dashboard tells of this process. Empty by default.
    pub about: About,
    /// Whether the API is served within TLS: the dashboard's cookie is then for TLS alone. Not so by default.
    pub https: bool,
    /// What ACME authorities are answered at the API. Nothing by default.
    pub challenges: HttpChallenges,
    /// Nothing is minted once what is revoked was not heard for so long; half an hour by default. Not longer than that: a
    /// deleted key is denied an hour beyond the life of what it has minted.
    pub mint_feed_max_age: Duration,
    /// Set in dev mode only: lets the try page mint for itself, without any secret.
    pub dev: Option<Dev>,
}

/// What dev mode adds.
#[derive(Debug, Clone)]
pub struct Dev {
    /// The TURN key with which the try page mints.
    pub key: TurnKeyId,
    /// The host name, if any, by which the page may be opened beside addresses and `localhost`.
    pub public_host: Option<String>,
}

impl Config {
    /// The defaults, for these URLs.
    pub fn new(ice: IceUrls) -> Self {
        Self {
            ice,
            account_rate: Rate { per_sec: 1_000, burst: 5_000 },
            address_rate: Some(Rate { per_sec: 5_000, burst: 10_000 }),
            connections_per_address: 256,
            cors_origins: Vec::new(),
            unknown_key_rate: Rate { per_sec: 500, burst: 1_000 },
            metrics: Metrics::default(),
            metrics_token: None,
            checks: Vec::new(),
            proxies: Vec::new(),
            webhook_networks: Vec::new(),
            webhook_lifetime_secs: DELIVERY_LIFETIME_SECS,
            audit_days: 365,
            about: About::default(),
            https: false,
            challenges: HttpChallenges::default(),
            mint_feed_max_age: Duration::from_mins(30),
            dev: None,
        }
    }
}

/// The HTTP side of one process. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

/// What every request may need.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) urls: Handout,
    pub(crate) store: Store,
    pub(crate) keyring: Arc<ArcSwap<Keyring>>,
    pub(crate) keys: Keys,
    pub(crate) feed: Feed,
    pub(crate) account_rates: Buckets<TokenId>,
    pub(crate) address_rates: Option<Buckets<IpAddr>>,
    /// How often one address may sign in to the dashboard.
    pub(crate) sign_in_rates: Buckets<Option<IpAddr>>,
    pub(crate) started: Timestamp,
}

impl Shared {
    /// Whether an address is a trusted proxy's, or this machine's own: others may be behind it.
    pub(crate) fn is_trusted(&self, address: IpAddr) -> bool {
        address.is_loopback() || self.config.proxies.iter().any(|proxy| proxy.contains(address))
    }
}

/// Nobody guesses a token; this keeps those who try from being a load.
const SIGN_IN_RATE: Rate = Rate { per_sec: 1, burst: 20 };

impl Control {
    /// Reads the TURN keys and begins to follow the feed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn new(
        config: Config,
        store: Store,
        keyring: Arc<ArcSwap<Keyring>>,
    ) -> Result<Self, StoreError> {
        let keys = Keys::load(store.clone(), config.unknown_key_rate).await?;
        let feed = Feed::new(store.clone(), Arc::clone(&keyring));
        let account_rates = Buckets::new(config.account_rate);
        let address_rates = config.address_rate.map(Buckets::new);
        let shared = Arc::new(Shared {
            urls: Handout::new(&config.ice),
            config,
            store,
            keyring,
            keys,
            feed,
            account_rates,
            address_rates,
            sign_in_rates: Buckets::new(SIGN_IN_RATE),
            started: Timestamp::now(),
        });
        let for_keys = Arc::downgrade(&shared);
        let hear = move |news: &News| {
            let Some(shared) = for_keys.upgrade() else { return };
            match news {
                News::Denied(Denial::Key { key, .. }) => shared.keys.drop_key(*key),
                News::Denied(Denial::Issued { key, before, .. } | Denial::Identifier { key, before, .. }) => {
                    shared.keys.issue_from(*key, *before);
                }
                News::Denied(Denial::Credential { .. }) | News::End(_) => {}
                News::Settings(settings) => shared.keys.replace(settings.key, settings.record.clone()),
            }
        };
        shared.feed.subscribe(hear).await?;
        Ok(Self { shared })
    }

    /// Hands out URLs of these nodes from now on, where `steering` has it so; `region` is this node's. Whoever can take
    /// nobody is left out; where nobody is left, or nothing was told yet, it is the configured URLs.
    pub fn steer(&self, steering: Steering, region: &str, nodes: &[KnownNode]) {
        self.shared.urls.tell(steering, region, nodes);
    }

    /// The feed. It moves on with this process's own changes at once, and with others' while
    /// [`Control::serve`] (or [`Feed::run`]) runs.
    pub fn feed(&self) -> Feed {
        self.shared.feed.clone()
    }

    /// The routes alone, to be served by other means. Then [`Feed::run`] must be run beside them.
    pub fn router(&self) -> Router {
        api::router(Arc::clone(&self.shared))
    }

    /// Serves, within TLS if that is given, until `shutdown` is ready: then takes no more connections, lets running requests end for a few
    /// seconds, and returns. Follows the feed meanwhile.
    ///
    /// # Errors
    /// When the listener fails for good.
    pub async fn serve(
        &self,
        listener: TcpListener,
        tls: Option<Tls>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), ServeError> {
        let feed = self.feed();
        let answers = Answers { router: self.router(), minting: Some(Arc::clone(&self.shared)) };
        let most = self.shared.config.connections_per_address;
        let places = |address| (!self.shared.is_trusted(address)).then_some(most);
        tokio::select! {
            done = serve::serve(listener, tls, (&answers, &places), shutdown) => done,
            never = feed.run() => never,
            never = self.shared.store.share_duty() => never,
            never = upkeep::run(&self.shared) => never,
            never = upkeep::run_limits(&self.shared) => never,
            never = webhooks::run(&self.shared) => never,
        }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("config", &self.shared.config).finish_non_exhaustive()
    }
}
