//! Which file each peer is in.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use super::{iceoryx2, mosquitto, nats, redis, tarpc, tonic, zenoh};
use crate::address::Address;
use crate::load::measured::Measured;
use crate::role::Role;
use crate::subject::Subject;

/// How the program at `path` is started as `subject`, which listens at `address` and keeps its
/// files in `directory`.
///
/// # Errors
/// When its settings cannot be written.
pub fn command(
    subject: Subject,
    path: &Path,
    address: &Address,
    directory: &Path,
) -> Result<Command> {
    match subject {
        Subject::Nats | Subject::NatsDebian => nats::command(path, address, directory),
        Subject::Redis => redis::command(path, address, directory),
        Subject::Mosquitto => mosquitto::command(path, address, directory),
        Subject::ZenohUnix | Subject::ZenohTcp => zenoh::command(path, address),
        _ => bail!("{} has no program", subject.title()),
    }
}

/// Loads a peer through its client.
///
/// # Errors
/// When the load fails or a delivery is missing, doubled or out of order.
pub async fn play(role: &Role) -> Result<Option<Measured>> {
    match role.subject {
        Subject::Nats | Subject::NatsDebian => role.through::<nats::Nats>().await,
        Subject::Redis => role.through::<redis::Redis>().await,
        Subject::Mosquitto => role.through::<mosquitto::Mosquitto>().await,
        Subject::ZenohUnix | Subject::ZenohTcp => role.through::<zenoh::Zenoh>().await,
        Subject::Tarpc => role.requesting::<tarpc::Tarpc>().await,
        Subject::Tonic => role.requesting::<tonic::Tonic>().await,
        Subject::Iceoryx2 => role.through::<iceoryx2::Iceoryx2>().await,
        _ => bail!("{} is no peer", role.subject.title()),
    }
}

/// Removes what ended processes left outside the directory of the run.
pub fn tidy() {
    iceoryx2::tidy();
}
