use std::ffi::OsString;

use super::*;

const NO_ENV: &[(&str, &str)] = &[("TURNERY_DATA_DIR", "/tmp")];

fn load(flags: Layer, env: &[(&str, &str)], file: Option<&str>) -> Result<Settings> {
    let dir = tempfile::tempdir().unwrap();
    let config = file.map(|text| {
        let path = dir.path().join("turnery.toml");
        std::fs::write(&path, text).unwrap();
        path
    });
    let env = |name: &str| {
        env.iter().find(|(variable, _)| *variable == name).map(|(_, value)| OsString::from(*value))
    };
    Settings::load(&Global { config, ..Global::default() }, flags, &env)
}

#[allow(clippy::unnecessary_wraps)] // What a layer's field holds.
fn text(value: &str) -> Option<String> {
    Some(value.to_owned())
}

#[allow(clippy::unnecessary_wraps)] // What a layer's field holds.
fn list(value: &str) -> Option<Vec<String>> {
    Some(vec![value.to_owned()])
}

#[test]
fn flags_beat_the_environment_beats_the_file_beats_defaults() {
    let realm = |flag: Option<&str>, env: &[(&str, &str)], file: Option<&str>| {
        let flags = Layer { realm: flag.map(str::to_owned), ..Layer::default() };
        load(flags, &[NO_ENV, env].concat(), file).unwrap().realm
    };
    let (env, file) = ([("TURNERY_REALM", "from-env")], Some("realm = \"from-file\""));
    assert_eq!(realm(Some("from-flag"), &env, file), "from-flag");
    assert_eq!(realm(None, &env, file), "from-env");
    assert_eq!(realm(None, &[("TURNERY_REALM", "")], file), "from-file");
    assert_eq!(realm(None, &[], None), "turnery");
}

#[test]
fn every_key_of_the_file_and_every_variable_is_read() {
    let file = r#"
        data_dir = "/var/tmp/t"
        store = "sqlite:/var/tmp/t/s.db"
        keyring_in_store = false
        api_listen = "127.0.0.1:9000"
        turn_listen = ["udp://127.0.0.1:4000", "tcp://127.0.0.1:4000"]
        public_host = "turn.example.org"
        relay_address = ["198.51.100.7/127.0.0.1"]
        relay_ports = "50000-50100"
        alternate_address = ["198.51.100.8/127.0.0.2"]
        alternate_port = 4444
        allow_peer = ["10.0.0.0/8"]
        deny_peer = ["8.8.8.8", "2001:db8::/32"]
        proxy_protocol_from = ["10.9.0.0/16", "fd00::1"]
        workers = 3
        username_lifetime_secs = 86400
        realm = "example.org"
        max_allocations_per_key = 1000
        max_allocations_per_credential = "5"
        max_new_peers_per_second = 50
        max_permissions = 64
        max_channels = 32
        max_packets_per_second = "2k"
        max_bits_per_second = "10M"
        max_key_packets_per_second = "1M"
        max_key_bits_per_second = "2G"
        max_unauthenticated_answers_per_second = 700
        unauthenticated_prefixes = "20/48"
        dev = false
        log = "debug"
    "#;
    let env = [
        ("TURNERY_DATA_DIR", "/var/tmp/t"),
        ("TURNERY_STORE", "sqlite:/var/tmp/t/s.db"),
        ("TURNERY_KEYRING_IN_STORE", "no"),
        ("TURNERY_API_LISTEN", "127.0.0.1:9000"),
        ("TURNERY_TURN_LISTEN", "udp://127.0.0.1:4000, tcp://127.0.0.1:4000"),
        ("TURNERY_PUBLIC_HOST", "turn.example.org"),
        ("TURNERY_RELAY_ADDRESS", "198.51.100.7/127.0.0.1"),
        ("TURNERY_RELAY_PORTS", "50000-50100"),
        ("TURNERY_ALTERNATE_ADDRESS", "198.51.100.8/127.0.0.2"),
        ("TURNERY_ALTERNATE_PORT", "4444"),
        ("TURNERY_ALLOW_PEER", "10.0.0.0/8"),
        ("TURNERY_DENY_PEER", "8.8.8.8,2001:db8::/32"),
        ("TURNERY_PROXY_PROTOCOL_FROM", "10.9.0.0/16,fd00::1"),
        ("TURNERY_WORKERS", "3"),
        ("TURNERY_USERNAME_LIFETIME_SECS", "86400"),
        ("TURNERY_REALM", "example.org"),
        ("TURNERY_MAX_ALLOCATIONS_PER_KEY", "1k"),
        ("TURNERY_MAX_ALLOCATIONS_PER_CREDENTIAL", "5"),
        ("TURNERY_MAX_NEW_PEERS_PER_SECOND", "50"),
        ("TURNERY_MAX_PERMISSIONS", "64"),
        ("TURNERY_MAX_CHANNELS", "32"),
        ("TURNERY_MAX_PACKETS_PER_SECOND", "2000"),
        ("TURNERY_MAX_BITS_PER_SECOND", "10000k"),
        ("TURNERY_MAX_KEY_PACKETS_PER_SECOND", "1M"),
        ("TURNERY_MAX_KEY_BITS_PER_SECOND", "2000M"),
        ("TURNERY_MAX_UNAUTHENTICATED_ANSWERS_PER_SECOND", "700"),
        ("TURNERY_UNAUTHENTICATED_PREFIXES", "20/48"),
        ("TURNERY_DEV", "0"),
        ("TURNERY_LOG", "debug"),
    ];
    let from_file = format!("{:?}", load(Layer::default(), &[], Some(file)).unwrap());
    let from_env = format!("{:?}", load(Layer::default(), &env, None).unwrap());
    assert_eq!(from_file, from_env);
    for part in [
        "/var/tmp/t",
        "s.db",
        "9000",
        "4000",
        "turn.example.org",
        "198.51.100.7",
        "50100",
        "198.51.100.8",
        "4444",
        "8.8.8.8",
        "10.9.0.0/16",
        "workers: 3",
        "username_lifetime_secs: 86400",
    ] {
        assert!(from_file.contains(part), "{part} in {from_file}");
    }
}

#[test]
fn dev_changes_defaults_and_only_those() {
    let dev = Layer { dev: text("true"), ..Layer::default() };
    let settings = load(dev.clone(), &[], None).unwrap();
    assert!(settings.dev && settings.place.data_dir.is_none());
    assert_eq!(settings.public_host, "127.0.0.1");
    assert!(settings.turn_listen.iter().all(|listener| listener.address.ip().is_loopback()));
    assert!(settings.relay_addresses.iter().all(|address| address.local.is_loopback()));
    for (peer, allowed) in [
        ("127.0.0.1:1", true),
        ("192.168.1.1:1", true),
        ("100.64.0.1:1", true),
        ("[fd00::1]:1", true),
        ("8.8.8.8:1", true),
        ("169.254.169.254:80", false),
        ("224.0.0.1:1", false),
    ] {
        assert_eq!(settings.policy.check(peer.parse().unwrap()).is_ok(), allowed, "{peer}");
    }
    let said = Layer { turn_listen: list("udp://127.0.0.1:0"), public_host: text("localhost"), ..dev };
    let settings = load(said, NO_ENV, None).unwrap();
    assert_eq!((settings.turn_listen.len(), settings.public_host.as_str()), (1, "localhost"));
    assert!(settings.place.data_dir.is_some());
}

#[test]
fn the_data_directory_has_a_home() {
    let place = |env: &[(&str, &str)]| {
        let env =
            |name: &str| env.iter().find(|(it, _)| *it == name).map(|(_, value)| OsString::from(*value));
        Place::load(&Global::default(), &env).unwrap().data_dir.unwrap()
    };
    assert_eq!(
        place(&[("STATE_DIRECTORY", "/var/lib/a:/var/lib/b"), ("HOME", "/h")]),
        PathBuf::from("/var/lib/a")
    );
    let home = place(&[("HOME", "/h"), ("XDG_STATE_HOME", "/s")]);
    assert_eq!(home, PathBuf::from(if is_root() { "/var/lib/turnery" } else { "/s/turnery" }));
}

#[test]
fn a_wrong_value_names_source_value_and_fault() {
    let flag = |layer: Layer| load(layer, NO_ENV, None);
    let env = |name: &str, value: &str| {
        load(Layer::default(), &[("TURNERY_DATA_DIR", "/tmp"), (name, value)], None)
    };
    let file = |text: &str| load(Layer::default(), NO_ENV, Some(text));
    let none = Layer::default;
    let table: Vec<(Result<Settings>, &[&str])> = vec![
        (flag(Layer { api_listen: text("8080"), ..none() }), &["--api-listen: \"8080\"", "IP:PORT"]),
        (
            env("TURNERY_API_LISTEN", "localhost:1"),
            &["TURNERY_API_LISTEN: \"localhost:1\"", "127.0.0.1:8080"],
        ),
        (flag(Layer { turn_listen: list("quic://1.2.3.4:5"), ..none() }), &["--turn-listen", "udp://"]),
        (env("TURNERY_TURN_LISTEN", "udp://0.0.0.0:1,udp://0.0.0.0:1"), &["TURNERY_TURN_LISTEN", "twice"]),
        (file("turn_listen = []"), &["turn_listen in ", "turnery.toml", "empty"]),
        (flag(Layer { relay_ports: text("9-1"), ..none() }), &["--relay-ports: \"9-1\"", "above"]),
        (flag(Layer { relay_address: list("x"), ..none() }), &["--relay-address", "\"x\"", "PUBLIC/LOCAL"]),
        (flag(Layer { allow_peer: list("10.0.0.1/8"), ..none() }), &["--allow-peer", "10.0.0.0/8"]),
        (env("TURNERY_DENY_PEER", "10.0.0.0/33"), &["TURNERY_DENY_PEER", "above 32"]),
        (
            flag(Layer { username_lifetime_secs: text("59"), ..none() }),
            &["--username-lifetime-secs: \"59\"", "60 to 31622400"],
        ),
        (
            flag(Layer { proxy_protocol_from: list("x"), ..none() }),
            &["--proxy-protocol-from", "prefix such as"],
        ),
        (flag(Layer { workers: text("0"), ..none() }), &["--workers: \"0\"", "1 to 256"]),
        (flag(Layer { realm: text("a\"b"), ..none() }), &["--realm", "127"]),
        (flag(Layer { public_host: text("a:1"), ..none() }), &["--public-host: \"a:1\"", "turn.example.org"]),
        (
            flag(Layer { max_bits_per_second: text("10Mb"), ..none() }),
            &["--max-bits-per-second: \"10Mb\"", "10M"],
        ),
        (env("TURNERY_MAX_CHANNELS", "129"), &["TURNERY_MAX_CHANNELS: \"129\"", "more than 128"]),
        (env("TURNERY_MAX_ALLOCATIONS_PER_KEY", "5G"), &["more than 4294967295"]),
        (env("TURNERY_UNAUTHENTICATED_PREFIXES", "33/56"), &["\"33/56\"", "24/56"]),
        (file("unauthenticated_prefixes = \"24\""), &["unauthenticated_prefixes in ", "24/56"]),
        (
            env("TURNERY_MAX_UNAUTHENTICATED_ANSWERS_PER_SECOND", "0"),
            &["TURNERY_MAX_UNAUTHENTICATED_ANSWERS_PER_SECOND", "none is no limit"],
        ),
        (env("TURNERY_DEV", "maybe"), &["TURNERY_DEV: \"maybe\"", "true"]),
        (env("TURNERY_LOG", "info=="), &["TURNERY_LOG"]),
        (env("TURNERY_BOOTSTRAP_ACCOUNT", "abc"), &["TURNERY_BOOTSTRAP_ACCOUNT: \"abc\"", "32 hex digits"]),
        (env("TURNERY_BOOTSTRAP_TOKEN", "short"), &["TURNERY_BOOTSTRAP_TOKEN", "5 bytes", "32 to 128"]),
        (file("turn_listn = []"), &["turnery.toml: line 1", "unknown field `turn_listn`"]),
        (file("\nrealm = 5"), &["turnery.toml: line 2", "string"]),
        (file("workers = []"), &["turnery.toml", "number"]),
        (file("realm = "), &["turnery.toml: line 1"]),
        (env("TURNERY_CONFIG", "/nowhere.toml"), &["/nowhere.toml", "No such file"]),
    ];
    for (loaded, hints) in table {
        let error = format!("{:#}", loaded.unwrap_err());
        assert!(hints.iter().all(|hint| error.contains(hint)), "{error} lacks one of {hints:?}");
        assert!(!error.contains('\n') && !error.contains("short"), "{error}");
    }
}
