//! `turnery webhook`.

use anyhow::{Context, Result, ensure};
use control::store::{AccountId, Delivery, Store, Webhook};

use crate::cli::WebhookCommand;
use crate::config::Place;
use crate::table::{printable, table};

pub(super) async fn webhook(place: &Place, store: &Store, command: WebhookCommand) -> Result<()> {
    match command {
        WebhookCommand::List { owner, output } => {
            let webhooks = store.webhooks(&owner.resolve(store).await?).await?;
            let row = |it: &Webhook| {
                let events = if it.events.is_empty() { "all".to_owned() } else { it.events.join(",") };
                [it.id.clone(), it.created.to_string(), events, printable(&it.url)]
            };
            let rows: Vec<_> = webhooks.iter().map(row).collect();
            let headings = ["ID", "CREATED", "EVENTS", "URL"];
            output.show(&webhooks, || table(headings, &rows, "The account has no webhook."))
        }
        WebhookCommand::Create { url, event, owner, output } => {
            ensure!(control::is_webhook_url(&url), "{url:?} is not https://HOST/PATH, nor http://");
            let account = owner.resolve(store).await?;
            let keyring = place.keyring()?.open(store).await?;
            let made = store.create_webhook(&keyring, &account, &url, &event).await?;
            output.show(&made, || {
                format!(
                    "id      {}\nsecret  {}\n\nThe secret is shown this once and can never be read again.\n",
                    made.webhook.id, made.secret
                )
            })
        }
        WebhookCommand::Delete { id, owner, output } => {
            let account = owner.resolve(store).await?;
            let gone = store.delete_webhook(&account, &id).await?;
            let gone = gone.with_context(|| format!("account {account} has no webhook {id}"))?;
            output.show(&gone, || format!("Deleted webhook {id}.\n"))
        }
        WebhookCommand::Deliveries { id, dead, owner, output } => {
            expect(store, &owner.resolve(store).await?, &id).await?;
            let deliveries = store.deliveries(&id, dead, 0, 1_000).await?;
            let row = |it: &Delivery| {
                let due = it.due.map_or_else(|| "given up".to_owned(), |due| due.to_string());
                [
                    it.event.clone(),
                    it.kind.clone(),
                    it.created.to_string(),
                    it.attempts.to_string(),
                    due,
                    printable(&it.fault),
                ]
            };
            let rows: Vec<_> = deliveries.iter().map(row).collect();
            let headings = ["EVENT", "TYPE", "CREATED", "ATTEMPTS", "NEXT", "FAULT"];
            output.show(&deliveries, || table(headings, &rows, "Nothing waits, and nothing was given up."))
        }
        WebhookCommand::Redeliver { id, event, owner, output } => {
            let account = owner.resolve(store).await?;
            expect(store, &account, &id).await?;
            let count = store.redeliver(&account, &id, event.as_deref()).await?;
            output.show(&serde_json::json!({ "count": count }), || format!("{count} are tried again.\n"))
        }
    }
}

async fn expect(store: &Store, account: &AccountId, id: &str) -> Result<()> {
    let all = store.webhooks(account).await?;
    ensure!(all.iter().any(|it| it.id == id), "account {account} has no webhook {id}");
    Ok(())
}
