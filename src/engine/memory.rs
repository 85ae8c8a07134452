//! What a receiver keeps from one message to the next.

use std::any::{Any, TypeId};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::limits;

/// What engines remember for one subscription, serving or requester, and the buffers that messages are opened in.
///
/// Each has its own, so that nothing is shared and nothing locked.
#[derive(Default)]
pub struct Memory {
    /// A few: one for each sort of engine.
    kept: Vec<(TypeId, Box<dyn Any + Send + Sync>)>,
    /// Engines read from the one and write to the other.
    buffers: [Vec<u8>; 2],
}

/// Where a payload lies that was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// Within what arrived, from this byte on.
    Arrived(usize),
    /// In a buffer of the memory.
    Buffer(usize),
}

impl Memory {
    /// What an engine keeps here, by its type; the default at first.
    pub fn of<T: Default + Send + Sync + 'static>(&mut self) -> &mut T {
        let id = TypeId::of::<T>();
        let index = self.kept.iter().position(|(kept, _)| *kept == id).unwrap_or_else(|| {
            self.kept.push((id, Box::<T>::default()));
            self.kept.len() - 1
        });
        let kept = &mut self.kept[index].1;
        kept.downcast_mut().unwrap_or_else(|| unreachable!("it was made as this type"))
    }

    /// The payload at its place.
    pub(crate) fn payload<'a>(&'a self, arrived: &'a [u8], place: Place) -> &'a [u8] {
        match place {
            Place::Arrived(start) => arrived.get(start..).unwrap_or_default(),
            Place::Buffer(index) => self.buffers.get(index).map_or(&[], Vec::as_slice),
        }
    }

    /// Takes the buffer in which a payload lies out, to be handed on without a copy.
    pub(crate) fn take(&mut self, place: Place) -> Option<Vec<u8>> {
        match place {
            Place::Arrived(_) => None,
            Place::Buffer(index) => self.buffers.get_mut(index).map(std::mem::take),
        }
    }

    /// Puts a buffer back that was taken from this place and that nobody else has kept.
    pub(crate) fn put_back(&mut self, place: Place, buffer: Vec<u8>) {
        if let Place::Buffer(index) = place
            && let Some(taken) = self.buffers.get_mut(index)
        {
            *taken = buffer;
        }
    }

    /// The buffers, empty: the second to be written to.
    pub(super) fn take_buffers(&mut self) -> [Vec<u8>; 2] {
        let mut buffers = std::mem::take(&mut self.buffers);
        buffers.iter_mut().for_each(Vec::clear);
        buffers
    }

    pub(super) fn give_back(&mut self, buffers: [Vec<u8>; 2]) {
        self.buffers = buffers;
    }

    /// Gives memory back that no ordinary message needs.
    pub(crate) fn rest(&mut self) {
        for buffer in &mut self.buffers {
            if buffer.capacity() > limits::POOLED_BUFFER_BYTES {
                *buffer = Vec::new();
            }
        }
    }
}

impl fmt::Debug for Memory {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Memory").finish_non_exhaustive()
    }
}

/// Memories for what any task opens, each used by one at a time and kept for the next.
#[derive(Debug, Default)]
pub(crate) struct Memories(Mutex<Vec<Memory>>);

impl Memories {
    /// Calls `work` with one of them. Nothing is locked meanwhile; where all are in use, there is one more, and no more than
    /// [`limits::SHARED_MEMORIES`] are kept.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut Memory) -> R) -> R {
        let taken = self.lock().pop();
        let mut memory = taken.unwrap_or_default();
        let done = work(&mut memory);
        memory.rest();
        let mut kept = self.lock();
        if kept.len() < limits::SHARED_MEMORIES {
            kept.push(memory);
        }
        done
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Memory>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
