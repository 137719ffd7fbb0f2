use control::store::{NodeReport, NodeState, Permission, Store};

use super::Place;
use super::server::server;
use crate::http::request;

#[tokio::test]
async fn what_a_node_said_last_is_known_with_the_databases_time() {
    let place = Place::new();
    let store = Store::open(&place.url()).await.unwrap();
    assert!(store.nodes().await.unwrap().is_empty());
    let report = NodeReport {
        version: "1.2.3".to_owned(),
        addresses: vec!["udp://192.0.2.1:3478".to_owned()],
        allocations: 7,
        interval_secs: 5,
        ..NodeReport::default()
    };
    store.note_node("b", &report).await.unwrap();
    store.note_node("a\0", &report).await.unwrap();
    let last = NodeReport { allocations: 8, draining: true, ..report.clone() };
    store.note_node("b", &last).await.unwrap();
    let nodes = store.nodes().await.unwrap();
    let names: Vec<_> = nodes.iter().map(|node| (node.name.as_str(), node.state)).collect();
    assert_eq!(names, [("a\u{fffd}", NodeState::Up), ("b", NodeState::Draining)]);
    assert_eq!((&nodes[0].report, &nodes[1].report), (&report, &last));
    assert!(nodes[1].seen_ms_ago < 15_000, "{nodes:?}");
    store.note_node("b", &NodeReport { ended: true, ..last }).await.unwrap();
    assert_eq!(store.nodes().await.unwrap()[1].state, NodeState::Ended);
}

#[tokio::test]
async fn every_account_is_shown_the_nodes() {
    let server = server().await;
    let report = NodeReport { role: "relay".to_owned(), interval_secs: 5, ..NodeReport::default() };
    server.store.note_node("edge", &report).await.unwrap();
    let path = format!("/client/v4/accounts/{}/calls/turn_nodes", server.account.id);
    let reader = server.token(Permission::Read, None).await;
    let nodes = server.send(request("GET", &*path).bearer(&reader)).await.success(200, "nodes");
    let told = ["name", "state", "role"].map(|field| nodes[0][field].as_str().unwrap());
    assert_eq!(told, ["edge", "up", "relay"]);
    server.send(request("GET", path)).await.failure(400, 9106, "nobody else is");
}
