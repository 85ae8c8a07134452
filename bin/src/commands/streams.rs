//! `whispeer streams`: the streams of a store that no bus has.

use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use whispeer::store::{Change, Name, Store, StoreError, StreamState};

use crate::failure::{FAILED, Failure};
use crate::output::{self, Align, Table};
use crate::quantity::{human_count, human_size};
use crate::settings::{Configuration, Effective, Environment, Given, Storage};
use crate::storage;

const EXAMPLES: &str = "\
Examples:
  whispeer streams ls --config /etc/whispeer/whispeer.toml
  whispeer streams rm old-orders --store-folder /var/lib/whispeer
  whispeer streams renew --store-folder /var/lib/whispeer   # after an older copy was put in place

The store is the file of SQLite of `whispeer serve` with the same file and variables, and no bus may have it meanwhile.
`whispeer info` shows all streams of a bus that runs, those in JetStream (storage = \"jetstream\") too: this command does not
reach those.";

/// List, remove or renew streams of a store in SQLite that no bus has
#[derive(Debug, Args)]
#[command(name = "streams", after_help = EXAMPLES)]
pub(crate) struct Streams {
    #[command(subcommand)]
    what: What,

    /// Read where the store is from this file [env: WHISPEER_CONFIG]
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,

    /// The folder of the store
    #[arg(long, global = true, value_name = "FOLDER")]
    store_folder: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
enum What {
    /// List the streams
    Ls,
    /// Remove a stream with all of its messages, so that its topics can be another's
    Rm {
        /// What it is called
        name: String,
    },
    /// Give all streams new epochs, after an older copy of the store was put in its place, so that those who have read
    /// further than it goes are told so
    Renew,
}

impl Streams {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let given = Given::of_file(self.config).or("store.folder", "--store-folder", self.store_folder);
        let settings = Effective::load(&given, &Environment::of_process())?;
        tell_of_jetstream(&settings.configuration);
        let store = storage::existing(&settings.configuration.store)?;
        let done = match &self.what {
            What::Ls => list(&store).await,
            What::Rm { name } => remove(&store, name).await,
            What::Renew => renew(&store).await,
        };
        let closed = store.close().await.map_err(|error| Failure::new(FAILED, error.to_string()).into());
        done.and(closed)
    }
}

/// Says which streams of the configuration are not in this store. One of that name may be there from before.
fn tell_of_jetstream(configuration: &Configuration) {
    let all = configuration.streams.iter().filter(|stream| stream.storage == Storage::JetStream);
    let names: Vec<&str> = all.map(|stream| stream.settings.name.as_str()).collect();
    if !names.is_empty() {
        output::notice(format_args!(
            "kept in JetStream, and not in this store: {}; `whispeer info` shows them while a bus runs",
            names.join(", ")
        ));
    }
}

async fn states(store: &Arc<dyn Store>) -> anyhow::Result<Vec<StreamState>> {
    Ok(store.streams().await.map_err(|error| Failure::new(FAILED, error.to_string()))?)
}

async fn list(store: &Arc<dyn Store>) -> anyhow::Result<()> {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("NAME", Left),
        ("PATTERNS", Left),
        ("MESSAGES", Right),
        ("BYTES", Right),
        ("FIRST", Right),
        ("NEXT", Right),
        ("DELAYED", Right),
    ]);
    for state in states(store).await? {
        // What a stream has among its dead letters is for `whispeer dlq`.
        if state.settings.name.as_str().ends_with(".dead") {
            continue;
        }
        let patterns: Vec<_> = state.settings.patterns.iter().map(ToString::to_string).collect();
        table.row(vec![
            state.settings.name.to_string(),
            patterns.join(" "),
            human_count(state.messages),
            human_size(state.bytes),
            state.first.to_string(),
            state.end.to_string(),
            human_count(state.delayed),
        ]);
    }
    output::print(table.render())
}

async fn remove(store: &Arc<dyn Store>, name: &str) -> anyhow::Result<()> {
    let name = Name::new(name).map_err(|error| Failure::usage(error.to_string()))?;
    let Some(state) = states(store).await?.into_iter().find(|state| state.settings.name == name) else {
        let failure = Failure::new(FAILED, format!("there is no stream \"{name}\" in the store"));
        return Err(failure.help("`whispeer streams ls` lists those that there are").into());
    };
    let failed = |error: StoreError| Failure::new(FAILED, error.to_string());
    store.remove(name.clone()).await.map_err(failed)?;
    // Its dead letters are of no use without it.
    if let Ok(dead) = Name::new(&format!("{name}.dead")) {
        match store.remove(dead).await {
            Ok(()) | Err(StoreError::NoStream { .. }) => {}
            Err(error) => return Err(failed(error).into()),
        }
    }
    let plural = if state.messages == 1 { "" } else { "s" };
    output::notice(format_args!("removed \"{name}\" with {} message{plural}", human_count(state.messages)));
    Ok(())
}

async fn renew(store: &Arc<dyn Store>) -> anyhow::Result<()> {
    let failed = |error: StoreError| Failure::new(FAILED, error.to_string());
    let mut streams = 0;
    // Those of dead letters are read by others, too.
    for state in states(store).await? {
        let name = state.settings.name;
        streams += u64::from(!name.as_str().ends_with(".dead"));
        store.commit(name, vec![Change::renew().map_err(failed)?]).await.map_err(failed)?;
    }
    let what = match streams {
        1 => "1 stream has a new epoch".to_owned(),
        streams => format!("{} streams have new epochs", human_count(streams)),
    };
    output::notice(format_args!(
        "{what}; whoever goes on in one is told, and reads it from its oldest message"
    ));
    Ok(())
}
