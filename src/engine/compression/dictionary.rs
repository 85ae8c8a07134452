//! Dictionaries of zstd: what small messages have in common.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use zstd_safe::{CDict, DDict};

use super::{LEVEL, zstd};
use crate::error::{BusError, BusResult, EngineError};
use crate::limits;

/// What small messages have in common, so that none of them has to say it.
///
/// Where messages of a few hundred bytes hardly compress by themselves, a dictionary often makes them several times
/// smaller. It is trained from samples, by [`train`](Self::train) or `whispeer dict train`, and has to be given to
/// both sides. It holds pieces of the samples: whoever has it can read them.
///
/// It is made ready for use once and shared by its clones.
///
/// # Examples
/// ```
/// use whispeer::engine::compression::{Compression, Dictionary};
///
/// let samples: Vec<String> =
///     (0..1_000).map(|n| format!("{{\"sensor\":\"boiler-{n}\",\"celsius\":{}}}", n % 90)).collect();
/// let dictionary = Dictionary::train(&samples, 4 * 1024)?;
/// let compression = Compression::new().dictionary(dictionary.clone());
///
/// // The other side has got the same bytes.
/// let same = Dictionary::from_bytes(dictionary.as_bytes())?;
/// assert_eq!(same.id(), dictionary.id());
/// # Ok::<(), whispeer::BusError>(())
/// ```
#[derive(Clone)]
pub struct Dictionary(Arc<Shared>);

struct Shared {
    id: u32,
    bytes: Box<[u8]>,
    reading: DDict<'static>,
    /// For each level that it is written with.
    writing: Mutex<Vec<(i32, Arc<CDict<'static>>)>>,
}

impl Dictionary {
    /// Trains a dictionary of `size` bytes at most.
    ///
    /// There should be some hundreds of samples at least, each a whole message, and all together about a hundred times
    /// as large as the dictionary. The same samples give the same dictionary.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] if there are too few samples, or more than [`limits::DICTIONARY_SAMPLES`] bytes of
    /// them, or if the size is not from [`limits::DICTIONARY_BYTES_MIN`] to [`limits::DICTIONARY_BYTES`].
    pub fn train<S: AsRef<[u8]>>(samples: &[S], size: usize) -> BusResult<Self> {
        let sizes = limits::DICTIONARY_BYTES_MIN..=limits::DICTIONARY_BYTES;
        if !sizes.contains(&size) {
            let (least, most) = sizes.into_inner();
            let what = format!("a dictionary has {least} to {most} bytes, and not {size}");
            return Err(BusError::InvalidSettings(what));
        }
        let lengths: Vec<usize> = samples.iter().map(|sample| sample.as_ref().len()).collect();
        let total = lengths.iter().fold(0_usize, |total, length| total.saturating_add(*length));
        if total > limits::DICTIONARY_SAMPLES || u32::try_from(lengths.len()).is_err() {
            let what = format!(
                "the samples have more than {} bytes; take fewer, picked at random",
                limits::DICTIONARY_SAMPLES
            );
            return Err(BusError::InvalidSettings(what));
        }
        let mut all = Vec::with_capacity(total);
        samples.iter().for_each(|sample| all.extend_from_slice(sample.as_ref()));
        let mut bytes = Vec::with_capacity(size);
        zstd_safe::train_from_buffer(&mut bytes, &all, &lengths).map_err(|_| {
            let what = format!(
                "{} samples of {total} bytes are too few to train a dictionary of {size} bytes; take more, or make it smaller",
                lengths.len(),
            );
            BusError::InvalidSettings(what)
        })?;
        Self::made(bytes.into_boxed_slice())
    }

    /// Takes the bytes of a dictionary, as [`as_bytes`](Self::as_bytes) or `zstd --train` gives them.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] if they are none, are damaged, or more than [`limits::DICTIONARY_BYTES`].
    pub fn from_bytes(bytes: &[u8]) -> BusResult<Self> {
        if bytes.len() > limits::DICTIONARY_BYTES {
            let what =
                format!("a dictionary of {} bytes is larger than {}", bytes.len(), limits::DICTIONARY_BYTES);
            return Err(BusError::InvalidSettings(what));
        }
        Self::made(bytes.into())
    }

    fn made(bytes: Box<[u8]>) -> BusResult<Self> {
        let none = || BusError::InvalidSettings("this is no dictionary of zstd, or it is damaged".to_owned());
        // One without an id cannot be named in a frame.
        let id = zstd_safe::get_dict_id_from_dict(&bytes).ok_or_else(none)?;
        let reading = DDict::try_create(&bytes).ok_or_else(none)?;
        let writing = CDict::try_create(&bytes, LEVEL).ok_or_else(none)?;
        let writing = Mutex::new(vec![(LEVEL, Arc::new(writing))]);
        Ok(Self(Arc::new(Shared { id: id.get(), bytes, reading, writing })))
    }

    /// What stands for it in compressed messages; it follows from what it holds.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.0.id
    }

    /// Its bytes, to be kept and given to others.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0.bytes
    }

    pub(super) fn reading(&self) -> &DDict<'static> {
        &self.0.reading
    }

    /// The dictionary made ready to write with at this level.
    pub(super) fn digest(&self, level: i32) -> Result<Arc<CDict<'static>>, EngineError> {
        let mut writing = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, made)) = writing.iter().find(|(other, _)| *other == level) {
            return Ok(Arc::clone(made));
        }
        let made = Arc::new(CDict::try_create(&self.0.bytes, level).ok_or_else(zstd::no_memory)?);
        writing.push((level, Arc::clone(&made)));
        Ok(made)
    }
}

impl fmt::Debug for Dictionary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Dictionary");
        shown.field("id", &self.0.id).field("bytes", &self.0.bytes.len()).finish_non_exhaustive()
    }
}
