//! Durable topics as their users see them, against a plain model of them.
//!
//! A case is a list of steps (`steps`): messages are published, taken, acknowledged or refused, consumers and readers come
//! and go, time passes, the bus ends and begins again. They are done to a bus with its clients (`system`), and to lists that
//! say what is to become of it (`reference`, with `log`, `consumer` and `member`). After each step all that can be seen
//! (`seen`) has to be what the reference says: what each application got, in which order and with which marks, what waits,
//! what is kept, what is dead.
//!
//! Time is paused. Each step has `SLOT` milliseconds of its own in every second, and all times are whole seconds, so that
//! nothing falls due at the moment in which something else is done. A store with threads or a network of its own works in real
//! time ([`RealTime`]), and the bus's time stands still until it has answered.
//!
//! ```no_run
//! use whispeer_testkit::durable_model::{self, Storage};
//!
//! durable_model::run(file!(), 96, async || Storage::memory());
//! ```

mod consumer;
mod log;
mod member;
mod real_time;
mod reference;
mod seen;
mod steps;
mod storage;
mod system;

use proptest::prelude::*;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

pub use self::real_time::RealTime;
use self::reference::Reference;
use self::steps::{Kept, Step, kept, steps};
pub use self::storage::{Opening, Storage};
use self::system::System;

/// Milliseconds from one step to the next, and until what it causes has been done.
const SLOT: u64 = 5;
const DONE: u64 = 4;

/// What cases are drawn from, unless `WHISPEER_SEED` says otherwise: the short form is the same each time.
const SEED: u8 = 1;

/// Does these steps, one after the other.
async fn check(kept: Kept, steps: Vec<Step>, storage: Storage) -> Result<(), TestCaseError> {
    let mut system = System::begin(storage, kept).await;
    let mut references = vec![Reference::new(kept)];
    let mut number = 0;
    let mut now = 0;
    for step in steps {
        let times = if let Step::Publish { count, .. } = step { count } else { 1 };
        for _ in 0..times {
            number += 1;
            // Of different lengths, for bounds in bytes.
            let text = format!("{number}{}", ".".repeat(number % 5 * 7));
            now += SLOT;
            system.pass_until(now).await;
            let answer = system.act(step, &text).await;
            if let Step::Pass { seconds } = step {
                now += seconds * 1_000;
            }
            system.pass_until(now + DONE).await;
            let seen = system.look().await;
            assert_eq!(system.now(), now + DONE, "{step:?} has taken its time");
            let before = references.clone();
            let at = match step {
                Step::Pass { seconds } => now - seconds * 1_000,
                _ => now,
            };
            references.retain_mut(|reference| reference.act(step, &text, at, &answer));
            let explained = references.into_iter().flat_map(|it| it.explain(now + DONE, seen.clone()));
            references = explained.collect();
            prop_assert!(
                !references.is_empty(),
                "nothing explains what was seen at {now} after {step:?}, which was answered {answer:?}: {seen:?}\n\
                 It was so before: {before:?}"
            );
        }
    }
    system.end().await;
    Ok(())
}

/// Does what it likes to buses that keep a stream there, so many cases of it, and panics where one does what no list does. A case that
/// fails is made as short as it can be, and noted beside the `source` of the test.
///
/// # Panics
/// Where a case fails.
pub fn run(source: &'static str, cases: u32, storage: impl AsyncFn() -> Storage) {
    let config = ProptestConfig { cases, ..ProptestConfig::default() };
    let seed = std::env::var("WHISPEER_SEED").ok().and_then(|seed| seed.parse::<u8>().ok()).unwrap_or(SEED);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    let mut runner = TestRunner::new_with_rng(ProptestConfig { source_file: Some(source), ..config }, rng);
    let checked = runner.run(&(kept(), steps()), |(kept, steps)| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build();
        runtime.unwrap().block_on(async { check(kept, steps, storage().await).await })
    });
    if let Err(failure) = checked {
        panic!("WHISPEER_SEED={seed}: {failure}\n{runner}");
    }
}
