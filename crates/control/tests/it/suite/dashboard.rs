use control::store::{Permission, Store, Timestamp};

use super::server::{Server, server, server_with};
use crate::http::{Reply, Request, request};

/// A browser that has signed in.
struct Browser<'a> {
    server: &'a Server,
    cookie: String,
    csrf: String,
}

fn encoded(text: &str) -> String {
    text.bytes().fold(String::new(), |encoded, byte| format!("{encoded}%{byte:02X}"))
}

fn form(path: impl Into<String>, fields: &[(&str, &str)]) -> Request {
    let fields = fields.iter().map(|(name, value)| format!("{name}={}", encoded(value)));
    request("POST", path)
        .header("Content-Type", "application/x-www-form-urlencoded")
        .body(fields.collect::<Vec<_>>().join("&"))
}

fn sign_in(token: &str) -> Request {
    form("/dashboard/sign-in", &[("token", token)]).header("Sec-Fetch-Site", "same-origin")
}

fn cookie(reply: &Reply) -> String {
    reply.header("set-cookie").unwrap().split(';').next().unwrap().to_owned()
}

impl<'a> Browser<'a> {
    async fn open(server: &'a Server, token: &str) -> Self {
        let reply = server.send(sign_in(token)).await;
        assert_eq!(
            (reply.status, reply.header("location")),
            (303, Some("/dashboard/keys")),
            "{}",
            reply.body
        );
        let cookie = cookie(&reply);
        let page = server.send(request("GET", "/dashboard/keys").header("Cookie", &cookie)).await.body;
        let csrf = page.split(r#"name="csrf" value=""#).nth(1).unwrap().split('"').next().unwrap();
        Self { server, csrf: csrf.to_owned(), cookie }
    }

    async fn get(&self, path: &str) -> Reply {
        self.server.send(request("GET", path).header("Cookie", &self.cookie)).await
    }

    /// Sends a form as a page of ours does.
    async fn post(&self, path: &str, fields: &[(&str, &str)]) -> Reply {
        let mut fields = fields.to_vec();
        fields.push(("csrf", &self.csrf));
        let ask = form(path, &fields).header("Cookie", &self.cookie);
        self.server.send(ask.header("Sec-Fetch-Site", "same-origin")).await
    }

    async fn is_signed_in(&self) -> bool {
        self.get("/dashboard/health").await.status == 200
    }
}

async fn keys(server: &Server) -> Vec<String> {
    server.store.keys(&server.account.id).await.unwrap().into_iter().map(|key| key.name).collect()
}

#[tokio::test]
async fn the_cookie_is_no_token_and_for_this_site_alone() {
    let server = server().await;
    let reply = server.send(sign_in(&server.token)).await;
    let line = reply.header("set-cookie").unwrap();
    assert!(!line.contains(&server.token), "{line}");
    for part in ["HttpOnly", "SameSite=Strict", "Path=/", "Max-Age=43200"] {
        assert!(line.split("; ").any(|it| it == part), "{part}: {line}");
    }
    assert!(!line.contains("Secure") && !line.starts_with("__Host-"), "without TLS: {line}");
    let behind_proxy = server.send(sign_in(&server.token).header("X-Forwarded-Proto", "https")).await;
    let with_tls = server_with(|config, _: &Store| config.https = true, |store| store).await;
    for reply in [behind_proxy, with_tls.send(sign_in(&with_tls.token)).await] {
        let line = reply.header("set-cookie").unwrap();
        assert!(line.starts_with("__Host-") && line.ends_with("; Secure"), "{line}");
    }
    let page = server.send(request("GET", "/dashboard/keys").header("Cookie", &cookie(&reply))).await;
    assert_eq!(page.status, 200);
    assert!(!page.body.contains(&server.token));
}

#[tokio::test]
async fn who_is_not_signed_in_sees_the_sign_in_page_only() {
    let server = server().await;
    for path in [
        "/dashboard/keys?page=2",
        "/dashboard/sessions",
        "/dashboard/usage",
        "/dashboard/usage.csv",
        "/dashboard/x",
    ] {
        let reply = server.send(request("GET", path)).await;
        assert_eq!(reply.status, 303, "{path}");
        let to = reply.header("location").unwrap();
        assert!(to.starts_with("/dashboard/sign-in?next=%2Fdashboard%2F"), "{to}");
        let forged = request("GET", path).header("Cookie", &format!("turnery-dashboard={}", "0".repeat(64)));
        assert_eq!(server.send(forged).await.status, 303, "{path}");
    }
    let reply = server
        .send(
            form("/dashboard/sign-in", &[("token", &server.token), ("next", "/dashboard/usage")])
                .header("Sec-Fetch-Site", "same-origin"),
        )
        .await;
    assert_eq!(reply.header("location"), Some("/dashboard/usage"));
    let reply = server
        .send(
            form("/dashboard/sign-in", &[("token", &server.token), ("next", "//evil.example")])
                .header("Sec-Fetch-Site", "same-origin"),
        )
        .await;
    assert_eq!(reply.header("location"), Some("/dashboard/keys"));
}

#[tokio::test]
async fn a_wrong_token_signs_nobody_in_and_is_tried_some_times_only() {
    let server = server().await;
    let past = Timestamp::from_unix_secs(1);
    let expired = server.token(Permission::Write, Some(past)).await;
    for token in ["", "wrong", &expired] {
        let reply = server.send(sign_in(token)).await;
        assert_eq!((reply.status, reply.header("set-cookie")), (401, None), "{token}");
        assert!(reply.body.contains("API token: "), "{}", reply.body);
    }
    let foreign =
        form("/dashboard/sign-in", &[("token", &server.token)]).header("Sec-Fetch-Site", "cross-site");
    assert_eq!(server.send(foreign).await.status, 403, "nobody is signed in by another site");
    let mut refused = None;
    for _ in 0..60 {
        let reply = server.send(sign_in("wrong")).await;
        if reply.status == 429 {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.expect("attempts are limited");
    assert_eq!(refused.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn a_change_needs_the_page_the_cookie_and_the_form() {
    let server = server().await;
    let browser = Browser::open(&server, &server.token).await;
    let other = Browser::open(&server, &server.token).await;
    let ask = |csrf: &str| {
        form("/dashboard/keys", &[("name", "forged"), ("csrf", csrf)]).header("Cookie", &browser.cookie)
    };
    let host = server.addr.to_string();
    for (what, ask, status) in [
        (
            "no token",
            form("/dashboard/keys", &[("name", "forged")])
                .header("Cookie", &browser.cookie)
                .header("Sec-Fetch-Site", "same-origin"),
            403,
        ),
        ("a wrong token", ask("0").header("Sec-Fetch-Site", "same-origin"), 403),
        ("another sign-in's token", ask(&other.csrf).header("Sec-Fetch-Site", "same-origin"), 403),
        ("another site", ask(&browser.csrf).header("Sec-Fetch-Site", "cross-site"), 403),
        ("a sister site", ask(&browser.csrf).header("Sec-Fetch-Site", "same-site"), 403),
        ("another origin", ask(&browser.csrf).header("Origin", "http://evil.example"), 403),
        ("no origin", ask(&browser.csrf), 403),
        (
            "no cookie",
            form("/dashboard/keys", &[("name", "forged"), ("csrf", &browser.csrf)])
                .header("Sec-Fetch-Site", "same-origin"),
            303,
        ),
    ] {
        assert_eq!(server.send(ask).await.status, status, "{what}");
        assert!(keys(&server).await.is_empty(), "{what}");
    }
    let old_browser = ask(&browser.csrf).header("Origin", &format!("http://{host}"));
    assert_eq!(server.send(old_browser).await.status, 201);
    assert_eq!(keys(&server).await, ["forged"]);
}

#[tokio::test]
async fn a_sign_in_ends_with_its_token_its_time_and_the_sign_out() {
    let server = server().await;
    let text = server.token(Permission::Write, None).await;
    let browser = Browser::open(&server, &text).await;
    assert!(browser.is_signed_in().await);
    let token = server.store.token_with_text(&text).await.unwrap().unwrap();
    server.store.delete_token(&token.id).await.unwrap();
    assert!(!browser.is_signed_in().await, "the token is gone");

    let own = server.store.token_with_text(&server.token).await.unwrap().unwrap();
    let over = server.store.sign_in(&own.id, 0).await.unwrap();
    assert!(server.store.signed_in(&over.secret).await.unwrap().is_none(), "its time is over");

    let browser = Browser::open(&server, &server.token).await;
    let reply = browser.post("/dashboard/sign-out", &[]).await;
    assert_eq!(reply.status, 303);
    assert!(reply.header("set-cookie").unwrap().contains("Max-Age=0"));
    assert!(!browser.is_signed_in().await, "signed out");

    let first = server.store.sign_in(&own.id, 60).await.unwrap();
    for _ in 0..control::store::MAX_SIGN_INS_OF_TOKEN {
        server.store.sign_in(&own.id, 60).await.unwrap();
    }
    assert!(server.store.signed_in(&first.secret).await.unwrap().is_none(), "the oldest makes room");
}

#[tokio::test]
async fn a_token_that_expires_ends_its_sign_in() {
    let server = server().await;
    let soon = Timestamp::from_unix_micros(Timestamp::now().unix_micros() + 1_500_000);
    let text = server.token(Permission::Write, Some(soon)).await;
    let browser = Browser::open(&server, &text).await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while browser.is_signed_in().await {
        assert!(std::time::Instant::now() < deadline, "it never ends");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    assert!(Timestamp::now() >= soon);
}

#[tokio::test]
async fn a_token_that_may_read_changes_nothing() {
    let server = server().await;
    let (uid, _) = server.key().await;
    let token = server.token(Permission::Read, None).await;
    let browser = Browser::open(&server, &token).await;
    for path in [
        "/dashboard/keys".to_owned(),
        format!("/dashboard/keys/{uid}/rename"),
        format!("/dashboard/keys/{uid}/delete"),
        format!("/dashboard/keys/{uid}/limits"),
        format!("/dashboard/keys/{uid}/limits/clear"),
        format!("/dashboard/keys/{uid}/mint"),
        "/dashboard/sessions/end".to_owned(),
    ] {
        let reply = browser.post(&path, &[("name", "changed"), ("key", &uid)]).await;
        assert_eq!(reply.status, 403, "{path}");
        assert!(reply.body.contains("Calls Write"), "{path}");
    }
    assert_eq!(keys(&server).await, [""]);
    let page = browser.get(&format!("/dashboard/keys/{uid}")).await;
    assert_eq!(page.body.matches("<form").count(), 1, "only that to sign out: {}", page.body);
}

#[tokio::test]
async fn another_account_is_another_world() {
    let server = server().await;
    let stranger = server.store.create_account(None, "stranger").await.unwrap();
    let foreign = server.store.create_key(&stranger.id, "theirs").await.unwrap().key.uid;
    let browser = Browser::open(&server, &server.token).await;
    assert!(!browser.get("/dashboard/keys").await.body.contains("theirs"));
    for path in ["", "/delete", "/limits", "/mint"] {
        let path = format!("/dashboard/keys/{foreign}{path}");
        assert_eq!(browser.get(&path).await.status, 404, "{path}");
    }
    for path in ["/rename", "/delete", "/limits", "/limits/clear", "/mint"] {
        let path = format!("/dashboard/keys/{foreign}{path}");
        assert_eq!(browser.post(&path, &[("name", "mine")]).await.status, 404, "{path}");
    }
    let reply = browser.post("/dashboard/sessions/end", &[("key", &foreign.to_string())]).await;
    assert_eq!(reply.status, 404);
    assert_eq!(server.store.keys(&stranger.id).await.unwrap()[0].name, "theirs");
}

#[tokio::test]
async fn every_page_has_a_strict_policy_and_harmless_names() {
    const NASTY: &str = r#"<script>alert(1)</script>"'><img src=x onerror=alert(1)>{{7*7}}"#;
    let server = server().await;
    let browser = Browser::open(&server, &server.token).await;
    let made = browser.post("/dashboard/keys", &[("name", NASTY)]).await;
    assert_eq!(made.status, 201);
    let uid = server.store.keys(&server.account.id).await.unwrap()[0].uid;
    let nasty = encoded(NASTY);
    let mut pages = vec![
        made,
        browser
            .post(&format!("/dashboard/keys/{uid}/mint"), &[("custom_identifier", NASTY), ("ttl", "60")])
            .await,
        browser.post(&format!("/dashboard/keys/{uid}/mint"), &[("ttl", NASTY)]).await,
        browser.post(&format!("/dashboard/keys/{uid}/limits"), &[("channels", NASTY)]).await,
        browser.post(&format!("/dashboard/keys/{uid}/rename"), &[("name", &NASTY.repeat(9))]).await,
        server.send(request("GET", "/dashboard/sign-in")).await,
        server.send(sign_in("wrong")).await,
    ];
    for path in [
        "/dashboard/keys".to_owned(),
        format!("/dashboard/keys/{uid}"),
        format!("/dashboard/keys/{uid}/delete"),
        format!("/dashboard/keys/{uid}/limits"),
        format!("/dashboard/keys/{uid}/mint"),
        format!("/dashboard/sessions?custom_identifier={nasty}"),
        format!("/dashboard/sessions/end?custom_identifier={nasty}"),
        format!("/dashboard/sessions?key={nasty}"),
        format!("/dashboard/usage?custom_identifier={nasty}&by=key"),
        format!("/dashboard/usage?range=days&since={nasty}"),
        "/dashboard/health".to_owned(),
        format!("/dashboard/{nasty}"),
        "/dashboard/dashboard.js".to_owned(),
        "/dashboard/dashboard.css".to_owned(),
    ] {
        pages.push(browser.get(&path).await);
    }
    for page in pages {
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"), "{policy}");
        assert!(!policy.contains("unsafe") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(page.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(page.header("cache-control"), Some("no-store"));
        assert_eq!(page.header("referrer-policy"), Some("same-origin"));
        if page.header("content-type") != Some("text/html; charset=utf-8") {
            continue;
        }
        assert!(!page.body.contains("<script>") && !page.body.contains("<img"), "{}", page.body);
        for inline in [" style=", " onclick=", " onerror=\"", "javascript:", "http://", "https://"] {
            assert!(!page.body.contains(inline), "{inline}: {}", page.body);
        }
    }
}

#[tokio::test]
async fn keys_are_made_renamed_limited_and_deleted() {
    let server = server().await;
    let browser = Browser::open(&server, &server.token).await;
    let made = browser.post("/dashboard/keys", &[("name", " phone ")]).await;
    assert_eq!(made.status, 201);
    let key = server.store.keys(&server.account.id).await.unwrap().remove(0);
    assert_eq!(key.name, "phone");
    let secret = made.body.split(r#"id="made-secret">"#).nth(1).unwrap().split('<').next().unwrap();
    let mint = format!("/v1/turn/keys/{}/credentials/generate", key.uid);
    assert_eq!(
        server.send(request("POST", &mint).bearer(secret)).await.status,
        201,
        "it is the key's secret"
    );
    let home = format!("/dashboard/keys/{}", key.uid);
    assert!(!browser.get(&home).await.body.contains(secret), "it is shown once");

    let reply = browser.post(&format!("{home}/rename"), &[("name", "tablet")]).await;
    assert_eq!(reply.header("location"), Some(format!("{home}?done=renamed").as_str()));
    assert_eq!(keys(&server).await, ["tablet"]);
    let reply = browser.post(&format!("{home}/rename"), &[("name", &"x".repeat(256))]).await;
    assert_eq!(reply.status, 400);
    assert!(reply.body.contains("Name: it has 256 characters, and may have 255."), "{}", reply.body);

    let fields = [("allocations", "2k"), ("key_bits_per_second", "10M"), ("channels", "")];
    assert_eq!(browser.post(&format!("{home}/limits"), &fields).await.status, 303);
    let limits = server.store.key_limits(key.uid).await.unwrap().unwrap();
    assert_eq!(
        (limits.allocations, limits.key_bits_per_second, limits.channels),
        (Some(2_000), Some(10_000_000), None)
    );
    assert!(browser.get(&home).await.body.contains("10,000,000"));
    let reply = browser.post(&format!("{home}/limits"), &[("allocations", "many")]).await;
    assert_eq!(reply.status, 400);
    assert!(reply.body.contains("Allocations at once: “many” is no whole number"), "{}", reply.body);
    assert_eq!(browser.post(&format!("{home}/limits/clear"), &[]).await.status, 303);
    assert_eq!(server.store.key_limits(key.uid).await.unwrap(), None);

    let reply = browser.post(&format!("{home}/mint"), &[("ttl", "172801")]).await;
    assert_eq!(reply.status, 400);
    let reply = browser.post(&format!("{home}/mint"), &[("ttl", "60"), ("custom_identifier", "me")]).await;
    assert!(reply.body.contains("/try#ice-servers=%7B"), "{}", reply.body);

    assert!(browser.get(&format!("{home}/delete")).await.body.contains("tablet"));
    assert_eq!(keys(&server).await, ["tablet"], "asking deletes nothing");
    assert_eq!(browser.post(&format!("{home}/delete"), &[]).await.status, 303);
    assert!(keys(&server).await.is_empty());
    assert_eq!(server.send(request("POST", mint).bearer(secret)).await.status, 404);
}

#[tokio::test]
async fn lists_have_pages() {
    let server = server().await;
    for n in 0..51 {
        server.store.create_key(&server.account.id, &format!("key number {n}.")).await.unwrap();
    }
    let browser = Browser::open(&server, &server.token).await;
    let first = browser.get("/dashboard/keys").await.body;
    assert!(first.contains("51 keys") && first.contains("key number 50."));
    assert!(
        !first.contains("key number 0.") && first.contains(r#"rel="next" href="/dashboard/keys?page=2""#)
    );
    for path in ["/dashboard/keys?page=2", "/dashboard/keys?page=99"] {
        let second = browser.get(path).await.body;
        assert!(second.contains("key number 0.") && !second.contains("key number 1."), "{path}");
    }
}

#[tokio::test]
async fn keys_are_suspended_resumed_rolled_and_the_log_says_who() {
    let server = server().await;
    let browser = Browser::open(&server, &server.token).await;
    let (uid, secret) = server.key().await;
    let home = format!("/dashboard/keys/{uid}");
    let mint = async |secret: &str| {
        let path = format!("/v1/turn/keys/{uid}/credentials/generate");
        server.send(request("POST", path).bearer(secret)).await.status
    };
    assert!(browser.get(&format!("{home}/suspend")).await.body.contains("Suspend"));
    assert_eq!(mint(&secret).await, 201, "asking suspends nothing");
    assert_eq!(browser.post(&format!("{home}/suspend"), &[]).await.status, 303);
    assert_eq!(mint(&secret).await, 403);
    assert_eq!(browser.post(&format!("{home}/mint"), &[]).await.status, 403, "not here either");
    assert!(browser.get(&home).await.body.contains("suspended"));
    assert!(browser.get("/dashboard/keys").await.body.contains("suspended"));
    assert_eq!(browser.post(&format!("{home}/resume"), &[]).await.status, 303);
    assert_eq!(mint(&secret).await, 201);

    let wrong = browser.post(&format!("{home}/roll"), &[("overlap", "17")]).await;
    assert_eq!(wrong.status, 400);
    let rolled = browser.post(&format!("{home}/roll"), &[("overlap", "3600")]).await;
    let made = rolled.body.split(r#"id="made-secret">"#).nth(1).unwrap().split('<').next().unwrap();
    assert_eq!((mint(made).await, mint(&secret).await), (201, 201), "both are good for an hour");
    assert_eq!(browser.post(&format!("{home}/roll"), &[("overlap", "0")]).await.status, 200);
    assert_eq!((mint(made).await, mint(&secret).await), (401, 401));

    let log = browser.get(&format!("/dashboard/audit?target={uid}")).await.body;
    for part in [
        "turn_key.suspend",
        "turn_key.resume",
        "turn_key.roll",
        "dashboard, API token bootstrap",
        "127.0.0.1",
    ] {
        assert!(log.contains(part), "{part}: {log}");
    }
    assert!(!log.contains(made) && !log.contains(&server.token));
    assert!(!browser.get("/dashboard/audit?action=token").await.body.contains("turn_key.roll"));
    let stranger = server.store.create_account(None, "stranger").await.unwrap();
    server.store.create_key(&stranger.id, "theirs").await.unwrap();
    assert!(!browser.get("/dashboard/audit").await.body.contains("theirs"));
}

#[tokio::test]
async fn credentials_are_revoked_one_by_one_and_many_at_once() {
    let server = server().await;
    let browser = Browser::open(&server, &server.token).await;
    let (uid, secret) = server.key().await;
    let (other, _) = server.key().await;
    let place = format!("/dashboard/keys/{uid}/revocations");
    let path = format!("/v1/turn/keys/{uid}/credentials/generate");
    let made = server.send(request("POST", path).bearer(&secret).body(r#"{"customIdentifier":"me"}"#)).await;
    let username = made.json()["iceServers"]["username"].as_str().unwrap().to_owned();
    for (fields, fault) in [
        (vec![("what", "credential"), ("username", "wrong")], "Username: it is no credential of this key"),
        (vec![("what", "credential")], "Username: it is empty"),
        (vec![("what", "custom_identifier")], "Custom identifier: it is empty"),
        (vec![("what", "all")], "tick the box"),
        (vec![], "What: "),
    ] {
        let reply = browser.post(&place, &fields).await;
        assert_eq!(reply.status, 400, "{fields:?}");
        assert!(reply.body.contains(fault), "{fault}: {}", reply.body);
    }
    let elsewhere = format!("/dashboard/keys/{other}/revocations");
    let reply = browser.post(&elsewhere, &[("what", "credential"), ("username", &username)]).await;
    assert_eq!(reply.status, 400, "another key's");
    assert!(server.store.revocations(uid.parse().unwrap(), None, 9).await.unwrap().is_empty());
    for fields in [
        vec![("what", "credential"), ("username", username.as_str())],
        vec![("what", "custom_identifier"), ("custom_identifier", "me")],
        vec![("what", "all"), ("sure", "yes")],
    ] {
        assert_eq!(browser.post(&place, &fields).await.status, 303, "{fields:?}");
    }
    let page = browser.get(&place).await.body;
    for part in ["One credential", "All of a custom identifier", "All of the key", "me, "] {
        assert!(page.contains(part), "{part}: {page}");
    }
}

#[tokio::test]
async fn tokens_are_made_and_deleted_and_never_outlast_their_maker() {
    let server = server().await;
    let browser = Browser::open(&server, &server.token).await;
    let made = browser
        .post("/dashboard/tokens", &[("name", "bot"), ("permission", "Calls Read"), ("days", "30")])
        .await;
    assert_eq!(made.status, 201);
    let text = made.body.split(r#"id="made-token">"#).nth(1).unwrap().split('<').next().unwrap();
    let token = server.store.token_with_text(text).await.unwrap().unwrap();
    assert_eq!((token.name.as_str(), token.permission), ("bot", Permission::Read));
    assert_eq!(token.account, server.account.id);
    assert!(!browser.get("/dashboard/tokens").await.body.contains(text), "it is shown once");
    for fields in [[("permission", "All"), ("days", "1")], [("permission", "Calls Read"), ("days", "5000")]] {
        assert_eq!(browser.post("/dashboard/tokens", &fields).await.status, 400, "{fields:?}");
    }

    let end = Timestamp::now().plus_secs(7_200);
    let short = Browser::open(&server, &server.token(Permission::Write, Some(end)).await).await;
    let made = short.post("/dashboard/tokens", &[("permission", "Calls Write"), ("days", "")]).await;
    let text = made.body.split(r#"id="made-token">"#).nth(1).unwrap().split('<').next().unwrap();
    assert_eq!(server.store.token_with_text(text).await.unwrap().unwrap().expires_on, Some(end));

    let theirs = Browser::open(&server, text).await;
    let id = server.store.token_with_text(text).await.unwrap().unwrap().id.to_string();
    assert!(
        browser.get(&format!("/dashboard/tokens/delete?id={id}")).await.body.contains("Delete the token")
    );
    assert!(theirs.is_signed_in().await, "asking deletes nothing");
    assert_eq!(browser.post("/dashboard/tokens/delete", &[("id", &id)]).await.status, 303);
    assert!(!theirs.is_signed_in().await);
    let stranger = server.store.create_account(None, "stranger").await.unwrap();
    let foreign = server.store.create_token(&stranger.id, "", Permission::Write, None, None).await.unwrap();
    let id = foreign.token.id.to_string();
    assert_eq!(browser.post("/dashboard/tokens/delete", &[("id", &id)]).await.status, 404);
    assert!(server.store.token_with_text(foreign.text.as_str()).await.unwrap().is_some());
}

#[tokio::test]
async fn webhooks_are_made_tested_delivered_again_and_deleted() {
    let server = server_with(|config, _: &Store| config.webhook_lifetime_secs = 0, |store| store).await;
    let browser = Browser::open(&server, &server.token).await;
    for (fields, fault) in [
        (vec![("url", "ftp://hooks.example/")], "url must be https://"),
        (vec![("url", "https://hooks.example/"), ("event", "everything")], "events must be a list of"),
    ] {
        let reply = browser.post("/dashboard/webhooks", &fields).await;
        assert_eq!(reply.status, 400, "{fields:?}");
        assert!(reply.body.contains(fault), "{}", reply.body);
    }
    // Nobody is asked there: it is no public address.
    let fields = [("url", "https://127.0.0.1:1/x"), ("event", "webhook.test"), ("event", "turn_key.created")];
    let made = browser.post("/dashboard/webhooks", &fields).await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert!(made.body.contains("whsec_"));
    let webhook = server.store.webhooks(&server.account.id).await.unwrap().remove(0);
    assert_eq!(webhook.events, ["webhook.test", "turn_key.created"]);
    let id = [("id", webhook.id.as_str())];
    assert_eq!(browser.post("/dashboard/webhooks/test", &id).await.status, 303);
    let place = format!("/dashboard/webhooks/one?state=dead&id={}", webhook.id);
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(20);
    while !browser.get(&place).await.body.contains("given up</span>") {
        assert!(std::time::Instant::now() < deadline, "it is never given up");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(browser.post("/dashboard/webhooks/redeliver", &id).await.status, 303);
    assert!(browser.get("/dashboard/audit?action=webhook").await.body.contains("webhook.redeliver"));
    assert_eq!(browser.post("/dashboard/webhooks/delete", &id).await.status, 400, "the box is not ticked");
    let stranger = server.store.create_account(None, "stranger").await.unwrap();
    let foreign = server.store.create_token(&stranger.id, "", Permission::Write, None, None).await.unwrap();
    let other = Browser::open(&server, foreign.text.as_str()).await;
    for path in ["test", "redeliver", "delete"] {
        let reply = other.post(&format!("/dashboard/webhooks/{path}"), &[id[0], ("sure", "yes")]).await;
        assert_eq!(reply.status, 404, "{path}");
    }
    assert_eq!(other.get(&place).await.status, 404);
    assert_eq!(browser.post("/dashboard/webhooks/delete", &[id[0], ("sure", "yes")]).await.status, 303);
    assert!(server.store.webhooks(&server.account.id).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_monthly_limit_is_set_shown_and_taken_away() {
    let server = server().await;
    let browser = Browser::open(&server, &server.token).await;
    let (uid, _) = server.key().await;
    let place = format!("/dashboard/keys/{uid}/month");
    let key = uid.parse().unwrap();
    for (fields, fault) in [
        ([("bytes", ""), ("action", "cut"), ("notify_at", "80")], "Bytes in a month: it is empty"),
        ([("bytes", "1G"), ("action", "stop"), ("notify_at", "80")], "At the limit: there is no such choice"),
        ([("bytes", "1G"), ("action", "cut"), ("notify_at", "80, 100")], "Tell at: "),
    ] {
        let mut fields = fields.to_vec();
        fields.push(("counts", "total"));
        let reply = browser.post(&place, &fields).await;
        assert_eq!(reply.status, 400, "{fields:?}");
        assert!(reply.body.contains(fault), "{fault}: {}", reply.body);
    }
    assert!(server.store.month_limit(key).await.unwrap().is_none());
    let fields = [("bytes", "500G"), ("action", "cut"), ("counts", "total"), ("notify_at", "50, 80")];
    assert_eq!(browser.post(&place, &fields).await.status, 303);
    let limit = server.store.month_limit(key).await.unwrap().unwrap().limit;
    assert_eq!((limit.bytes, limit.notify_at), (500_000_000_000, vec![50, 80]));
    assert!(browser.get(&format!("/dashboard/keys/{uid}")).await.body.contains(">500 GB</data>"));
    assert!(browser.get(&place).await.body.contains(r#"value="50, 80""#));
    assert_eq!(browser.post(&format!("{place}/clear"), &[]).await.status, 303);
    assert!(server.store.month_limit(key).await.unwrap().is_none());
}
