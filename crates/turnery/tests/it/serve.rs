//! What a start prints and does, and how it ends.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;
use testkit::client::BlockingClient;
use turn::Transport;

use crate::fixture::{
    ACCOUNT, LONG, LOOPBACK, RANDOM_PORTS, TOKEN, echo_peer, keys_path, known, relays, serve_in, signal,
    start, start_command, text, turnery,
};

/// What follows this label on its line.
fn labelled<'a>(announced: &'a str, label: &str) -> &'a str {
    let line = announced.lines().find_map(|line| line.trim().strip_prefix(label));
    line.unwrap_or_else(|| panic!("no {label:?} in {announced}")).trim()
}

#[test]
fn the_ready_line_names_every_listener_and_sigterm_ends_it_cleanly() {
    let server = start();
    let last = server.announced.lines().last().unwrap().to_owned();
    let (udp, tcp) = (server.listener(Transport::Udp), server.listener(Transport::Tcp));
    assert!(udp.port() != 0 && tcp.port() != 0);
    assert_eq!(last, format!("ready api={} turn=udp://{udp},tcp://{tcp}", server.api));
    server.ask("GET", &keys_path(), TOKEN, None, 200);
    let (status, log) = server.end();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("ended") && !log.contains('\u{1b}'), "{log}");
    assert!(std::net::TcpListener::bind(tcp).is_ok(), "the port is free again");
}

#[test]
fn sigint_ends_it_cleanly_while_a_client_relays() {
    let mut server = start();
    let mut client = server.client(Transport::Tcp, &server.mint(&server.create_key(), 60));
    relays(&mut client);
    signal(&server.child, "INT");
    let status = server.child.wait(std::time::Duration::from_secs(10)).unwrap();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn flags_beat_the_environment_beats_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("turnery.toml");
    fs::write(
        &file,
        "turn_listen = [\"udp://127.0.0.1:0\"]\napi_listen = \"127.0.0.2:0\"\npublic_host = \"from-file.example\"\n\
         relay_address = [\"127.0.0.1\"]\nworkers = 1\n",
    )
    .unwrap();
    let data_dir = dir.path().join("data");
    let mut command = turnery(&["serve", "--api-listen", "127.0.0.1:0", "--config", file.to_str().unwrap()]);
    command
        .env("TURNERY_API_LISTEN", "127.0.0.3:0")
        .env("TURNERY_PUBLIC_HOST", "from-env.example")
        .env("TURNERY_DATA_DIR", &data_dir)
        .env("TURNERY_BOOTSTRAP_ACCOUNT", ACCOUNT)
        .env("TURNERY_BOOTSTRAP_TOKEN", TOKEN);
    let server = start_command(command);
    assert!(server.api.starts_with("http://127.0.0.1:"), "{}", server.api);
    assert_eq!(server.listeners.len(), 1);
    let key = server.create_key();
    let path = format!("/v1/turn/keys/{}/credentials/generate", key.uid);
    let minted = server.ask("POST", &path, &key.secret, Some("{}"), 201);
    assert!(minted["iceServers"]["urls"].to_string().contains("turn:from-env.example:"), "{minted}");
    assert_eq!(fs::metadata(&data_dir).unwrap().permissions().mode() & 0o777, 0o700);
    for private in ["keyring.toml", "turnery.db"] {
        let mode = fs::metadata(data_dir.join(private)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{private}");
    }
}

#[test]
fn the_first_start_prints_the_token_once() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_command(serve_in(dir.path(), &LOOPBACK));
    let account = labelled(&server.announced, "account").to_owned();
    let token = labelled(&server.announced, "API token").to_owned();
    let path = format!("/client/v4/accounts/{account}/calls/turn_keys");
    server.ask("POST", &path, &token, Some("{}"), 201);
    let (_, log) = server.end();
    assert!(!log.contains(&token), "secrets are not logged: {log}");

    let again = start_command(serve_in(dir.path(), &LOOPBACK));
    assert_eq!(again.announced.lines().count(), 1, "{}", again.announced);
    assert_eq!(again.ask("GET", &path, &token, None, 200)["result"].as_array().unwrap().len(), 1);
}

#[test]
fn the_first_account_and_token_can_be_chosen() {
    let server = start();
    assert!(server.announced.contains(ACCOUNT) && !server.announced.contains(TOKEN), "{}", server.announced);
    server.ask("GET", &keys_path(), TOKEN, None, 200);
    let dir = server.data_dir();
    let kept = {
        let mut server = server;
        server.dir.take()
    };
    // Later starts neither need nor heed them.
    let mut command = serve_in(&dir, &LOOPBACK);
    command.env("TURNERY_BOOTSTRAP_TOKEN", "another-token-of-the-right-length-0123");
    let again = start_command(command);
    again.ask("GET", &keys_path(), TOKEN, None, 200);
    again.ask("GET", &keys_path(), "another-token-of-the-right-length-0123", None, 401);
    drop(kept);
}

#[test]
fn dev_prints_all_it_promises_and_it_works() {
    let mut command = turnery(&["serve", "--dev"]);
    command.args(RANDOM_PORTS);
    let server = start_command(command);
    let announced = server.announced.clone();
    let (account, token) = (labelled(&announced, "account"), labelled(&announced, "API token"));
    let (uid, secret) = (labelled(&announced, "key id"), labelled(&announced, "secret"));
    assert_eq!((account.len(), uid.len(), secret.len()), (32, 32, 64));
    assert!(announced.contains(&format!("Try it: {}/try", server.api)), "{announced}");
    assert!(announced.contains("loopback and private networks can be reached"), "{announced}");
    assert_eq!(announced.matches("curl -sX POST").count(), 2, "{announced}");
    assert!(announced.lines().last().unwrap().starts_with("ready "));

    let path = format!("/client/v4/accounts/{account}/calls/turn_keys/{uid}");
    server.ask("GET", &path, token, None, 200);
    let path = format!("/v1/turn/keys/{uid}/credentials/generate");
    server.ask("POST", &path, secret, Some("{}"), 201);

    let json = announced.lines().find(|line| line.trim().starts_with("{\"iceServers\"")).unwrap();
    let json: Value = serde_json::from_str(json).unwrap();
    let turn = &json["iceServers"][1];
    assert_eq!(turn["urls"].as_array().unwrap().len(), 2, "{json}");
    let (username, password) = (text(&turn["username"]), text(&turn["credential"]));
    for (transport, address) in server.listeners.clone() {
        relays(&mut BlockingClient::connect(address, transport, &username, &password).unwrap());
    }
    assert!(server.log().contains("WARN"), "the log says it too: {}", server.log());
    let data_dir = labelled(&announced, "Data is in").split(' ').next().unwrap().to_owned();
    assert!(fs::exists(&data_dir).unwrap());
    assert_eq!(server.end().0.code(), Some(0));
    assert!(!fs::exists(&data_dir).unwrap(), "the temporary directory is removed");
}

#[test]
fn dev_with_a_directory_keeps_its_key() {
    let dir = tempfile::tempdir().unwrap();
    let first = start_command(known(dir.path(), &["--dev"]));
    let uid = labelled(&first.announced, "key id").to_owned();
    let secret = labelled(&first.announced, "secret").to_owned();
    first.end();
    let again = start_command(known(dir.path(), &["--dev"]));
    assert!(
        again.announced.contains(&format!("TURN key {uid}; its secret was shown")),
        "{}",
        again.announced
    );
    assert!(again.announced.contains("iceServers") && !again.announced.contains(&secret));
    assert_eq!(again.ask("GET", &keys_path(), TOKEN, None, 200)["result"].as_array().unwrap().len(), 1);
}

#[test]
fn loopback_peers_are_refused_unless_allowed() {
    let dir = tempfile::tempdir().unwrap();
    let server = start_command(known(dir.path(), &["--relay-address", "127.0.0.1"]));
    let mut client = server.client(Transport::Udp, &server.mint(&server.create_key(), 60));
    client.allocate().unwrap();
    let refused = client.create_permission(&["192.168.1.1:5000".parse().unwrap()]).unwrap_err();
    assert_eq!(refused.code(), Some(403), "{refused:?}");
}

#[test]
fn limits_hold_over_all_workers_and_are_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let limits = ["--workers", "3", "--max-allocations-per-credential", "2", "--max-bits-per-second", "8k"];
    let mut command = known(dir.path(), &LOOPBACK);
    command.args(limits);
    let server = start_command(command);
    let minted = server.mint(&server.create_key(), 600);
    let mut clients: Vec<BlockingClient> = (0..8).map(|_| server.client(Transport::Udp, &minted)).collect();
    let codes = |clients: &mut [BlockingClient]| -> Vec<Option<u16>> {
        clients.iter_mut().filter_map(|client| client.allocate().err()).map(|error| error.code()).collect()
    };
    assert_eq!(codes(&mut clients), [Some(486); 6]);
    for client in &mut clients[..2] {
        client.refresh(0).unwrap();
    }
    assert_eq!(codes(&mut clients[2..]), [Some(486); 4]);

    // A second's worth of bits at once; the bucket is not full again for what comes behind it.
    let (client, peer) = (&mut clients[2], echo_peer());
    client.create_permission(&[peer]).unwrap();
    client.send_to(peer, &[1; 1_000]).unwrap();
    client.send_to(peer, &[2; 1_000]).unwrap();
    assert_eq!(client.recv(LONG).unwrap(), Some((peer, vec![1; 1_000])));
    assert_eq!(client.recv(std::time::Duration::from_millis(200)).unwrap(), None, "dropped, not delayed");
}

#[test]
fn a_server_that_nobody_uses_hardly_wakes() {
    let server = start();
    let mut client = server.client(Transport::Udp, &server.mint(&server.create_key(), 600));
    client.allocate().unwrap();
    let threads = format!("/proc/{}/task", server.child.0.id());
    let switches = || -> u64 {
        let of_thread = |thread: fs::DirEntry| -> u64 {
            // A thread may just have ended.
            let status = fs::read_to_string(thread.path().join("status")).unwrap_or_default();
            let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
            line.map_or(0, |count| count.trim().parse().unwrap())
        };
        fs::read_dir(&threads).unwrap().map(|thread| of_thread(thread.unwrap())).sum()
    };
    // What was begun with the start and the allocation comes to its end.
    std::thread::sleep(std::time::Duration::from_secs(4));
    let before = switches();
    std::thread::sleep(std::time::Duration::from_secs(6));
    let count = switches().saturating_sub(before);
    // About seven a second; looking for changes would make it eighty.
    assert!(count < 180, "{count} times in six seconds");
    let (_, log) = server.end();
    assert!(!log.contains("nobody tells"), "{log}");
}
