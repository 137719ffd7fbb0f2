//! Delivers events to webhooks, at least once, as the Standard Webhooks specification has it: the body signed together with
//! the event's id and the time of the attempt, in the headers `webhook-id`, `webhook-timestamp` and `webhook-signature`.

mod target;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{Instant, sleep, timeout};

use crate::base64;
use crate::control::Shared;
use crate::store::{AccountId, Delivery, StoreError, Timestamp, Webhook};

pub(crate) use target::{Target, TargetError};

const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// How long an attempt may take, the connection included.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// For how long nobody else tries what is being tried, in seconds.
const CLAIM_SECS: u64 = 60;
/// Attempts at once: of all webhooks, of one account's, and of one.
const AT_ONCE: usize = 64;
const AT_ONCE_OF_ACCOUNT: usize = 16;
const AT_ONCE_OF_ONE: usize = 4;
/// Of so many webhooks it is remembered that they fail.
const MAX_FAILING: usize = 10_000;
/// The pause after the first attempt; each is twice as long as the one before, and as long as this at most.
const FIRST_PAUSE_SECS: u64 = 5;
const LONGEST_PAUSE_SECS: u64 = 7_200;

/// Whether a webhook may have this URL, as far as the URL says.
pub fn is_webhook_url(text: &str) -> bool {
    text.parse::<Target>().is_ok()
}

/// Does so for as long as it is polled.
pub(crate) async fn run(shared: &Arc<Shared>) -> ! {
    let mut courier = Courier {
        shared: Arc::clone(shared),
        attempts: JoinSet::new(),
        under_way: HashMap::new(),
        served: String::new(),
        failing: HashSet::new(),
    };
    let mut looks = shared.store.looks_for_all(POLL_INTERVAL);
    let mut due = None;
    loop {
        tokio::select! {
            // However many attempts end.
            biased;
            () = looks.next(due) => {
                courier.hear().await;
                if looks.are_told() {
                    due = courier.next_due().await;
                }
            }
            Some(done) = courier.attempts.join_next_with_id() => courier.note(done),
        }
        match courier.take_on().await {
            Ok(some) => looks.has_found(some),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "webhooks are not told of events yet"
                );
                sleep(POLL_INTERVAL).await;
            }
        }
    }
}

/// Attempts that are under way. One that is lost with the process is made again when its claim has run out.
struct Courier {
    shared: Arc<Shared>,
    attempts: JoinSet<bool>,
    /// Which webhook each is for, and whose that is.
    under_way: HashMap<Id, (String, AccountId)>,
    /// The webhook that was served last: the next turn begins behind it.
    served: String,
    /// Webhooks whose last attempt failed: they get one place, so that those that time out leave room for others.
    failing: HashSet<String>,
}

impl Courier {
    /// Queues what sessions have ended.
    async fn hear(&self) {
        loop {
            match self.shared.store.tell_session_ends().await {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => {
                    let error = &error as &dyn std::error::Error;
                    return tracing::warn!(error, "webhooks are not told of sessions' ends yet");
                }
            }
        }
    }

    /// When something is due that nobody will tell of: what waits because it has failed.
    async fn next_due(&self) -> Option<Instant> {
        let due = self.shared.store.next_delivery().await.ok()??;
        let micros = due.unix_micros().saturating_sub(Timestamp::now().unix_micros());
        Some(Instant::now() + Duration::from_micros(u64::try_from(micros).unwrap_or(0)))
    }

    fn note(&mut self, done: Result<(Id, bool), JoinError>) {
        let (id, has_arrived) = done.unwrap_or_else(|error| (error.id(), false));
        let Some((webhook, _)) = self.under_way.remove(&id) else { return };
        if has_arrived {
            self.failing.remove(&webhook);
        } else {
            if self.failing.len() >= MAX_FAILING {
                self.failing.clear();
            }
            self.failing.insert(webhook);
        }
    }

    /// Begins as many attempts as there is room for; whether there was anything to do.
    async fn take_on(&mut self) -> Result<bool, StoreError> {
        if self.attempts.len() >= AT_ONCE {
            return Ok(true);
        }
        let mut due = self.shared.store.webhooks_due().await?;
        due.sort_by(|one, other| one.id.cmp(&other.id));
        let next = due.partition_point(|webhook| webhook.id <= self.served);
        due.rotate_left(next);
        due.sort_by_key(|webhook| self.failing.contains(&webhook.id));
        let has_some = !due.is_empty();
        for webhook in due {
            let under_way = |is_its: &dyn Fn(&(String, AccountId)) -> bool| {
                self.under_way.values().filter(|it| is_its(it)).count()
            };
            let most = if self.failing.contains(&webhook.id) { 1 } else { AT_ONCE_OF_ONE };
            let room = most
                .saturating_sub(under_way(&|(id, _)| *id == webhook.id))
                .min(AT_ONCE_OF_ACCOUNT.saturating_sub(under_way(&|(_, of)| *of == webhook.account)))
                .min(AT_ONCE.saturating_sub(self.attempts.len()));
            if room == 0 {
                continue;
            }
            self.served.clone_from(&webhook.id);
            let until = Timestamp::now().plus_secs(CLAIM_SECS);
            for delivery in self.shared.store.claim_deliveries(&webhook.id, until, room).await? {
                let attempt = deliver(Arc::clone(&self.shared), delivery, webhook.clone());
                let task = self.attempts.spawn(attempt);
                self.under_way.insert(task.id(), (webhook.id.clone(), webhook.account.clone()));
            }
        }
        Ok(has_some)
    }
}

/// One attempt; whether it has arrived.
async fn deliver(shared: Arc<Shared>, delivery: Delivery, webhook: Webhook) -> bool {
    let attempt = attempt(&shared, &delivery, &webhook);
    let fault = timeout(ATTEMPT_TIMEOUT, attempt).await.unwrap_or(Err("it took too long".to_owned())).err();
    let has_arrived = fault.is_none();
    if let Err(error) = settle(&shared, &delivery, fault).await {
        let error = &error as &dyn std::error::Error;
        tracing::warn!(error, "what became of a webhook's delivery is not written: it is made again");
    }
    has_arrived
}

async fn settle(shared: &Shared, delivery: &Delivery, fault: Option<String>) -> Result<(), StoreError> {
    let Some(fault) = fault else { return shared.store.delivered(delivery.seq).await };
    let due = Timestamp::now().plus_secs(pause_secs(delivery.attempts, &delivery.event));
    let over = delivery.created.plus_secs(shared.config.webhook_lifetime_secs);
    let due = Some(due).filter(|due| *due < over);
    if due.is_none() {
        tracing::warn!(webhook = %delivery.webhook, event = %delivery.event, %fault, "a webhook's event was given up");
    }
    shared.store.not_delivered(delivery.seq, due, &fault).await
}

/// How long to wait after so many attempts: twice as long each time, and up to a fifth more or less, by the event, so that
/// what failed together does not come again together.
fn pause_secs(attempts: u32, event: &str) -> u64 {
    let doubled = FIRST_PAUSE_SECS << attempts.saturating_sub(1).min(20);
    let pause = doubled.min(LONGEST_PAUSE_SECS);
    let spread = pause * 2 / 5;
    let hash = event.bytes().fold(u64::from(attempts), |hash, byte| hash.wrapping_mul(31) + u64::from(byte));
    pause - spread / 2 + hash % (spread + 1)
}

async fn attempt(shared: &Shared, delivery: &Delivery, webhook: &Webhook) -> Result<(), String> {
    let target: Target = webhook.url.parse().map_err(|error: TargetError| error.to_string())?;
    let secret = webhook.open(&shared.keyring.load()).ok_or("its secret cannot be opened: make it anew")?;
    let timestamp = Timestamp::now().unix_secs().to_string();
    let signature = signature(&secret, &delivery.event, &timestamp, &delivery.body);
    let headers = [
        ("webhook-id", delivery.event.as_str()),
        ("webhook-timestamp", &timestamp),
        ("webhook-signature", &signature),
    ];
    let status = target.post(&shared.config.webhook_networks, &headers, delivery.body.clone()).await?;
    if (200..300).contains(&status) { Ok(()) } else { Err(format!("it answered {status}")) }
}

/// `v1,` and the base64 of HMAC-SHA256 over id, timestamp and body, with dots between them.
fn signature(secret: &[u8], id: &str, timestamp: &str, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes a key of any length");
    for part in [id, ".", timestamp, ".", body] {
        mac.update(part.as_bytes());
    }
    format!("v1,{}", base64::encode(&mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::DELIVERY_LIFETIME_SECS;

    /// The specification's own example, checked with its reference libraries.
    #[test]
    fn the_signature_is_that_of_the_specification() {
        // base64 of this is MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw
        let secret = hex::decode("31f290f6bf06298aab4f08d43c3f082cf648a362da2da4b0").unwrap_or_default();
        let body = r#"{"test": 2432232314}"#;
        let signed = signature(&secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", "1614265330", body);
        assert_eq!(signed, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
    }

    #[test]
    fn attempts_are_spread_over_a_day() {
        let mut at = 0;
        let mut attempts = 0;
        while at < DELIVERY_LIFETIME_SECS {
            attempts += 1;
            let pause = pause_secs(attempts, "msg_1");
            assert!((4..=8_640).contains(&pause), "{pause}");
            at += pause;
        }
        assert!((18..=26).contains(&attempts), "{attempts}");
        assert!(pause_secs(1, "msg_1") <= 6 && pause_secs(u32::MAX, "msg_1") >= 5_760);
        let different: std::collections::BTreeSet<_> =
            (0..50).map(|n| pause_secs(9, &format!("msg_{n}"))).collect();
        assert!(different.len() > 10, "what failed together is tried apart");
    }
}
