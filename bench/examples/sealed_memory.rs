//! Large payloads through a relay over Unix sockets: copied, or as sealed memory whose descriptor is passed.
//!
//! The relay checks the seals, as a bus would have to, and does not look into the memory. The reader copies
//! the payload out. All three are threads.
//!
//! ```text
//! cargo run --release --example sealed_memory -- 65536 40000
//! ```

use std::io::{IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, memfd_create};
use rustix::io::pread;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, recvmsg, sendmsg, sockopt,
};

/// Descriptors in one message.
const TOGETHER: usize = 8;
/// As much as whispeer asks for.
const SOCKET_BUFFER: usize = 512 * 1024;
const HEADER: usize = 24;
const SEALS: SealFlags = SealFlags::WRITE
    .union(SealFlags::GROW)
    .union(SealFlags::SHRINK);

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let mut number = |default| {
        arguments
            .next()
            .map_or(Ok(default), |text| text.parse::<usize>())
    };
    let (bytes, count) = (number(65_536)?, number(40_000)?);
    for round in 1..=3 {
        let copied = measure(
            |near| write_copies(near, bytes, count),
            relay_copies,
            |far| read_copies(far, bytes, count),
        )?;
        let passed = measure(
            |near| write_sealed(near, bytes, count),
            relay_sealed,
            |far| read_sealed(far, bytes, count),
        )?;
        let rate = |seconds: f64| count as f64 / seconds;
        println!(
            "round {round}, {bytes} bytes: copied {:.0}/s, passed {:.0}/s",
            rate(copied),
            rate(passed)
        );
    }
    Ok(())
}

/// Seconds that all of it takes.
fn measure(
    write: impl FnOnce(UnixStream) -> Result<()> + Send,
    relay: fn(UnixStream, UnixStream) -> Result<()>,
    read: impl FnOnce(UnixStream) -> Result<()> + Send,
) -> Result<f64> {
    let (near, from) = UnixStream::pair()?;
    let (to, far) = UnixStream::pair()?;
    for socket in [&near, &to] {
        sockopt::set_socket_send_buffer_size(socket, SOCKET_BUFFER)?;
    }
    let begin = Instant::now();
    thread::scope(|scope| {
        let parts = [
            scope.spawn(move || write(near)),
            scope.spawn(move || relay(from, to)),
            scope.spawn(move || read(far)),
        ];
        parts
            .into_iter()
            .try_for_each(|part| part.join().ok().context("a thread panicked")?)
    })?;
    Ok(begin.elapsed().as_secs_f64())
}

fn write_copies(mut near: UnixStream, bytes: usize, count: usize) -> Result<()> {
    let frame = vec![7; HEADER + bytes];
    (0..count).try_for_each(|_| Ok(near.write_all(&frame)?))
}

fn relay_copies(mut from: UnixStream, mut to: UnixStream) -> Result<()> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match from.read(&mut buffer)? {
            0 => return Ok(()),
            count => to.write_all(buffer.get(..count).context("read past the buffer")?)?,
        }
    }
}

fn read_copies(mut far: UnixStream, bytes: usize, count: usize) -> Result<()> {
    let mut frame = vec![0; HEADER + bytes];
    (0..count).try_for_each(|_| Ok(far.read_exact(&mut frame)?))
}

fn write_sealed(near: UnixStream, bytes: usize, count: usize) -> Result<()> {
    let payload = vec![7; bytes];
    let mut left = count;
    while left > 0 {
        let together = left.min(TOGETHER);
        let memories: Vec<OwnedFd> = (0..together)
            .map(|_| sealed(&payload))
            .collect::<Result<_>>()?;
        pass(&near, &memories)?;
        left -= together;
    }
    Ok(())
}

fn sealed(payload: &[u8]) -> Result<OwnedFd> {
    let memory = memfd_create("payload", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    ensure!(
        rustix::io::write(&memory, payload)? == payload.len(),
        "a short write to memory"
    );
    fcntl_add_seals(&memory, SEALS)?;
    Ok(memory)
}

fn relay_sealed(from: UnixStream, to: UnixStream) -> Result<()> {
    loop {
        let memories = take(&from)?;
        if memories.is_empty() {
            return Ok(());
        }
        for memory in &memories {
            ensure!(
                fcntl_get_seals(memory)?.contains(SEALS),
                "memory that can still change"
            );
        }
        pass(&to, &memories)?;
    }
}

fn read_sealed(far: UnixStream, bytes: usize, count: usize) -> Result<()> {
    let mut payload = vec![0; bytes];
    let mut left = count;
    while left > 0 {
        let memories = take(&far)?;
        ensure!(
            !memories.is_empty(),
            "the relay ended {left} payloads too early"
        );
        for memory in &memories {
            ensure!(
                pread(memory, &mut payload, 0)? == bytes,
                "memory of another size"
            );
        }
        left = left.saturating_sub(memories.len());
    }
    Ok(())
}

fn pass(socket: &UnixStream, memories: &[OwnedFd]) -> Result<()> {
    let descriptors: Vec<_> = memories.iter().map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    ensure!(
        ancillary.push(SendAncillaryMessage::ScmRights(&descriptors)),
        "too many descriptors"
    );
    let headers = vec![0; HEADER * memories.len()];
    sendmsg(
        socket,
        &[IoSlice::new(&headers)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    Ok(())
}

/// The descriptors of the next message; none at the end.
fn take(socket: &UnixStream) -> Result<Vec<OwnedFd>> {
    let mut headers = [0; HEADER * TOGETHER];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(TOGETHER))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut headers)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let rights = ancillary.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
        _ => None,
    });
    Ok(rights.flatten().collect())
}
