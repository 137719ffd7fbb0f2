//! `turnery keyring`.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use control::store::Store;
use credentials::{Keyring, SealingKey};
use serde::Serialize;
use serde_json::json;

use super::secrets;
use crate::cli::{KeyringCommand, Output};
use crate::config::{KEYRING_VARIABLE, Place, Sealing, fault, sealing_key};
use crate::keyring_file::{KeyringFile, prepare_data_dir};
use crate::keyring_source::KeyringSource;
use crate::keyring_store::{self, Held};
use crate::table::table;

const PREPARED: &str = "\nGive every node this keyring, then rotate.\n";
const PREPARED_IN_STORE: &str = "\nEvery node reads it by itself; `turnery keyring rotate` puts it to use.\n";
const RESEALED: &str = "\nGive every node the other key, and start it again.\n";
const ROTATED: &str =
    "\nNew credentials are sealed with the current key; older ones stay good until they expire.\n";

pub(crate) async fn keyring(place: &Place, command: KeyringCommand) -> Result<()> {
    if let KeyringCommand::Import { output } = command {
        return import(place, output).await;
    }
    match place.keyring()? {
        KeyringSource::Store(sealing) => {
            let store = place.open_store().await?;
            let done = in_store(&store, &sealing, &command).await;
            store.close().await;
            done
        }
        source => elsewhere(place, &source, &command).await,
    }
}

/// Where every node has its own copy.
async fn elsewhere(place: &Place, source: &KeyringSource, command: &KeyringCommand) -> Result<()> {
    match command {
        &KeyringCommand::Prepare { output } => show((&source.file()?.prepare()?, None), output, PREPARED),
        &KeyringCommand::Rotate { output, .. } => {
            let file = source.file()?;
            prepare_data_dir(&place.dir()?)?;
            secrets::reseal(place, file).await?;
            show((&file.rotate()?, None), output, ROTATED)
        }
        &KeyringCommand::Show { output } => {
            let keyring = match source {
                KeyringSource::Environment(keyring) => keyring.clone(),
                source => source.file()?.open()?,
            };
            show((&keyring, None), output, "")
        }
        KeyringCommand::Reseal { .. } => {
            bail!("only a keyring in the store is sealed: give --keyring-in-store and its key")
        }
        KeyringCommand::Import { .. } | KeyringCommand::NewKey { .. } => Ok(()),
    }
}

/// Where the store has it.
async fn in_store(store: &Store, sealing: &Sealing, command: &KeyringCommand) -> Result<()> {
    let (Held { keyring, mark }, output, note) = match command {
        &KeyringCommand::Prepare { output } => {
            (keyring_store::prepare(store, sealing).await?, output, PREPARED_IN_STORE)
        }
        &KeyringCommand::Rotate { wait_secs, output } => {
            let patience = Duration::from_secs(wait_secs.into());
            (keyring_store::rotate(store, sealing, patience).await?, output, ROTATED)
        }
        &KeyringCommand::Show { output } => (keyring_store::expect(store, sealing).await?, output, ""),
        KeyringCommand::Reseal { file, output } => {
            let other = sealing_key(file).context("--with")?;
            (keyring_store::reseal_with(store, sealing, &other).await?, *output, RESEALED)
        }
        KeyringCommand::Import { .. } | KeyringCommand::NewKey { .. } => return Ok(()),
    };
    show((&keyring, Some(mark.version)), output, note)
}

/// Puts the keyring that a node has into the store.
async fn import(place: &Place, output: Output) -> Result<()> {
    let sealing = place.sealing.as_ref();
    let sealing = &sealing.context("where to is not known: give --keyring-in-store and its key")?.read()?;
    let file = KeyringFile::in_dir(&place.dir()?);
    let (keyring, rest) = match &place.keyring {
        Some(keyring) => {
            ensure!(
                file.stamp().is_none(),
                "there are two keyrings, {} and that of {KEYRING_VARIABLE}; move the file away, or unset the variable",
                file.path().display()
            );
            (keyring.clone(), format!("unset {KEYRING_VARIABLE}"))
        }
        None => (file.open()?, format!("move {} away", file.path().display())),
    };
    let name = Store::name(&place.store_url(&place.dir()?))?;
    let store = place.open_store().await?;
    let imported = keyring_store::import(&store, sealing, &keyring).await;
    store.close().await;
    let (held, is_new) = imported?;
    let done = if is_new { "The keyring is in the store now" } else { "The store has this keyring already" };
    let note =
        format!("\n{done}: {name}. At every node: {rest}, and start it again with --keyring-in-store.\n");
    show((&held.keyring, Some(held.mark.version)), output, &note)
}

/// Makes a sealing key: a file for its owner only, or a text on standard output.
pub(crate) fn new_key(file: Option<&Path>) -> Result<()> {
    let key = SealingKey::generate()?;
    let mut text = key.to_text();
    text.push('\n');
    let Some(path) = file else {
        let mut stdout = std::io::stdout().lock();
        let written = stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush());
        return written.context("cannot write to standard output");
    };
    let failed = |error: std::io::Error| {
        let hint = match error.kind() {
            ErrorKind::AlreadyExists => "; what is there may be in use and stays: name another file",
            _ => "",
        };
        anyhow!("cannot make {}: {}{hint}", path.display(), fault(&error))
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // A part of a key is none; where it cannot be removed either, it is refused when it is read.
        let _ = fs::remove_file(path);
        failed(error)
    })?;
    println!("The key is in {}. Give it to every node, and keep a copy.", path.display());
    Ok(())
}

fn show((keyring, version): (&Keyring, Option<u64>), output: Output, note: &str) -> Result<()> {
    #[derive(Serialize)]
    struct Key {
        id: u8,
        created: control::store::Timestamp,
        current: bool,
        prepared: bool,
    }
    let count = keyring.key_ids().count();
    let newest = keyring.key_ids().last().map_or(0, |(_, at)| at);
    let created = control::store::Timestamp::from_unix_secs;
    let keys: Vec<Key> = keyring
        .key_ids()
        .enumerate()
        .map(|(index, (id, at))| {
            let (current, prepared) = (index + 1 == count, at > newest);
            Key { id, created: created(at), current, prepared }
        })
        .collect();
    let state = |key: &Key| match key {
        Key { current: true, .. } => "current",
        Key { prepared: true, .. } => "prepared",
        _ => "opens older credentials",
    };
    let row = |key: &Key| [key.id.to_string(), key.created.to_string(), state(key).to_owned()];
    let rows: Vec<_> = keys.iter().map(row).collect();
    let json = match version {
        Some(version) => json!({ "keys": keys, "version": version }),
        None => json!({ "keys": keys }),
    };
    output
        .show(&json, || format!("{}{note}", table(["KEY", "CREATED", "USE"], &rows, "The keyring is empty.")))
}
