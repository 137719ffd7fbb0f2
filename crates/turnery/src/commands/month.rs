//! `turnery key month-limit`.

use anyhow::{Context, Result, ensure};
use control::store::{MAX_THRESHOLDS, MonthAction, MonthBytes, MonthLimit, MonthStatus, Store};
use credentials::TurnKeyId;

use crate::cli::{MonthChange, Output, Owner};

const MOST_BYTES: u64 = 1 << 53;

pub(super) async fn limit(
    store: &Store,
    uid: TurnKeyId,
    change: MonthChange,
    (owner, output): (Owner, Output),
) -> Result<()> {
    let account = owner.resolve(store).await?;
    let held = store.month_limit(uid).await?.map(|status| status.limit);
    let key = store.key(&account, uid).await?;
    key.with_context(|| format!("account {account} has no TURN key {uid}"))?;
    let is_named = change.bytes.is_some()
        || change.counts.is_some()
        || change.action.is_some()
        || change.notify_at.is_some();
    ensure!(!change.clear || !is_named, "--clear takes the limit away: give it by itself");
    if change.clear || is_named {
        let limit = if change.clear { None } else { Some(changed(held, &change)?) };
        let is_set = store.set_month_limit(&account, uid, limit.as_ref()).await?;
        ensure!(is_set, "account {account} has no TURN key {uid}");
    }
    let status = store.month_limit(uid).await?;
    output.show(&status, || shown(status.as_ref()))
}

fn changed(held: Option<MonthLimit>, change: &MonthChange) -> Result<MonthLimit> {
    let bytes = change.bytes.map(|bytes| bytes.0.filter(|bytes| (1..=MOST_BYTES).contains(bytes)));
    let bytes =
        bytes.map(|bytes| bytes.with_context(|| format!("--bytes is 1 to {MOST_BYTES}"))).transpose()?;
    let notify_at = change.notify_at.as_deref().map(percentages).transpose()?;
    let (counts, action) = (MonthBytes::Egress, MonthAction::Refuse);
    let held = held.or_else(|| Some(MonthLimit { bytes: bytes?, counts, action, notify_at: vec![80] }));
    let held = held.context("the TURN key has no monthly limit: give --bytes")?;
    Ok(MonthLimit {
        bytes: bytes.unwrap_or(held.bytes),
        counts: change.counts.unwrap_or(held.counts),
        action: change.action.unwrap_or(held.action),
        notify_at: notify_at.unwrap_or(held.notify_at),
    })
}

fn percentages(text: &str) -> Result<Vec<u8>> {
    let one = |text: &str| text.trim().parse().ok().filter(|percent| (1..=99).contains(percent));
    let all: Option<Vec<u8>> = text.split(',').filter(|it| !it.trim().is_empty()).map(one).collect();
    let all = all.filter(|all| all.len() <= MAX_THRESHOLDS);
    all.with_context(|| format!("--notify-at is up to {MAX_THRESHOLDS} whole numbers from 1 to 99"))
}

fn shown(status: Option<&MonthStatus>) -> String {
    let Some(MonthStatus { limit, month, used_bytes, reached }) = status else {
        return "The TURN key has no monthly limit.\n".to_owned();
    };
    let percents: Vec<String> = limit.notify_at.iter().map(ToString::to_string).collect();
    let reached = reached.map_or_else(|| "no".to_owned(), |at| at.to_string());
    format!(
        "bytes      {} ({})\naction     {}\nnotify at  {} %\nin {month}  {used_bytes}\nreached    {reached}\n",
        limit.bytes,
        limit.counts.name(),
        limit.action.name(),
        percents.join(", ")
    )
}
