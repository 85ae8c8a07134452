//! What the table and the caches of its routes keep, and what they forget.

use super::*;
use crate::auth::Principal;
use crate::bus::budget::Budget;
use crate::bus::subscription::Subscriptions;
use crate::topic::validate_pattern;
use crate::transport::{Peer, memory_pair};

/// A table, and a session that subscribes and publishes.
struct Bench {
    router: Router,
    session: Arc<Session>,
    cache: RouteCache,
}

fn pattern(text: &str) -> TopicPattern {
    TopicPattern::new(text).unwrap()
}

impl Bench {
    fn new() -> Self {
        let (end, _other) = memory_pair();
        let peer = Peer::new(Principal::Local, "memory");
        let budget = Arc::new(Budget::new(usize::MAX));
        let session = Arc::new(Session::new(
            1,
            peer,
            String::new(),
            crate::proto::ResumeToken::new([0; 32]),
            end.sender,
            budget,
            usize::MAX,
        ));
        Self { router: Router::default(), session, cache: RouteCache::default() }
    }

    fn subscribe(&self, text: &str) -> EntryId {
        let target = Target::One { session: Arc::clone(&self.session), slot: Subscriptions::any_slot() };
        self.router.insert(&pattern(text), target).unwrap()
    }

    /// A look-up with so many steps.
    fn look_up(&mut self, text: &str, mut steps: usize) -> BusResult<Option<Targets>> {
        self.cache.look_up(text, validate_pattern(text)?, &self.router, &mut steps)
    }

    /// Publishes twice, so that the route is kept.
    fn route(&mut self, text: &str) -> Arc<Route> {
        for _ in 0..2 {
            match self.look_up(text, usize::MAX).unwrap() {
                Some(Targets::Cached(route)) => return route,
                Some(Targets::Fresh(targets)) => self.cache.keep(targets),
                None => panic!("{text} needs more steps"),
            }
        }
        panic!("{text} is not kept")
    }

    fn routes(&self) -> usize {
        self.router.sizes().1
    }
}

#[test]
fn a_change_forgets_the_routes_that_it_touches_and_no_others() {
    let mut bench = Bench::new();
    let entry = bench.subscribe("a/*");
    let (touched, other) = (bench.route("a/b"), bench.route("b/a"));
    assert_eq!((touched.targets.len(), other.targets.len(), bench.routes()), (1, 0, 2));
    bench.subscribe("*/b");
    assert!(touched.is_stale() && !other.is_stale());
    assert_eq!((bench.route("a/b").targets.len(), bench.routes()), (2, 2));
    bench.router.remove(&pattern("a/*"), entry);
    assert_eq!(bench.route("a/b").targets.len(), 1);
    assert!(!other.is_stale());
}

#[test]
fn a_change_that_touches_too_many_routes_or_looks_too_far_for_them_forgets_all() {
    for (change, forgets) in [("x/**", true), ("**/y", true), ("x/1/2/3", false)] {
        let mut bench = Bench::new();
        let routes: Vec<_> = (0..=limits::ROUTES_TOUCHED)
            .flat_map(|number| ["x", "z"].map(|first| format!("{first}/{number}/a/b/c/d/e/f/g")))
            .map(|topic| bench.route(&topic))
            .collect();
        assert_eq!(bench.routes(), routes.len());
        let before = bench.router.steps_of_changes();
        bench.subscribe(change);
        let steps = bench.router.steps_of_changes() - before;
        assert!(steps > 0 && steps <= 2 * limits::ROUTES_STEPS as u64, "{change}: {steps}");
        assert_eq!(bench.routes(), if forgets { 0 } else { routes.len() }, "{change}");
        assert!(routes.iter().all(|route| route.is_stale() == forgets), "{change}");
        assert!(!bench.route("x/1/a/b/c/d/e/f/g").is_stale());
    }
}

#[test]
fn the_topics_of_kept_routes_take_a_bounded_number_of_bytes() {
    let mut bench = Bench::new();
    let large = |number: usize| {
        let fragments: Vec<_> = (0..64).map(|fragment| format!("{number:08}{fragment:06}")).collect();
        fragments.join("/")
    };
    let each = bytes_of(&pattern(&large(0)), None);
    let most = limits::ROUTES_BYTES / each;
    let first = bench.route(&large(0));
    for number in 1..most {
        bench.route(&large(number));
    }
    assert_eq!(bench.routes(), most);
    assert!(!first.is_stale());
    let last = bench.route(&large(most));
    assert!(first.is_stale() && !last.is_stale());
    assert_eq!(bench.routes(), 1);
}

#[test]
fn a_route_is_not_kept_when_a_subscription_changed_since_its_look_up_began() {
    let mut bench = Bench::new();
    for number in 0..100 {
        bench.subscribe(&format!("a/{number}/c"));
    }
    bench.subscribe("**/end");
    // Seen once already, so that it would be kept.
    bench.route("**/end");
    bench.subscribe("x/end");
    assert!(bench.look_up("**/end", 50).unwrap().is_none());
    bench.subscribe("late/end");
    let found = bench.look_up("**/end", usize::MAX).unwrap();
    assert!(matches!(&found, Some(Targets::Fresh(targets)) if targets.len() == 2), "those at its beginning");
    assert_eq!(bench.route("**/end").targets.len(), 3);
    assert_eq!(bench.routes(), 1);
}

#[test]
fn a_look_up_stops_when_its_steps_are_used_up_and_goes_on_from_there() {
    let mut bench = Bench::new();
    for number in 0..10_000 {
        bench.subscribe(&format!("a/{number}/c"));
    }
    let mut pieces = 0;
    let found = loop {
        let mut steps = 1_000;
        let shape = validate_pattern("a/*/c").unwrap();
        match bench.cache.look_up("a/*/c", shape, &bench.router, &mut steps).unwrap() {
            Some(Targets::Fresh(targets)) => break targets,
            Some(Targets::Cached(_)) => panic!("it is the first time"),
            None => assert_eq!(steps, 0),
        }
        pieces += 1;
        assert!(bench.cache.held() > 0);
    };
    assert_eq!(found.len(), 10_000);
    assert!(pieces >= 30, "{pieces}");
}

#[test]
fn a_wildcard_that_leads_to_too_many_places_is_refused_with_what_to_do() {
    let mut bench = Bench::new();
    for number in 0..=limits::LOOKUP_WIDTH {
        bench.subscribe(&format!("a/{number}"));
    }
    let refused = bench.look_up("a/*", usize::MAX).map(|_| ());
    let Err(error @ BusError::LimitReached { .. }) = refused else { panic!("{refused:?}") };
    assert!(error.to_string().contains("narrower"), "{error}");
    assert_eq!(bench.route("a/7").targets.len(), 1);
    assert!(bench.cache.held() < 1_000_000, "{}", bench.cache.held());
}
