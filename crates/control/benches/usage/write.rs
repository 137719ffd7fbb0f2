//! How long it takes to record reports, and to tidy up after them.

use std::time::Instant;

use control::store::Timestamp;
use control::store::usage::{Location, Node, REPORTS_AT_ONCE, Retention, SessionId, SessionReport, Usage};
use credentials::{CredentialId, TurnKeyId};

use crate::Taken;
use crate::ask::Service;

/// How often reports of the same sessions are recorded.
const TIMES: u64 = 60;

/// One node's sessions report, a minute's worth of five minutes in a row; then it is tidied up.
pub(crate) async fn measure(service: &Service) -> anyhow::Result<Vec<Taken>> {
    let key = service.store.create_key(&service.account, "bench").await?.key.uid;
    let location =
        Location { city: "Lisbon".into(), code: "LIS".into(), country: "PT".into(), region: "EU".into() };
    let node = Node::new("bench", location)?;
    let now = Timestamp::now().unix_secs();
    // They begin some minutes ago, so that the last may be tidied up.
    let begun = now - 1_200;
    let (mut first, mut later) = (Vec::new(), Vec::new());
    for sequence in 0..TIMES {
        let at = begun + sequence * 5;
        let count = u16::try_from(REPORTS_AT_ONCE)?;
        let reports: Vec<SessionReport> = (0..count).map(|n| report(key, n, sequence, begun, at)).collect();
        let start = Instant::now();
        service.store.record_usage(&node, &reports).await?;
        let took_ms = start.elapsed().as_secs_f64() * 1_000.0;
        if sequence == 0 { first.push(took_ms) } else { later.push(took_ms) }
    }
    let start = Instant::now();
    while !service.store.tidy_usage(&Retention::default()).await? {}
    let tidied = start.elapsed().as_secs_f64() * 1_000.0;
    let start = Instant::now();
    while !service.store.tidy_usage(&Retention::default()).await? {}
    let again = start.elapsed().as_secs_f64() * 1_000.0;
    Ok(vec![
        Taken::new("write: 500 sessions that begin", first, REPORTS_AT_ONCE),
        Taken::new("write: 500 sessions that go on", later, REPORTS_AT_ONCE),
        Taken::new("tidy: 5 minutes of 500 sessions", vec![tidied], 1),
        Taken::new("tidy: nothing to do", vec![again], 0),
    ])
}

fn report(key: TurnKeyId, n: u16, sequence: u64, begun: u64, at: u64) -> SessionReport {
    let mut id = [0xbe; 16];
    id[..2].copy_from_slice(&n.to_be_bytes());
    let total = (sequence + 1) * 125_000;
    SessionReport {
        id: SessionId(id),
        turn_key: key,
        credential: CredentialId::from_bytes(id),
        username: format!("username-of-some-length-as-minted-ones-are-{n}"),
        custom_identifier: format!("customer-{}", n / 4),
        transport: "udp",
        client: ([192, 0, 2, 1], 4_000).into(),
        relayed: [Some(([203, 0, 113, 1], 50_000).into()), None],
        relays_tcp: false,
        started: Timestamp::from_unix_secs(begun),
        at: Timestamp::from_unix_secs(at),
        expires: Timestamp::from_unix_secs(at + 600),
        sequence: sequence + 1,
        usage: Usage {
            egress_bytes: total,
            egress_packets: total / 900,
            ingress_bytes: total / 2,
            ingress_packets: total / 1_800,
        },
        ended: None,
    }
}
