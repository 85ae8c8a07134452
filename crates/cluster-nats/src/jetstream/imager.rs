//! Writes images of what the journal has come to, and takes out of it what they make needless.

use std::sync::Arc;

use whispeer::store::StoreError;

use super::record::{Action, Encoded};
use super::shared::Shared;
use crate::limits;

/// Goes on until it is dropped.
pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        shared.image.notified().await;
        if let Err(error) = image(&shared).await {
            // The journal is as good without, and the next one is due soon.
            tracing::debug!(%error, "an image of the streams in JetStream was not written");
        }
        shared.lock().ends_image();
    }
}

async fn image(shared: &Shared) -> Result<(), StoreError> {
    let (bytes, at, needed, mut garbage, writer, before) = {
        let mut state = shared.lock();
        let replica = &mut state.replica;
        let (at, before) = (replica.applied, replica.imaged);
        let garbage = std::mem::take(&mut replica.garbage);
        (replica.image(), at, replica.first_needed(at), garbage, state.writer, before)
    };
    let written = async {
        let bytes = bytes?;
        if bytes.len() > limits::JETSTREAM_IMAGE_BYTES {
            let what = format!("an image of the streams would take {} bytes", bytes.len());
            tracing::warn!("{what}; what they keep no more stays in JetStream");
            return Err(StoreError::LimitReached { what });
        }
        let image = shared.journal.write_image(at, writer, bytes.into()).await?;
        let subject = shared.journal.addresses.of_imaged();
        let told = shared.submit(None, |_| Encoded::action(subject, &Action::Image(image)))?;
        told.await.map_err(|_| StoreError::Closed)??;
        Ok(())
    };
    if let Err(error) = written.await {
        shared.lock().replica.garbage.append(&mut garbage);
        return Err(error);
    }
    // What is left where this ends goes with the messages before it.
    shared.journal.delete(needed, garbage).await?;
    shared.journal.delete_images(before).await
}
