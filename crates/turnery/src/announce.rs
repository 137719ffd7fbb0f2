//! What people read on standard output before the ready line, and the ready line itself.

use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result};
use control::IceUrls;
use control::store::{AccountId, Bootstrapped, TurnKey};
use credentials::Credential;
use relay::Listener;
use serde_json::json;

/// Where the API is served.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Api {
    pub(crate) address: SocketAddr,
    /// Whether within TLS.
    pub(crate) tls: bool,
}

impl fmt::Display for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", if self.tls { "https" } else { "http" }, self.address)
    }
}

/// What was made on the first start.
#[derive(Debug)]
pub(crate) struct FirstStart<'a> {
    pub(crate) made: &'a Bootstrapped,
    /// Whether the operator chose the token: then it need not be told.
    pub(crate) token_was_given: bool,
}

/// What `--dev` adds.
#[derive(Debug)]
pub(crate) struct Trial<'a> {
    pub(crate) account: &'a AccountId,
    pub(crate) key: &'a TurnKey,
    /// `None` when the key was made by an earlier start.
    pub(crate) secret: Option<&'a str>,
    pub(crate) credential: &'a Credential,
    pub(crate) ice: &'a IceUrls,
    /// Where the data is, and whether it goes with the process.
    pub(crate) data_dir: &'a Path,
    pub(crate) is_temporary: bool,
}

/// Writes the announcement.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn people(api: Api, first: Option<&FirstStart<'_>>, trial: Option<&Trial<'_>>) -> Result<()> {
    let base = base_url(api);
    let mut text = String::new();
    if let Some(first) = first {
        write_first_start(&mut text, first, &base)?;
    }
    if first.is_some() || trial.is_some() {
        writeln!(text, "The dashboard, to sign in with the API token: {base}/dashboard\n")?;
    }
    if let Some(trial) = trial {
        write_trial(&mut text, trial, first, &base)?;
    }
    print(&text)
}

/// Writes the line that says that every listener is open.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn ready(api: Option<Api>, listeners: &[Listener]) -> Result<()> {
    let api = api.map_or_else(|| "none".to_owned(), |api| api.to_string());
    let turn: Vec<String> = listeners.iter().map(Listener::to_string).collect();
    print(&format!("ready api={api} turn={}\n", turn.join(",")))
}

fn print(text: &str) -> Result<()> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).context("cannot write to standard output")
}

/// Where a program on this machine reaches the API.
fn base_url(mut api: Api) -> String {
    if api.address.ip().is_unspecified() {
        api.address.set_ip(match api.address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    api.to_string()
}

fn write_first_start(text: &mut String, first: &FirstStart<'_>, base: &str) -> Result<()> {
    let account = &first.made.account.id;
    if first.token_was_given {
        write!(
            text,
            "First start: an account and an API token were made.\n\
             \n  account    {account}\n  API token  as given in TURNERY_BOOTSTRAP_TOKEN\n\n"
        )?;
        return Ok(());
    }
    let token = first.made.token.text.as_str();
    write!(
        text,
        "First start: an account and an API token were made. The token is shown once, now; keep it.\n\
         \n  account    {account}\n  API token  {token}\n\n\
         Make a TURN key with it:\n\
         \n  curl -sX POST {base}/client/v4/accounts/{account}/calls/turn_keys \\\n    \
         -H 'Authorization: Bearer {token}' -d '{{\"name\":\"first\"}}'\n\n"
    )?;
    Ok(())
}

fn write_trial(
    text: &mut String,
    trial: &Trial<'_>,
    first: Option<&FirstStart<'_>>,
    base: &str,
) -> Result<()> {
    let uid = trial.key.uid;
    if first.is_none() {
        writeln!(text, "Account {}; its API token was shown on the first start.\n", trial.account)?;
    }
    if let Some(secret) = trial.secret {
        write!(
            text,
            "A first TURN key. Its secret is shown once, now; keep it.\n\
             \n  key id     {uid}\n  secret     {secret}\n\n\
             Mint a credential with it:\n\
             \n  curl -sX POST {base}/v1/turn/keys/{uid}/credentials/generate-ice-servers \\\n    \
             -H 'Authorization: Bearer {secret}' -d '{{\"ttl\":3600}}'\n\n"
        )?;
    } else {
        writeln!(text, "TURN key {uid}; its secret was shown when it was made.\n")?;
    }
    writeln!(text, "For an RTCPeerConnection:\n\n  {}\n", ice_servers(trial.ice, trial.credential))?;
    let dir = trial.data_dir.display();
    if trial.is_temporary {
        writeln!(text, "Data is in {dir} and is removed at the end; keep it with --data-dir.")?;
    } else {
        writeln!(text, "Data is in {dir}.")?;
    }
    writeln!(
        text,
        "--dev: peers on loopback and private networks can be reached through this relay, and whoever opens the try \
         page gets a credential. Not for production."
    )?;
    writeln!(text, "\nTry it: {base}/try\n")?;
    Ok(())
}

/// The form of `generate-ice-servers`: the STUN URLs by themselves, then the TURN URLs with the credential.
fn ice_servers(ice: &IceUrls, credential: &Credential) -> String {
    let mut servers = Vec::new();
    if !ice.stun.is_empty() {
        servers.push(json!({ "urls": ice.stun }));
    }
    servers.push(json!({
        "urls": ice.turn, "username": credential.username, "credential": credential.password,
    }));
    json!({ "iceServers": servers }).to_string()
}
