//! Whose URLs a caller of the credential API is handed.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::{ArcSwapOption, Guard};

use crate::ice::{IceUrls, WrittenUrls};
use crate::store::{KnownNode, NodeState};

/// Whose URLs a caller of the credential API is handed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Steering {
    /// Those that are configured, always.
    #[default]
    Host,
    /// One node's: each in proportion to its weight and to what it has room for.
    Node,
    /// The same among the nodes of this node's region, as long as one of them can take somebody.
    Region,
}

/// The nodes that can be handed out, and the URLs where there is none.
#[derive(Debug)]
pub(crate) struct Handout {
    configured: Arc<WrittenUrls>,
    chosen: ArcSwapOption<Choice>,
    turn: AtomicU64,
}

/// Nodes with their shares.
#[derive(Debug)]
struct Choice {
    /// Each with the sum of the shares up to its own; not empty.
    nodes: Vec<(u64, Arc<WrittenUrls>)>,
    sum: u64,
}

/// Parts of a share: what a node with the weight 1 and nothing to do has.
const WHOLE: u64 = 1_000;
/// A node that is nearly full still has so much.
const LEAST: u64 = 50;

impl Handout {
    pub(crate) fn new(configured: &IceUrls) -> Self {
        Self {
            configured: Arc::new(WrittenUrls::of(configured)),
            chosen: ArcSwapOption::empty(),
            turn: AtomicU64::new(0),
        }
    }

    /// The URLs for the next caller.
    pub(crate) fn next(&self) -> Arc<WrittenUrls> {
        let chosen: Guard<Option<Arc<Choice>>> = self.chosen.load();
        let Some(choice) = &*chosen else { return Arc::clone(&self.configured) };
        choice
            .at(scatter(self.turn.fetch_add(1, Ordering::Relaxed)))
            .unwrap_or_else(|| Arc::clone(&self.configured))
    }

    /// Chooses among these nodes from now on. Who is about to end, has as many allocations as it wants, or is not heard
    /// of is left out; where nobody is left it is as without steering.
    pub(crate) fn tell(&self, steering: Steering, own_region: &str, nodes: &[KnownNode]) {
        let up = || nodes.iter().filter(|node| node.state == NodeState::Up && !node.report.urls.is_empty());
        let near = |node: &&KnownNode| !own_region.is_empty() && node.report.region == own_region;
        let choice = match steering {
            Steering::Host => None,
            Steering::Node => Choice::of(up()),
            Steering::Region => Choice::of(up().filter(near)).or_else(|| Choice::of(up())),
        };
        self.chosen.store(choice.map(Arc::new));
    }
}

impl Choice {
    /// `None` where there is no node whose URLs can be handed out.
    fn of<'n>(nodes: impl Iterator<Item = &'n KnownNode>) -> Option<Self> {
        // Nodes behind one name have the same URLs.
        let mut shares: BTreeMap<&[String], u64> = BTreeMap::new();
        for node in nodes {
            *shares.entry(&node.report.urls).or_default() += share(node);
        }
        let mut sum = 0;
        let mut chosen = Vec::new();
        for (urls, share) in shares {
            let Ok(urls) = IceUrls::chosen(urls) else { continue };
            sum += share;
            chosen.push((sum, Arc::new(WrittenUrls::of(&urls))));
        }
        (!chosen.is_empty()).then_some(Self { nodes: chosen, sum })
    }

    /// The node in whose share this number lies.
    fn at(&self, number: u64) -> Option<Arc<WrittenUrls>> {
        let place = number % self.sum.max(1);
        let index = self.nodes.partition_point(|(end, _)| *end <= place);
        self.nodes.get(index).map(|(_, urls)| Arc::clone(urls))
    }
}

/// How much of the new clients a node is to be given: its weight, times the part of it that is free.
fn share(node: &KnownNode) -> u64 {
    let report = &node.report;
    let busy = report.load_permille().max(report.cpu_permille.into()).min(WHOLE);
    u64::from(report.fair_weight()) * (WHOLE - busy).max(LEAST)
}

/// A number that looks random, a different one each turn.
fn scatter(turn: u64) -> u64 {
    // SplitMix64.
    let mixed = turn.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::store::{NodeReport, Timestamp};

    fn node(name: &str, state: NodeState, change: impl FnOnce(&mut NodeReport)) -> KnownNode {
        let urls =
            vec![format!("stun:{name}.example:3478"), format!("turn:{name}.example:3478?transport=udp")];
        let mut report = NodeReport { urls, weight: 100, region: "EU".to_owned(), ..NodeReport::default() };
        change(&mut report);
        KnownNode { name: name.to_owned(), state, seen: Timestamp::from_unix_secs(0), seen_ms_ago: 0, report }
    }

    /// How often each host is handed out in a hundred thousand turns, in percent.
    fn check(steering: Steering, region: &str, nodes: &[KnownNode], expected: &[(&str, u32)]) {
        let handout = Handout::new(&IceUrls::chosen(&["turn:all.example?transport=udp".to_owned()]).unwrap());
        handout.tell(steering, region, nodes);
        let mut counts: BTreeMap<String, u32> = BTreeMap::new();
        for _ in 0..100_000 {
            let urls = handout.next();
            let host = urls.turn.get().split([':', '.']).nth(1).unwrap().to_owned();
            *counts.entry(host).or_default() += 1;
        }
        let hosts: Vec<_> = counts.keys().map(String::as_str).collect();
        assert_eq!(hosts, expected.iter().map(|(host, _)| *host).collect::<Vec<_>>());
        for (host, percent) in expected {
            let got = counts.get(*host).unwrap() / 1_000;
            assert!(got.abs_diff(*percent) <= 1, "{host}: {got} and not {percent} percent");
        }
    }

    #[test]
    fn urls_are_those_of_nodes_that_can_take_somebody_by_weight_and_room() {
        let up = |name, change: fn(&mut NodeReport)| node(name, NodeState::Up, change);
        let even = [up("a", |_| {}), up("b", |_| {})];
        check(Steering::Host, "", &even, &[("all", 100)]);
        check(Steering::Node, "", &even, &[("a", 50), ("b", 50)]);
        check(Steering::Node, "", &[up("a", |it| it.weight = 300), up("b", |_| {})], &[("a", 75), ("b", 25)]);
        // What no node of ours says of itself.
        let greedy = [up("a", |it| it.weight = u32::MAX), up("b", |it| it.weight = 1_000)];
        check(Steering::Node, "", &greedy, &[("a", 50), ("b", 50)]);
        let half = |it: &mut NodeReport| (it.allocations, it.redirect_above) = (50, Some(100));
        check(Steering::Node, "", &[up("a", half), up("b", |_| {})], &[("a", 33), ("b", 66)]);
        check(
            Steering::Node,
            "",
            &[up("a", |it| it.cpu_permille = 500), up("b", |_| {})],
            &[("a", 33), ("b", 66)],
        );
    }

    #[test]
    fn nodes_that_are_gone_or_full_are_left_out_and_without_any_it_is_the_configured_host() {
        use NodeState::{Draining, Ended, Full, Lost, Stale};
        for state in [Full, Draining, Stale, Ended, Lost] {
            let gone = node("a", state, |_| {});
            check(Steering::Node, "", &[gone.clone(), node("b", NodeState::Up, |_| {})], &[("b", 100)]);
            check(Steering::Node, "", &[gone], &[("all", 100)]);
        }
        check(Steering::Node, "", &[node("a", NodeState::Up, |it| it.urls.clear())], &[("all", 100)]);
    }

    #[test]
    fn a_region_keeps_its_clients_as_long_as_it_can() {
        let far = node("far", NodeState::Up, |it| it.region = "US".to_owned());
        let near = node("near", NodeState::Up, |_| {});
        check(Steering::Region, "EU", &[far.clone(), near.clone()], &[("near", 100)]);
        let full = KnownNode { state: NodeState::Full, ..near.clone() };
        check(Steering::Region, "EU", &[far.clone(), full], &[("far", 100)]);
        check(Steering::Region, "", &[far, near], &[("far", 50), ("near", 50)]);
    }
}
