//! Who is subscribed to what at all buses, and who comes and goes there.
//!
//! **Asked.** `$bus/cluster/presence` is served at each bus by its link. That asks all others at `{prefix}.presence`, whose payload is the topic or pattern, and
//! tells what has come within a second ([`asked`]).
//!
//! **Watched.** A bus at which somebody watches subscribes to `{prefix}.presence.*` and says in its heartbeats that it wants to hear
//! (`watches`). As long as another bus says so, a bus is subscribed to `$presence/**` at itself and sends each event to
//! `{prefix}.presence.{id}` ([`told`]); who hears it has his own bus tell it at the same topic ([`heard`]):
//!
//! ```text
//! {"number":17,"event":{"join":{"session":4,"principal":"Local","name":"alice","pattern":"chat/lobby","since":1763856000000}}}
//! {"number":17}
//! ```
//!
//! Events are numbered, one for each that there is. A message without one is a mark: it tells the last number once more, when somebody begins to watch and with each
//! interval of heartbeats. So what was lost is known, and told as missed. Where a bus begins to tell again after it has stopped, it leaves a number out, as nobody
//! knows what was not told in between. What is told at a bus for another one says so, and is not told to others once more, so that nothing goes around.

mod asked;
mod heard;
mod told;

use async_nats::Client as Nats;
use serde::{Deserialize, Serialize};
use whispeer::bus::BusView;
use whispeer::client::{Client, PresenceEvent};
use whispeer::{BusError, BusResult};

use self::asked::Asked;
use self::heard::Hearer;
use self::told::Teller;
use crate::members::{Members, written};
use crate::subject::Subjects;

/// The token of the subject where all buses are asked, and before the id of one that tells.
const PRESENCE: &str = "presence";

/// The topics where a bus tells who comes and goes.
const PLACES: &str = "$presence/**";

/// What it takes to tell who is there, and who comes and goes.
#[derive(Clone)]
pub(crate) struct Presence {
    pub(crate) bus: BusView,
    pub(crate) client: Client,
    pub(crate) nats: Nats,
    pub(crate) subjects: Subjects,
    pub(crate) name: String,
    pub(crate) members: Members,
}

impl Presence {
    /// Answers, tells and hears until the link ends.
    ///
    /// # Errors
    /// Why it has ended.
    ///
    /// # Cancel safety
    /// Who has asked and has no answer yet is told that there is none; those who watch miss what was under way.
    pub(crate) async fn run(self) -> BusResult<()> {
        tokio::try_join!(Asked(self.clone()).run(), Teller::new(&self).run(), Hearer(self).run())?;
        Ok(())
    }
}

/// What one bus tells others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Told {
    /// How many events it has had so far, this one included.
    number: u64,
    /// What has happened; nothing in a mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    event: Option<PresenceEvent>,
}

/// Where a bus tells others of its clients.
fn place_of_bus(subjects: &Subjects, id: u64) -> String {
    subjects.own(&format!("{PRESENCE}.{}", written(id)))
}

fn closed() -> BusError {
    BusError::Closed { what: "the link to NATS".into() }
}
