//! The engine that encrypts.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::cipher::{Algorithm, Cipher, Implementation, TAG};
use super::head::{HEAD, Head, TIME, request, with_associated};
use super::keyring::Keyring;
use super::receiving::Receivings;
use super::senders::{Numbered, Source};
use super::sending::Current;
use super::signature::{self, SignerKey, SigningIdentity};
use super::topics::Trusted;
use super::trailer::{self, Padding, Trailer};
use crate::engine::{Content, Context, Engine, Mark, Memory, MessageKind, Opened, Sealed, Stage};
use crate::error::{BusError, BusResult, EngineError};
use crate::limits;

/// Encrypts payloads from one client to others, with keys that the bus does not have.
///
/// What is sealed is bound to its topic and its kind, and an answer to the request that it answers; elsewhere it is
/// [`EngineError::Forged`]. Of what is published or asked, each message is opened once for each subscription or serving.
/// Where it stands in a chain, payloads that are not encrypted are refused.
///
/// What can be seen all the same: topics, headers, times, who sends to whom, and the length, unless it is
/// [padded](Self::padding). Who has the key can read all, and can send in anybody's name, unless messages are
/// [signed](Self::sign).
///
/// Each client that it is given to seals with an engine of its own, with an id that is drawn for it, and numbers what it
/// seals. It cannot be cloned, as no number may be used twice; the chains of one client share one by
/// [`with_shared`](crate::engine::Chain::with_shared).
///
/// # Examples
/// ```
/// use whispeer::engine::Engines;
/// use whispeer::engine::encryption::{Encryption, Key, Keyring};
///
/// # fn main() -> whispeer::BusResult<()> {
/// let keyring = Keyring::with(Key::generate()?)?;
/// let engines = Engines::new().with(Encryption::new(&keyring)?);
/// # Ok(())
/// # }
/// ```
pub struct Encryption {
    keyring: Keyring,
    algorithm: Algorithm,
    /// `None` for that which is faster.
    implementation: Option<Implementation>,
    padding: Padding,
    signing: Option<SigningIdentity>,
    trusted: Trusted,
    /// How old what arrives may be.
    fresh: Option<Duration>,
    /// The clock of the system, in milliseconds since 1970.
    clock: fn() -> u64,
    sender: [u8; 16],
    sequence: AtomicU64,
    current: Current,
}

impl Encryption {
    /// Encrypts with the keys of this keyring, also those that it will have later.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] if the system's random generator does not work.
    pub fn new(keyring: &Keyring) -> BusResult<Self> {
        Self::beginning_at(keyring, 0)
    }

    pub(super) fn beginning_at(keyring: &Keyring, sequence: u64) -> BusResult<Self> {
        let sender = drawn_sender()?;
        Ok(Self {
            keyring: keyring.clone(),
            algorithm: Algorithm::default(),
            implementation: None,
            padding: Padding::default(),
            signing: None,
            trusted: Trusted::default(),
            fresh: None,
            clock: milliseconds,
            sender,
            sequence: AtomicU64::new(sequence),
            current: Current::new(keyring),
        })
    }

    /// Seals with this cipher; by default with [`Algorithm::XChaCha20Poly1305`]. All are opened.
    #[must_use]
    pub fn algorithm(mut self, algorithm: Algorithm) -> Self {
        self.algorithm = algorithm;
        self.current.reset(&self.keyring);
        self
    }

    /// Uses this code for all ciphers; by default, for each the one that is faster.
    #[must_use]
    pub fn implementation(mut self, implementation: Implementation) -> Self {
        self.implementation = Some(implementation);
        self.current.reset(&self.keyring);
        self
    }

    /// Hides the length of payloads; by default it is not hidden.
    #[must_use]
    pub fn padding(mut self, padding: Padding) -> Self {
        self.padding = padding;
        self
    }

    /// Signs all that is sealed, so that the others can tell who has sent it; by default nothing is. It costs some
    /// ten microseconds for each message, and more to check.
    #[must_use]
    pub fn sign(mut self, identity: SigningIdentity) -> Self {
        self.signing = Some(identity);
        self
    }

    /// Opens what comes on these topics only if one of these has signed it, requests and answers included. What was
    /// published to a pattern falls under it if the two meet; what falls under several of these rules needs a signer whom
    /// all trust.
    ///
    /// # Errors
    /// [`BusError::InvalidTopic`] for a pattern that is none, and [`BusError::LimitReached`] for more than
    /// [`limits::TRUST_RULES`] rules or [`limits::TRUSTED_SIGNERS`] signers in one.
    pub fn trust(mut self, pattern: &str, signers: impl IntoIterator<Item = SignerKey>) -> BusResult<Self> {
        let signers = signers.into_iter().take(limits::TRUSTED_SIGNERS + 1).collect();
        self.trusted.add(pattern, signers)?;
        Ok(self)
    }

    /// Says of all that is published and asked when it was sealed, and refuses what comes from others without that, or was
    /// sealed longer ago by their clock and this one; likewise what is ahead by more. By default nothing is dated, and
    /// what a subscription has no memory of, such as a message from before it began, may be old.
    ///
    /// All who share a key need it, and clocks that agree to much less than `age`. What waits at the bus for a slow
    /// subscriber grows older, so minutes are better than seconds. What comes from a store may be of any age. What is
    /// published later, delayed or as a will, was sealed when it was asked for, and is refused like all else that is older.
    #[must_use]
    pub fn fresh_within(mut self, age: Duration) -> Self {
        self.fresh = Some(age);
        self
    }

    /// In the name of another sender, as a member can.
    #[cfg(test)]
    pub(super) fn named(mut self, sender: [u8; 16]) -> Self {
        self.sender = sender;
        self
    }

    #[cfg(test)]
    pub(super) fn with_clock(mut self, clock: fn() -> u64) -> Self {
        self.clock = clock;
        self
    }

    /// When it is, if that is to be said of what is sealed. An answer is bound to its request, which says it.
    fn time(&self, kind: MessageKind) -> Option<u64> {
        let is_dated = self.fresh.is_some() && matches!(kind, MessageKind::Publish | MessageKind::Request);
        is_dated.then(|| (self.clock)())
    }

    /// Whether what was sealed then is still to be taken.
    fn check_age(&self, time: Option<u64>) -> Result<(), EngineError> {
        let Some(allowed) = self.fresh else { return Ok(()) };
        let away = (self.clock)().abs_diff(time.ok_or(EngineError::NotDated)?);
        if u128::from(away) > allowed.as_millis() {
            return Err(EngineError::Stale { seconds: away / 1_000, allowed: allowed.as_secs() });
        }
        Ok(())
    }

    fn implementation_for(&self, algorithm: Algorithm) -> Implementation {
        self.implementation.unwrap_or_else(|| Implementation::fastest(algorithm))
    }

    fn next(&self) -> Result<Mark, EngineError> {
        // No number of calls that fail gets from that limit to where it would begin anew.
        let sequence = self.sequence.fetch_add(1, Ordering::Relaxed);
        if sequence >= limits::ENCRYPTED_MESSAGES {
            return Err(EngineError::Exhausted);
        }
        Ok(Mark { sender: self.sender, sequence })
    }

    /// Bytes behind the content, without its tag of authentication.
    fn trailer(&self, length: usize) -> usize {
        let zeros = self.padding.zeros(length, self.signing.is_some()).unwrap_or_default();
        trailer::LONGEST.saturating_add(zeros)
    }
}

impl Engine for Encryption {
    fn id(&self) -> u8 {
        2
    }

    fn name(&self) -> &str {
        "encryption"
    }

    fn stage(&self) -> Stage {
        Stage::ENCRYPT
    }

    fn is_required(&self) -> bool {
        true
    }

    fn overhead(&self, length: usize) -> usize {
        self.trailer(length).saturating_add(HEAD + TIME + TAG)
    }

    fn seal(
        &self,
        context: &Context<'_>,
        content: Content<'_>,
        output: &mut Vec<u8>,
    ) -> Result<Sealed, EngineError> {
        self.current.with(&self.keyring, |sending| {
            let code = (self.algorithm, self.implementation_for(self.algorithm));
            let (key, cipher) = sending.cipher(context.topic, code, &self.sender)?;
            let mark = self.next()?;
            let time = self.time(context.kind);
            let is_bare = content.tag == 0 && self.padding == Padding::None && self.signing.is_none();
            let head = Head { algorithm: self.algorithm, key: *key, mark, is_bare, time }.to_bytes(context);
            let length = content.bytes.len();
            output.reserve(length.saturating_add(self.overhead(length)));
            output.extend_from_slice(&head);
            if let Some(time) = time {
                output.extend_from_slice(&time.to_le_bytes());
            }
            let begin = output.len();
            with_associated(context, (&head, time), |associated| {
                match is_bare {
                    true => output.extend_from_slice(content.bytes),
                    false => {
                        trailer::append(output, content, associated, self.padding, self.signing.as_ref())?
                    }
                }
                let bytes = output.get_mut(begin..).unwrap_or_default();
                let tag = cipher.seal(mark.sequence, associated, bytes)?;
                output.extend_from_slice(&tag);
                Ok(Sealed::marked(mark))
            })
        })
    }

    fn for_client(&self) -> BusResult<Option<Arc<dyn Engine>>> {
        Ok(Some(Arc::new(Self {
            keyring: self.keyring.clone(),
            signing: self.signing.clone(),
            trusted: self.trusted.clone(),
            sender: drawn_sender()?,
            sequence: AtomicU64::new(0),
            current: Current::new(&self.keyring),
            ..*self
        })))
    }

    fn open(
        &self,
        context: &Context<'_>,
        memory: &mut Memory,
        sealed: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Opened, EngineError> {
        let begin = output.len();
        let opened = Head::split(context, sealed).and_then(|(head, bytes, rest)| {
            let encrypted = Encrypted::new(context, head, rest)?;
            with_associated(context, (bytes, head.time), |associated| {
                self.open_at_end(context, memory, encrypted, associated, output)
            })
        });
        if opened.is_err() {
            output.truncate(begin);
        }
        opened
    }
}

fn drawn_sender() -> BusResult<[u8; 16]> {
    let mut sender = [0; 16];
    getrandom::fill(&mut sender).map_err(|error| {
        BusError::InvalidSettings(format!("the system's random generator does not work: {error}"))
    })?;
    Ok(sender)
}

/// The clock of the system, which the hosts of a group have in common as far as anything.
fn milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What was encrypted, taken apart.
struct Encrypted<'a> {
    head: Head,
    text: &'a [u8],
    tag: &'a [u8; TAG],
}

impl<'a> Encrypted<'a> {
    fn new(context: &Context<'_>, head: Head, rest: &'a [u8]) -> Result<Self, EngineError> {
        let Some((text, tag)) = rest.split_last_chunk::<TAG>() else {
            return Err(EngineError::Malformed { what: "what was encrypted is cut off" });
        };
        if text.len() > context.limit.saturating_add(trailer::LONGEST) {
            return Err(EngineError::TooLarge { limit: context.limit });
        }
        Ok(Self { head, text, tag })
    }
}

impl Encryption {
    fn open_at_end(
        &self,
        context: &Context<'_>,
        memory: &mut Memory,
        Encrypted { head, text, tag }: Encrypted<'_>,
        associated: &[u8],
        output: &mut Vec<u8>,
    ) -> Result<Opened, EngineError> {
        let receiving = memory.of::<Receivings>().of(&self.sender, &self.keyring);
        let rule = receiving.rule(context.topic, &self.trusted)?;
        let key = receiving.state.key(head.key, rule.scope)?;
        let source = Source { sender: head.mark.sender, key: head.key, algorithm: head.algorithm };

        // An answer is known by its request, and what comes from a store may come again.
        let comes_once = !context.stored && request(context).is_none();
        let mut made = None;
        let cipher = match receiving.ciphers.of(&source) {
            Some(cipher) => &*cipher,
            None => made.insert(Cipher::of_sender(
                head.algorithm,
                self.implementation_for(head.algorithm),
                (head.key, key),
                &head.mark.sender,
            )),
        };
        let begin = output.len();
        output.extend_from_slice(text);
        let decrypted = output.get_mut(begin..).unwrap_or_default();
        cipher.open(head.mark.sequence, associated, decrypted, *tag)?;

        let Trailer { content, signed } = match head.is_bare {
            true => Trailer { content: Content { tag: 0, bytes: decrypted }, signed: None },
            false => Trailer::split(decrypted)?,
        };
        if content.bytes.len() > context.limit {
            return Err(EngineError::TooLarge { limit: context.limit });
        }
        let signer = signed.map(|signed| signature::verify(signed, associated, content)).transpose()?;
        self.trusted.check(rule.trusted, signer)?;
        let (tag, length) = (content.tag, content.bytes.len());
        let signer = signer.map(SignerKey::to_bytes);
        if let Some(cipher) = made {
            receiving.ciphers.insert(source, cipher);
        }
        if comes_once {
            self.check_age(head.time)?;
            if !receiving.windows.note(&Numbered { source, signer }, head.mark.sequence) {
                return Err(EngineError::Replayed { sequence: head.mark.sequence });
            }
        }
        output.truncate(begin + length);
        Ok(Opened { signer, ..Opened::tagged(tag).marked(head.mark) })
    }
}

impl fmt::Debug for Encryption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Encryption")
            .field("algorithm", &self.algorithm)
            .field("padding", &self.padding)
            .field("signing", &self.signing)
            .field("fresh", &self.fresh)
            .field("keyring", &self.keyring)
            .finish_non_exhaustive()
    }
}
