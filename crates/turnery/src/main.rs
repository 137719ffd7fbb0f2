//! Turnery: a whole TURN service in one binary. Here configuration, command line, logging and signals live, and here
//! the relay and the HTTP side meet: the binary carries each denial from one to the other.

mod acme;
mod admission;
mod announce;
mod certificates;
mod cli;
mod commands;
mod config;
mod fleet;
mod keyring_file;
mod keyring_in_use;
mod keyring_source;
mod keyring_store;
mod listen;
mod metrics;
mod relaying;
mod serve;
mod table;
mod trial;
mod usage;

use std::process::ExitCode;

fn main() -> ExitCode {
    match cli::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line whatever the causes say.
            let lines = format!("{error:#}");
            eprintln!("turnery: {}", lines.split('\n').map(str::trim).collect::<Vec<_>>().join(" "));
            ExitCode::FAILURE
        }
    }
}
