//! Bus, publishers and consumers are killed at any moment, and what was acknowledged is neither lost nor done twice.

#![allow(clippy::print_stdout, reason = "whoever looks into a failure needs the seed")]

mod journal;
mod promises;
mod random;
mod roles;

use std::process::ChildStdin;
use std::thread;
use std::time::{Duration, Instant};

use whispeer::store::{Name, Reading, SqliteOptions, SqliteStore, Store};

use self::journal::{Content, Journal};
use self::promises::Consumer;
use self::random::Random;
use crate::support::{LIMIT, Place, Running};

const FILE: &str =
    "listen = [\"bus\"]\nstore.folder = \"kept\"\n[streams.orders]\npatterns = [\"orders/**\"]\n";

/// Who takes part, and whether he is killed.
const ROLES: [(&str, bool); 8] = [
    ("publisher-0", false),
    ("publisher-1", true),
    ("billing", false),
    ("shipping", true),
    ("worker-0", false),
    ("worker-1", true),
    ("reader", false),
    ("follower", false),
];

const CONSUMERS: [Consumer<'_>; 4] = [
    Consumer { names: &["billing"], is_kept: true },
    Consumer { names: &["shipping"], is_kept: true },
    Consumer { names: &["worker-0", "worker-1"], is_kept: true },
    Consumer { names: &["reader"], is_kept: false },
];

/// How long a look at the journal waits for the next.
const LOOK: Duration = Duration::from_millis(2);

#[tokio::test]
async fn what_was_acknowledged_outlives_whoever_is_killed() {
    let (seed, rounds) = (number_from("WHISPEER_SEED", 1), number_from("WHISPEER_CRASHES", 12));
    println!("WHISPEER_SEED={seed} WHISPEER_CRASHES={rounds}");
    let mut scene = Scene::new(seed);
    for _ in 0..rounds {
        scene.round();
    }
    scene.finish().await;
}

/// A number that somebody may set by a variable.
fn number_from(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |number| number.parse().unwrap())
}

/// One of those who take part, as the process that has the role now.
struct Actor {
    role: &'static str,
    number: u32,
    running: Running,
    /// It ends when this does.
    input: ChildStdin,
}

impl Actor {
    fn name(&self) -> String {
        format!("{}#{}", self.role, self.number)
    }
}

struct Scene {
    // Before the folder that they are in.
    actors: Vec<Actor>,
    bus: Running,
    journal: Journal,
    random: Random,
    place: Place,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let place = Place::new();
        place.write("whispeer.toml", FILE);
        let journal = Journal::new(&place.path("journal"));
        let mut bus = start(&place);
        bus.wait_for("ready on");
        let mut scene = Self { actors: Vec::new(), bus, journal, random: Random::new(seed), place };
        for (role, _) in ROLES {
            let actor = scene.actor(role, 0);
            scene.actors.push(actor);
        }
        scene
    }

    /// A process that goes on with a role.
    fn actor(&mut self, role: &'static str, number: u32) -> Actor {
        self.journal.read_on();
        let sent = self.journal.of(&[role]).filter_map(|(_, noted)| match noted {
            journal::Noted::Sent(number) => Some(number),
            _ => None,
        });
        let first = sent.max().map_or(0, |last| last + 1);
        let mut command = roles::command(&self.place, role, number, first, self.random.next());
        let mut running = Running::new(command.spawn().unwrap());
        let input = running.stdin();
        Actor { role, number, running, input }
    }

    /// Kills somebody as soon as something has happened, and has another one go on.
    fn round(&mut self) {
        let kills_bus = self.random.below(2) == 0;
        let kills_actor = !kills_bus || self.random.below(4) == 0;
        if self.random.below(6) > 0 {
            let (watched, lines) = (self.random.below(ROLES.len() as u64), 1 + self.random.below(300));
            self.wait_for_lines(ROLES[watched as usize].0, lines as usize);
        }
        thread::sleep(Duration::from_micros(self.random.below(8_000)));
        if kills_actor {
            let doomed: Vec<usize> = (0..ROLES.len()).filter(|index| ROLES[*index].1).collect();
            let index = doomed[self.random.below(doomed.len() as u64) as usize];
            let (role, number) = (self.actors[index].role, self.actors[index].number);
            // Killed first: its successor goes on behind what it has noted.
            self.actors[index].running.kill();
            self.actors[index] = self.actor(role, number + 1);
        }
        if kills_bus {
            self.bus.kill();
            self.bus = start(&self.place);
            // Now and then it is killed again before it is ready.
            if self.random.below(8) > 0 {
                self.bus.wait_for("ready on");
            }
        }
    }

    /// Waits until whoever has the role has noted so many lines more.
    fn wait_for_lines(&mut self, role: &str, lines: usize) {
        self.journal.read_on();
        let wanted = self.journal.count(role) + lines;
        self.wait_until(role, |journal| journal.count(role) >= wanted);
    }

    fn wait_until(&mut self, what: &str, is_so: impl Fn(&Journal) -> bool) {
        let until = Instant::now() + LIMIT;
        loop {
            self.journal.read_on();
            if is_so(&self.journal) {
                return;
            }
            self.all_run();
            if Instant::now() > until {
                self.keep_journal();
                panic!("not in time: {what}");
            }
            thread::sleep(LOOK);
        }
    }

    /// Ends the load, waits until all is dealt with, and looks at what there is.
    async fn finish(mut self) {
        self.dismiss(|role| role.starts_with("publisher"));
        let until = Instant::now() + LIMIT;
        let stored = loop {
            if !self.bus.has_said("ready on") {
                self.bus.wait_for("ready on");
            }
            let count = self.count();
            let living: Vec<String> = self.actors.iter().map(Actor::name).collect();
            let living: Vec<&str> = living.iter().map(String::as_str).collect();
            self.wait_until("all are read", |journal| journal.count("follower") as u64 >= count);
            for consumer in CONSUMERS {
                let what = format!("{:?} are through", consumer.names);
                self.wait_until(&what, |journal| consumer.is_through(journal, &living, count));
            }
            self.bus.signal("TERM");
            self.bus.wait();
            let (stored, floors) = kept(&self.place).await;
            assert_eq!(stored.len() as u64, count);
            if floors.iter().all(|floor| *floor == count + 1) {
                assert_eq!(floors.len(), 3, "as many keep their position");
                break stored;
            }
            // What was with somebody who was killed has not come again by then.
            assert!(Instant::now() < until, "of {count}: {floors:?}");
            self.bus = start(&self.place);
        };
        self.dismiss(|_| true);
        self.keep_journal();
        println!("{} messages, {} lines", stored.len(), self.journal.lines.len());
        for publisher in 0..2 {
            promises::publishes(&self.journal, publisher, &stored);
        }
        for consumer in CONSUMERS {
            consumer.check(&self.journal, &stored);
        }
        promises::follower(&self.journal, "follower", &stored);
    }

    /// Has them end by themselves.
    fn dismiss(&mut self, is_meant: impl Fn(&str) -> bool) {
        let (ending, staying) =
            std::mem::take(&mut self.actors).into_iter().partition(|actor| is_meant(actor.role));
        self.actors = staying;
        let ending: Vec<Actor> = ending;
        for Actor { role, running, input, .. } in ending {
            drop(input);
            let ended = running.end();
            assert!(ended.status.success(), "{role}: {ended:?}");
        }
        self.journal.read_on();
    }

    /// How many messages there are, as the bus says.
    fn count(&self) -> u64 {
        let told = self.place.run(&["info", "--addr", "bus", "--json"]).success();
        let told: serde_json::Value = serde_json::from_str(&told).unwrap();
        let rows = told["streams"]["rows"].as_array().unwrap();
        let orders = rows.iter().find(|row| row["name"] == "orders").unwrap();
        orders["next"].as_u64().unwrap() - 1
    }

    /// Leaves the journal where it can be looked at after the test, if a place for it is named.
    fn keep_journal(&self) {
        if let Some(path) = std::env::var_os("WHISPEER_JOURNAL") {
            std::fs::copy(self.place.path("journal"), path).unwrap();
        }
    }

    /// Nobody has ended who was not killed.
    fn all_run(&mut self) {
        let name = "the bus".to_owned();
        let actors = self.actors.iter_mut().map(|actor| (actor.name(), &mut actor.running));
        for (name, running) in std::iter::once((name, &mut self.bus)).chain(actors) {
            if let Some(said) = running.has_ended() {
                panic!("{name} has ended: {said}");
            }
        }
    }
}

fn start(place: &Place) -> Running {
    place.start(&["serve", "--config", "whispeer.toml"])
}

/// All that is in the store, and where the consumers are.
async fn kept(place: &Place) -> (Vec<Content>, Vec<u64>) {
    let store = SqliteStore::open(&place.path("kept/streams.db"), SqliteOptions::new()).unwrap();
    let orders = Name::new("orders").unwrap();
    let (mut messages, mut reading) = (Vec::new(), Reading::from(0, 0));
    loop {
        let page = store.read(orders.clone(), reading.clone()).await.unwrap();
        reading.from = page.next;
        let has_more = page.has_more();
        messages.extend(page.messages);
        if !has_more {
            break;
        }
    }
    assert!(messages.iter().map(|message| message.sequence).eq(1..=messages.len() as u64));
    let contents = messages.iter().map(|message| Content::of(&message.payload)).collect();
    let floors = store.consumers(orders.clone()).await.unwrap().iter().map(|state| state.floor).collect();
    for stream in store.streams().await.unwrap() {
        assert!(stream.settings.name == orders || stream.end == 1, "nobody is among the dead letters");
    }
    store.close().await.unwrap();
    (contents, floors)
}
