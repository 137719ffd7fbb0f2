//! The service that is asked, and how.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, ensure};
use arc_swap::ArcSwap;
use control::store::{AccountId, Permission, Store, Timestamp};
use control::{Config, Control, IceTransport, IceUrls};
use credentials::Keyring;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

/// The API and the dashboard, on loopback.
pub(crate) struct Service {
    pub(crate) store: Store,
    pub(crate) account: AccountId,
    address: SocketAddr,
    token: String,
    cookie: String,
}

impl Service {
    /// Makes the account that is asked about.
    pub(crate) async fn start(store: Store) -> anyhow::Result<Self> {
        let made = store.bootstrap(None, None).await?.context("the store is not empty")?;
        Self::of(store, made.account.id).await
    }

    /// The service of an account that is there.
    pub(crate) async fn of(store: Store, account: AccountId) -> anyhow::Result<Self> {
        let token = store.create_token(&account, "bench", Permission::Write, None, None).await?;
        let keyring = Arc::new(ArcSwap::from_pointee(Keyring::generate(Timestamp::now().unix_secs())?));
        let config = Config::new(IceUrls::new("turn.example", &[(IceTransport::Udp, 3478)]));
        let control = Control::new(config, store.clone(), keyring).await?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        tokio::spawn(async move { control.serve(listener, None, std::future::pending()).await });
        let token = token.text.as_str().to_owned();
        let mut service = Self { store, account, address, token, cookie: String::new() };
        service.cookie = service.sign_in().await?;
        Ok(service)
    }

    async fn sign_in(&self) -> anyhow::Result<String> {
        let body = format!("token={}", self.token);
        let head = "POST /dashboard/sign-in HTTP/1.1\r\nSec-Fetch-Site: same-origin\r\n\
                    Content-Type: application/x-www-form-urlencoded";
        let answer = self.exchange(head, &body).await?;
        let line = answer.lines().find_map(|line| line.strip_prefix("set-cookie: "));
        let cookie = line.and_then(|line| line.split(';').next());
        Ok(cookie.with_context(|| answer.clone())?.to_owned())
    }

    /// A page of the dashboard.
    pub(crate) async fn page(&self, path: &str) -> anyhow::Result<String> {
        self.get(path, &format!("Cookie: {}", self.cookie)).await
    }

    /// A resource of the account's API, from behind the account on.
    pub(crate) async fn resource(&self, path: &str) -> anyhow::Result<String> {
        let path = format!("/client/v4/accounts/{}/calls/{path}", self.account);
        self.get(&path, &format!("Authorization: Bearer {}", self.token)).await
    }

    async fn get(&self, path: &str, header: &str) -> anyhow::Result<String> {
        let answer = self.exchange(&format!("GET {path} HTTP/1.1\r\n{header}"), "").await?;
        body(&answer)
    }

    pub(crate) async fn graphql(&self, document: &str) -> anyhow::Result<String> {
        let head = format!("POST /client/v4/graphql HTTP/1.1\r\nAuthorization: Bearer {}", self.token);
        let asked = serde_json::json!({ "query": document }).to_string();
        let answer = body(&self.exchange(&head, &asked).await?)?;
        ensure!(answer.contains("\"errors\":null"), "{document}: {answer}");
        Ok(answer)
    }

    async fn exchange(&self, head: &str, body: &str) -> anyhow::Result<String> {
        let Self { address, .. } = self;
        let text = format!(
            "{head}\r\nHost: {address}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(text.as_bytes()).await?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await?;
        Ok(String::from_utf8(answer)?)
    }
}

fn body(answer: &str) -> anyhow::Result<String> {
    let (head, body) = answer.split_once("\r\n\r\n").context("no answer")?;
    ensure!(head.starts_with("HTTP/1.1 200"), "{answer}");
    Ok(body.to_owned())
}
