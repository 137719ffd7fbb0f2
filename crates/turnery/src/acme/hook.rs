//! The operator's command that puts records into the DNS, and takes them out again.

use std::fmt;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::process::Command;
use tokio::time::timeout;

use crate::config::{KEYRING_VARIABLE, SEALING_KEY_VARIABLE};

/// How long it may take, until the record can be seen where the authority asks.
const DEADLINE: Duration = Duration::from_mins(5);
/// So much of what it says is told.
const TOLD_BYTES: u64 = 400;
/// What is none of its business.
const SECRET_VARIABLES: [&str; 4] =
    ["TURNERY_BOOTSTRAP_ACCOUNT", "TURNERY_BOOTSTRAP_TOKEN", KEYRING_VARIABLE, SEALING_KEY_VARIABLE];

/// What it is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Set,
    CleanUp,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Set => "set",
            Self::CleanUp => "cleanup",
        })
    }
}

/// A TXT record. RFC 8555 §8.4.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The name that a certificate is asked for.
    pub(super) domain: String,
    /// Where the record belongs.
    pub(super) name: String,
    /// What is to stand there.
    pub(super) value: String,
}

/// Runs the command and waits until it is done.
///
/// # Errors
/// When it cannot be run, fails, or takes too long.
pub(super) async fn run(hook: &Path, action: Action, record: &Record) -> Result<()> {
    run_within(DEADLINE, hook, action, record).await
}

async fn run_within(deadline: Duration, hook: &Path, action: Action, record: &Record) -> Result<()> {
    let Record { domain, name, value } = record;
    let by_hand = format!("{} {action} {domain} {name} {value}", hook.display());
    // A file and not a pipe: what the command leaves running may keep it open for ever.
    let mut said = tempfile::tempfile().context("cannot make a file for what the DNS hook says")?;
    let mut command = Command::new(hook);
    command
        .args([&action.to_string(), domain, name, value])
        .env("TURNERY_ACME_ACTION", action.to_string())
        .env("TURNERY_ACME_DOMAIN", domain)
        .env("TURNERY_ACME_RECORD", name)
        .env("TURNERY_ACME_VALUE", value)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone().context("cannot share a file with the DNS hook")?)
        .kill_on_drop(true);
    for name in SECRET_VARIABLES {
        command.env_remove(name);
    }
    let mut child = command
        .spawn()
        .with_context(|| format!("the DNS hook {} cannot be run; look at --acme-dns-hook", hook.display()))?;
    let Ok(ended) = timeout(deadline, child.wait()).await else {
        bail!("the DNS hook did not end within {} s and was killed; try `{by_hand}`", deadline.as_secs());
    };
    let status = ended.context("the DNS hook cannot be waited for")?;
    if status.success() {
        return Ok(());
    }
    let said = last_words(&mut said).unwrap_or_default();
    bail!("the DNS hook failed with {status}: {said}; try `{by_hand}`")
}

/// The end of what it said.
fn last_words(said: &mut std::fs::File) -> std::io::Result<String> {
    let length = said.seek(SeekFrom::End(0))?;
    said.seek(SeekFrom::Start(length.saturating_sub(TOLD_BYTES)))?;
    let mut bytes = Vec::new();
    said.take(TOLD_BYTES).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let text = text.trim();
    Ok(if text.is_empty() { "it said nothing on standard error".to_owned() } else { text.replace('\n', " ") })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use super::*;

    fn script(dir: &Path, text: &str) -> PathBuf {
        let path = dir.join("hook");
        std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn record() -> Record {
        Record {
            domain: "a.example.org".to_owned(),
            name: "_acme-challenge.a.example.org".to_owned(),
            value: "-a_value".to_owned(),
        }
    }

    #[tokio::test]
    async fn it_is_told_everything_twice() {
        let dir = tempfile::tempdir().unwrap();
        let out = dir.path().join("out");
        let hook = script(
            dir.path(),
            &format!(
                "echo \"$* $TURNERY_ACME_ACTION $TURNERY_ACME_DOMAIN $TURNERY_ACME_RECORD $TURNERY_ACME_VALUE\" >>{}",
                out.display()
            ),
        );
        for action in [Action::Set, Action::CleanUp] {
            run(&hook, action, &record()).await.unwrap();
        }
        let line = |action| {
            let told = format!("{action} a.example.org _acme-challenge.a.example.org -a_value");
            format!("{told} {told}\n")
        };
        assert_eq!(std::fs::read_to_string(out).unwrap(), line("set") + &line("cleanup"));
    }

    #[tokio::test]
    async fn its_failures_are_told() {
        let dir = tempfile::tempdir().unwrap();
        let failure = async |text: &str| {
            let hook = script(dir.path(), text);
            let error = run_within(Duration::from_millis(300), &hook, Action::Set, &record()).await;
            format!("{:#}", error.unwrap_err())
        };
        let error = failure("echo first >&2; echo no such zone >&2; exit 3").await;
        assert!(error.contains("exit status: 3") && error.contains("first no such zone"), "{error}");
        assert!(error.contains("set a.example.org _acme-challenge.a.example.org -a_value"), "{error}");
        assert!(failure("exit 1").await.contains("said nothing"));
        assert!(failure("exec sleep 60").await.contains("did not end within"));
        let error = run(&dir.path().join("none"), Action::Set, &record()).await.unwrap_err();
        assert!(format!("{error:#}").contains("cannot be run"), "{error:#}");
    }
}
