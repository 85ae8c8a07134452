//! Requests and replies, at a bus with byte links.

use std::time::Duration;

use anyhow::{Result, ensure};
use whispeer::limits;
use whispeer::proto::{Header, Kind, Lane};

use super::{ROUND, SMALL, TOPIC, Work, runtime, start_bus};
use crate::counted::counted_part;
use crate::peer::{Peer, append_frame, credit, frame_bytes};

/// The one serving of the server.
const SERVING: u32 = 1;

/// Rounds that are counted, of [`ROUND`] requests each and a grant of credit by the server.
const ROUNDS: u64 = 8;

/// Round trips, one after the other.
pub fn round_trip() -> Result<Work> {
    let runtime = runtime()?;
    let bus = start_bus(&runtime)?;
    let requester = runtime.block_on(Peer::connect(&bus))?;
    let server = runtime.block_on(Peer::connect(&bus))?;
    let _entered = runtime.enter();
    let window = (limits::SERVING_WINDOW, limits::WINDOW_BYTES);
    server.serve(SERVING, TOPIC, window)?;

    let patience = Duration::from_secs(5).as_micros() as u64;
    let (asked, answered) = (frame_bytes(TOPIC, &SMALL), frame_bytes("", &SMALL));
    let grant = credit(Lane::Serving, SERVING, ROUND as u32, ROUND * asked);
    let (mut requests, mut replies) = (Vec::new(), Vec::new());
    for round in 0..=ROUNDS {
        for request in 1..=ROUND {
            let id = (round * ROUND + request) as u32;
            let header = Header::new(Kind::Request, id, patience);
            append_frame(&mut requests, &header, &[], TOPIC, &SMALL);
            // The bus gives each request a token, which stands in its reply.
            append_frame(
                &mut replies,
                &Header::new(Kind::Reply, 0, 0),
                &[],
                "",
                &SMALL,
            );
        }
        replies.extend_from_slice(&grant);
    }
    requester.load(requests);
    server.load(replies);
    let round = || {
        for _ in 0..ROUND {
            requester.give(asked as usize);
            server.give_numbered(answered as usize, server.last_sequence());
        }
        server.give(grant.len());
    };
    round();
    let before = (requester.received(), server.received());
    counted_part(&mut || (0..ROUNDS).for_each(|_| round()));
    let operations = ROUNDS * ROUND;
    let (answers, asks) = (
        requester.received() - before.0,
        server.received() - before.1,
    );
    ensure!(
        answers == operations * answered && asks >= operations * asked,
        "{asks} bytes of requests were handed over, and {answers} of answers"
    );
    Ok(Work {
        operations,
        messages: 2 * operations,
        bytes: operations * (asked + answered) + asks + answers,
    })
}
