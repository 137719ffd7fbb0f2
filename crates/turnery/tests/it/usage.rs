//! What clients have counted is what the books say, to the byte, also when the process is killed in between.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use testkit::client::BlockingClient;
use turn::Transport;

use crate::fixture::{
    ACCOUNT, Key, LONG, LOOPBACK, Minted, Server, TOKEN, echo_peer, finish, known, signal, start_command,
    turnery,
};
use crate::metrics::{scrape, series};

/// How long usage may take to be visible: the promise.
const VISIBLE: Duration = Duration::from_secs(30);

/// What a client has counted: bytes on its own side, headers and padding included, and packets.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counted {
    egress_bytes: u64,
    egress_packets: u64,
    ingress_bytes: u64,
    ingress_packets: u64,
}

fn wire_length(transport: Transport, payload: usize) -> u64 {
    let payload = if transport == Transport::Tcp { payload.next_multiple_of(4) } else { payload };
    4 + payload as u64
}

/// Sends so many messages through a channel and gets each of them back.
fn relay(client: &mut BlockingClient, transport: Transport, sizes: &[usize], counted: &mut Counted) {
    let peer = echo_peer();
    client.allocate().unwrap();
    client.channel_bind(peer).unwrap();
    for size in sizes {
        let data = vec![7; *size];
        client.send_to(peer, &data).unwrap();
        counted.ingress_bytes += wire_length(transport, *size);
        counted.ingress_packets += 1;
        let (_, back) = client.recv(LONG).unwrap().expect("an echo");
        assert_eq!(back.len(), *size);
        counted.egress_bytes += wire_length(transport, *size);
        counted.egress_packets += 1;
    }
}

fn counted(sums: &Value) -> Counted {
    let sum = |name: &str| sums[name].as_u64().unwrap_or_else(|| panic!("{name} of {sums}"));
    Counted {
        egress_bytes: sum("egressBytes"),
        egress_packets: sum("egressPackets"),
        ingress_bytes: sum("ingressBytes"),
        ingress_packets: sum("ingressPackets"),
    }
}

type Books = BTreeMap<String, Counted>;

/// By username, over GraphQL.
fn by_graphql(server: &Server) -> Books {
    let query = "query($acc: string!) { viewer { accounts(filter: {accountTag: $acc}) { \
                 callsTurnUsageAdaptiveGroups(limit: 10000) { dimensions { username } \
                 sum { egressBytes egressPackets ingressBytes ingressPackets } } } } }";
    let body = json!({ "query": query, "variables": { "acc": ACCOUNT } }).to_string();
    let answer = server.ask("POST", "/client/v4/graphql", TOKEN, Some(&body), 200);
    assert_eq!(answer["errors"], Value::Null, "{answer}");
    let groups = &answer["data"]["viewer"]["accounts"][0]["callsTurnUsageAdaptiveGroups"];
    let group = |it: &Value| (it["dimensions"]["username"].as_str().unwrap().to_owned(), counted(&it["sum"]));
    groups.as_array().unwrap().iter().map(group).collect()
}

/// The same of one key, as JSON.
fn by_rest(server: &Server, key: &Key) -> Books {
    let path = format!("/client/v4/accounts/{ACCOUNT}/calls/turn_keys/{}/usage?group_by=username", key.uid);
    let rows = server.ask("GET", &path, TOKEN, None, 200);
    let row = |it: &Value| (it["username"].as_str().unwrap().to_owned(), counted(it));
    rows["result"].as_array().unwrap().iter().map(row).collect()
}

/// And as CSV.
fn by_csv(server: &Server) -> Books {
    let url =
        format!("{}/client/v4/accounts/{ACCOUNT}/calls/turn_usage?group_by=username&format=csv", server.api);
    let mut response = ureq::get(&url).header("authorization", format!("Bearer {TOKEN}")).call().unwrap();
    let text = response.body_mut().read_to_string().unwrap();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let mut books = Books::new();
    for line in lines {
        let row: BTreeMap<&str, &str> = names.iter().copied().zip(line.split(',')).collect();
        let sum = |name: &str| row[name].parse().unwrap();
        let counted = Counted {
            egress_bytes: sum("egressBytes"),
            egress_packets: sum("egressPackets"),
            ingress_bytes: sum("ingressBytes"),
            ingress_packets: sum("ingressPackets"),
        };
        books.insert(row["username"].to_owned(), counted);
    }
    books
}

/// Waits until the books say so, and no longer than was promised.
fn wait_for(server: &Server, expected: &Books) {
    let deadline = Instant::now() + VISIBLE;
    loop {
        let found = by_graphql(server);
        if found == *expected {
            return;
        }
        assert!(Instant::now() < deadline, "{found:?}\nis not\n{expected:?}\n{}", server.log());
        std::thread::sleep(Duration::from_millis(200));
    }
}

fn kill(mut server: Server) {
    signal(&server.child, "KILL");
    server.child.wait(LONG).expect("what is killed ends");
}

fn transport(n: usize) -> Transport {
    if n.is_multiple_of(2) { Transport::Udp } else { Transport::Tcp }
}

/// What a user's messages hold in a round, in bytes.
fn sizes(n: usize, round: usize) -> Vec<usize> {
    (0..=n % 5).map(|m| 1 + (37 * n + 211 * m + round) % 1_400).collect()
}

/// The metrics of a process in which so many users have relayed in this one round.
fn check_metrics(server: &Server, users: usize, round: usize) {
    let (_, _, text) = scrape(server, "/metrics", None);
    let series = series(&text);
    for (transport, name) in [(Transport::Udp, "udp"), (Transport::Tcp, "tcp")] {
        let of = |what: &str, direction: &str| {
            series[&format!("turnery_relayed_{what}_total{{direction=\"{direction}\",transport=\"{name}\"}}")]
        };
        let relayed: Vec<usize> =
            (0..users).filter(|n| self::transport(*n) == transport).flat_map(|n| sizes(n, round)).collect();
        // To peers without a header; to clients with what the client counts.
        let to_peers = relayed.iter().sum::<usize>();
        let to_clients: u64 = relayed.iter().map(|size| wire_length(transport, *size)).sum();
        assert_eq!(of("bytes", "to_peer").to_string(), to_peers.to_string(), "{name}");
        assert_eq!(of("bytes", "to_client").to_string(), to_clients.to_string(), "{name}");
        for direction in ["to_peer", "to_client"] {
            assert_eq!(of("packets", direction).to_string(), relayed.len().to_string(), "{name}");
        }
    }
}

/// Every credential relays; the clients stay.
fn wave(server: &Server, users: &[Minted], round: usize, books: &mut Books) -> Vec<BlockingClient> {
    let each = users.iter().enumerate().map(|(n, user)| {
        let mut client = server.client(transport(n), user);
        relay(&mut client, transport(n), &sizes(n, round), books.entry(user.username.clone()).or_default());
        client
    });
    each.collect()
}

fn live(server: &Server) -> Vec<Value> {
    let path = format!("/client/v4/accounts/{ACCOUNT}/calls/turn_sessions?limit=1000");
    server.ask("GET", &path, TOKEN, None, 200)["result"].as_array().unwrap().clone()
}

#[test]
fn clients_and_books_agree_to_the_byte_over_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_command(known(dir.path(), &LOOPBACK));
    let key = server.create_key();
    let users: Vec<Minted> = (0..50).map(|_| server.mint(&key, 3_600)).collect();
    let mut books = Books::new();
    let clients = wave(&server, &users, 0, &mut books);
    wait_for(&server, &books);
    assert_eq!(live(&server).len(), 50);
    kill(server);
    drop(clients);

    let server = start_command(known(dir.path(), &LOOPBACK));
    assert_eq!(by_graphql(&server), books, "as it was");
    assert_eq!(live(&server).len(), 0, "whatever lived died with the process");
    let mut clients = wave(&server, &users, 1, &mut books);
    wait_for(&server, &books);
    assert_eq!(by_rest(&server, &key), books);
    assert_eq!(by_csv(&server), books);
    check_metrics(&server, users.len(), 1);
    let data_dir = dir.path().to_str().unwrap();
    let told = finish(turnery(&["usage", "--json", "--group-by", "username", "--data-dir", data_dir]));
    let rows: Value = serde_json::from_slice(&told.stdout).unwrap();
    let row = |it: &Value| (it["username"].as_str().unwrap().to_owned(), counted(it));
    assert_eq!(rows.as_array().unwrap().iter().map(row).collect::<Books>(), books);

    // One user's session is ended, at once; the others' stay.
    assert_eq!(live(&server).len(), 50);
    let path = format!("/client/v4/accounts/{ACCOUNT}/calls/turn_sessions?username={}", users[0].username);
    let asked = Instant::now();
    server.ask("DELETE", &path, TOKEN, None, 200);
    let mut first = clients.remove(0);
    let gone = first.refresh(600).expect_err("its allocation is gone");
    assert_eq!(gone.code(), Some(437));
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
    first.allocate().expect("it may come back");
    clients[0].refresh(600).unwrap();
    drop(clients);
    // What is said at the end is written before it.
    let mut last = server.client(Transport::Udp, &users[0]);
    relay(&mut last, Transport::Udp, &[1_000], books.get_mut(&users[0].username).unwrap());
    let (status, log) = server.end();
    assert!(status.success(), "{log}");
    let server = start_command(known(dir.path(), &LOOPBACK));
    assert_eq!(by_graphql(&server), books);
}

#[test]
fn a_kill_within_an_interval_loses_that_interval_at_most_and_adds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_command(known(dir.path(), &LOOPBACK));
    let key = server.create_key();
    let users: Vec<Minted> = (0..4).map(|_| server.mint(&key, 3_600)).collect();
    let mut reported = Books::new();
    let mut clients = wave(&server, &users, 0, &mut reported);
    wait_for(&server, &reported);
    let mut counted = reported.clone();
    for (n, (client, user)) in clients.iter_mut().zip(&users).enumerate() {
        let peer = echo_peer();
        client.channel_bind(peer).unwrap();
        let counted = counted.get_mut(&user.username).unwrap();
        for _ in 0..20 {
            client.send_to(peer, &[0; 100]).unwrap();
            client.recv(LONG).unwrap().expect("an echo");
            counted.ingress_bytes += wire_length(transport(n), 100);
            counted.egress_bytes += wire_length(transport(n), 100);
        }
    }
    kill(server);
    let server = start_command(known(dir.path(), &LOOPBACK));
    for (user, found) in by_graphql(&server) {
        let (least, most) = (reported[&user], counted[&user]);
        assert!((least.egress_bytes..=most.egress_bytes).contains(&found.egress_bytes), "{found:?}");
        assert!((least.ingress_bytes..=most.ingress_bytes).contains(&found.ingress_bytes), "{found:?}");
    }
}
