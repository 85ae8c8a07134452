//! The engine that encrypts.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};

use super::cipher::{Algorithm, Cipher, Implementation, TAG};
use super::head::{HEAD, Head, request, with_associated};
use super::keyring::Keyring;
use super::receiving::Receivings;
use super::senders::{Live, Source};
use super::sending::Current;
use super::signature::{self, SignerKey, SigningIdentity};
use super::topics::Trusted;
use super::trailer::{self, Padding, Trailer};
use super::window::Window;
use crate::engine::{Content, Context, Engine, Mark, Memory, Opened, Sealed, Stage};
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
/// Each engine has an id of its own, drawn when it is made, and numbers what it seals. It cannot be cloned, as no number
/// may be used twice; chains and clients share one by [`with_shared`](crate::engine::Chain::with_shared).
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
        let mut sender = [0; 16];
        getrandom::fill(&mut sender).map_err(|error| {
            BusError::InvalidSettings(format!("the system's random generator does not work: {error}"))
        })?;
        Ok(Self {
            keyring: keyring.clone(),
            algorithm: Algorithm::default(),
            implementation: None,
            padding: Padding::default(),
            signing: None,
            trusted: Trusted::default(),
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
        self.trailer(length).saturating_add(HEAD + TAG)
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
            let head = Head { algorithm: self.algorithm, key: *key, mark }.to_bytes(context);
            let length = content.bytes.len();
            output.reserve(length.saturating_add(self.overhead(length)));
            output.extend_from_slice(&head);
            let begin = output.len();
            with_associated(context, &head, |associated| {
                trailer::append(output, content, associated, self.padding, self.signing.as_ref())?;
                let bytes = output.get_mut(begin..).unwrap_or_default();
                let tag = cipher.seal(mark.sequence, associated, bytes)?;
                output.extend_from_slice(&tag);
                Ok(Sealed::marked(mark))
            })
        })
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
            with_associated(context, bytes, |associated| {
                self.open_at_end(context, memory, encrypted, associated, output)
            })
        });
        if opened.is_err() {
            output.truncate(begin);
        }
        opened
    }
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
        let mut fresh = None;
        let cipher = match comes_once {
            true => receiving.live.of(&source).map(|live| &live.cipher),
            false => receiving.others.of(&source).map(|cipher| &*cipher),
        };
        let cipher = match cipher {
            Some(cipher) => cipher,
            None => fresh.insert(Cipher::of_sender(
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

        let Trailer { content, signed } = Trailer::split(decrypted)?;
        if content.bytes.len() > context.limit {
            return Err(EngineError::TooLarge { limit: context.limit });
        }
        let signer = signed.map(|signed| signature::verify(signed, associated, content)).transpose()?;
        self.trusted.check(rule.trusted, signer)?;
        if comes_once {
            if let Some(cipher) = fresh {
                receiving.live.insert(source, Live { cipher, window: Box::new(Window::default()) });
            }
            let is_new = receiving.live.of(&source).is_some_and(|live| live.window.note(head.mark.sequence));
            if !is_new {
                return Err(EngineError::Replayed { sequence: head.mark.sequence });
            }
        } else if let Some(cipher) = fresh {
            receiving.others.insert(source, cipher);
        }
        let (tag, length) = (content.tag, content.bytes.len());
        output.truncate(begin + length);
        let opened = Opened::tagged(tag).marked(head.mark);
        Ok(signer.map_or(opened, |signer| opened.signed(signer.to_bytes())))
    }
}

impl fmt::Debug for Encryption {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Encryption")
            .field("algorithm", &self.algorithm)
            .field("padding", &self.padding)
            .field("signing", &self.signing)
            .field("keyring", &self.keyring)
            .finish_non_exhaustive()
    }
}
