//! Shared secrets: their API, how they are kept, how they travel, and what is minted with them.

use std::sync::{Arc, Mutex};

use arc_swap::ArcSwap;
use control::store::{Permission, Store};
use control::{Control, Feed, KeySettings, News};
use credentials::{Denial, Keyring, SharedSecretId, TimeLimited, TurnKeyId};
use serde_json::{Value, json};

use super::Place;
use super::server::{Server, config, now, server, server_with};
use crate::http::{Request, request};

const SECRET: &str = "north-north-west of the old harbour";

fn path(server: &Server, uid: &str) -> String {
    format!("{}/{uid}/shared_secrets", server.keys_path())
}

async fn check(server: &Server, request: Request, status: u16, code: u64) -> String {
    let what = format!("{} {} {:?}", request.method, request.path, request.body);
    server.send(request).await.failure(status, code, &what)
}

async fn add(server: &Server, uid: &str, body: &str) -> Value {
    let ask = request("POST", path(server, uid)).bearer(&server.token).body(body);
    server.send(ask).await.success(201, body)
}

async fn add_known(server: &Server, uid: &str, secret: &str) -> String {
    let made = add(server, uid, &json!({ "secret": secret }).to_string()).await;
    made["id"].as_str().unwrap().to_owned()
}

/// What subscribers were told of keys' settings, and of denials.
#[derive(Debug, Clone, Default)]
struct Heard(Arc<Mutex<Vec<News>>>);

impl Heard {
    async fn subscribe(feed: &Feed) -> Self {
        let heard = Self::default();
        let into = Arc::clone(&heard.0);
        feed.subscribe(move |news| into.lock().unwrap().push(news.clone())).await.unwrap();
        heard
    }

    /// The texts that the key has by what was heard last.
    fn secrets(&self, uid: &str) -> Option<Vec<String>> {
        let of_key = |news: &News| match news {
            News::Settings(KeySettings { key, shared_secrets, .. }) if key.to_string() == uid => {
                Some(shared_secrets.iter().map(|it| it.text.as_str().to_owned()).collect())
            }
            _ => None,
        };
        self.0.lock().unwrap().iter().rev().find_map(of_key)
    }

    fn denials(&self) -> Vec<Denial> {
        let denial = |news: &News| if let News::Denied(it) = news { Some(*it) } else { None };
        self.0.lock().unwrap().iter().filter_map(denial).collect()
    }
}

#[tokio::test]
async fn a_shared_secret_lives_and_dies_and_relays_hear_before_the_answer() {
    let server = server().await;
    let heard = Heard::subscribe(&server.control.feed()).await;
    let (uid, _) = server.key().await;
    let path = path(&server, &uid);
    let list = async || {
        let listed = server.send(request("GET", &*path).bearer(&server.token)).await;
        (listed.success(200, "list"), listed.json()["result_info"]["total_count"].clone())
    };
    assert_eq!(list().await, (json!([]), json!(0)));

    let generated = add(&server, &uid, "").await;
    let text = generated["secret"].as_str().unwrap().to_owned();
    assert!(text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')), "{text}");
    assert_eq!(heard.secrets(&uid), Some(vec![text.clone()]));
    let chosen = add(&server, &uid, &json!({ "secret": SECRET }).to_string()).await;
    assert_eq!(chosen["secret"], SECRET);
    assert_eq!(heard.secrets(&uid), Some(vec![text, SECRET.to_owned()]));

    let (listed, count) = list().await;
    assert_eq!(count, 2);
    for (shown, made) in [(&listed[0], &generated), (&listed[1], &chosen)] {
        assert_eq!((&shown["id"], &shown["created"]), (&made["id"], &made["created"]));
        assert_eq!(shown.as_object().unwrap().len(), 2, "a secret is shown once");
    }

    let one = format!("{path}/{}", generated["id"].as_str().unwrap());
    let gone = server.send(request("DELETE", &*one).bearer(&server.token)).await.success(200, "delete");
    assert_eq!(gone, listed[0]);
    assert_eq!(heard.secrets(&uid), Some(vec![SECRET.to_owned()]));
    check(&server, request("DELETE", &*one).bearer(&server.token), 404, 20_024).await;
}

#[tokio::test]
async fn every_refusal_has_its_status() {
    let server = server().await;
    let (uid, secret) = server.key().await;
    let reader = server.token(Permission::Read, None).await;
    let other = server.store.create_account(None, "other").await.unwrap();
    let foreign = server.store.create_key(&other.id, "").await.unwrap().key.uid.to_string();
    let id = add_known(&server, &uid, SECRET).await;
    let (all, one) = (path(&server, &uid), format!("{}/{id}", path(&server, &uid)));
    let nobody = "0".repeat(32);
    for (method, path) in [("GET", &all), ("POST", &all), ("DELETE", &one)] {
        let ask = |path: &str| request(method, path);
        check(&server, ask(path), 400, 9106).await;
        check(&server, ask(path).header("Authorization", "Basic x"), 400, 6003).await;
        check(&server, ask(path).bearer("wrong"), 401, 10_000).await;
        // A TURN key's secret is no API token.
        check(&server, ask(path).bearer(&secret), 401, 10_000).await;
        let elsewhere = path.replace(server.account.id.as_str(), other.id.as_str());
        check(&server, ask(&elsewhere).bearer(&server.token), 403, 10_000).await;
        // Another account's key is none of this account.
        for uid_of in [&nobody, &foreign] {
            check(&server, ask(&path.replace(&uid, uid_of)).bearer(&server.token), 404, 20_008).await;
        }
        check(&server, ask(&path.replace(&uid, "short")).bearer(&server.token), 404, 7003).await;
        if method != "GET" {
            check(&server, ask(path).bearer(&reader), 403, 10_000).await;
        }
    }
    server.send(request("GET", &*all).bearer(&reader)).await.success(200, "Calls Read may list");
    let delete = |id: &str| request("DELETE", format!("{all}/{id}")).bearer(&server.token);
    check(&server, delete(&nobody), 404, 20_024).await;
    check(&server, delete("short"), 404, 7003).await;
    check(&server, request("PUT", &*all).bearer(&server.token), 405, 10_405).await;
    check(&server, request("GET", &*one).bearer(&server.token), 405, 10_405).await;
    let long = format!(r#"{{"secret":"{}"}}"#, "a".repeat(257));
    for (body, status, code) in [
        (r#"{"secret":"fifteen bytes.."}"#, 400, 20_025),
        (long.as_str(), 400, 20_025),
        (r#"{"secret":"sixteen bytes, é"}"#, 400, 20_025),
        (r#"{"secret":"sixteen bytes\n,,"}"#, 400, 20_025),
        (r#"{"secret":7}"#, 400, 20_025),
        (r#"{"secret":null}"#, 400, 20_025),
        ("{", 400, 20_012),
        ("[]", 400, 20_013),
    ] {
        let message =
            check(&server, request("POST", &*all).bearer(&server.token).body(body), status, code).await;
        assert!(code != 20_025 || message.contains("16 to 256"), "{message}");
    }
    // In use: by this key, or by another.
    let (second, _) = server.key().await;
    for uid in [&uid, &second] {
        let body = json!({ "secret": SECRET }).to_string();
        let ask = request("POST", path(&server, uid)).bearer(&server.token).body(body);
        check(&server, ask, 409, 20_028).await;
    }
    for _ in 1..8 {
        add(&server, &uid, "").await;
    }
    let ninth = request("POST", &*all).bearer(&server.token);
    assert!(check(&server, ninth, 409, 20_026).await.contains("8 shared secrets"));
    add(&server, &second, "").await;
}

#[tokio::test]
async fn a_deployment_has_a_bounded_number_of_secrets() {
    let server = server().await;
    // 125 keys with 8 each, in one go: one by one, each on disk, would take long.
    let mut rows = Vec::new();
    for _ in 0..125 {
        let key = server.store.create_key(&server.account.id, "").await.unwrap().key.uid;
        rows.extend((0..8).map(|_| key));
    }
    let row = |(n, key): (usize, &TurnKeyId)| {
        let (number, key) =
            (Place::bytes(&hex::encode((n as u128).to_be_bytes())), Place::bytes(&key.to_string()));
        format!("({number}, {key}, {key}, 1)")
    };
    let rows_text: Vec<_> = rows.iter().enumerate().map(row).collect();
    let insert = "INSERT INTO shared_secrets (id, turn_key, sealed, created) VALUES";
    server.place.execute(&format!("{insert} {}", rows_text.join(", "))).await;
    let (uid, _) = server.key().await;
    let ask = request("POST", self::path(&server, &uid)).bearer(&server.token);
    assert!(check(&server, ask, 409, 20_027).await.contains("1000"));
    let gone = SharedSecretId::from_bytes(0_u128.to_be_bytes());
    server.store.remove_shared_secret(&server.account.id, rows[0], gone).await.unwrap().unwrap();
    add(&server, &uid, "").await;
}

#[tokio::test]
async fn the_database_does_not_give_secrets_away() {
    let server = server().await;
    let (uid, _) = server.key().await;
    add_known(&server, &uid, SECRET).await;
    let generated = add(&server, &uid, "").await["secret"].as_str().unwrap().to_owned();
    let contains = |text: &[u8]| server.place.holds(text);
    let raw = hex::decode(&generated).unwrap();
    for text in [SECRET.as_bytes(), &SECRET.as_bytes()[..12], generated.as_bytes(), &raw] {
        assert!(!contains(text));
    }
    // The search is one that finds: the key's id and the secret's ciphertext are there.
    let key: TurnKeyId = uid.parse().unwrap();
    assert!(contains(key.as_bytes()));
    let stored = server.store.shared_secrets(key).await.unwrap();
    assert!(contains(stored[0].sealed.as_bytes()));
    // And another keyring opens nothing.
    let other = Keyring::generate(now()).unwrap();
    assert!(stored.iter().all(|secret| secret.open(&other).is_err()));
}

#[tokio::test]
async fn what_another_process_changes_is_heard_by_polling() {
    let server = server().await;
    let heard = Heard::subscribe(&server.control.feed()).await;
    let (uid, _) = server.key().await;
    let key = uid.parse().unwrap();
    let elsewhere = Store::open(&server.place.url()).await.unwrap();
    let keyring = server.keyring.load_full();
    let until = async |wanted: Option<Vec<String>>| {
        let start = std::time::Instant::now();
        while heard.secrets(&uid) != wanted {
            assert!(start.elapsed() < std::time::Duration::from_secs(5), "polling finds it soon");
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    let made = elsewhere.add_shared_secret(&keyring, &server.account.id, key, SECRET.parse().unwrap());
    let made = made.await.unwrap().unwrap();
    until(Some(vec![SECRET.to_owned()])).await;
    elsewhere.remove_shared_secret(&server.account.id, key, made.id).await.unwrap().unwrap();
    until(Some(vec![])).await;
}

#[tokio::test]
async fn a_restart_reads_all_settings_and_a_deleted_keys_none() {
    let server = server().await;
    let (kept, _) = server.key().await;
    let (deleted, _) = server.key().await;
    add_known(&server, &kept, SECRET).await;
    add(&server, &kept, "").await;
    add(&server, &deleted, "").await;
    let delete = request("DELETE", format!("{}/{deleted}", server.keys_path())).bearer(&server.token);
    server.send(delete).await.success(200, "delete");
    let store = Store::open(&server.place.url()).await.unwrap();
    let control = Control::new(config(), store, Arc::clone(&server.keyring)).await.unwrap();
    let heard = Heard::subscribe(&control.feed()).await;
    assert_eq!(heard.secrets(&kept).map(|it| (it.len(), it[0].clone())), Some((2, SECRET.to_owned())));
    assert_eq!(heard.secrets(&deleted), None);
    assert!(matches!(heard.denials()[..], [Denial::Key { key, .. }] if key.to_string() == deleted));
}

#[tokio::test]
async fn secrets_survive_rotation_and_wait_for_their_keyring() {
    let server = server().await;
    let (uid, _) = server.key().await;
    add_known(&server, &uid, SECRET).await;
    let first = server.keyring.load_full();
    let mut second = Keyring::clone(&first);
    second.rotate(now()).unwrap();
    assert_eq!(server.store.reseal_shared_secrets(&first).await.unwrap().count, 0, "sealed so already");
    let resealed = server.store.reseal_shared_secrets(&second).await.unwrap();
    assert_eq!((resealed.count, resealed.unreadable), (1, 0));
    let mut third = second.clone();
    third.rotate(now() + 50 * 3_600).unwrap();
    assert_eq!(third.key_ids().count(), 2, "the first key has left");
    let stored = server.store.shared_secrets(uid.parse().unwrap()).await.unwrap();
    assert_eq!(stored[0].open(&third).unwrap().text.as_str(), SECRET);

    // A process that has not read the new keyring yet does without, and does not forget.
    let keyring = Arc::new(ArcSwap::from(first));
    let feed = Feed::new(server.store.clone(), Arc::clone(&keyring));
    let heard = Heard::subscribe(&feed).await;
    assert_eq!(heard.secrets(&uid), Some(vec![]));
    feed.catch_up().await.unwrap();
    assert_eq!(heard.secrets(&uid), Some(vec![]));
    keyring.store(Arc::new(second));
    feed.catch_up().await.unwrap();
    assert_eq!(heard.secrets(&uid), Some(vec![SECRET.to_owned()]));
    // Whom nobody can open stays as it is.
    let stranger = Keyring::generate(now()).unwrap();
    let stranger = Keyring::parse(&stranger.to_text().replace("id = 1", "id = 9")).unwrap();
    let resealed = server.store.reseal_shared_secrets(&stranger).await.unwrap();
    assert_eq!((resealed.count, resealed.unreadable), (0, 1));
    assert_eq!(server.store.shared_secrets(uid.parse().unwrap()).await.unwrap(), stored);
}

#[tokio::test]
async fn a_time_limited_username_is_revoked_in_every_form() {
    let server = server().await;
    let heard = Heard::subscribe(&server.control.feed()).await;
    let (uid, secret) = server.key().await;
    let (other, other_secret) = server.key().await;
    let base = format!("/v1/turn/keys/{uid}/credentials");
    let username = format!("{}:@bob:example.org/x", now() + 3_600);
    let encoded = username.replace(':', "%3A").replace('@', "%40").replace('/', "%2F");
    let path_form = || request("POST", format!("{base}/{encoded}/revoke"));
    check(&server, path_form().bearer(&secret), 404, 20_009).await;
    add(&server, &uid, "").await;
    check(&server, path_form(), 401, 10_000).await;
    check(&server, path_form().bearer(&other_secret), 401, 10_000).await;
    let of_other = request("POST", format!("/v1/turn/keys/{other}/credentials/{encoded}/revoke"));
    check(&server, of_other.bearer(&other_secret), 404, 20_009).await;
    let in_body =
        |name: &str| request("POST", format!("{base}/revoke")).body(json!({ "username": name }).to_string());
    for wrong in ["bob", "12x:bob", &format!("{}:far", now() + 31_622_500), &"1".repeat(600)] {
        check(&server, in_body(wrong).bearer(&secret), 404, 20_009).await;
    }
    assert_eq!(heard.denials(), []);
    let expired = format!("{}:bob", now() - 1);
    assert_eq!(server.send(in_body(&expired).bearer(&secret)).await.status, 204);
    let older = request("POST", format!("{base}/username/{encoded}/revoke"));
    for form in [path_form(), older, in_body(&username)] {
        assert_eq!(server.send(form.bearer(&secret)).await.status, 204);
    }
    let parsed = TimeLimited::parse(username.as_bytes()).unwrap();
    let (id, until) = (parsed.id(uid.parse().unwrap()), parsed.expires_at);
    assert_eq!(heard.denials(), [Denial::Credential { id, until }]);
}

#[tokio::test]
async fn the_rest_convention_is_answered() {
    let server = server().await;
    let (uid, secret) = server.key().await;
    let ask = async |query: &str, bearer: Option<&str>| {
        let request = request("GET", format!("/turn{query}"));
        let request = if let Some(bearer) = bearer { request.bearer(bearer) } else { request };
        let reply = server.send(request).await;
        assert_eq!((reply.status, reply.header("cache-control")), (200, Some("no-store")), "{}", reply.body);
        let json = reply.json();
        let fields: Vec<_> = json.as_object().unwrap().keys().cloned().collect();
        assert_eq!(fields, ["password", "ttl", "uris", "username"]);
        assert_eq!(json["ttl"], 86_400);
        assert_eq!(
            json["uris"],
            json!(["turn:turn.example:3478?transport=udp", "turn:turn.example:3478?transport=tcp"])
        );
        let text = |name: &str| json[name].as_str().unwrap().to_owned();
        (text("username"), text("password"))
    };
    // Without a shared secret the credential is sealed.
    let (username, password) = ask(&format!("?service=turn&username=b%C3%BCb+1&key={secret}"), None).await;
    let keyring = server.keyring.load_full();
    let claims = keyring.open(username.as_bytes()).unwrap().claims;
    assert_eq!(keyring.password(username.as_bytes()).unwrap(), password);
    assert_eq!((claims.key.to_string(), claims.custom_identifier.as_str()), (uid.clone(), "büb 1"));
    // With some it is signed with the newest.
    add(&server, &uid, "").await;
    add_known(&server, &uid, SECRET).await;
    for (query, rest) in [("?service=turn&username=@b:x", ":@b:x"), ("?service=turn", "")] {
        let (username, password) = ask(query, Some(&secret)).await;
        let parsed = TimeLimited::parse(username.as_bytes()).unwrap();
        assert!(parsed.expires_at.abs_diff(now() + 86_400) < 5);
        assert_eq!(username, format!("{}{rest}", parsed.expires_at));
        assert_eq!(password.as_bytes(), &*parsed.password(&SECRET.parse().unwrap()));
    }
    // A key that another process made is found, too.
    let made = server.store.create_key(&server.account.id, "").await.unwrap();
    ask(&format!("?service=turn&key={}", made.secret), None).await;

    let refuse = async |query: String, status, code| {
        check(&server, request("GET", format!("/turn{query}")), status, code).await
    };
    refuse(String::new(), 401, 10_000).await;
    refuse("?service=turn".to_owned(), 401, 10_000).await;
    refuse("?service=turn&key=wrong".to_owned(), 401, 10_000).await;
    refuse(format!("?service=turn&key={}", secret.to_uppercase()), 401, 10_000).await;
    refuse(format!("?service=turn&key={}", server.token), 401, 10_000).await;
    refuse(format!("?key={secret}"), 400, 20_029).await;
    refuse(format!("?service=stun&key={secret}"), 400, 20_029).await;
    refuse(format!("?service=turn&key={secret}&username={}", "u".repeat(129)), 400, 20_030).await;
    check(&server, request("POST", format!("/turn?service=turn&key={secret}")), 405, 10_405).await;
    let basic = request("GET", format!("/turn?service=turn&key={secret}")).header("Authorization", "Basic x");
    check(&server, basic, 401, 10_000).await;
    let delete = request("DELETE", format!("{}/{uid}", server.keys_path())).bearer(&server.token);
    server.send(delete).await.success(200, "delete");
    refuse(format!("?service=turn&key={secret}"), 401, 10_000).await;
}

#[tokio::test]
async fn guessing_keys_is_slowed_down() {
    let slow = control::Rate { per_sec: 1, burst: 3 };
    let server = server_with(|config, _| config.unknown_key_rate = slow, |store| store).await;
    let (_, secret) = server.key().await;
    let ask = |key: &str| request("GET", format!("/turn?service=turn&key={key}"));
    let mut statuses = Vec::new();
    for n in 0..5 {
        statuses.push(server.send(ask(&n.to_string())).await.status);
    }
    assert!(statuses.contains(&429) && statuses[0] == 401, "{statuses:?}");
    assert_eq!(server.send(ask(&secret)).await.status, 200, "whoever is known need not wait");
}
