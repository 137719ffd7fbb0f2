//! `turnery key roll`, `suspend`, `resume`, `status` and `revocations`.

use anyhow::{Context, Result};
use control::store::{KeyState, Revoked, Stop, Store, Timestamp};
use credentials::TurnKeyId;

use super::with;
use crate::cli::{Output, Owner};
use crate::table::{printable, table};

pub(super) async fn roll(
    store: &Store,
    uid: TurnKeyId,
    overlap_secs: u32,
    (owner, output): (Owner, Output),
) -> Result<()> {
    let account = owner.resolve(store).await?;
    let made = store.roll_key(&account, uid, overlap_secs).await?;
    let made = made.with_context(|| format!("account {account} has no TURN key {uid}"))?;
    let secret = made.secret.as_str();
    let former = match overlap_secs {
        0 => "The former one is refused from now on.".to_owned(),
        secs => format!("The former one stays good for {secs} seconds."),
    };
    output.show(&with(&made.key, &[("key", secret), ("secret", secret)])?, || {
        format!(
            "uid     {uid}\nsecret  {secret}\n\nThe secret is shown this once and can never be read again. {former}\n"
        )
    })
}

pub(super) async fn suspend(
    store: &Store,
    uid: TurnKeyId,
    suspended: bool,
    (owner, output): (Owner, Output),
) -> Result<()> {
    let account = owner.resolve(store).await?;
    let state = store.suspend_key(&account, uid, suspended).await?;
    let state = state.with_context(|| format!("account {account} has no TURN key {uid}"))?;
    let text = if suspended { "is suspended; its credentials are refused" } else { "is in use again" };
    output.show(&state, || format!("TURN key {uid} {text}.\n"))
}

pub(super) async fn status(store: &Store, uid: TurnKeyId, (owner, output): (Owner, Output)) -> Result<()> {
    let account = owner.resolve(store).await?;
    let state = store.key_state(&account, uid).await?;
    let state = state.with_context(|| format!("account {account} has no TURN key {uid}"))?;
    output.show(&state, || shown(&state))
}

fn shown(state: &KeyState) -> String {
    let time =
        |time: Option<Timestamp>, none: &str| time.map_or_else(|| none.to_owned(), |it| it.to_string());
    format!(
        "suspended since      {}\nformer secret until  {}\nmonthly limit        {}\n",
        time(state.suspended_since, "not suspended"),
        time(state.former_secret_until, "not accepted"),
        match state.stopped {
            None => "stops nothing",
            Some(Stop::Refuse) => "refuses new allocations",
            Some(Stop::Cut) => "has cut the key",
        }
    )
}

pub(super) async fn revocations(
    store: &Store,
    uid: TurnKeyId,
    (owner, output): (Owner, Output),
) -> Result<()> {
    let account = owner.resolve(store).await?;
    let key = store.key(&account, uid).await?;
    key.with_context(|| format!("account {account} has no TURN key {uid}"))?;
    let revoked = store.revocations(uid, None, 1_000).await?;
    let row = |it: &Revoked| {
        let what = match (&it.credential_id, &it.issued_before) {
            (Some(id), _) => id.clone(),
            (None, Some(before)) => format!("issued before {before}"),
            (None, None) => "-".to_owned(),
        };
        let identifier = it.identifier.as_deref().map_or_else(|| "-".to_owned(), printable);
        [it.created.to_string(), it.kind.to_owned(), what, identifier, it.until.to_string()]
    };
    let rows: Vec<_> = revoked.iter().map(row).collect();
    let headings = ["REVOKED", "KIND", "WHAT", "CUSTOM IDENTIFIER", "KEPT UNTIL"];
    output.show(&revoked, || table(headings, &rows, "Nothing is revoked."))
}
