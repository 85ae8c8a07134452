use super::*;

fn costs() -> Costs {
    let of = |busy| Work { busy, wake: 0.0 };
    let work = super::super::costs::Works {
        publish: of(1_000.0),
        deliver: of(2_000.0),
        send: of(3_000.0),
        receive: of(4_000.0),
        nats_in: of(500.0),
        nats_out: of(700.0),
        ask: of(6_000.0),
        answer: of(5_000.0),
        ..Default::default()
    };
    Costs { work, ..Costs::default() }
}

fn run(system: System, traffic: Traffic, rate: f64) -> Run {
    Run { system, traffic, rate, seconds: 5.0 }
}

fn simulated(run: Run, costs: &Costs) -> Outcome {
    let mut random = Random::new(1);
    let groups = run.traffic.groups(&run.system, &mut random);
    simulate(run, costs, &groups, random)
}

/// Within three in a hundred.
#[track_caller]
fn assert_about(value: f64, expected: f64) {
    assert!((value / expected - 1.0).abs() < 0.03, "{value} is not about {expected}");
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len() as f64
}

#[test]
fn what_it_takes_is_the_sum_of_what_each_message_costs() {
    let system = System::in_a_data_centre(6, 100);
    let traffic = Traffic::Devices { services: 12 };
    let outcome = simulated(run(system, traffic, 6_000.0), &costs());
    // Each is published and sent at one bus, and delivered once. One of six is delivered at its own bus.
    let all_buses = 6_000.0 * (1_000.0 + 3_000.0 + 2_000.0 + 4_000.0 * 5.0 / 6.0) / 1e9;
    assert_about(mean(&outcome.buses) * 6.0, all_buses);
    assert_about(outcome.deliveries, 6_000.0);
    assert_about(outcome.nats_in, 6_000.0);
    assert_about(outcome.nats_out, 6_000.0 * 5.0 / 6.0);
}

#[test]
fn who_is_alone_waits_for_nobody() {
    let system = System { nodes: 1, ..System::in_a_data_centre(2, 1) };
    let traffic = Traffic::Everybody;
    let outcome = simulated(run(system, traffic, 100.0), &costs());
    assert!((400..500).contains(&outcome.latency.len()), "{}", outcome.latency.len());
    // The publisher's bus, NATS, the other bus, and from host to host twice.
    let expected = 1_000 + 3_000 + 500 + 700 + 4_000 + 2_000 + 2 * 100_000;
    assert_about(outcome.latency.value_at_quantile(0.5) as f64, f64::from(expected));
}

#[test]
fn a_queue_is_as_long_as_is_known_of_queues() {
    // One core, with work of the same length that comes by chance and takes half of the time: M/D/1, whose mean time is 1.5 times the work.
    let system = System { bus_cores: 1, distance: 0, ..System::in_a_data_centre(1, 2) };
    let rate = 0.5 * 1e9 / 6_000.0;
    let outcome = simulated(run(system, Traffic::Everybody, rate), &costs());
    assert_about(outcome.latency.mean(), 1.5 * 6_000.0);
}

#[test]
fn more_than_can_be_carried_piles_up() {
    let system = System { bus_cores: 1, ..System::in_a_data_centre(1, 2) };
    let overload = run(system, Traffic::Everybody, 1.2 * 1e9 / 6_000.0);
    let outcome = simulated(Run { seconds: 0.5, ..overload }, &costs());
    assert!(outcome.on_its_way > 8_000, "{}", outcome.on_its_way);
    assert_about(mean(&outcome.buses), 1.2);
}

#[test]
fn a_request_goes_there_and_back() {
    let system = System::in_a_data_centre(6, 100);
    let traffic = Traffic::Requests { services: 1, buses: 1 };
    let outcome = simulated(run(system, traffic, 6_000.0), &costs());
    assert_about(outcome.deliveries, 6_000.0);
    // Five of six cross NATS, as request and as reply.
    assert_about(outcome.nats_in, 2.0 * 6_000.0 * 5.0 / 6.0);
    let all_buses = 6_000.0 * (5.0 / 6.0 * (6_000.0 + 5_000.0) + 1.0 / 6.0 * 2.0 * 3_000.0) / 1e9;
    assert_about(mean(&outcome.buses) * 6.0, all_buses);
}

#[test]
fn heartbeats_of_a_thousand_buses_are_few() {
    let mut costs = costs();
    costs.work.heartbeat = Work { busy: 10_000.0, wake: 0.0 };
    let system = System::in_a_data_centre(1_000, 1);
    let run = Run { seconds: 16.0, ..run(system, Traffic::Devices { services: 1 }, 1.0) };
    let outcome = simulated(run, &costs);
    assert_about(outcome.nats_out, 1_000.0 * 999.0 / 8.0);
    assert!(mean(&outcome.buses) < 0.002);
}

#[test]
fn the_same_seed_has_the_same_outcome() {
    let system = System::in_a_data_centre(6, 100);
    let run = run(system, Traffic::Rooms { size: 10 }, 6_000.0);
    let (one, other) = (simulated(run, &costs()), simulated(run, &costs()));
    assert_eq!(one.buses, other.buses);
    assert_eq!(one.latency, other.latency);
}
