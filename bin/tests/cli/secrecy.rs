//! What of a message is to be found outside of the clients that have the key: on the sockets, and in the memory of the
//! bus.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;

use crate::support::{Place, Running};

/// What nobody but the clients may see.
const MARKER: &str = "the-eagle-has-landed-at-midnight";
/// A topic that everybody may see.
const TOPIC: &str = "visible-to-all/news";
/// Messages that the slow subscription is sent, more than two of its windows.
const MESSAGES: usize = 300;
/// Messages of its window.
const WINDOW: usize = 64;

/// Passes on what clients and the bus send each other, and keeps all of it.
#[derive(Clone, Default)]
struct Recorder(Arc<Mutex<Vec<Vec<u8>>>>);

/// A connection of either kind.
trait Stream: Read + Write + Send + Sized + 'static {
    fn again(&self) -> Self;
    fn close(&self, direction: Shutdown);
}

impl Stream for UnixStream {
    fn again(&self) -> Self {
        self.try_clone().unwrap()
    }

    fn close(&self, direction: Shutdown) {
        let _ = self.shutdown(direction);
    }
}

impl Stream for TcpStream {
    fn again(&self) -> Self {
        self.try_clone().unwrap()
    }

    fn close(&self, direction: Shutdown) {
        let _ = self.shutdown(direction);
    }
}

impl Recorder {
    /// Stands before this bus; its own address.
    fn before(&self, place: &Place, bus: &str) -> String {
        let recorder = self.clone();
        if let Some(port) = bus.strip_prefix("tcp://localhost:") {
            let port: u16 = port.parse().unwrap();
            let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            let own = listener.local_addr().unwrap().port();
            thread::spawn(move || {
                for client in listener.incoming().map_while(Result::ok) {
                    recorder.pass(&client, &TcpStream::connect(("127.0.0.1", port)).unwrap());
                }
            });
            return format!("tcp://127.0.0.1:{own}");
        }
        let (own, bus) = (place.path("recorder"), place.path(bus));
        let listener = UnixListener::bind(&own).unwrap();
        thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                recorder.pass(&client, &UnixStream::connect(&bus).unwrap());
            }
        });
        "recorder".to_owned()
    }

    fn pass<S: Stream>(&self, client: &S, bus: &S) {
        for (from, to) in [(client.again(), bus.again()), (bus.again(), client.again())] {
            let recorder = self.clone();
            thread::spawn(move || recorder.pass_one(from, to));
        }
    }

    fn pass_one<S: Stream>(&self, mut from: S, mut to: S) {
        let place = {
            let mut heard = self.0.lock().unwrap();
            heard.push(Vec::new());
            heard.len() - 1
        };
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut buffer) {
            self.0.lock().unwrap()[place].extend_from_slice(&buffer[..count]);
            if to.write_all(&buffer[..count]).is_err() {
                break;
            }
        }
        from.close(Shutdown::Read);
        to.close(Shutdown::Write);
    }

    /// Which of these have been heard.
    fn found<'a>(&self, secrets: &[(&'a str, Vec<u8>)]) -> BTreeSet<&'a str> {
        let mut found = BTreeSet::new();
        for heard in &*self.0.lock().unwrap() {
            search(heard, secrets, &mut found);
        }
        found
    }
}

/// Notes the names of those that are somewhere in the bytes.
fn search<'a>(bytes: &[u8], secrets: &[(&'a str, Vec<u8>)], found: &mut BTreeSet<&'a str>) {
    let mut begins = [false; 256];
    for (_, secret) in secrets {
        begins[usize::from(secret[0])] = true;
    }
    for (at, byte) in bytes.iter().enumerate() {
        if begins[usize::from(*byte)] {
            for (name, secret) in secrets {
                if bytes[at..].starts_with(secret) {
                    found.insert(name);
                }
            }
        }
    }
}

#[cfg(target_os = "linux")]
mod memory {
    //! The memory of another process.

    use std::fs::{self, File};
    use std::os::unix::fs::FileExt;

    use super::*;

    const PAGE: usize = 4096;
    const CHUNK: usize = 256 * PAGE;

    /// Which of these are in the memory of a process; `None` where it cannot be looked at.
    pub(super) fn found<'a>(process: &Running, secrets: &[(&'a str, Vec<u8>)]) -> Option<BTreeSet<&'a str>> {
        let folder = format!("/proc/{}", process.id());
        let memory = File::open(format!("{folder}/mem")).ok()?;
        let mut found = BTreeSet::new();
        let mut looked_at = 0;
        for line in fs::read_to_string(format!("{folder}/maps")).ok()?.lines() {
            let (range, rest) = line.split_once(' ').unwrap();
            // What the kernel shows of itself cannot be read like this.
            if !rest.starts_with('r') || rest.contains("[v") {
                continue;
            }
            let (begin, end) = range.split_once('-').unwrap();
            let (begin, end) = (address(begin), address(end));
            looked_at += search_range(&memory, begin, end, secrets, &mut found);
        }
        (looked_at > 0).then_some(found)
    }

    fn address(digits: &str) -> u64 {
        u64::from_str_radix(digits, 16).unwrap()
    }

    /// Searches a range, and says how many bytes it could read of it.
    fn search_range<'a>(
        memory: &File,
        begin: u64,
        end: u64,
        secrets: &[(&'a str, Vec<u8>)],
        found: &mut BTreeSet<&'a str>,
    ) -> usize {
        let (mut chunk, mut part) = (vec![0; CHUNK], Vec::new());
        let (mut at, mut looked_at) = (begin, 0);
        while at < end {
            let wanted = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let Ok(count @ 1..) = memory.read_at(&mut chunk[..wanted], at) else { break };
            // Pages of zeros end a part, as most of what a process has reserved is that.
            for page in chunk[..count].chunks(PAGE) {
                if page == &[0; PAGE][..page.len()] {
                    search(&part, secrets, found);
                    part.clear();
                } else {
                    part.extend_from_slice(page);
                }
            }
            at += count as u64;
            looked_at += count;
        }
        search(&part, secrets, found);
        looked_at
    }
}

#[cfg(not(target_os = "linux"))]
mod memory {
    use super::*;

    pub(super) fn found<'a>(_: &Running, _: &[(&'a str, Vec<u8>)]) -> Option<BTreeSet<&'a str>> {
        None
    }
}

/// What is looked for: the text, the topic and the key, as bytes and as digits.
fn secrets(place: &Place) -> Vec<(&'static str, Vec<u8>)> {
    let keyring = std::fs::read_to_string(place.path("team.keys")).unwrap();
    let digits =
        keyring.lines().find_map(|line| line.strip_prefix("key = \"")).unwrap().trim_end_matches('"');
    let pairs = digits.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).unwrap());
    let key: Vec<u8> = pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect();
    assert_eq!(key.len(), 32);
    vec![
        ("the text", MARKER.into()),
        ("the topic", TOPIC.into()),
        ("the key", key),
        ("the digits of the key", digits.into()),
        ("the digits of the key in capitals", digits.to_uppercase().into()),
    ]
}

/// Where what was said can be found. Memory that cannot be looked at has nothing to tell.
struct Seen {
    on_the_sockets: BTreeSet<&'static str>,
    while_messages_wait: Option<BTreeSet<&'static str>>,
    afterwards: Option<BTreeSet<&'static str>>,
}

/// Clients that reach the bus by TCP, or by its Unix socket, say the marker in every way that there is.
fn seen(is_tcp: bool, sealing: &[&str]) -> Seen {
    let place = Place::new();
    place.run(&["keys", "new", "team.keys"]).success();
    let mut bus = place.start(&["serve", "bus", "tcp://localhost:0"]);
    let line = bus.wait_for("ready on");
    let tcp = line.split([' ', ',']).find(|word| word.starts_with("tcp://")).unwrap();
    let recorder = Recorder::default();
    let address = recorder.before(&place, if is_tcp { tcp } else { "bus" });
    let secrets = secrets(&place);
    let client = |command: &[&str], rest: &[&str]| {
        let connected = ["--addr", &address];
        [command, &connected[..], sealing, rest].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    let start =
        |arguments: Vec<String>| place.start(&arguments.iter().map(String::as_str).collect::<Vec<_>>());
    // Long enough to be compressed, and not so much alike that nothing would be left of it.
    let text =
        format!("{MARKER}, says {}, and {MARKER}", "somebody to somebody else who is not here ".repeat(9));
    let value = format!("\"{text}\"");

    let mut reader = start(client(&["sub", "--count", "1"], &[TOPIC]));
    reader.wait_for("subscribed");
    start(client(&["pub"], &[TOPIC, &value])).end().success();
    assert!(reader.end().success().contains(MARKER));
    let mut server = start(client(&["reply"], &["questions/one", "--exec", "cat"]));
    server.wait_for("serving");
    assert!(start(client(&["req"], &["questions/one", &value])).end().success().contains(MARKER));

    let window = WINDOW.to_string();
    let slow = ["sub", "--raw", "--policy", "drop-oldest", "--window", &window];
    let mut slow = start(client(&slow, &[TOPIC]));
    slow.wait_for("subscribed");
    slow.signal("STOP");
    let arguments = client(&["pub", "--lines", "--raw"], &[TOPIC]);
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    place.run_with_input(&arguments, format!("{text}\n").repeat(MESSAGES).as_bytes()).success();
    let info = place.run(&["info", "--addr", "bus", "--json"]).success();
    let info: serde_json::Value = serde_json::from_str(&info).unwrap();
    assert_eq!(info["bus"]["parked_messages"], WINDOW, "{info}");
    let while_messages_wait = memory::found(&bus, &secrets);
    slow.signal("CONT");
    slow.wait_for("gap:");
    let afterwards = memory::found(&bus, &secrets);
    Seen { on_the_sockets: recorder.found(&secrets), while_messages_wait, afterwards }
}

/// What can be seen with a keyring is the topic alone, and without one all that was said.
fn is_secret(is_tcp: bool) {
    let topic = BTreeSet::from(["the topic"]);
    let all = BTreeSet::from(["the text", "the topic"]);
    let sealing: [(&[&str], _); 3] = [
        (&[], &all),
        (&["--keyring", "team.keys"], &topic),
        (&["--keyring", "team.keys", "--compress"], &topic),
    ];
    for (sealing, expected) in sealing {
        let seen = seen(is_tcp, sealing);
        assert_eq!(seen.on_the_sockets, *expected, "on the sockets, with {sealing:?}");
        let (Some(waiting), Some(afterwards)) = (seen.while_messages_wait, seen.afterwards) else {
            // Past what captures the output of tests that pass.
            let skipped = b"SKIPPED: needs to look at the memory of a child, for what the bus holds\n";
            std::io::stdout().write_all(skipped).unwrap();
            continue;
        };
        assert_eq!(waiting, *expected, "in memory, with {sealing:?}");
        assert!(afterwards.is_subset(expected), "in memory afterwards, with {sealing:?}: {afterwards:?}");
    }
}

#[test]
fn neither_a_unix_socket_nor_the_memory_of_the_bus_has_what_was_said() {
    is_secret(false);
}

#[test]
fn neither_a_tcp_connection_nor_the_memory_of_the_bus_has_what_was_said() {
    is_secret(true);
}
