//! The sessions of those who show who they are.
//!
//! Each such caller has one session of the bus, by which the bus itself decides who he is and what he may do, and which ends when
//! his token does. It is made when he asks first and kept for a while: a password is checked once and not with each request.
//!
//! There are so many at the most. Where one more is needed the one makes way that was used longest ago; whoever still uses
//! that goes on with it, as it lives for as long as somebody holds it. So a crowd of strangers costs others a handshake, and
//! keeps nobody out.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use ring::hmac;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use whispeer::Client;
use whispeer::transport::Link;

use super::failure::Failure;
use super::identity::{Caller, CallerKey};
use super::stranger::Stranger;
use crate::limits;
use crate::shared::Shared;

/// The sessions that there are, and the task that ends those that nobody uses, which ends with this.
pub(super) struct Clients {
    table: Arc<Table>,
    key: hmac::Key,
    sweeper: JoinHandle<()>,
}

type Table = Mutex<HashMap<CallerKey, Known>>;

struct Known {
    client: Arc<Client>,
    used: Instant,
}

impl Known {
    fn is_idle(&self) -> bool {
        Arc::strong_count(&self.client) == 1
    }
}

impl Clients {
    /// None yet; callers are known by this key.
    ///
    /// It needs a Tokio runtime.
    pub(super) fn new(key: hmac::Key) -> Self {
        let table = Arc::new(Table::default());
        let sweeper = tokio::spawn(sweep(Arc::downgrade(&table)));
        Self { table, key, sweeper }
    }

    /// The session of a caller, once the bus has let him in. All who come as him meanwhile wait for the same. Who shows nothing is
    /// one with nobody: he has the session of his connection.
    ///
    /// # Cancel safety
    /// Nothing is lost when the future is dropped; the session is there for who comes next.
    pub(super) async fn of(
        &self,
        shared: &Shared,
        caller: &Caller,
        stranger: &Stranger,
    ) -> Result<Arc<Client>, Failure> {
        let Some(key) = caller.key(&self.key) else { return stranger.client(shared, caller).await };
        let client = match self.known(&key) {
            Some(client) => client,
            None => {
                let link = shared.link(caller.peer()).await.map_err(|error| Failure::from(&error))?;
                self.known_or_new(shared, caller, &key, link)?
            }
        };
        if client.session_id().is_none()
            && let Err(error) = client.ping().await
        {
            self.forget(&key, &client);
            return Err(Failure::of_handshake(&error, caller.has_shown()));
        }
        Ok(client)
    }

    /// The session of a caller, if there is one that has not ended.
    fn known(&self, key: &CallerKey) -> Option<Arc<Client>> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let known = table.get_mut(key).filter(|known| known.client.close_reason().is_none())?;
        known.used = Instant::now();
        Some(Arc::clone(&known.client))
    }

    /// The session of a caller, which others may have begun by now, or a new one over this link.
    fn known_or_new(
        &self,
        shared: &Shared,
        caller: &Caller,
        key: &CallerKey,
        link: Link,
    ) -> Result<Arc<Client>, Failure> {
        let now = Instant::now();
        // What makes way is dropped when the table is free again.
        let (client, _gone) = {
            let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(known) = table.get_mut(key)
                && known.client.close_reason().is_none()
            {
                known.used = now;
                return Ok(Arc::clone(&known.client));
            }
            let mut gone = table.remove(key);
            if table.len() >= limits::API_CLIENTS {
                let oldest = table.iter().min_by_key(|(_, known)| (!known.is_idle(), known.used));
                let oldest = oldest.map(|(key, _)| *key);
                gone = oldest.and_then(|key| table.remove(&key));
            }
            let client = Arc::new(join(shared, caller, link)?);
            table.insert(*key, Known { client: Arc::clone(&client), used: now });
            (client, gone)
        };
        Ok(client)
    }

    /// Takes one out that the bus has not let in, unless there is another by now.
    fn forget(&self, key: &CallerKey, client: &Arc<Client>) {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        if table.get(key).is_some_and(|known| Arc::ptr_eq(&known.client, client)) {
            table.remove(key);
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.sweeper.abort();
    }
}

/// Begins a session; the handshake goes on by itself.
pub(super) fn join(shared: &Shared, caller: &Caller, link: Link) -> Result<Client, Failure> {
    let mut builder = shared.sealing(Client::builder()).name("http");
    if let Some(credentials) = &caller.credentials {
        builder = builder.credentials(credentials.clone());
    }
    builder.connect_link(link).map_err(|error| Failure::from(&error))
}

/// Ends sessions that nobody has used for a while, and forgets those that have ended.
async fn sweep(table: Weak<Table>) {
    loop {
        sleep(limits::API_CLIENT_IDLE / 4).await;
        let Some(table) = table.upgrade() else { return };
        let now = Instant::now();
        let is_over = |known: &Known| {
            known.client.close_reason().is_some()
                || (known.is_idle() && now.duration_since(known.used) >= limits::API_CLIENT_IDLE)
        };
        // Dropped when the table is free again.
        let _gone: Vec<Known> = {
            let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
            table.extract_if(|_, known| is_over(known)).map(|(_, known)| known).collect()
        };
    }
}
