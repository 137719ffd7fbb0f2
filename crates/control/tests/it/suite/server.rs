//! A server on a real socket with a real store.

use std::net::SocketAddr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use control::store::{Account, Permission, Store, Timestamp};
use control::{Config, Control, IceTransport, IceUrls};
use credentials::Keyring;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::Place;
use crate::http::{Reply, Request, request};

pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    pub(crate) store: Store,
    pub(crate) keyring: Arc<ArcSwap<Keyring>>,
    pub(crate) control: Control,
    pub(crate) account: Account,
    /// With Calls Write.
    pub(crate) token: String,
    pub(crate) place: Place,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

pub(crate) fn config() -> Config {
    let listeners = [(IceTransport::Udp, 3478), (IceTransport::Tcp, 3478)];
    Config::new(IceUrls::new("turn.example", &listeners))
}

pub(crate) async fn server() -> Server {
    server_with(|_, _| {}, |store| store).await
}

/// A server whose configuration and store are changed first.
pub(crate) async fn server_with(
    configure: impl FnOnce(&mut Config, &Store),
    limit: impl FnOnce(Store) -> Store,
) -> Server {
    server_at("127.0.0.1:0".parse().unwrap(), configure, limit).await
}

/// The same, at this address.
pub(crate) async fn server_at(
    address: SocketAddr,
    configure: impl FnOnce(&mut Config, &Store),
    limit: impl FnOnce(Store) -> Store,
) -> Server {
    let place = Place::new();
    let store = limit(Store::open(&place.url()).await.unwrap());
    let made = store.bootstrap(None, None).await.unwrap().expect("an empty store");
    let keyring = Arc::new(ArcSwap::from_pointee(Keyring::generate(now()).unwrap()));
    let mut config = config();
    configure(&mut config, &store);
    let control = Control::new(config, store.clone(), Arc::clone(&keyring)).await.unwrap();
    let listener = TcpListener::bind(address).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let (stop, stopped) = oneshot::channel();
    let serving = control.clone();
    let task = tokio::spawn(async move {
        serving.serve(listener, None, async { drop(stopped.await) }).await.unwrap();
    });
    let token = made.token.text.as_str().to_owned();
    Server { addr, store, keyring, control, account: made.account, token, place, stop: Some(stop), task }
}

pub(crate) fn now() -> u64 {
    Timestamp::now().unix_secs()
}

impl Server {
    pub(crate) async fn send(&self, request: Request) -> Reply {
        request.send(self.addr).await
    }

    pub(crate) fn keys_path(&self) -> String {
        format!("/client/v4/accounts/{}/calls/turn_keys", self.account.id)
    }

    pub(crate) async fn token(&self, permission: Permission, expires_on: Option<Timestamp>) -> String {
        let token = self.store.create_token(&self.account.id, "", permission, expires_on, None);
        token.await.unwrap().text.as_str().to_owned()
    }

    /// A new key's uid and secret, made over HTTP.
    pub(crate) async fn key(&self) -> (String, String) {
        let reply = self.send(request("POST", self.keys_path()).bearer(&self.token)).await;
        let key = reply.success(201, "create a key");
        (key["uid"].as_str().unwrap().to_owned(), key["secret"].as_str().unwrap().to_owned())
    }

    /// Ends the server and waits for its end.
    pub(crate) async fn stop(mut self) {
        self.stop.take().unwrap().send(()).unwrap();
        self.task.await.unwrap();
    }
}
