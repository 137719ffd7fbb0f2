//! `turnery serve`: everything is opened before anything runs, so that a start that cannot work leaves nothing
//! half-started and does not use up the token that is shown once.

use std::io::IsTerminal;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use arc_swap::ArcSwap;
use control::store::Store;
use control::store::usage::{Node, Retention};
use control::{About, Check, Control, Dev, Feed, IceTransport, IceUrls, Metrics, Observed};
use credentials::Keyring;
use relay::{Bound, DtlsLimits, Listener, Reports, StreamLimits};
use tokio::net::TcpListener;
use tokio::signal::unix::{Signal, SignalKind, signal};
use turn::Transport;

use crate::acme::{self, Acme};
use crate::admission::Admission;
use crate::announce::{self, Api};
use crate::certificates::{Certificates, Files, certificates, use_certificates, warn_of_certificates};
use crate::config::{KEYRING_VARIABLE, LogFormat, Role, Settings};
use crate::fleet::Membership;
use crate::keyring_file::Stamp;
use crate::keyring_in_use::{KeyringInUse, reseal};
use crate::keyring_source::{KeyringSource, Read};
use crate::keyring_store;
use crate::listen;
use crate::metrics::{ProcessMetrics, RelayMetrics};
use crate::relaying::RelayHandle;
use crate::trial::{self, DataDir};
use crate::usage::{self, Books};

/// How often the files of the keyring and of certificates are looked at.
const FILES_POLL: Duration = Duration::from_secs(1);
/// How often it is said that a certificate is about to expire: once a day.
const WARNING_INTERVAL: Duration = Duration::from_hours(24);
/// How long what still runs on the runtime is waited for at the very end.
const LAST_WAIT: Duration = Duration::from_secs(2);

/// Runs the service until it is told to end.
///
/// # Errors
/// When it cannot start, or a part of it fails for good.
pub(crate) fn run(mut settings: Settings) -> Result<()> {
    start_logging(&mut settings);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let done = runtime.block_on(serve(&settings));
    runtime.shutdown_timeout(LAST_WAIT);
    done
}

fn start_logging(settings: &mut Settings) {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let filter = std::mem::take(&mut settings.log);
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.log_format {
        LogFormat::Text => log.with_ansi(!no_color && std::io::stderr().is_terminal()).init(),
        LogFormat::Json => log.json().flatten_event(true).with_current_span(false).init(),
    }
}

async fn serve(settings: &Settings) -> Result<()> {
    // Before anything else, so that a signal during the start is an end and not a kill.
    let mut signals = Signals::listen()?;
    let service = tokio::select! {
        service = Service::start(settings) => service?,
        () = signals.end() => return Ok(()),
    };
    let served = Box::pin(service.run(&mut signals)).await;
    service.stop().await;
    served
}

/// Everything open and running.
struct Service {
    relay: RelayHandle,
    /// `None` where there is no API.
    control: Option<Control>,
    feed: Feed,
    store: Store,
    books: tokio::sync::Mutex<Books>,
    /// `None` where others tidy up.
    retention: Option<Retention>,
    api: Mutex<Option<TcpListener>>,
    /// What is told beside the API, and where.
    observed: Mutex<Option<(Observed, TcpListener)>>,
    membership: Membership,
    admission: Arc<Admission>,
    /// How old the feed may be where new allocations are taken.
    max_feed_age: Option<Duration>,
    /// How long live allocations are waited for at the end.
    drain: Duration,
    /// What the API speaks TLS with, if it does.
    api_tls: Option<Arc<ArcSwap<rustls::ServerConfig>>>,
    keyring: KeyringInUse,
    /// And the files that they came from.
    certificates: Option<(Arc<Certificates>, CertificateFiles)>,
    /// What obtains them, if an authority does.
    acme: Option<Acme>,
    /// Removed when the service is dropped.
    _data_dir: DataDir,
}

/// Certificates' files, and what they were when they were read.
struct CertificateFiles {
    files: Files,
    stamp: Vec<Option<Stamp>>,
}

impl Service {
    async fn start(settings: &Settings) -> Result<Self> {
        let data_dir = DataDir::prepare(settings)?;
        let keyring_source = KeyringSource::of(&settings.place, data_dir.path())?;
        let (store, (keyring, mark)) = open_store(settings, &keyring_source, data_dir.path()).await?;
        let early_certificates_stamp = settings.certificates.stamp();
        let certificates = match &settings.acme {
            Some(acme) => Some(acme::certificates(acme, &store, &keyring).await?),
            None => certificates(settings)?,
        };
        let certificates = certificates.map(Arc::new);
        let tls = certificates.as_ref().map(|certificates| certificates.relay());
        let dtls = certificates.as_ref().and_then(|certificates| certificates.dtls());
        let listeners = turn_listeners(settings, dtls.is_some())?;
        let config = relay_config(settings, &keyring);
        let bound = listen::relay(relay::Config { listeners, tls, dtls, ..config })?;
        let listen::Http { api, metrics: metrics_listen, acme: acme_listen } = listen::http(settings).await?;
        let api_address = api.as_ref().map(TcpListener::local_addr).transpose();
        let api_address = api_address.context("cannot tell the API listener's address")?;
        let api_address = api_address.map(|address| Api { address, tls: settings.api_tls });
        warn(settings, &keyring_source, certificates.as_deref());

        let listeners = bound.listeners().to_vec();
        tell_of_discovery(&bound);
        let ice = ice_urls(settings, &bound);
        let node = Node::new(&settings.node_name, settings.location.clone())?;
        store.close_lost_sessions(&node).await?;
        let books = tokio::sync::Mutex::new(Books::new(store.clone(), node));
        let relay = RelayHandle::start(bound)?;
        let trial = match api_address {
            Some(address) => trial::begin(settings, (&store, &keyring), (&ice, &data_dir), address).await?,
            None => None,
        };

        let urls = [ice.stun.as_slice(), &ice.turn].concat();
        let mut config = control::Config::new(ice);
        config.dev =
            trial.as_ref().map(|it| Dev { key: it.uid(), public_host: Some(settings.public_host.clone()) });
        configure(&mut config, settings, &relay);
        config.about = about(settings, &listeners, certificates.clone());
        let admission = Arc::<Admission>::default();
        config.checks.push(admission.check());
        let metrics = config.metrics.clone();
        let checks = config.checks.clone();
        if settings.role == Role::All {
            reseal(&store, &keyring).await?;
        }
        let sources = (keyring_source, store.clone(), relay.clone());
        let in_use = KeyringInUse::new(sources, settings.role, (keyring, mark));
        let keyring = in_use.shared();
        let acme = settings.acme.clone().zip(certificates.clone()).map(|(acme, certificates)| {
            Acme::new(acme, store.clone(), Arc::clone(&keyring), certificates, acme_listen)
        });
        if let Some(acme) = &acme {
            config.challenges = acme.http();
        }
        let control = match settings.role {
            Role::All => Some(Control::new(config, store.clone(), Arc::clone(&keyring)).await?),
            Role::Relay => None,
        };
        let own_feed = || Feed::new(store.clone(), Arc::clone(&keyring));
        let feed = control.as_ref().map_or_else(own_feed, Control::feed);
        let to_relay = relay.clone();
        metrics.register(ProcessMetrics::new(feed.clone(), certificates.clone(), Arc::clone(&admission)));
        let of_all = settings.key_limits;
        feed.subscribe(move |news| to_relay.hear(news, &of_all)).await?;
        let observed = observed(settings, (&store, &feed), checks, metrics);
        let parts = (store.clone(), feed.clone(), relay.clone());
        let membership = Membership::new(settings, parts, (&listeners, urls), Arc::clone(&admission));
        if in_use.is_in_store() {
            membership.enter(&in_use).await?;
        }
        // Not before every denial in force and every key's settings are known to the relay.
        relay.admit();

        announce::ready(api_address, &listeners)?;
        let shown = api_address.map(tracing::field::display);
        tracing::info!(api = shown, turn = %join(&listeners), workers = settings.workers, "ready");
        let watched =
            CertificateFiles { files: settings.certificates.clone(), stamp: early_certificates_stamp };
        let api_tls = certificates.as_ref().filter(|_| settings.api_tls).map(|it| it.api());
        Ok(Self {
            relay,
            control,
            feed,
            store,
            books,
            retention: (settings.role == Role::All).then_some(settings.retention),
            api: Mutex::new(api),
            observed: Mutex::new(metrics_listen.map(|listener| (observed, listener))),
            membership,
            admission,
            max_feed_age: settings.fleet.max_feed_age,
            drain: settings.fleet.drain,
            api_tls,
            keyring: in_use,
            certificates: certificates.map(|certificates| (certificates, watched)),
            acme,
            _data_dir: data_dir,
        })
    }

    /// Serves until a signal ends it.
    async fn run(&self, signals: &mut Signals) -> Result<()> {
        let api = self.api.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Signals { end, interrupt, hangup } = signals;
        let ended = async {
            either(end, interrupt).await;
            if !self.drain.is_zero() {
                tokio::select! {
                    () = self.membership.drain(self.drain) => {}
                    () = either(end, interrupt) => {}
                }
            }
            tracing::info!("ending");
        };
        let serving = async {
            match (&self.control, api) {
                (Some(control), Some(api)) => {
                    let served = control.serve(api, self.api_tls.clone(), ended).await;
                    served.context("the API ended by itself")
                }
                _ => tokio::select! {
                    () = ended => Ok(()),
                    never = self.feed.run() => never,
                },
            }
        };
        tokio::select! {
            served = serving => served,
            never = self.watch_files(hangup) => never,
            never = self.keep_books() => never,
            never = self.obtain_certificates() => never,
            never = self.membership.run(self.control.as_ref()) => never,
            never = self.tell_of_itself() => never,
            never = self.admission.watch(&self.feed, &self.relay, self.max_feed_age) => never,
        }
    }

    /// Serves health and metrics beside the API.
    async fn tell_of_itself(&self) -> ! {
        let observed = self.observed.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((observed, listener)) = observed
            && let Err(error) = observed.serve(listener).await
        {
            tracing::error!(error = &error as &dyn std::error::Error, "health and metrics are not served");
        }
        std::future::pending().await
    }

    async fn obtain_certificates(&self) -> ! {
        match &self.acme {
            Some(acme) => acme.run().await,
            None => std::future::pending().await,
        }
    }

    async fn keep_books(&self) -> ! {
        let keep = Box::pin(async { self.books.lock().await.keep(|most| self.relay.reports(most)).await });
        let tidy = Box::pin(async {
            match &self.retention {
                Some(retention) => usage::tidy(&self.store, *retention).await,
                None => std::future::pending().await,
            }
        });
        tokio::select! {
            never = keep => never,
            never = tidy => never,
        }
    }

    /// Puts a changed keyring and changed certificates to use. What cannot be read is logged, and what is in use stays.
    async fn watch_files(&self, hangup: &mut Signal) -> ! {
        let mut seen_certificates = self.certificates.as_ref().map(|(_, watched)| watched.stamp.clone());
        let mut warned_at = Instant::now();
        loop {
            let asked = tokio::select! {
                () = tokio::time::sleep(FILES_POLL) => false,
                _ = hangup.recv() => true,
            };
            if let (Some((certificates, watched)), Some(seen)) = (&self.certificates, &mut seen_certificates)
            {
                let stamp = watched.files.stamp();
                if (stamp != *seen || asked) && !watched.files.is_empty() {
                    *seen = stamp;
                    use_certificates(certificates, &watched.files);
                    warned_at = Instant::now();
                } else if warned_at.elapsed() >= WARNING_INTERVAL {
                    warn_of_certificates(certificates);
                    warned_at = Instant::now();
                }
            }
            if self.keyring.look(asked).await {
                self.membership.tell_of_keyring(self.keyring.version().await);
                self.keyring.reseal().await;
            }
        }
    }

    async fn stop(self) {
        let relay = self.relay.clone();
        // Joins threads, which are about to end.
        match tokio::task::spawn_blocking(move || relay.stop()).await {
            Ok(last) => {
                let books = self.books.into_inner();
                finish(books, last).await;
            }
            Err(_) => tracing::error!("the relay did not end in order"),
        }
        if let Some(acme) = &self.acme {
            acme.stop().await;
        }
        self.membership.end().await;
        self.store.close().await;
        tracing::info!("ended");
    }
}

/// The store, and the keyring, which may be there.
async fn open_store(settings: &Settings, source: &KeyringSource, dir: &Path) -> Result<(Store, Read)> {
    let early = source.early(settings.role)?;
    let store = source.follow(Store::open(&settings.place.store_url(dir)).await?);
    let read = match early {
        Some(read) => {
            look_beside(&store).await?;
            read
        }
        None => source.open_or_make(&store, (settings.role, &settings.node_name)).await?,
    };
    Ok((store, read))
}

/// Of a node that has a keyring of its own: whether the store has one, too, that others may mint with already.
async fn look_beside(store: &Store) -> Result<()> {
    if let Some(mark) = keyring_store::beside(store).await? {
        ensure!(
            mark.version <= 1,
            "this node has a keyring of its own, but that in the store was changed meanwhile, its version {}, and what is minted \
             with one may be refused with the other: give --keyring-in-store and its key, and move keyring.toml away or unset \
             {KEYRING_VARIABLE}; or delete the row of sealed_keyring to have it elsewhere",
            mark.version
        );
        tracing::warn!(
            "the store has a keyring, too, and this node its own: give it --keyring-in-store before that is rotated"
        );
    }
    Ok(())
}

/// Where TURN clients come in; on DTLS by default only if that can be spoken.
fn turn_listeners(settings: &Settings, has_dtls: bool) -> Result<Vec<Listener>> {
    let mut listeners = settings.turn_listen.clone();
    listeners.extend(settings.dtls_listen.filter(|_| has_dtls));
    if let Some(listener) = listeners.iter().find(|it| it.transport == Transport::Dtls) {
        ensure!(has_dtls, "{listener} needs a certificate with an ECDSA key: give it with --tls-cert");
    }
    Ok(listeners)
}

fn tell_of_discovery(bound: &Bound) {
    for discovery in bound.discovery() {
        let sources: Vec<String> =
            discovery.sources.concat().iter().map(|it| it.public.to_string()).collect();
        tracing::info!(from = %sources.join(","), "NAT behaviour discovery is offered");
    }
}

/// What the settings say of the API, and what is asked of the relay.
fn configure(config: &mut control::Config, settings: &Settings, relay: &RelayHandle) {
    settings.api.apply(config);
    let for_check = relay.clone();
    config.checks.push(Check::new("relay", move || for_check.is_whole()));
    config.metrics_token.clone_from(&settings.metrics_token);
    config.https = settings.api_tls;
    config.metrics.register(RelayMetrics(relay.clone()));
}

/// What is told beside the API.
fn observed(
    settings: &Settings,
    (store, feed): (&Store, &Feed),
    checks: Vec<Check>,
    metrics: Metrics,
) -> Observed {
    let (store, feed) = (store.clone(), feed.clone());
    Observed { store, feed, checks, metrics, metrics_token: settings.metrics_token.clone() }
}

/// What the dashboard tells of this process.
fn about(settings: &Settings, listeners: &[Listener], certificates: Option<Arc<Certificates>>) -> About {
    let mut about = About::default();
    about.version = env!("CARGO_PKG_VERSION");
    about.node.clone_from(&settings.node_name);
    about.listeners = listeners.iter().map(Listener::to_string).collect();
    if let Some(certificates) = certificates {
        about.ask_certificate_expiry(move || certificates.soonest_expiry());
    }
    about
}

/// Records the last of every session.
async fn finish(mut books: Books, last: Reports) {
    // What waits first: a later report of the same session is put in its place.
    books.add(last);
    books.record().await;
}

/// The signals that mean something to the service.
struct Signals {
    end: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            end: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn end(&mut self) {
        either(&mut self.end, &mut self.interrupt).await;
    }
}

async fn either(one: &mut Signal, other: &mut Signal) {
    tokio::select! {
        _ = one.recv() => {}
        _ = other.recv() => {}
    }
}

fn relay_config(settings: &Settings, keyring: &Keyring) -> relay::Config {
    relay::Config {
        listeners: settings.turn_listen.clone(),
        alternates: settings.alternates.clone(),
        workers: settings.workers,
        turn: turn::Config {
            realm: settings.realm.clone(),
            relay_addresses: settings.relay_addresses.clone(),
            policy: settings.policy.clone(),
            strict_channels: settings.strict_channels,
            mobility: settings.mobility,
            tcp_relay: settings.tcp_relay,
            offer_password_algorithms: settings.offer_sha256,
            key_limits: settings.key_limits,
            stranger_limit: settings.stranger_limit,
            username_lifetime_secs: settings.username_lifetime_secs,
            ..turn::Config::default()
        },
        relay_ports: settings.relay_ports,
        keyring: Arc::new(keyring.clone()),
        proxies: settings.proxies.clone(),
        tls: None,
        stream_limits: StreamLimits::default(),
        dtls: None,
        dtls_limits: DtlsLimits::default(),
    }
}

fn ice_urls(settings: &Settings, bound: &Bound) -> IceUrls {
    if let Some(chosen) = &settings.ice {
        return chosen.clone();
    }
    let transport = |listener: &Listener| match listener.transport {
        Transport::Udp => IceTransport::Udp,
        Transport::Tcp => IceTransport::Tcp,
        Transport::Tls => IceTransport::Tls,
        Transport::Dtls => IceTransport::Dtls,
    };
    let open: Vec<_> = bound.listeners().iter().map(|it| (transport(it), it.address.port())).collect();
    IceUrls::new(&settings.public_host, &open)
}

fn warn(settings: &Settings, keyring_source: &KeyringSource, certificates: Option<&Certificates>) {
    if let Some(certificates) = certificates {
        warn_of_certificates(certificates);
        if certificates.dtls().is_none() {
            tracing::warn!("no certificate has an ECDSA key on P-256 or P-384: DTLS is not spoken");
        }
    }

    for warning in &settings.warnings {
        tracing::warn!("{warning}");
    }
    if settings.dev {
        tracing::warn!("--dev lets peers on loopback and private networks be reached; not for production");
    }
    if let Some(path) = keyring_source.exposed() {
        let what =
            if matches!(keyring_source, KeyringSource::Store(_)) { "key of the keyring" } else { "keyring" };
        tracing::warn!("others than its owner may read the {what} {}; chmod 600 it", path.display());
    }
    if settings.role == Role::All && !settings.api_listen.ip().is_loopback() && !settings.api_tls {
        tracing::warn!(
            "the API is served without TLS on {}; give https:// to --api-listen, or put a reverse proxy before it",
            settings.api_listen
        );
    }
}

fn join(listeners: &[Listener]) -> String {
    listeners.iter().map(Listener::to_string).collect::<Vec<_>>().join(",")
}
