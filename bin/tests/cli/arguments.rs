use crate::support::{Place, Running};

#[test]
fn a_word_close_to_a_subcommand_is_refused_and_serve_forces_it() {
    let place = Place::new();
    let refused = place.run(&["inof"]);
    assert_eq!(refused.code(), 2);
    assert_eq!(
        refused.errors,
        "error: \"inof\" is not a subcommand; did you mean `whispeer info`?\n\
         help: to start a bus on a socket named \"inof\": `whispeer serve inof`\n"
    );
    assert!(!place.path("inof").exists());
    let _bus = place.bus("inof");
    assert!(place.path("inof").exists());
}

#[test]
fn a_value_that_is_not_json_is_answered_with_how_to_write_it() {
    let place = Place::new();
    let ended = place.run(&["pub", "--addr", "bus", "a", "hello world"]);
    assert_eq!(ended.code(), 2);
    assert!(ended.errors.contains("error: the value is not JSON"), "{ended:?}");
    assert!(ended.errors.contains(r#"help: to send it as a string, write '"hello world"'"#), "{ended:?}");
    assert!(ended.errors.contains("--raw"), "{ended:?}");
}

#[test]
fn an_address_where_no_bus_is_says_how_to_start_one() {
    let place = Place::new();
    let ended = place.run(&["sub", "--addr", "nowhere", "a"]);
    assert_eq!(ended.code(), 3);
    assert_eq!(
        ended.errors,
        "error: cannot connect to unix:nowhere: there is no such socket\n\
         help: start a bus there with `whispeer serve nowhere`, or choose another with --addr ADDR or \
         WHISPEER_ADDR\n"
    );
}

#[test]
fn what_is_no_address_is_refused_with_one_that_is() {
    let place = Place::new();
    for (arguments, help) in [
        (&["serve", ""][..], "help: give a socket's path, such as `whispeer serve my_bus`\n"),
        (&["serve", "tcp://host"], "help: give a socket's path, such as `whispeer serve my_bus`\n"),
        (&["info", "--addr", ""], "help: give the path of a Unix socket, such as --addr my_bus\n"),
        (&["info", "--addr", "unix:"], "help: give the path of a Unix socket, such as --addr my_bus\n"),
    ] {
        let refused = place.run(arguments);
        assert_eq!(refused.code(), 2, "{refused:?}");
        assert!(refused.errors.contains("is no address: "), "{refused:?}");
        assert!(refused.errors.ends_with(help), "{refused:?}");
    }
}

#[test]
fn an_invalid_topic_names_the_fragment() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let ended = place.run(&["pub", "--addr", "bus", "a//b", "1"]);
    assert_eq!(ended.code(), 2);
    assert!(ended.errors.contains("fragment 2 is empty"), "{ended:?}");
}

#[test]
fn the_bus_is_named_behind_the_subcommand_or_before_it_or_by_a_variable() {
    let place = Place::new();
    let _bus = place.bus("bus");
    let publish = |before: &[&str], behind: &[&str], variable: &str| {
        let arguments = [before, &["pub", "a", "1"], behind].concat();
        let mut command = place.command(&arguments);
        Running::new(command.env("WHISPEER_ADDR", variable).spawn().unwrap()).end()
    };
    publish(&["--addr", "nowhere"], &["--addr", "bus"], "nowhere").success();
    publish(&["--addr", "bus"], &[], "nowhere").success();
    publish(&[], &[], "bus").success();
    assert!(publish(&[], &[], "").errors.contains("no bus was chosen"), "an empty variable is none");
}

#[test]
fn what_a_command_has_no_use_for_is_refused() {
    let place = Place::new();
    for (arguments, said) in [
        (&["serve", "bus", "--cert", "x"][..], "unexpected argument '--cert'"),
        (&["serve", "--addr", "bus"], "unexpected argument '--addr'"),
        (&["--addr", "bus", "serve", "other"], "it says nothing to `serve`"),
        (&["certs", "--ca", "x", "init"], "unexpected argument '--ca'"),
        (&["--addr", "bus", "certs", "init"], "this command uses none"),
    ] {
        let refused = place.run(arguments);
        assert_eq!((refused.code(), refused.errors.contains(said)), (2, true), "{refused:?}");
    }
    let help = place.run(&["serve", "--help"]).success();
    assert!(!help.contains("--ca ") && !help.contains("--cert ") && help.contains("--tls-cert "), "{help}");
}

#[test]
fn every_subcommand_explains_itself() {
    let place = Place::new();
    for name in [
        "serve",
        "config",
        "pub",
        "sub",
        "replay",
        "ls",
        "req",
        "reply",
        "info",
        "top",
        "streams",
        "bench",
        "register",
        "certs",
        "passwd",
        "token",
        "dict",
        "keys",
        "completions",
        "man",
    ] {
        let help = place.run(&[name, "--help"]).success();
        assert!(help.contains("Examples:"), "{name}: {help}");
    }
}

#[test]
fn the_help_lists_what_there_is() {
    let place = Place::new();
    let help = place.run(&["-h"]).success();
    let commands = help.split("Commands:\n").nth(1).unwrap().split("\n\n").next().unwrap();
    assert_eq!(
        commands,
        "  serve        Start a bus
  config       Print the settings of `serve` and where each comes from
  pub          Publish a value, or each line of standard input
  sub          Subscribe and print messages
  replay       Print what a stream has kept
  ls           List the topics that are published to at the moment
  req          Make a request and print the answer
  reply        Answer requests, with a fixed value or by a command
  info         Show sessions, subscriptions, served topics, streams, queues and drops of a bus
  top          Watch rates, sessions, subscriptions and drops of a bus
  stop         Ask a bus to stop: it takes nothing new, and lets what is in flight finish
  streams      List, remove or renew streams of a store in SQLite that no bus has
  consumers    Show how far durable consumers are, or remove one
  dlq          List, put back or drop messages that no consumer could deal with
  bench        Measure latency and throughput
  register     Give a bus a name, to use as @NAME
  unregister   Forget a bus's name
  certs        Make certificates for development: a CA of your own, servers and clients
  passwd       Hash a password for the configuration of a bus
  token        Make a token, or the key of an issuer of tokens
  dict         Make dictionaries, with which small messages compress well
  keys         Make and change the keyrings with which payloads are encrypted
  completions  Print completions for a shell
  man          Print the manual page, or that of a subcommand"
    );
    assert!(help.contains("Exit codes:"), "{help}");
    let bare = place.run(&[]);
    assert_eq!(bare.code(), 2);
    assert!(bare.errors.contains("Usage: whispeer"), "{bare:?}");
}

#[test]
fn completions_and_manual_pages_are_printed() {
    let place = Place::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = place.run(&["completions", shell]).success();
        assert!(script.contains("whispeer") && script.contains("unregister"), "{shell}");
    }
    assert!(place.run(&["man"]).success().contains(".SH NAME"));
    assert!(place.run(&["man", "sub"]).success().contains("whispeer\\-sub"));
    assert!(place.run(&["man", "certs", "server"]).success().contains("whispeer\\-certs\\-server"));
    assert_eq!(place.run(&["man", "nothing"]).code(), 2);
    let unknown = place.run(&["man", "certs", "nothing"]);
    assert!(unknown.errors.contains("`whispeer certs --help`"), "{unknown:?}");
}
