//! The sessions of those who show nothing of themselves.
//!
//! Nobody can tell such callers apart by what they say, and behind one address there may be many who have nothing to do with
//! each other. A session of the bus is one caller's, though: its window for publishes, its requests under way, the
//! bytes that wait for it, its subscriptions, its rates and its end are shared by all that is asked by it. So each connection
//! has a session of its own, as it would at `/bus`, and nothing that somebody does by one reaches another.
//!
//! It is made when the connection first asks for something, serves the requests that follow on the same connection, and ends with it.
//! There are as many at the most as there may be connections, in all and of an address; the bus's own bounds of sessions hold as
//! for any other. None takes the place of a session of those who have shown who they are.

use std::sync::{Arc, Mutex, PoisonError};

use whispeer::Client;

use super::clients::join;
use super::failure::Failure;
use super::identity::Caller;
use crate::shared::Shared;

/// The session of a connection whose caller shows nothing, once there is one.
#[derive(Default)]
pub(crate) struct Stranger {
    client: Mutex<Option<Arc<Client>>>,
}

impl Stranger {
    /// The session, once the bus has let it in.
    ///
    /// A connection has one request at a time, so that nobody else makes one meanwhile.
    ///
    /// # Cancel safety
    /// Nothing is left behind when the future is dropped.
    pub(super) async fn client(&self, shared: &Shared, caller: &Caller) -> Result<Arc<Client>, Failure> {
        if let Some(client) = self.open() {
            return Ok(client);
        }
        let link = shared.link(caller.peer()).await.map_err(|error| Failure::from(&error))?;
        let client = Arc::new(join(shared, caller, link)?);
        client.ping().await.map_err(|error| Failure::of_handshake(&error, caller.has_shown()))?;
        *self.client.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&client));
        Ok(client)
    }

    /// The session, unless it has ended.
    fn open(&self) -> Option<Arc<Client>> {
        let client = self.client.lock().unwrap_or_else(PoisonError::into_inner);
        client.as_ref().filter(|client| client.close_reason().is_none()).cloned()
    }
}
