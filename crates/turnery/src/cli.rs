//! The command line: what there is to say, and where it is carried out.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::exit;

use anyhow::{Context, Result, ensure};
use clap::error::ErrorKind;
use clap::{Args, CommandFactory, Parser, Subcommand};
use control::store::analytics::{Dimension, moment};
use control::store::usage::SessionId;
use control::store::{
    AccountId, EVENTS, MAX_OVERLAP_SECS, MonthAction, MonthBytes, Permission, Timestamp, TokenId, TypeError,
};
use credentials::{SharedSecretId, TurnKeyId};

use crate::commands;
use crate::config::{Global, Layer, Place, Settings, amount};
use crate::serve;

/// clap's own code for a wrong command line.
const USAGE: i32 = 2;
const MAX_NAME_CHARS: usize = 255;

const EXAMPLES: &str = "\
Examples:
  turnery serve --dev                       try it out on this machine
  turnery serve --config /etc/turnery.toml  run it
  turnery key create --name web             a TURN key, with its secret
  turnery token create --permission calls-read --json

Every flag is also a variable of the environment (--data-dir is TURNERY_DATA_DIR) and a key of
the configuration file (data_dir). Flags beat variables, variables beat the file.";

const SERVE_EXAMPLES: &str = "\
Examples:
  turnery serve --dev
  turnery serve --data-dir /var/lib/turnery --public-host turn.example.org \\
      --relay-address 198.51.100.7/10.0.0.5

Environment:
  TURNERY_<FLAG>             each flag in capitals with _ for -; lists are separated by commas,
                             and what is empty counts as not set
  TURNERY_BOOTSTRAP_ACCOUNT  first start only: the account's id, 32 hex digits
  TURNERY_BOOTSTRAP_TOKEN    first start only: the API token, 32 to 128 of A-Za-z0-9_-
  TURNERY_KEYRING            in place of keyring.toml in the data directory: what stands in that
                             file, as it is or in base64
  TURNERY_KEYRING_KEY        with --keyring-in-store: the key that seals it, in place of
                             --keyring-key-file
  NO_COLOR                   no colours in the log

The first start makes an account and an API token and prints them once. When every listener is
open, the last line on standard output is `ready api=http://... turn=udp://...,tcp://...`.
SIGTERM and SIGINT end it with exit code 0, after --drain-secs at most; SIGHUP reads the keyring and the certificates again.";

const COMPLETIONS_EXAMPLES: &str = "\
Examples:
  turnery completions bash > /etc/bash_completion.d/turnery
  turnery completions zsh > \"${fpath[1]}/_turnery\"
  turnery completions fish > ~/.config/fish/completions/turnery.fish";

/// A whole TURN service: relay, credentials and their API.
#[derive(Debug, Parser)]
#[command(name = "turnery", version, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service
    #[command(after_help = SERVE_EXAMPLES)]
    Serve(Box<Layer>),
    /// Accounts: what keys and API tokens belong to
    #[command(subcommand)]
    Account(AccountCommand),
    /// API tokens: what the account API asks for
    #[command(subcommand)]
    Token(TokenCommand),
    /// TURN keys: what mints credentials
    #[command(subcommand)]
    Key(KeyCommand),
    /// Webhooks: where an account is told of events
    #[command(subcommand)]
    Webhook(WebhookCommand),
    /// The audit log: who changed what, newest first
    Audit(AuditCommand),
    /// The keyring: what seals credentials
    #[command(subcommand)]
    Keyring(KeyringCommand),
    /// What was relayed
    Usage(Box<UsageQuestion>),
    /// Sessions: what relays now
    #[command(subcommand)]
    Sessions(SessionsCommand),
    /// Certificates from an ACME authority: which there are, when they are renewed, what went wrong
    Certificates {
        /// Have all of them obtained anew, now, whatever was to be waited for; a running service begins within a second
        #[arg(long)]
        renew: bool,
        #[command(flatten)]
        output: Output,
    },
    /// The deployment's nodes: what each relays, and what it has heard of revocations
    Nodes {
        #[command(flatten)]
        output: Output,
    },
    /// The store as a whole
    #[command(subcommand)]
    Store(StoreCommand),
    /// Print what a shell needs to complete this command line
    #[command(after_help = COMPLETIONS_EXAMPLES)]
    Completions {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// Write the manual: a page for this program and one for each of its commands
    Man {
        /// Into which directory, which has to exist
        dir: PathBuf,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum StoreCommand {
    /// Copy everything from SQLite into an empty PostgreSQL, while no node runs
    Copy {
        /// The store to copy, as sqlite:PATH
        from: String,
        /// Where to, as postgres://USER@HOST/DATABASE
        to: String,
        #[command(flatten)]
        output: Output,
    },
}

/// How the outcome is told.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Output {
    /// Print JSON, for scripts
    #[arg(long)]
    pub(crate) json: bool,
}

/// Whose keys or tokens.
#[derive(Debug, Clone, Args)]
pub(crate) struct Owner {
    /// The account [default: the only one there is]
    #[arg(long, value_name = "ID")]
    pub(crate) account: Option<AccountId>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum AccountCommand {
    /// Show all accounts
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Make an account
    Create {
        /// Its name, for people
        #[arg(long, default_value = "", value_parser = name)]
        name: String,
        /// Its id, 1 to 32 hex digits [default: random]
        #[arg(long, value_name = "ID")]
        id: Option<AccountId>,
        #[command(flatten)]
        output: Output,
    },
    /// Delete an account with its tokens and keys; traffic of its keys' credentials stops within a second
    Delete {
        /// Which one
        id: AccountId,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum TokenCommand {
    /// Show an account's API tokens
    List {
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
    /// Make an API token; it is shown this once
    Create {
        /// Its name, for people
        #[arg(long, default_value = "", value_parser = name)]
        name: String,
        /// calls-read (get and list) or calls-write (that, and create, update, delete)
        #[arg(long, default_value = "calls-write")]
        permission: Permission,
        /// From when on it is refused, as 2030-01-02T03:04:05Z [default: never]
        #[arg(long, value_name = "TIME")]
        expires: Option<Timestamp>,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
    /// Delete an API token
    Delete {
        /// Which one
        id: TokenId,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Show an account's TURN keys
    List {
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
    /// Make a TURN key; its secret is shown this once
    Create {
        /// Its name, for people
        #[arg(long, default_value = "", value_parser = name)]
        name: String,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
    /// Give a TURN key another name
    Rename {
        /// Which one
        uid: TurnKeyId,
        /// Its new name
        #[arg(value_parser = name)]
        name: String,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
    /// Give a TURN key another secret; it is shown this once
    Roll {
        /// Which one
        uid: TurnKeyId,
        /// How long the secret that it had stays good, in seconds, up to 2592000
        #[arg(
            long, value_name = "N", default_value_t = 0,
            value_parser = clap::value_parser!(u32).range(0..=i64::from(MAX_OVERLAP_SECS))
        )]
        overlap_secs: u32,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
    /// Have a TURN key mint nothing and its credentials refused, until it is resumed
    Suspend {
        /// Which one
        uid: TurnKeyId,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
    /// Have a suspended TURN key and its credentials accepted again
    Resume {
        /// Which one
        uid: TurnKeyId,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
    /// Show whether a TURN key is suspended, and until when its former secret is good
    Status {
        /// Which one
        uid: TurnKeyId,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
    /// Show the newest 1,000 of a TURN key's revocations that are kept
    Revocations {
        /// Whose
        uid: TurnKeyId,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
    /// Shared secrets: what applications mint time-limited usernames with
    #[command(subcommand)]
    Secret(SecretCommand),
    /// Show or change what a TURN key may use; a running relay knows within a second
    Limits {
        /// Which one
        uid: TurnKeyId,
        #[command(flatten)]
        change: Box<LimitsChange>,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
    /// Show or change what a TURN key may relay in a calendar month, and what happens then
    MonthLimit {
        /// Which one
        uid: TurnKeyId,
        #[command(flatten)]
        change: MonthChange,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
    /// Delete a TURN key; traffic of its credentials stops within a second
    Delete {
        /// Which one
        uid: TurnKeyId,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
}

/// What is not named stays as it is.
#[derive(Debug, Clone, Args)]
pub(crate) struct MonthChange {
    /// So many bytes: a number such as 500G
    #[arg(long, value_name = "N")]
    pub(crate) bytes: Option<Limit>,
    /// Which bytes count: egress (to clients) or total [default: egress]
    #[arg(long)]
    pub(crate) counts: Option<MonthBytes>,
    /// What happens at the limit: refuse (nothing new), cut (live traffic ends, too) or notify [default: refuse]
    #[arg(long)]
    pub(crate) action: Option<MonthAction>,
    /// Percentages at which webhooks are told, with commas between them, or an empty text for none [default: 80]
    #[arg(long, value_name = "PERCENTS")]
    pub(crate) notify_at: Option<String>,
    /// Take the limit away
    #[arg(long)]
    pub(crate) clear: bool,
}

/// Each N is a number such as 200, 64k, 10M or 1G, or none. What is not named stays as it is.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct LimitsChange {
    /// Allocations of the key that live at once
    #[arg(long, value_name = "N")]
    pub(crate) max_allocations: Option<Limit>,
    /// Allocations of one credential that live at once
    #[arg(long, value_name = "N")]
    pub(crate) max_allocations_per_credential: Option<Limit>,
    /// New peer addresses of one allocation in a second
    #[arg(long, value_name = "N")]
    pub(crate) max_new_peers_per_second: Option<Limit>,
    /// Permissions of one allocation
    #[arg(long, value_name = "N")]
    pub(crate) max_permissions: Option<Limit>,
    /// Channels of one allocation
    #[arg(long, value_name = "N")]
    pub(crate) max_channels: Option<Limit>,
    /// Datagrams of one allocation in a second, in each direction
    #[arg(long, value_name = "N")]
    pub(crate) max_packets_per_second: Option<Limit>,
    /// Bits of application data of one allocation in a second, in each direction
    #[arg(long, value_name = "N")]
    pub(crate) max_bits_per_second: Option<Limit>,
    /// Datagrams of the whole key in a second, in each direction
    #[arg(long, value_name = "N")]
    pub(crate) max_key_packets_per_second: Option<Limit>,
    /// Bits of application data of the whole key in a second, in each direction
    #[arg(long, value_name = "N")]
    pub(crate) max_key_bits_per_second: Option<Limit>,
    /// Take the key's own limits away: those of the relay hold
    #[arg(long)]
    pub(crate) clear: bool,
}

/// A number, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Limit(pub(crate) Option<u64>);

impl std::str::FromStr for Limit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match amount(text) {
            Ok(Some(0)) => Err("a limit of 0 would refuse everybody; delete the key instead".to_owned()),
            Ok(limit) => Ok(Self(limit)),
            Err(error) => Err(error.to_string()),
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum SecretCommand {
    /// Show a TURN key's shared secrets, never their text
    List {
        /// Whose
        uid: TurnKeyId,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
    /// Give a TURN key a shared secret, at most 8 for rotation; it is shown this once
    Add {
        /// To whom
        uid: TurnKeyId,
        /// The file that holds the secret, 16 to 256 printable characters; - reads standard input
        #[arg(long, value_name = "FILE")]
        secret_file: Option<PathBuf>,
        /// Make one up, 64 hex digits: the default
        #[arg(long, conflicts_with = "secret_file")]
        generate: bool,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
    /// Take a shared secret from a TURN key; traffic of usernames made with it stops within a second
    Remove {
        /// From whom
        uid: TurnKeyId,
        /// Which one
        id: SharedSecretId,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum WebhookCommand {
    /// Show an account's webhooks, never their secrets
    List {
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
    /// Have a URL told of events; the secret that they are signed with is shown this once
    Create {
        /// Where to: https://HOST/PATH, or http:// to a host that --webhook-network names
        url: String,
        /// Of this event only, repeatable [default: all]
        #[arg(long, value_name = "EVENT", value_parser = clap::builder::PossibleValuesParser::new(EVENTS))]
        event: Vec<String>,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
    /// Delete a webhook, and what has not arrived there
    Delete {
        /// Which one
        id: String,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
    /// Show what has not arrived: what waits to be tried again, and what was given up
    Deliveries {
        /// Whose
        id: String,
        /// Only what was given up
        #[arg(long)]
        dead: bool,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
    /// Have what was given up tried again
    Redeliver {
        /// Whose
        id: String,
        /// Only this event, by its webhook-id [default: all]
        #[arg(long)]
        event: Option<String>,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
}

/// What is shown of the audit log.
#[derive(Debug, Clone, Args)]
pub(crate) struct AuditCommand {
    /// Of one action, such as turn_key.create, or of all that begin so: turn_key
    #[arg(long)]
    pub(crate) action: Option<String>,
    /// About one target: an id
    #[arg(long, value_name = "ID")]
    pub(crate) target: Option<String>,
    /// Not older than this, as 2030-01-02T03:04:05Z
    #[arg(long, value_name = "TIME")]
    pub(crate) since: Option<Timestamp>,
    /// At most so many, 1 to 1000
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub(crate) limit: u32,
    /// About this account [default: all]
    #[arg(long, value_name = "ID")]
    pub(crate) account: Option<AccountId>,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum KeyringCommand {
    /// Show the keyring's keys, never their secrets
    Show {
        #[command(flatten)]
        output: Output,
    },
    /// Add a key that opens and does not seal yet: the next rotate puts it to use. For a fleet, whose nodes all have to
    /// know it first
    Prepare {
        #[command(flatten)]
        output: Output,
    },
    /// Seal new credentials with a new key, or the prepared one; those handed out stay good until they expire. With
    /// --keyring-in-store all nodes know the new key before
    Rotate {
        /// How long nodes may take to say that they know the new key, with --keyring-in-store
        #[arg(long, value_name = "SECS", default_value_t = 60, value_parser = clap::value_parser!(u32).range(..=3_600))]
        wait_secs: u32,
        #[command(flatten)]
        output: Output,
    },
    /// Put the keyring that this node has into the store, for --keyring-in-store; nothing is removed here
    Import {
        #[command(flatten)]
        output: Output,
    },
    /// Seal the keyring in the store with another key; nodes go on with the keyring that they have until they are started
    /// again with that key
    Reseal {
        /// The file with the other key, as new-key makes it
        #[arg(long = "with", value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// Make the key that seals the keyring in the store, the same for every node
    NewKey {
        /// Where to, a file for its owner only [default: standard output]
        file: Option<PathBuf>,
    },
}

/// Sums over all that was relayed, or what is chosen of it.
#[derive(Debug, Clone, Args)]
pub(crate) struct UsageQuestion {
    /// From this time on, as 2030-01-02 or 2030-01-02T03:04:05Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) since: Option<Timestamp>,
    /// Before this time
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) until: Option<Timestamp>,
    /// Of this TURN key
    #[arg(long, value_name = "UID")]
    pub(crate) key: Option<TurnKeyId>,
    /// One row for each, separated by commas: date, datetimeHour, keyId, customIdentifier, username, node, transport, ...
    #[arg(long, value_name = "LIST", value_delimiter = ',', value_parser = dimension)]
    pub(crate) group_by: Option<Vec<Dimension>>,
    /// Print CSV, for spreadsheets
    #[arg(long, conflicts_with = "json")]
    pub(crate) csv: bool,
    #[command(flatten)]
    pub(crate) owner: Owner,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Clone, Subcommand)]
pub(crate) enum SessionsCommand {
    /// Show live sessions, the newest first
    List {
        /// Of this TURN key
        #[arg(long, value_name = "UID")]
        key: Option<TurnKeyId>,
        /// Of this customIdentifier
        #[arg(long, value_name = "TEXT")]
        custom_identifier: Option<String>,
        /// Of this username
        #[arg(long, value_name = "TEXT")]
        username: Option<String>,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
    /// End live sessions; who has a good credential may come back: revoke it to keep him out
    End {
        #[command(flatten)]
        choice: SessionChoice,
        #[command(flatten)]
        owner: Owner,
        #[command(flatten)]
        output: Output,
    },
}

/// Which sessions.
#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = true)]
pub(crate) struct SessionChoice {
    /// This one
    #[arg(conflicts_with_all = ["key", "custom_identifier", "username"])]
    pub(crate) id: Option<SessionId>,
    /// All of this TURN key
    #[arg(long, value_name = "UID")]
    pub(crate) key: Option<TurnKeyId>,
    /// All of this customIdentifier
    #[arg(long, value_name = "TEXT", conflicts_with = "username")]
    pub(crate) custom_identifier: Option<String>,
    /// All of this username
    #[arg(long, value_name = "TEXT")]
    pub(crate) username: Option<String>,
}

fn time(text: &str) -> Result<Timestamp, TypeError> {
    moment(text)
}

fn dimension(text: &str) -> Result<Dimension, String> {
    let names = || Dimension::ALL.map(|(_, name)| name).join(", ");
    Dimension::named(text).ok_or_else(|| format!("it is one of {}", names()))
}

fn name(text: &str) -> Result<String, String> {
    if text.chars().count() > MAX_NAME_CHARS {
        return Err(format!("a name has at most {MAX_NAME_CHARS} characters"));
    }
    Ok(text.to_owned())
}

/// Reads the command line and does what it says.
pub(crate) fn run() -> Result<()> {
    let Cli { global, command } = parse(std::env::args_os());
    let env = |name: &str| std::env::var_os(name);
    let place = || Place::load(&global, &env);
    match command {
        Command::Serve(flags) => serve::run(Settings::load(&global, *flags, &env)?),
        Command::Account(command) => block_on(commands::account(&place()?, command)),
        Command::Token(command) => block_on(commands::token(&place()?, command)),
        Command::Key(command) => block_on(commands::key(&place()?, command)),
        Command::Webhook(command) => block_on(commands::webhook(&place()?, command)),
        Command::Audit(command) => block_on(commands::audit(&place()?, command)),
        Command::Keyring(KeyringCommand::NewKey { file }) => commands::new_key(file.as_deref()),
        Command::Keyring(command) => block_on(commands::keyring(&place()?, command)),
        Command::Usage(question) => block_on(commands::usage(&place()?, *question)),
        Command::Sessions(command) => block_on(commands::sessions(&place()?, command)),
        Command::Certificates { renew, output } => block_on(commands::certificates(&place()?, renew, output)),
        Command::Nodes { output } => block_on(commands::nodes(&place()?, output)),
        Command::Store(command) => block_on(commands::store(command)),
        Command::Completions { shell } => completions(shell),
        Command::Man { dir } => manual(&dir),
    }
}

fn completions(shell: clap_complete::Shell) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "turnery", &mut script);
    std::io::stdout().write_all(&script).context("cannot write to standard output")
}

fn manual(dir: &Path) -> Result<()> {
    ensure!(dir.is_dir(), "{} is not a directory", dir.display());
    clap_mangen::generate_to(Cli::command(), dir)
        .with_context(|| format!("cannot write the manual into {}", dir.display()))?;
    println!("The manual is in {}; read it with: man -l {}", dir.display(), dir.join("turnery.1").display());
    Ok(())
}

fn block_on(work: impl Future<Output = Result<()>>) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(work)
}

/// Ends the process where there is nothing to run: help, version, or a fault in one line.
fn parse(args: impl Iterator<Item = OsString>) -> Cli {
    Cli::try_parse_from(args).unwrap_or_else(|error| match error.kind() {
        ErrorKind::DisplayHelp
        | ErrorKind::DisplayVersion
        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => error.exit(),
        _ => {
            eprintln!("turnery: {}", one_line(&error));
            exit(USAGE)
        }
    })
}

/// clap's message without its usage, on one line.
fn one_line(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let message = text.split("\n\nUsage:").next().unwrap_or_default();
    let message = message.split("\n\nFor more information").next().unwrap_or_default();
    let words: Vec<&str> = message.split_whitespace().collect();
    let message = words.join(" ");
    format!("{} (see --help)", message.strip_prefix("error: ").unwrap_or(&message))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_wrong_command_line_is_explained_in_one_line() {
        for (args, hint) in [
            (vec!["serve", "--no-such-flag"], "'--no-such-flag'"),
            (vec!["srve"], "'srve'"),
            (vec!["key", "delete"], "<UID>"),
            (vec!["key", "secret", "remove", "x"], "32 lower-case hex digits"),
            (vec!["key", "delete", "x"], "32 lower-case hex digits"),
            (vec!["serve", "--realm"], "--realm"),
            (vec!["token", "create", "--permission", "all"], "calls-read"),
        ] {
            let args = std::iter::once("turnery").chain(args);
            let line = one_line(&Cli::try_parse_from(args).unwrap_err());
            assert!(line.contains(hint) && !line.contains('\n'), "{line}");
        }
    }
}
