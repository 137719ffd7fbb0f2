//! Processes kept to one core each, and what they take of it: what benchmarks compare servers by.

use std::io::{self, Error};
use std::path::Path;
use std::process::{Command, Stdio};

/// A program that will run on this core only, or on those of a list such as `0-1`, started through taskset (of util-linux), without input and output.
pub fn command(program: &Path, cores: impl std::fmt::Display) -> Command {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", &cores.to_string()]).arg(program);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// Lets a process that runs already, with all its threads, go on on this core only, or on those of such a list.
///
/// # Errors
/// When taskset (of util-linux) is not there, or cannot do it.
pub fn pin(pid: u32, cores: impl std::fmt::Display) -> io::Result<()> {
    let status = Command::new("taskset")
        .args(["--all-tasks", "--cpu-list", "--pid", &cores.to_string(), &pid.to_string()])
        .stdout(Stdio::null())
        .status()?;
    let failed = || Error::other(format!("taskset could not pin process {pid} to core {cores}"));
    status.success().then_some(()).ok_or_else(failed)
}

/// Lets a process that runs already and sleeps when it has nothing to do, with all its threads and those that it starts,
/// go before all others (`SCHED_FIFO`), or not any more; whether the system allows it. Through chrt, of util-linux.
pub fn put_first(pid: u32, first: bool) -> bool {
    let policy = if first { ["--fifo", "1"] } else { ["--other", "0"] };
    let [policy, priority] = policy;
    let mut command = Command::new("chrt");
    command.args(["--all-tasks", policy, "--pid", priority, &pid.to_string()]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Lets a process that polls, its first thread, go before nearly all others (nice -20), or not any more; whether the
/// system allows it. At a real-time priority the kernel would keep it off its core for 50 ms of each second
/// (`sched_rt_runtime_us`). Through renice, of util-linux.
pub fn favour(pid: u32, first: bool) -> bool {
    let mut command = Command::new("renice");
    command.args(["-n", if first { "-20" } else { "0" }, "-p", &pid.to_string()]);
    let status = command.stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

/// Nanoseconds of CPU time that all threads of a process have taken so far, by the scheduler's own accounting.
///
/// # Errors
/// When there is no such process, or the system does not count.
pub fn cpu_ns(pid: u32) -> io::Result<u64> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = std::fs::read_to_string(task?.path().join("schedstat"))?;
        let taken = text.split_whitespace().next().and_then(|taken| taken.parse::<u64>().ok());
        sum += taken.ok_or_else(|| Error::other(format!("schedstat says {text:?}")))?;
    }
    Ok(sum)
}

/// Nanoseconds that all cores together were busy since the system started, time that the host took included; counted
/// in hundredths of a second.
///
/// # Errors
/// When the system does not count.
pub fn busy_ns() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/stat")?;
    let line = text.lines().next().unwrap_or_default();
    let ticks: Vec<u64> = line.split_whitespace().skip(1).filter_map(|field| field.parse().ok()).collect();
    // user, nice, system, idle, iowait, irq, softirq, steal; guests' time is within user's.
    let &[user, nice, system, _, _, irq, softirq, steal, ..] = &ticks[..] else {
        return Err(Error::other(format!("/proc/stat says {line:?}")));
    };
    Ok((user + nice + system + irq + softirq + steal) * 10_000_000)
}

/// The value in the middle, of an even number of values halfway between the two; not a number when there are none.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let middle = |at: usize| values.get(at).copied().unwrap_or(f64::NAN);
    f64::midpoint(middle(values.len().saturating_sub(1) / 2), middle(values.len() / 2))
}

#[cfg(test)]
mod tests {
    use super::median;

    #[test]
    fn the_median_of_two_is_neither() {
        for values in [&[3.0, 1.0][..], &[5.0, 1.0, 2.0]] {
            assert_eq!(format!("{}", median(values.iter().copied())), "2");
        }
        assert!(median(std::iter::empty()).is_nan());
    }
}
