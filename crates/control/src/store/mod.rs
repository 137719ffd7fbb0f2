//! The store: accounts, API tokens, TURN keys and the denials table.
//!
//! [`Store`] is one type whatever the database behind it. SQL lives only below this module: the statements in `sql`, what a
//! database does in its own way in a module of its name. Plaintext secrets are made here, handed out once, and only their SHA-256 is written; but for shared
//! secrets, which relays must know and which are written sealed by the keyring, and for that itself, sealed by a key that
//! the database never has.
//!
//! What every database behind it must keep:
//! - a call that returned `Ok` is durable;
//! - a key's deletion and its denial are one transaction, and so is an account's with those of its keys;
//! - `denials.seq` grows in the order of commits, so a reader that remembers the last one misses none.

/// Calls the same method on whichever database is behind the store.
macro_rules! on_backend {
    ($store:expr, $db:ident => $call:expr) => {
        match &$store.backend {
            Backend::Sqlite($db) => $call.await,
            Backend::Postgres($db) => crate::store::postgres::in_time(Box::pin($call)).await,
        }
    };
}

/// The same for what tidies up, and may take its time.
macro_rules! on_backend_for_long {
    ($store:expr, $db:ident => $call:expr) => {
        match &$store.backend {
            Backend::Sqlite($db) => $call.await,
            Backend::Postgres($db) => crate::store::postgres::in_long_time(Box::pin($call)).await,
        }
    };
}

pub mod acme;
pub mod analytics;
mod answers;
mod audit;
mod backoff;
mod clock;
mod copy;
mod duty;
mod error;
mod key_limits;
mod key_state;
mod keyring;
mod month_limits;
mod nodes;
mod postgres;
mod revocations;
mod secret;
mod shared_secrets;
mod sign_ins;
mod spans;
mod sqlite;
mod types;
pub mod usage;
mod waker;
mod webhooks;

pub use answers::{ANSWER_LIFETIME_SECS, Answer, MAX_ANSWERS};
pub use audit::{Actor, ActorKind, AuditEntry, AuditQuery, MAX_AUDIT_ROWS};
pub(crate) use backoff::{Backoff, part_of};
pub use copy::Copied;
pub use error::StoreError;
pub use key_limits::KeyLimits;
pub(crate) use key_state::Settings;
pub use key_state::{KeyState, MAX_OVERLAP_SECS};
pub use keyring::{KeyringChange, KeyringMark, SealedKeyring};
pub use month_limits::{MAX_THRESHOLDS, MonthAction, MonthBytes, MonthLimit, MonthStatus, Stop};
pub use nodes::{KnownNode, MAX_NODE_WEIGHT, MAX_NODES, NodeReport, NodeState};
pub use revocations::{MAX_IDENTIFIER_RULES_OF_KEY, Revocation, Revoked};
pub use secret::{SecretHash, TokenText};
pub use sign_ins::{MAX_SIGN_INS_OF_TOKEN, NewSignIn};
pub(crate) use types::FeedEnds;
pub use types::{
    Account, AccountId, ApiToken, Bootstrapped, FeedEntry, KeyRecord, NewKey, NewSharedSecret, NewToken,
    Permission, Resealed, SettingChange, StoredSecret, Timestamp, TokenId, TokenStatus, TurnKey, TypeError,
};
pub use waker::Looks;
pub(crate) use waker::{Ear, Waker};

pub use webhooks::{
    DEAD_LIFETIME_SECS, DELIVERY_LIFETIME_SECS, Delivery, EVENTS, MAX_DELIVERIES, MAX_WEBHOOKS, NewWebhook,
    Webhook,
};

use std::sync::Arc;
use std::time::Duration;

use credentials::{MAX_TTL_SECS, TurnKeyId};
use serde_json::json;
use tokio::sync::Semaphore;

use analytics::QUESTIONS_AT_ONCE;
use audit::Change;
use clock::Clock;
use duty::Duty;
use keyring::SeenKeyring;

/// Most TURN keys an account may have unless the store is told otherwise.
pub const DEFAULT_KEYS_PER_ACCOUNT: u32 = 1_000;

/// Most shared secrets a TURN key may have: a few, for rotation.
pub const MAX_SHARED_SECRETS_OF_KEY: usize = 8;

/// Most shared secrets of all TURN keys: a relay that does not know which one signed a username tries them all.
pub const MAX_SHARED_SECRETS: usize = 1_000;

/// How often it is tried to delete an account whose usage is being recorded.
const DELETION_TRIES: u32 = 5;

/// Added to the time for which a deleted key is denied. Another process may mint with the key until it has read
/// the denial, or as long as it mints although it is cut off, and its clock may be a little ahead.
const KEY_DENIAL_MARGIN_SECS: u64 = 3_600;

/// The accounts, tokens, keys and denials of a deployment. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Store {
    backend: Backend,
    keys_per_account: u32,
    clock: Clock,
    /// Whoever the changes are made for.
    actor: Arc<Actor>,
    waker: Arc<Waker>,
    duty: Arc<Duty>,
    seen_keyring: SeenKeyring,
    /// Given out to who asks about usage.
    questions: Arc<Semaphore>,
}

#[derive(Debug, Clone)]
enum Backend {
    Sqlite(sqlite::Database),
    Postgres(postgres::Database),
}

impl Store {
    /// Opens the store at `sqlite:PATH`, making the file (readable by its owner only), or the one at
    /// `postgres://USER@HOST/DATABASE`, and brings its tables up to date when needed.
    ///
    /// # Errors
    /// One that names the store, without a password, and what to do: see [`StoreError`].
    pub async fn open(url: &str) -> Result<Self, StoreError> {
        let backend = if let Some(rest) = url.strip_prefix("sqlite:") {
            let path = rest.strip_prefix("//").unwrap_or(rest);
            if path.is_empty() || path.starts_with(':') {
                return Err(StoreError::NoPath { url: url.to_owned() });
            }
            Backend::Sqlite(sqlite::Database::open(path.as_ref()).await?)
        } else if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            Backend::Postgres(postgres::Database::open(url).await?)
        } else {
            return Err(StoreError::Scheme { url: scheme(url) });
        };
        let actor = Arc::new(Actor::service());
        let (clock, waker) = (Clock::default(), Arc::default());
        let (keys_per_account, duty) = (DEFAULT_KEYS_PER_ACCOUNT, Arc::default());
        let seen_keyring = SeenKeyring::default();
        let questions = Arc::new(Semaphore::new(QUESTIONS_AT_ONCE));
        Ok(Self { backend, keys_per_account, clock, actor, waker, duty, seen_keyring, questions })
    }

    /// What the store at this URL is called where it is told of: it has no password.
    pub fn name(url: &str) -> Result<String, StoreError> {
        if url.starts_with("postgres") { postgres::name(url) } else { Ok(url.to_owned()) }
    }

    /// The same store, with another limit of TURN keys in an account.
    #[must_use]
    pub fn with_keys_per_account(mut self, limit: u32) -> Self {
        self.keys_per_account = limit;
        self
    }

    /// Finishes what is being written and closes the database.
    pub async fn close(&self) {
        match &self.backend {
            Backend::Sqlite(db) => db.close().await,
            Backend::Postgres(db) => db.close().await,
        }
    }

    /// On a store without any account makes the first one and an API token for it with Calls Write, both or
    /// neither. `None` when there is an account already.
    pub async fn bootstrap(
        &self,
        account: Option<AccountId>,
        token: Option<TokenText>,
    ) -> Result<Option<Bootstrapped>, StoreError> {
        let account = new_account(account, "default")?;
        let token = new_token(&account.id, "bootstrap", Permission::Write, None, token)?;
        let notes = [
            self.note(
                Change::AccountCreated,
                Some(&account.id),
                &account.id,
                json!({ "name": account.name }),
            ),
            self.token_note(&token.token),
        ];
        let made = on_backend!(self, db => db.bootstrap(&account, &token.token, &token.text.hash(), &notes))?;
        Ok(made.then_some(Bootstrapped { account, token }))
    }

    /// Whether no account was ever made (or all are deleted).
    pub async fn is_empty(&self) -> Result<bool, StoreError> {
        on_backend!(self, db => db.is_empty())
    }

    /// Makes an account; its id is made up where none is given.
    pub async fn create_account(&self, id: Option<AccountId>, name: &str) -> Result<Account, StoreError> {
        let account = new_account(id, name)?;
        let note = self.note(Change::AccountCreated, Some(&account.id), &account.id, json!({ "name": name }));
        on_backend!(self, db => db.insert_account(&account, &note))?;
        Ok(account)
    }

    /// All accounts, oldest first.
    pub async fn accounts(&self) -> Result<Vec<Account>, StoreError> {
        on_backend!(self, db => db.accounts())
    }

    /// The account with this id.
    pub async fn account(&self, id: &AccountId) -> Result<Option<Account>, StoreError> {
        on_backend!(self, db => db.account(id))
    }

    /// Deletes an account, its API tokens and its keys, and denies every credential of those keys. `None` when
    /// there is no such account. The tokens and keys go first, together with the denials; then, by and by, the usage, so
    /// that nobody waits for it; the account last. Where this fails in between, it is done again.
    pub async fn delete_account(&self, id: &AccountId) -> Result<Option<Account>, StoreError> {
        let note = self.note(Change::AccountDeleted, Some(id), id, json!({}));
        if !on_backend!(self, db => db.close_account(id, self.key_denied_until(), &note))? {
            return Ok(None);
        }
        let mut conflicts = 0;
        loop {
            let step = async || on_backend_for_long!(self, db => db.forget_usage_of(id));
            let delete = async || on_backend!(self, db => db.delete_account(id));
            let done = match step().await {
                Ok(true) => delete().await.map(Some),
                Ok(false) => Ok(None),
                Err(error) => Err(error),
            };
            match done {
                Ok(Some(account)) => {
                    // What somebody has summed up meanwhile.
                    while !step().await? {}
                    return Ok(account);
                }
                Ok(None) => {}
                // Usage is being recorded or summed up: either that or the deletion gives way.
                Err(StoreError::Conflict(_)) if conflicts < DELETION_TRIES => conflicts += 1,
                Err(error) => return Err(error),
            }
        }
    }

    /// Makes an API token. `text` fixes what it reads; otherwise it is 40 random characters.
    pub async fn create_token(
        &self,
        account: &AccountId,
        name: &str,
        permission: Permission,
        expires_on: Option<Timestamp>,
        text: Option<TokenText>,
    ) -> Result<NewToken, StoreError> {
        let token = new_token(account, name, permission, expires_on, text)?;
        let note = self.token_note(&token.token);
        on_backend!(self, db => db.insert_token(&token.token, &token.text.hash(), &note))?;
        Ok(token)
    }

    fn token_note(&self, token: &ApiToken) -> audit::Note {
        let details =
            json!({ "name": token.name, "permission": token.permission, "expires_on": token.expires_on });
        self.note(Change::TokenCreated, Some(&token.account), &token.id, details)
    }

    /// An account's API tokens, oldest first.
    pub async fn tokens(&self, account: &AccountId) -> Result<Vec<ApiToken>, StoreError> {
        on_backend!(self, db => db.tokens(account))
    }

    /// The API token with this text. It may be expired or disabled: see [`ApiToken::is_active`].
    pub async fn token_with_text(&self, text: &str) -> Result<Option<ApiToken>, StoreError> {
        let hash = SecretHash::of(text.as_bytes());
        on_backend!(self, db => db.token_with_hash(&hash))
    }

    /// Deletes an API token. `None` when there is no such token.
    pub async fn delete_token(&self, id: &TokenId) -> Result<Option<ApiToken>, StoreError> {
        let note = self.note(Change::TokenDeleted, None, id, json!({}));
        on_backend!(self, db => db.delete_token(id, note))
    }

    /// Makes a TURN key. Its secret is in the answer and can never be read again.
    pub async fn create_key(&self, account: &AccountId, name: &str) -> Result<NewKey, StoreError> {
        self.create_key_once(account, name, |_| Ok(None)).await
    }

    /// The same, and keeps what it is answered with.
    ///
    /// # Errors
    /// [`StoreError::AnsweredAlready`] when there is such an answer; then no key is made.
    pub async fn create_key_once(
        &self,
        account: &AccountId,
        name: &str,
        answer: impl FnOnce(&NewKey) -> Result<Option<Answer>, StoreError>,
    ) -> Result<NewKey, StoreError> {
        let now = Timestamp::now();
        let uid = TurnKeyId::from_bytes(secret::random_bytes()?);
        let key = TurnKey { uid, name: name.to_owned(), created: now, modified: now };
        let secret = secret::key_secret()?;
        let record = KeyRecord {
            account: account.clone(),
            secret_hash: SecretHash::of(secret.as_bytes()),
            former: None,
            suspended: false,
            stopped: None,
        };
        let note = self.note(Change::KeyCreated, Some(account), &uid, json!({ "name": name }));
        let made = NewKey { key, record, secret };
        let with = (&note, answer(&made)?);
        let NewKey { key, record, .. } = &made;
        on_backend!(self, db => db.insert_key(key, record, self.keys_per_account, with))?;
        Ok(made)
    }

    /// An account's TURN keys, oldest first.
    pub async fn keys(&self, account: &AccountId) -> Result<Vec<TurnKey>, StoreError> {
        on_backend!(self, db => db.keys(account))
    }

    /// One TURN key of an account.
    pub async fn key(&self, account: &AccountId, uid: TurnKeyId) -> Result<Option<TurnKey>, StoreError> {
        on_backend!(self, db => db.key(account, uid))
    }

    /// Gives a TURN key another name. `None` when the account has no such key.
    pub async fn rename_key(
        &self,
        account: &AccountId,
        uid: TurnKeyId,
        name: &str,
    ) -> Result<Option<TurnKey>, StoreError> {
        let note = self.note(Change::KeyRenamed, Some(account), &uid, json!({ "name": name }));
        on_backend!(self, db => db.rename_key(account, uid, name, &note))
    }

    /// Deletes a TURN key and denies every credential that it minted. `None` when the account has no such key.
    pub async fn delete_key(
        &self,
        account: &AccountId,
        uid: TurnKeyId,
    ) -> Result<Option<TurnKey>, StoreError> {
        let note = self.note(Change::KeyDeleted, Some(account), &uid, json!({}));
        on_backend!(self, db => db.delete_key(account, uid, self.key_denied_until(), &note))
    }

    /// What the credential API must know of every TURN key.
    pub async fn key_records(&self) -> Result<Vec<(TurnKeyId, KeyRecord)>, StoreError> {
        on_backend!(self, db => db.key_records())
    }

    /// What the credential API must know of one TURN key.
    pub async fn key_record(&self, uid: TurnKeyId) -> Result<Option<KeyRecord>, StoreError> {
        on_backend!(self, db => db.key_record(uid))
    }

    /// The TURN key with this secret.
    pub async fn key_with_secret(&self, secret: &str) -> Result<Option<(TurnKeyId, KeyRecord)>, StoreError> {
        let hash = SecretHash::of(secret.as_bytes());
        on_backend!(self, db => db.key_with_secret_hash(&hash))
    }

    /// The first `limit` denials after `seq` in the feed's order, expired ones too as long as they are kept.
    pub async fn denials_after(&self, seq: i64, limit: u32) -> Result<Vec<FeedEntry>, StoreError> {
        on_backend!(self, db => db.denials_after(seq, limit))
    }

    /// Where the feed's tables end now, and the first `limit` denials after `seq`.
    pub(crate) async fn feed_look(
        &self,
        seq: i64,
        limit: u32,
    ) -> Result<(FeedEnds, Vec<FeedEntry>), StoreError> {
        let asked = self.clock.own();
        let with_keyring = self.seen_keyring.is_followed();
        let (ends, page) = on_backend!(self, db => db.feed_look(seq, limit, with_keyring))?;
        self.seen_keyring.see(ends.keyring);
        if let Some(now) = ends.now {
            self.clock.learn(now, asked..=self.clock.own());
        }
        Ok((ends, page))
    }

    /// That what every node may read can be read.
    pub(crate) async fn expect_feed(&self) -> Result<(), StoreError> {
        self.feed_look(i64::MAX, 1).await.map(drop)
    }

    /// How many connections the feed has had, of a store to which there are some.
    pub(crate) fn feed_connections(&self) -> u64 {
        match &self.backend {
            Backend::Sqlite(_) => 0,
            Backend::Postgres(db) => db.feed_connections(),
        }
    }

    /// What tells the database from another in its place, where that can be seen.
    pub(crate) async fn history(&self) -> Result<String, StoreError> {
        match &self.backend {
            Backend::Sqlite(_) => Ok(String::new()),
            Backend::Postgres(db) => postgres::in_time(db.history()).await,
        }
    }

    /// What time it is for all nodes: the database's time, as the feed has seen it, or where the database has none this
    /// process's own.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The same store, for a process whose clock is so much ahead: for tests.
    #[doc(hidden)]
    #[must_use]
    pub fn with_clock_ahead(mut self, secs: i64) -> Self {
        self.clock = Clock::ahead(secs);
        self
    }

    /// Until when a key that is deleted now has to be denied.
    fn key_denied_until(&self) -> u64 {
        self.now().unix_secs() + u64::from(MAX_TTL_SECS) + KEY_DENIAL_MARGIN_SECS
    }

    /// Tells whoever listens with [`Store::ear`] or [`Store::looks`] that there may be something new, where the database says
    /// so, for as long as it is polled.
    pub(crate) async fn listen(&self) -> ! {
        let _until_it_ends = GiveUp(&self.waker);
        match &self.backend {
            Backend::Sqlite(db) => Box::pin(db.listen(&self.waker)).await,
            Backend::Postgres(db) => Box::pin(db.listen(&self.waker)).await,
        }
    }

    /// For who reads the feed.
    pub(crate) fn ear(&self) -> Ear {
        self.waker.ear()
    }

    /// For who looks at something else again and again, so often where changes are not told. They are while the feed is
    /// followed, of a database that tells of all of them.
    pub fn looks(&self, interval: Duration) -> Looks {
        let ear = match &self.backend {
            Backend::Sqlite(_) => Some(self.ear()),
            // It tells of the feed alone.
            Backend::Postgres(_) => None,
        };
        Looks::new(ear, None, interval)
    }

    /// The same for who looks for all nodes: of many, while [`Store::share_duty`] runs, mostly one does.
    pub(crate) fn looks_for_all(&self, interval: Duration) -> Looks {
        match &self.backend {
            Backend::Sqlite(_) => self.looks(interval),
            Backend::Postgres(_) => Looks::new(None, Some(self.duty.watch()), interval),
        }
    }

    /// Forgets the denials that are no longer needed at `now` (unix seconds); says how many.
    pub async fn purge_denials(&self, now: u64) -> Result<u64, StoreError> {
        on_backend_for_long!(self, db => db.purge_denials(now))
    }
}

/// Nobody is told any more.
struct GiveUp<'a>(&'a Waker);

impl Drop for GiveUp<'_> {
    fn drop(&mut self) {
        self.0.give_up();
    }
}

/// A URL as far as it holds no password: all of it where there can be none.
fn scheme(url: &str) -> String {
    url.split_once("://").map_or_else(|| url.to_owned(), |(scheme, _)| format!("{scheme}://"))
}

fn new_account(id: Option<AccountId>, name: &str) -> Result<Account, StoreError> {
    let id = match id {
        Some(id) => id,
        None => AccountId::from_bytes(secret::random_bytes()?),
    };
    Ok(Account { id, name: name.to_owned(), created_on: Timestamp::now() })
}

fn new_token(
    account: &AccountId,
    name: &str,
    permission: Permission,
    expires_on: Option<Timestamp>,
    text: Option<TokenText>,
) -> Result<NewToken, StoreError> {
    let text = match text {
        Some(text) => text,
        None => TokenText::random()?,
    };
    let token = ApiToken {
        id: TokenId::from_bytes(secret::random_bytes()?),
        account: account.clone(),
        name: name.to_owned(),
        permission,
        created_on: Timestamp::now(),
        expires_on,
        status: TokenStatus::Active,
    };
    Ok(NewToken { token, text })
}
