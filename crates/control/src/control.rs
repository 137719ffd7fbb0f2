use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use axum::Router;
use credentials::{Denial, Keyring, TurnKeyId};
use tokio::net::TcpListener;

use crate::api;
use crate::feed::{Feed, News};
use crate::health::Check;
use crate::ice::IceUrls;
use crate::keys::Keys;
use crate::metrics::Metrics;
use crate::rate::{Buckets, Rate};
use crate::serve::{self, ServeError, Tls};
use crate::store::{Store, StoreError, TokenId};

/// What the HTTP side has to be told.
#[derive(Debug, Clone)]
pub struct Config {
    /// The URLs that callers of the credential API are handed.
    pub ice: IceUrls,
    /// How often one API token may call the account API. 1,000 a second by default, 5,000 at once.
    pub account_rate: Rate,
    /// How often the credential API, for all callers together, may ask the store for a TURN key that is not held in
    /// memory: anyone can make up such a key. 500 a second by default, 1,000 at once.
    pub unknown_key_rate: Rate,
    /// What `/metrics` tells. Empty by default, but for what this crate counts.
    pub metrics: Metrics,
    /// The bearer token that `/metrics` asks for; `None`: everybody who reaches the API may read them.
    pub metrics_token: Option<String>,
    /// What `/readyz` asks beside the store and the feed.
    pub checks: Vec<Check>,
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
            unknown_key_rate: Rate { per_sec: 500, burst: 1_000 },
            metrics: Metrics::default(),
            metrics_token: None,
            checks: Vec::new(),
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
    pub(crate) store: Store,
    pub(crate) keyring: Arc<ArcSwap<Keyring>>,
    pub(crate) keys: Keys,
    pub(crate) feed: Feed,
    pub(crate) account_rates: Buckets<TokenId>,
}

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
        let shared = Arc::new(Shared { config, store, keyring, keys, feed, account_rates });
        let for_keys = Arc::downgrade(&shared);
        let forget = move |news: &News| {
            if let (News::Denied(Denial::Key { key, .. }), Some(shared)) = (news, for_keys.upgrade()) {
                shared.keys.drop_key(*key);
            }
        };
        shared.feed.subscribe(forget).await?;
        Ok(Self { shared })
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
        tokio::select! {
            done = serve::serve(listener, tls, self.router(), shutdown) => done,
            never = feed.run() => never,
        }
    }
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("config", &self.shared.config).finish_non_exhaustive()
    }
}
