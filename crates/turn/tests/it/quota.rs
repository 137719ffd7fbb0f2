//! What a TURN key, a credential and an allocation may use at most.

use stun::{AttributeType as A, Method};
use testkit::message::EVEN_AND_NEXT;
use turn::{Client, Command, CommandError, DropReason, KeyLimits, OpenError, Rate, Transport};

use crate::fixture::{Fixture, KEY, Outcome, PEER, alice, client, code, udp, value};

fn limited(key_limits: KeyLimits) -> Fixture {
    Fixture::configured(|config| config.key_limits = key_limits)
}

fn nth(n: u16) -> Client {
    client(Transport::Udp, &format!("81.0.0.1:{}", 4_000 + n))
}

fn limit(fixture: &mut Fixture, limits: Option<KeyLimits>) {
    fixture.command(Command::KeyLimits { key: KEY, limits });
}

#[test]
fn rfc8656_7_2_a_key_at_its_quota_gets_486_and_what_ends_makes_room() {
    let mut fixture = limited(KeyLimits { allocations: Some(2), ..KeyLimits::default() });
    let (one, two) = (fixture.mint(3_600), fixture.mint(7_200));
    fixture.allocate(nth(0), &one);
    fixture.allocate(nth(1), &two);
    assert_eq!(code(&fixture.ask(nth(2), &one, Method::ALLOCATE, udp)), 486);
    assert_eq!((fixture.quotas.held_by(KEY), fixture.ports.taken()), (2, 2), "a refused one takes nothing");
    assert_eq!(code(&fixture.refresh(nth(0), &one, 0)), 0);
    fixture.allocate(nth(2), &two);
    // The key's limit is for all workers.
    let mut sibling = fixture.sibling();
    assert_eq!(code(&sibling.ask(nth(3), &one, Method::ALLOCATE, udp)), 486);
    fixture.command(Command::ClientGone(nth(1).five_tuple));
    sibling.allocate(nth(3), &one);
    assert_eq!(code(&fixture.ask(nth(1), &two, Method::ALLOCATE, udp)), 486);
    assert_eq!(fixture.quotas.held_by(KEY), 2);
}

#[test]
fn rfc8656_7_2_a_credential_at_its_quota_gets_486_wherever_it_comes_from() {
    let mut fixture = limited(KeyLimits { allocations_per_credential: Some(1), ..KeyLimits::default() });
    let (one, two) = (fixture.mint(3_600), fixture.mint(7_200));
    fixture.allocate(nth(0), &one);
    let elsewhere = client(Transport::Tcp, "82.0.0.1:4000");
    assert_eq!(code(&fixture.ask(elsewhere, &one, Method::ALLOCATE, udp)), 486);
    fixture.allocate(elsewhere, &two);
    // Its time runs out, and the timer is late: the next Allocate finds room all the same.
    fixture.now_ms += 600_000;
    fixture.allocate(nth(1), &one);
    assert_eq!(fixture.quotas.held(), 1);
}

#[test]
fn a_failed_open_gives_the_quota_back() {
    let mut fixture = limited(KeyLimits { allocations: Some(1), ..KeyLimits::default() });
    let credential = fixture.mint(3_600);
    for failure in [OpenError::Failed, OpenError::InUse] {
        fixture.sockets.failure = Some(failure);
        assert_eq!(code(&fixture.ask(alice(), &credential, Method::ALLOCATE, udp)), 508);
    }
    assert_eq!((fixture.quotas.held(), fixture.ports.taken()), (0, 0));
    fixture.sockets.failure = None;
    fixture.allocate(alice(), &credential);
}

#[test]
fn limits_of_one_key_are_changed_while_it_is_used() {
    let mut fixture = Fixture::new();
    let credential = fixture.mint(3_600);
    fixture.allocate(nth(0), &credential);
    fixture.allocate(nth(1), &credential);
    limit(&mut fixture, Some(KeyLimits { allocations: Some(1), ..KeyLimits::default() }));
    assert_eq!(fixture.server.allocation_count(), 2, "an allocation beyond a lowered limit stays");
    assert_eq!(code(&fixture.ask(nth(2), &credential, Method::ALLOCATE, udp)), 486);
    limit(&mut fixture, None);
    fixture.allocate(nth(2), &credential);
}

#[test]
fn keys_with_limits_of_their_own_are_bounded() {
    let mut fixture = Fixture::new();
    let tell = |fixture: &mut Fixture, n: u32, limits| {
        let mut key = [0; 16];
        key[..4].copy_from_slice(&n.to_be_bytes());
        let key = credentials::TurnKeyId::from_bytes(key);
        fixture.server.command(fixture.now(), Command::KeyLimits { key, limits })
    };
    let some = Some(KeyLimits::default());
    for n in 0..65_536 {
        tell(&mut fixture, n, some).unwrap();
    }
    assert_eq!(tell(&mut fixture, 65_536, some), Err(CommandError::KeyLimits));
    assert_eq!(tell(&mut fixture, 5, some), Ok(()), "known");
    tell(&mut fixture, 6, None).unwrap();
    tell(&mut fixture, 65_536, some).unwrap();
}

#[test]
fn rfc8656_10_2_new_peers_faster_than_allowed_get_508_and_nothing_is_installed() {
    let mut fixture = limited(KeyLimits { new_peers_per_second: Some(3), ..KeyLimits::default() });
    let credential = fixture.mint(3_600);
    fixture.allocate(alice(), &credential);
    let four = ["8.8.1.1:1", "8.8.1.2:1", "8.8.1.3:1", "8.8.1.4:1"];
    assert_eq!(fixture.permit(alice(), &credential, &four), 508, "more than ever come at once");
    assert_eq!(fixture.permit(alice(), &credential, &four[..2]), 0);
    assert_eq!(fixture.permit(alice(), &credential, &four[2..]), 508);
    assert_eq!(fixture.hear("8.8.1.3:1", b"data"), Outcome::Silence(DropReason::NoPermission));
    assert_eq!(fixture.permit(alice(), &credential, &["8.8.1.1:1", "8.8.1.2:2"]), 0, "they are not new");
    // RFC 8656 §12.2: a ChannelBind names a peer, too. One that is refused for its channel does not count.
    assert_eq!(fixture.bind(alice(), &credential, 0x4000, "8.8.1.1:1"), 0);
    assert_eq!(fixture.bind(alice(), &credential, 0x4000, "8.8.1.5:1"), 400);
    assert_eq!(fixture.bind(alice(), &credential, 0x4001, "8.8.1.5:1"), 0);
    assert_eq!(fixture.bind(alice(), &credential, 0x4002, "8.8.1.6:1"), 508);
    fixture.now_ms += 333;
    assert_eq!(fixture.bind(alice(), &credential, 0x4002, "8.8.1.6:1"), 508);
    fixture.now_ms += 1;
    assert_eq!(fixture.bind(alice(), &credential, 0x4002, "8.8.1.6:1"), 0);
}

#[test]
fn permissions_and_channels_of_a_key_are_limited() {
    let limits = KeyLimits { permissions: Some(2), channels: Some(1), ..KeyLimits::default() };
    let mut fixture = limited(limits);
    let credential = fixture.mint(3_600);
    fixture.allocate(alice(), &credential);
    assert_eq!(fixture.permit(alice(), &credential, &["8.8.1.1:1", "8.8.1.2:1", "8.8.1.3:1"]), 508);
    assert_eq!(fixture.bind(alice(), &credential, 0x4000, "8.8.1.1:1"), 0);
    assert_eq!(fixture.bind(alice(), &credential, 0x4001, "8.8.1.1:2"), 508);
    assert_eq!(fixture.permit(alice(), &credential, &["8.8.1.2:1"]), 0);
    limit(&mut fixture, Some(KeyLimits { permissions: Some(3), ..limits }));
    assert_eq!(fixture.permit(alice(), &credential, &["8.8.1.3:1"]), 0);
    assert_eq!(fixture.permit(alice(), &credential, &["8.8.1.4:1"]), 508);
    limit(&mut fixture, Some(KeyLimits { permissions: Some(0), channels: Some(0), ..limits }));
    assert_eq!(fixture.permit(alice(), &credential, &["8.8.1.3:1"]), 0, "what is there is refreshed");
    assert_eq!(fixture.bind(alice(), &credential, 0x4000, "8.8.1.1:1"), 0);
    assert_eq!(fixture.permit(alice(), &credential, &["8.8.1.3:1", "8.8.1.4:1"]), 508);
}

fn packets(rate: u64) -> Rate {
    Rate { packets_per_second: Some(rate), ..Rate::default() }
}

fn bits(rate: u64) -> Rate {
    Rate { bits_per_second: Some(rate), ..Rate::default() }
}

/// An allocation with a permission for [`PEER`].
fn relaying(fixture: &mut Fixture, client: Client) {
    let credential = fixture.mint(3_600);
    fixture.allocate(client, &credential);
    assert_eq!(fixture.permit(client, &credential, &[PEER]), 0);
}

/// How many of a hundred packets come through each way.
fn burst(fixture: &mut Fixture) -> (usize, usize) {
    let out = (0..100).filter(|_| fixture.sends(alice())).count();
    (out, (0..100).filter(|_| fixture.hears()).count())
}

#[test]
fn an_allocation_relays_no_faster_than_it_may() {
    let mut fixture = limited(KeyLimits { allocation_rate: packets(10), ..KeyLimits::default() });
    relaying(&mut fixture, alice());
    assert_eq!(burst(&mut fixture), (10, 10));
    assert_eq!(fixture.hear(PEER, b"data"), Outcome::Silence(DropReason::AllocationRateExceeded));
    fixture.now_ms += 250;
    assert_eq!(burst(&mut fixture), (2, 2));
    fixture.now_ms += 5_000;
    assert_eq!(burst(&mut fixture), (10, 10), "a second's worth at once, no more");
    // Four bytes each, counted without headers.
    limit(&mut fixture, Some(KeyLimits { allocation_rate: bits(32 * 20), ..KeyLimits::default() }));
    fixture.now_ms += 1_000;
    assert_eq!(burst(&mut fixture), (20, 20));
    limit(&mut fixture, None);
    assert_eq!(burst(&mut fixture), (10, 10), "the first limit is again the one that counts");
}

#[test]
fn channel_data_is_counted_as_well() {
    let mut fixture = limited(KeyLimits { allocation_rate: packets(1), ..KeyLimits::default() });
    let credential = fixture.mint(3_600);
    fixture.allocate(alice(), &credential);
    assert_eq!(fixture.bind(alice(), &credential, 0x4000, PEER), 0);
    let data = [0x40, 0, 0, 4, 1, 2, 3, 4];
    assert!(matches!(fixture.give(alice(), &data), Outcome::ToPeer(..)));
    assert_eq!(fixture.give(alice(), &data), Outcome::Silence(DropReason::AllocationRateExceeded));
    assert!(fixture.hears() && !fixture.hears());
}

#[test]
fn a_datagram_longer_than_a_second_passes_when_the_bucket_is_full() {
    let mut fixture = limited(KeyLimits { allocation_rate: bits(8_000), ..KeyLimits::default() });
    relaying(&mut fixture, alice());
    let data = [7; 3_000];
    assert!(matches!(fixture.hear(PEER, &data), Outcome::ToClient(..)));
    fixture.now_ms += 2_003;
    assert!(!fixture.hears() && fixture.sends(alice()), "each way has its own bucket");
    fixture.now_ms += 1;
    assert!(fixture.hears());
}

#[test]
fn all_allocations_of_a_key_share_its_rate_over_all_workers() {
    for key_rate in [packets(10), bits(320)] {
        let mut fixture = limited(KeyLimits { key_rate, ..KeyLimits::default() });
        let mut sibling = fixture.sibling();
        relaying(&mut fixture, alice());
        relaying(&mut sibling, alice());
        assert_eq!((0..7).filter(|_| fixture.hears()).count(), 7);
        assert_eq!(burst(&mut sibling), (10, 3));
        assert_eq!(fixture.hear(PEER, b"data"), Outcome::Silence(DropReason::KeyRateExceeded));
        fixture.now_ms += 100;
        assert_eq!(burst(&mut fixture), (1, 1));
    }
}

#[test]
fn an_allocation_made_anew_has_no_new_burst() {
    for key_rate in [packets(10), bits(320)] {
        let mut fixture = limited(KeyLimits { key_rate, ..KeyLimits::default() });
        let mut sibling = fixture.sibling();
        relaying(&mut fixture, alice());
        assert_eq!(burst(&mut fixture), (10, 10));
        for again in 0..5 {
            let ends = if again % 2 == 0 { &mut fixture } else { &mut sibling };
            ends.command(Command::ClientGone(alice().five_tuple));
            assert_eq!((ends.quotas.held(), ends.quotas.keys_known()), (0, 1));
            let begins = if again % 2 == 0 { &mut sibling } else { &mut fixture };
            relaying(begins, alice());
            assert_eq!(burst(begins), (0, 0), "{again}");
            assert_eq!(begins.hear(PEER, b"data"), Outcome::Silence(DropReason::KeyRateExceeded));
        }
        // What grows back meanwhile is there.
        sibling.command(Command::ClientGone(alice().five_tuple));
        fixture.now_ms += 300;
        relaying(&mut fixture, alice());
        assert_eq!(burst(&mut fixture), (3, 3));
    }
}

#[test]
fn a_key_is_forgotten_when_its_rate_is_regained() {
    let mut fixture = limited(KeyLimits { key_rate: packets(10), ..KeyLimits::default() });
    fixture.timeout();
    let ended = |fixture: &mut Fixture| {
        fixture.command(Command::ClientGone(alice().five_tuple));
        fixture.quotas.keys_known()
    };
    relaying(&mut fixture, alice());
    assert_eq!(ended(&mut fixture), 0, "it has used nothing");
    relaying(&mut fixture, alice());
    assert!(fixture.sends(alice()));
    assert_eq!(ended(&mut fixture), 1);
    fixture.now_ms += 59_999;
    fixture.timeout();
    assert_eq!(fixture.quotas.keys_known(), 1, "a timer that is due looks once in a minute");
    fixture.now_ms += 1;
    fixture.timeout();
    assert_eq!(fixture.quotas.keys_known(), 0);
    // Or an allocation of another key.
    relaying(&mut fixture, alice());
    assert_eq!((burst(&mut fixture), ended(&mut fixture)), ((10, 10), 1));
    fixture.now_ms += 1_002;
    let claims = credentials::Claims {
        key: credentials::TurnKeyId::from_bytes([1; 16]),
        issued_at: fixture.now().unix_secs(),
        ttl_secs: 600,
        custom_identifier: credentials::CustomIdentifier::default(),
    };
    let other = fixture.keyring.mint(&claims).unwrap();
    fixture.allocate(alice(), &other);
    assert_eq!((fixture.quotas.keys_known(), fixture.quotas.held_by(KEY)), (1, 0));
}

#[test]
fn a_limit_set_later_holds_for_allocations_that_live() {
    let mut fixture = Fixture::new();
    relaying(&mut fixture, alice());
    assert_eq!(burst(&mut fixture), (100, 100));
    limit(&mut fixture, Some(KeyLimits { key_rate: packets(5), ..KeyLimits::default() }));
    assert_eq!(burst(&mut fixture), (5, 5));
    let other = Command::KeyLimits { key: credentials::TurnKeyId::from_bytes([1; 16]), limits: None };
    fixture.command(other);
    assert_eq!(burst(&mut fixture), (0, 0), "another key is another matter");
    limit(&mut fixture, None);
    assert_eq!(burst(&mut fixture), (100, 100));
}

#[test]
fn a_rate_of_zero_stops_everything() {
    let mut fixture = limited(KeyLimits { allocation_rate: packets(0), ..KeyLimits::default() });
    let credential = fixture.mint(3_600);
    fixture.allocate(alice(), &credential);
    let reply = fixture.ask(alice(), &credential, Method::CREATE_PERMISSION, |writer| {
        writer.xor_address(A::XOR_PEER_ADDRESS, PEER.parse().unwrap());
    });
    assert_eq!((code(&reply), burst(&mut fixture)), (0, (0, 0)));
}

#[test]
fn a_reserved_port_counts_until_it_is_claimed_or_over() {
    let mut fixture = limited(KeyLimits { allocations_per_credential: Some(2), ..KeyLimits::default() });
    let credential = fixture.mint(3_600);
    let ask = |fixture: &mut Fixture, client, kind, value: &[u8]| {
        fixture.ask(client, &credential, Method::ALLOCATE, |writer| {
            udp(writer);
            writer.attribute(kind, value);
        })
    };
    let reply = ask(&mut fixture, nth(0), A::EVEN_PORT, &EVEN_AND_NEXT);
    let token = value(&reply, A::RESERVATION_TOKEN).unwrap();
    assert_eq!((fixture.quotas.held(), fixture.ports.taken()), (2, 2));
    assert_eq!(code(&fixture.ask(nth(1), &credential, Method::ALLOCATE, udp)), 486);
    assert_eq!(code(&ask(&mut fixture, nth(1), A::RESERVATION_TOKEN, &token)), 0, "its place is kept, too");
    assert_eq!((fixture.quotas.held(), fixture.ports.taken()), (2, 2));
    fixture.refresh(nth(0), &credential, 0);
    assert_eq!(code(&ask(&mut fixture, nth(0), A::EVEN_PORT, &EVEN_AND_NEXT)), 486, "one place is not two");
    assert_eq!((fixture.quotas.held(), fixture.ports.taken()), (1, 1));
    fixture.refresh(nth(1), &credential, 0);
    assert_eq!(code(&ask(&mut fixture, nth(0), A::EVEN_PORT, &EVEN_AND_NEXT)), 0);
    fixture.now_ms += 30_000;
    fixture.timeout();
    assert_eq!((fixture.quotas.held(), fixture.ports.taken()), (1, 1));
}
