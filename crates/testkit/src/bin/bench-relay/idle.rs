//! What allocations take that nobody uses: memory, and time of the CPU.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use anyhow::Context;

use crate::callers::Callers;
use crate::sample::{Memory, Sample};
use crate::subject::Server;

/// Peers that nobody is: each allocation has one permission and one channel to one.
const PEER: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(127, 1, 0, 1), 9);
/// The CPU time counts after `settle`: what was begun on behalf of the allocations is let come to an end.
pub(crate) fn measure(
    server: &Server,
    allocations: usize,
    settle: Duration,
    time: Duration,
) -> anyhow::Result<Sample> {
    let mut callers = Callers::new(server, allocations)?;
    let (resident_before, slab_before) = (server.resident_bytes()?, slab_bytes()?);
    callers.allocate()?;
    callers.create_permission(|_| PEER)?;
    callers.channel_bind(|_| PEER)?;
    std::thread::sleep(settle);
    let (resident_after, slab_after) = (server.resident_bytes()?, slab_bytes()?);
    let (begun, cpu_before) = (Instant::now(), server.cpu_ns()?);
    std::thread::sleep(time);
    let seconds = begun.elapsed().as_secs_f64();
    let cpu_ns = server.cpu_ns()? - cpu_before;
    let memory = Memory {
        allocations,
        resident_before,
        resident_after,
        kernel_grown: slab_after.saturating_sub(slab_before),
    };
    let count = allocations as u64;
    Ok(Sample {
        seconds,
        count,
        cpu_ns,
        sent: count,
        received: count,
        memory: Some(memory),
        ..Sample::default()
    })
}

/// The system's slab, all of it: sockets are made of it.
fn slab_bytes() -> anyhow::Result<u64> {
    let text = std::fs::read_to_string("/proc/meminfo")?;
    kilobytes(&text, "Slab:").context("/proc/meminfo without Slab")
}

/// What such a file says under this name, in bytes.
pub(crate) fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().trim_end_matches(" kB").parse::<u64>().ok()? * 1_024)
}
