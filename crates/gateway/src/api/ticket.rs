//! Tickets, which stand for credentials in a URL.
//!
//! A browser sends no headers with an `EventSource` or a WebSocket, and a token in a URL ends in logs and histories. So a
//! page gets a ticket by its token. It is good once, for half a minute, and from the address that it was given to; whoever
//! finds it in a log later has nothing.
//!
//! A ticket is known by a keyed hash of it, so that the time of looking it up tells nothing.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use axum::extract::{Request, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::StatusCode;
use ring::hmac;
use serde::Serialize;
use tokio::time::Instant;
use utoipa::ToSchema;

use super::failure::{Challenge, Failure};
use super::identity::Caller;
use super::params::Params;
use super::{Entered, caller, json};
use crate::limits;
use crate::rates::block_of;
use crate::shared::Shared;

/// Bytes of a ticket, drawn at random; as many characters as base64 makes of them.
const BYTES: usize = 32;
const CHARACTERS: usize = 43;

/// Something that stands for the caller's credentials in a URL.
#[derive(Serialize, ToSchema)]
pub(super) struct Ticket {
    /// It goes behind `ticket=`.
    #[schema(example = "k5J0dEJ6m3w0cV0C4m2V9m4rH2c9mWcE8kq1dQvS1mY", min_length = 43, max_length = 43)]
    ticket: String,
    /// Seconds for which it is good.
    #[schema(example = 30)]
    expires_in: u64,
}

/// Gets a ticket.
///
/// It stands for the credentials of this request in the URL of one other request, where a browser sends no headers: that of
/// `GET /api/v1/subscribe?ticket=...`. It is good once, for 30 seconds, from the same address.
#[utoipa::path(
    post, path = "/api/v1/ticket", tag = "tickets",
    responses((status = 200, description = "The ticket.", body = Ticket)),
)]
pub(super) async fn ticket(State(shared): State<Arc<Shared>>, request: Request) -> Result<Response, Failure> {
    let (parts, _) = request.into_parts();
    Params::of(&parts.uri, &[])?;
    let caller = caller(&parts)?;
    // One that the bus does not let in would be of no use.
    Entered::as_caller(&shared, &parts, &caller).await?;
    let ticket = shared.api.tickets.draw(caller)?;
    Ok(json(&Ticket { ticket, expires_in: limits::API_TICKET_TIME.as_secs() }))
}

/// Those that are good.
pub(super) struct Tickets {
    key: hmac::Key,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    good: HashMap<Hash, Good>,
    /// When each is over.
    ends: BTreeSet<(Instant, Hash)>,
    /// How many each address has.
    of_address: HashMap<IpAddr, usize>,
}

type Hash = [u8; 32];

struct Good {
    caller: Caller,
    until: Instant,
}

impl Good {
    fn block(&self) -> IpAddr {
        block_of(self.caller.address.ip())
    }
}

impl Table {
    fn insert(&mut self, hash: Hash, good: Good) {
        self.ends.insert((good.until, hash));
        *self.of_address.entry(good.block()).or_default() += 1;
        self.good.insert(hash, good);
    }

    fn remove(&mut self, hash: &Hash) -> Option<Good> {
        let good = self.good.remove(hash)?;
        self.ends.remove(&(good.until, *hash));
        let block = good.block();
        if let Some(count) = self.of_address.get_mut(&block) {
            *count -= 1;
            if *count == 0 {
                self.of_address.remove(&block);
            }
        }
        Some(good)
    }

    /// Forgets those that are over.
    fn forget(&mut self, now: Instant) {
        while let Some((until, hash)) = self.ends.first().copied()
            && until <= now
        {
            self.remove(&hash);
        }
    }
}

impl Tickets {
    pub(super) fn new(key: hmac::Key) -> Self {
        Self { key, table: Mutex::default() }
    }

    /// A new ticket for a caller.
    pub(super) fn draw(&self, caller: Caller) -> Result<String, Failure> {
        let mut bytes = [0; BYTES];
        getrandom::fill(&mut bytes).map_err(|error| {
            let detail = format!("the system's random generator does not work: {error}");
            Failure::new(StatusCode::SERVICE_UNAVAILABLE, "failed", detail)
        })?;
        let ticket = URL_SAFE_NO_PAD.encode(bytes);
        let now = Instant::now();
        let good = Good { caller, until: now + limits::API_TICKET_TIME };
        let block = good.block();
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        table.forget(now);
        let of_address = table.of_address.get(&block).copied().unwrap_or_default();
        // The loopback is everybody on this host, and everybody behind a proxy there.
        if of_address >= limits::API_TICKETS_OF_ADDRESS && !block.is_loopback() {
            return Err(Failure::new(
                StatusCode::TOO_MANY_REQUESTS,
                "limit-reached",
                format!(
                    "{} tickets of this address are not used yet; use them, or wait until they are over",
                    limits::API_TICKETS_OF_ADDRESS
                ),
            ));
        }
        if table.good.len() >= limits::API_TICKETS {
            let detail = "too many tickets are not used yet; try again later";
            return Err(Failure::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", detail));
        }
        table.insert(self.hash(&ticket), good);
        Ok(ticket)
    }

    /// Whom a ticket stands for. It is not good any more after this.
    ///
    /// # Errors
    /// What its bearer is told, which is the same whatever is wrong with it.
    pub(super) fn redeem(&self, ticket: &str, from: IpAddr) -> Result<Caller, Failure> {
        let good = match ticket.len() {
            CHARACTERS => {
                let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
                table.remove(&self.hash(ticket))
            }
            _ => None,
        };
        let good = good.filter(|good| good.until > Instant::now() && good.block() == block_of(from));
        good.map(|good| good.caller).ok_or_else(|| {
            let detail =
                "the ticket is not good, or no longer, or not from here; get a new one by POST /api/v1/ticket";
            Failure::unauthorized(Challenge::Wrong, detail)
        })
    }

    fn hash(&self, ticket: &str) -> Hash {
        let mut hash = [0; 32];
        hash.copy_from_slice(hmac::sign(&self.key, ticket.as_bytes()).as_ref());
        hash
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller_at(address: &str) -> Caller {
        Caller { credentials: None, address: address.parse().unwrap() }
    }

    fn tickets() -> Tickets {
        Tickets::new(hmac::Key::new(hmac::HMAC_SHA256, b"a key"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_ticket_is_good_once_for_half_a_minute_from_where_it_was_given_to() {
        let (tickets, here) = (tickets(), "192.0.2.1".parse().unwrap());
        let draw = || tickets.draw(caller_at("192.0.2.1:1")).unwrap();
        let ticket = draw();
        assert_eq!(ticket.len(), CHARACTERS);
        assert!(tickets.redeem(&ticket, here).is_ok());
        assert!(tickets.redeem(&ticket, here).is_err(), "it was used");

        let ticket = draw();
        assert!(tickets.redeem(&ticket, "192.0.2.2".parse().unwrap()).is_err());
        assert!(tickets.redeem(&ticket, here).is_err(), "somebody else has it");

        let ticket = draw();
        tokio::time::advance(limits::API_TICKET_TIME).await;
        assert!(tickets.redeem(&ticket, here).is_err());
        assert!(tickets.redeem("", here).is_err() && tickets.redeem(&"a".repeat(CHARACTERS), here).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn there_are_so_many_tickets_of_an_address_and_in_all_and_no_more() {
        let tickets = tickets();
        let drawn = |address: String| tickets.draw(caller_at(&address)).is_ok();
        let of_one = (0..1_000).filter(|_| drawn("192.0.2.1:1".into())).count();
        assert_eq!(of_one, limits::API_TICKETS_OF_ADDRESS);
        let in_all = (0..10_000).filter(|n| drawn(format!("10.0.{}.{}:1", n / 250, n % 250))).count();
        assert_eq!(in_all, limits::API_TICKETS - limits::API_TICKETS_OF_ADDRESS);
        tokio::time::advance(limits::API_TICKET_TIME).await;
        assert!(drawn("192.0.2.1:1".into()));
        let table = tickets.table.lock().unwrap();
        assert_eq!((table.good.len(), table.ends.len(), table.of_address.len()), (1, 1, 1));
    }
}
