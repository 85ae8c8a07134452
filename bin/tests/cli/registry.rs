use std::os::unix::fs::PermissionsExt;

use crate::support::{Place, Running};

#[test]
fn a_registered_bus_is_used_by_its_name_and_as_the_default() {
    let place = Place::new();
    let _bus = place.bus("bus");
    place.run(&["register", "home", "bus", "--default"]).success();
    place.run(&["pub", "--addr", "@home", "a", "1"]).success();
    let quiet = place.run(&["pub", "--quiet", "a", "1"]);
    assert_eq!((quiet.code(), quiet.errors.as_str()), (0, ""));
    let told = place.run(&["-v", "pub", "--quiet", "a", "1"]);
    assert!(told.errors.contains("using @home, unix:/"), "{told:?}");
    let mode = std::fs::metadata(place.path("config/whispeer/buses.toml")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);

    place.run(&["unregister", "home"]).success();
    let forgotten = place.run(&["pub", "a", "1"]);
    assert_eq!(forgotten.code(), 2);
    assert!(forgotten.errors.contains("whispeer register"), "{forgotten:?}");
}

#[test]
fn a_bus_of_a_network_can_have_a_name_and_one_within_a_process_cannot() {
    let place = Place::new();
    place.run(&["register", "far", "tls://bus.example.com:4242"]).success();
    let buses = std::fs::read_to_string(place.path("config/whispeer/buses.toml")).unwrap();
    assert!(buses.contains("tls://bus.example.com:4242"), "{buses}");
    let within = place.run(&["register", "near", "mem:here"]);
    assert!(within.code() == 2 && within.errors.contains("cannot be reached"), "{within:?}");
}

#[test]
fn the_address_comes_from_the_environment_unless_it_is_given() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let status = place.command(&["pub", "a", "1"]).env("WHISPEER_ADDR", "bus").status().unwrap();
    assert_eq!(status.code(), Some(0));
    let status =
        place.command(&["pub", "--addr", "other", "a", "1"]).env("WHISPEER_ADDR", "bus").status().unwrap();
    assert_eq!(status.code(), Some(3));
    let another = place.command(&["serve", "another"]).env("WHISPEER_ADDR", "bus").spawn().unwrap();
    assert_eq!(Running::new(another).wait_for("ready on"), "whispeer: ready on unix:another");
}

#[test]
fn an_unknown_name_lists_those_that_are_known() {
    let place = Place::new();
    place.run(&["register", "home", "bus"]).success();
    let ended = place.run(&["info", "--addr", "@hom"]);
    assert_eq!(ended.code(), 2);
    assert!(ended.errors.contains("registered: @home"), "{ended:?}");
}
