//! Who somebody is to a bus, and what follows from it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::SystemTime;

use foldhash::fast::RandomState;

use super::refusals::{Refusals, Refused};
use super::settings::{check_name, invalid};
use super::{
    AuthSettings, Author, Credentials, GrantedRoles, PasswordHash, Passwords, Permissions, Principal, Secret,
    TokenVerifier, Verified,
};
use crate::error::{BusError, BusResult};
use crate::limits;

/// Somebody whom a policy has let in.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Identity {
    /// Who it is: what the credentials prove where there were any, else what the transport proves.
    pub principal: Principal,
    /// What they may do.
    pub permissions: Arc<Permissions>,
    /// When that ends by itself; `None` if it does not.
    pub expires: Option<SystemTime>,
    proof: Proof,
}

impl Identity {
    /// Whether it has ended by `now`.
    #[must_use]
    pub fn has_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|end| end <= now)
    }

    /// The roles that were given to it alone, by its token or by the bus's own process.
    pub(super) fn own_roles(&self) -> &[String] {
        match &self.proof {
            Proof::Token(verified) => &verified.roles,
            Proof::Granted(granted) => &granted.roles,
            Proof::Peer | Proof::Password(_) => &[],
        }
    }

    /// Whether the bus's own process vouches for it.
    pub(super) fn is_granted(&self) -> bool {
        matches!(self.proof, Proof::Granted(_))
    }
}

/// What an identity rests on, so that a new policy can be asked about it again.
#[derive(Debug, Clone)]
enum Proof {
    /// What the transport proves.
    Peer,
    /// The password with this hash.
    Password(Arc<PasswordHash>),
    /// A token.
    Token(Verified),
    /// The word of the bus's own process.
    Granted(Arc<GrantedRoles>),
}

/// What a bus knows of users, certificates and issuers, and the rights of each.
///
/// It is made once and asked for each connection; a bus that gets a new one asks it about its sessions by
/// [`renew`](Self::renew).
///
/// # Examples
/// ```
/// use whispeer::auth::{Action, AuthSettings, Policy, Principal};
/// use whispeer::{BusError, TopicPattern};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let settings: AuthSettings = toml::from_str(
///     r#"
///     [roles.thermometer]
///     publish.allow = ["sensors/**"]
///
///     [[certificates]]
///     name = "kitchen"
///     roles = ["thermometer"]
///     "#,
/// )?;
/// let policy = Policy::new(&settings)?;
///
/// let kitchen = policy.authenticate(&Principal::Certificate { name: "kitchen".into() }, None).await?;
/// let topic = TopicPattern::new("sensors/kitchen/temperature")?;
/// assert!(kitchen.permissions.allows(Action::Publish, &topic).is_ok());
/// assert!(kitchen.permissions.allows(Action::Subscribe, &topic).is_err());
///
/// let stranger = Principal::Network { address: ([192, 0, 2, 1], 4242).into() };
/// assert!(matches!(policy.authenticate(&stranger, None).await, Err(BusError::Denied { .. })));
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Policy {
    open: bool,
    own_uid: Option<u32>,
    roles: BTreeMap<String, Permissions>,
    anonymous: Option<Arc<Permissions>>,
    users: HashMap<String, User, RandomState>,
    /// The hashes of all users, one of which is checked for a user that there is not.
    hashes: Vec<Arc<PasswordHash>>,
    certificates: HashMap<String, Arc<Permissions>, RandomState>,
    unix: HashMap<u32, Arc<Permissions>, RandomState>,
    tokens: TokenVerifier,
    passwords: Passwords,
    /// They were given to this one, and are not those of the policy before.
    has_own_passwords: bool,
    refusals: Arc<Refusals>,
    everything: Arc<Permissions>,
    unreserved: Arc<Permissions>,
}

#[derive(Debug)]
struct User {
    hash: Arc<PasswordHash>,
    permissions: Arc<Permissions>,
}

impl Default for Policy {
    /// [`Policy::open`].
    fn default() -> Self {
        Self::open()
    }
}

impl Policy {
    /// The policy of a bus without authentication: whoever can connect may do everything but administer, and
    /// the bus's own process and user may do that too. Credentials are not looked at.
    #[must_use]
    pub fn open() -> Self {
        Self { open: true, ..Self::closed() }
    }

    /// The policy that these settings describe.
    ///
    /// It reads the files with the keys of issuers.
    ///
    /// # Errors
    /// [`BusError::InvalidSettings`] that names the entry at fault.
    pub fn new(settings: &AuthSettings) -> BusResult<Self> {
        check_counts(settings)?;
        for (name, permissions) in &settings.roles {
            check_name("a role", name)?;
            permissions.check().map_err(|error| invalid(format!("role {name:?}: {error}")))?;
        }
        let mut policy = Self { roles: settings.roles.clone(), ..Self::closed() };
        if !settings.anonymous.is_empty() {
            policy.anonymous = Some(Arc::new(settings.permissions("anonymous", &settings.anonymous)?));
        }
        for user in &settings.users {
            check_name("the name of a user", &user.name)?;
            let whose = format!("user {:?}", user.name);
            let hash = PasswordHash::parse(user.password.reveal())
                .map_err(|error| invalid(format!("{whose}: {error}")))?;
            let hash = Arc::new(hash);
            policy.hashes.push(Arc::clone(&hash));
            let permissions = Arc::new(settings.permissions(&whose, &user.roles)?);
            once(&mut policy.users, user.name.clone(), User { hash, permissions }, &whose)?;
        }
        for certificate in &settings.certificates {
            check_name("the name of a certificate", &certificate.name)?;
            let whose = format!("certificate {:?}", certificate.name);
            let permissions = Arc::new(settings.permissions(&whose, &certificate.roles)?);
            once(&mut policy.certificates, certificate.name.clone(), permissions, &whose)?;
        }
        for unix in &settings.unix {
            let whose = format!("uid {}", unix.uid);
            let permissions = Arc::new(settings.permissions(&whose, &unix.roles)?);
            once(&mut policy.unix, unix.uid, permissions, &whose)?;
        }
        for issuer in &settings.issuers {
            let whose = format!("issuer {:?}", issuer.issuer);
            settings.permissions(&whose, &issuer.default_roles)?;
            for role in &issuer.roles {
                settings.permissions(&whose, std::slice::from_ref(role))?;
            }
        }
        policy.tokens = TokenVerifier::new(&settings.issuers)?;
        Ok(policy)
    }

    /// Says which user the bus runs as; on Unix sockets that user may do everything, unless the settings name
    /// it.
    #[must_use]
    pub fn own_uid(mut self, uid: Option<u32>) -> Self {
        self.own_uid = uid;
        self
    }

    /// Says how many passwords are checked at once, and how long others wait. Policies share what there is if each is
    /// given a clone of the same; to a bus that gets another policy this need not be said again.
    #[must_use]
    pub fn passwords(mut self, passwords: Passwords) -> Self {
        self.passwords = passwords;
        self.has_own_passwords = true;
        self
    }

    /// Goes on where the policy is that this one replaces: who guesses passwords gains nothing by it.
    #[must_use]
    pub(crate) fn following(mut self, before: &Self) -> Self {
        if !self.has_own_passwords {
            self.passwords = before.passwords.clone();
            self.has_own_passwords = before.has_own_passwords;
        }
        self.refusals = Arc::clone(&before.refusals);
        self
    }

    /// Says in the log how many were left out there, soon after that; for as long as it is polled. It does so for the
    /// policies that follow this one, too.
    pub(crate) fn tell_refusals(&self) -> impl Future<Output = ()> + Send + use<> {
        let refusals = Arc::clone(&self.refusals);
        async move { refusals.run().await }
    }

    /// Whether this is the policy of a bus without authentication.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.open
    }

    /// Finds out who somebody is and what they may do. Why somebody is not let in goes to the log.
    ///
    /// Credentials count before what the transport proves, and wrong ones are refused whatever that is.
    ///
    /// # Errors
    /// [`BusError::Denied`], which does not tell a wrong password from a user that there is not, or one token's
    /// fault from another's; [`BusError::Overloaded`] when too many passwords are being checked, or were wrong
    /// lately from there or for this name.
    ///
    /// # Cancel safety
    /// The check of a password that has begun goes on when the future is dropped, and counts.
    ///
    /// # Panics
    /// Outside of a Tokio runtime, if the credentials are a password.
    pub async fn authenticate(
        &self,
        peer: &Principal,
        credentials: Option<&Credentials>,
    ) -> BusResult<Identity> {
        let outcome = match credentials {
            Some(Credentials::Token(token)) if !self.open => self.of_token(token),
            Some(Credentials::Password { user, password }) if !self.open => {
                self.of_password(peer, user, password).await
            }
            _ => self.of_peer(peer),
        };
        outcome.map_err(|refused| self.refuse(peer, refused))
    }

    /// What somebody may do of whom there is nothing but what the transport proves.
    ///
    /// # Errors
    /// [`BusError::Denied`] if that is not enough to be let in.
    pub fn identify(&self, peer: &Principal) -> BusResult<Identity> {
        self.of_peer(peer).map_err(|refused| self.refuse(peer, refused))
    }

    /// What somebody may do for whom the bus's own process vouches: what these roles may together, and by an open policy what
    /// everybody may.
    ///
    /// # Errors
    /// [`BusError::Denied`] where there is no such role, where they cannot be put together, and when it has ended.
    pub(crate) fn grant(&self, principal: &Principal, granted: &Arc<GrantedRoles>) -> BusResult<Identity> {
        self.of_granted(principal, granted).map_err(|refused| self.refuse(principal, refused))
    }

    /// What becomes of somebody whom an earlier policy has let in: the same identity with the rights that it
    /// has by this one.
    ///
    /// A session whose rights have changed goes on with the new ones; one that gets an error here has to end.
    ///
    /// # Errors
    /// [`BusError::Denied`] if it would not be let in any more: the user has gone or has another password, the
    /// token has expired, its issuer has gone, has another key or audience or may not give these roles, a role has gone that
    /// the bus's own process has granted, or there are no roles for what the transport proves.
    pub fn renew(&self, identity: &Identity) -> BusResult<Identity> {
        let renewed = match (&identity.proof, &identity.principal) {
            (Proof::Granted(granted), principal) => self.of_granted(principal, granted),
            _ if self.open => Ok(Identity {
                permissions: self.permissions_of(&identity.principal).unwrap_or_default(),
                ..identity.clone()
            }),
            _ if identity.has_expired(SystemTime::now()) => Err(Refused::Expired),
            (Proof::Token(verified), _) => self
                .tokens
                .renew(verified)
                .ok_or(Refused::IssuerChanged)
                .and_then(|now| self.of_verified(now)),
            (Proof::Password(hash), Principal::User { name }) => match self.users.get(name) {
                Some(user) if user.hash == *hash => Ok(user.identity(name)),
                _ => Err(Refused::UserChanged { name: name.clone() }),
            },
            (Proof::Peer | Proof::Password(_), peer) => self.of_peer(peer),
        };
        renewed.map_err(|refused| self.refuse(&identity.principal, refused))
    }

    /// What somebody may do now who has asked for something earlier and may be gone; `None` if he would not be let in. Of a
    /// user and of a certificate the name counts, of a token its issuer, the roles that it gave and its end, and of whom the bus's
    /// own process has vouched for the roles and the end.
    pub(crate) fn permissions_later(&self, author: &Author, now: SystemTime) -> Option<Arc<Permissions>> {
        if author.granted {
            return if author.has_ended(now) { None } else { self.granted_permissions(&author.roles).ok() };
        }
        match &author.principal {
            principal if self.open => self.permissions_of(principal),
            Principal::User { name } => self.users.get(name).map(|user| Arc::clone(&user.permissions)),
            Principal::Token { issuer, .. } => {
                let is_good = !author.has_ended(now) && self.tokens.may_give(issuer, &author.roles);
                let roles = author.roles.iter().filter_map(|role| self.roles.get(role));
                is_good.then(|| Arc::new(Permissions::together(roles)))
            }
            peer => self.permissions_of(peer),
        }
    }

    /// Writes the reason to the log and gives what the peer is told.
    fn refuse(&self, peer: &Principal, refused: Refused) -> BusError {
        self.refusals.tell(peer, &refused);
        refused.told()
    }

    /// Lets in nobody but the bus's own process and user.
    fn closed() -> Self {
        Self {
            open: false,
            own_uid: None,
            roles: BTreeMap::new(),
            anonymous: None,
            users: HashMap::default(),
            hashes: Vec::new(),
            certificates: HashMap::default(),
            unix: HashMap::default(),
            tokens: TokenVerifier::default(),
            passwords: Passwords::default(),
            has_own_passwords: false,
            refusals: Arc::default(),
            everything: Arc::new(Permissions::all()),
            unreserved: Arc::new(Permissions::unreserved()),
        }
    }

    fn of_peer(&self, peer: &Principal) -> Result<Identity, Refused> {
        let permissions = self.permissions_of(peer).ok_or(Refused::NoCredentials)?;
        Ok(Identity { principal: peer.clone(), permissions, expires: None, proof: Proof::Peer })
    }

    /// What somebody may do of whom the transport proves this much.
    fn permissions_of(&self, peer: &Principal) -> Option<Arc<Permissions>> {
        let named = match peer {
            Principal::Bus | Principal::Local => Some(&self.everything),
            Principal::Unix { uid, .. } => {
                let own = Some(*uid) == self.own_uid;
                self.unix.get(uid).or(own.then_some(&self.everything))
            }
            Principal::Certificate { name } => self.certificates.get(name),
            // No transport proves these two; credentials do.
            Principal::User { .. } | Principal::Token { .. } | Principal::Network { .. } => None,
        };
        let others = if self.open { Some(&self.unreserved) } else { self.anonymous.as_ref() };
        named.or(others).cloned()
    }

    fn of_granted(&self, principal: &Principal, granted: &Arc<GrantedRoles>) -> Result<Identity, Refused> {
        if granted.expires.is_some_and(|end| end <= SystemTime::now()) {
            return Err(Refused::GrantEnded);
        }
        Ok(Identity {
            principal: principal.clone(),
            permissions: self.granted_permissions(&granted.roles)?,
            expires: granted.expires,
            proof: Proof::Granted(Arc::clone(granted)),
        })
    }

    /// What roles may do that the bus's own process has granted.
    fn granted_permissions(&self, roles: &[String]) -> Result<Arc<Permissions>, Refused> {
        if self.open {
            return Ok(Arc::clone(&self.unreserved));
        }
        let (count, limit) = (roles.len(), limits::ROLES_PER_PRINCIPAL);
        if count > limit {
            let error = invalid(format!("there are {count} of them, more than the limit of {limit}"));
            return Err(Refused::GrantedRoles(error));
        }
        let find =
            |role: &String| self.roles.get(role).ok_or_else(|| Refused::UnknownRole { role: role.clone() });
        let permissions = Permissions::together(roles.iter().map(find).collect::<Result<Vec<_>, _>>()?);
        permissions.check().map_err(Refused::GrantedRoles)?;
        Ok(Arc::new(permissions))
    }

    fn of_token(&self, token: &Secret) -> Result<Identity, Refused> {
        self.of_verified(self.tokens.verify(token.reveal())?)
    }

    fn of_verified(&self, verified: Verified) -> Result<Identity, Refused> {
        let permissions =
            Permissions::together(verified.roles.iter().filter_map(|role| self.roles.get(role)));
        permissions.check().map_err(Refused::Roles)?;
        Ok(Identity {
            principal: verified.principal.clone(),
            permissions: Arc::new(permissions),
            expires: Some(verified.expires),
            proof: Proof::Token(verified),
        })
    }

    async fn of_password(
        &self,
        peer: &Principal,
        name: &str,
        password: &Secret,
    ) -> Result<Identity, Refused> {
        check_name("the user", name).map_err(|_| Refused::UserName)?;
        let user = self.users.get(name);
        let Some(hash) = user.map(|user| &user.hash).or_else(|| self.hash_for_nobody(name)) else {
            return Err(Refused::NoUsers);
        };
        let (hash, exists) = (Arc::clone(hash), user.is_some());
        let matches = match self.passwords.check(peer, name, hash, exists, password.clone()).await {
            Ok(matches) => matches,
            Err(BusError::InvalidSettings(_)) => false,
            Err(error) => return Err(Refused::Unchecked { name: name.to_owned(), error }),
        };
        match user {
            Some(user) if matches => Ok(user.identity(name)),
            Some(_) => Err(Refused::WrongPassword { name: name.to_owned() }),
            None => Err(Refused::UnknownUser { name: name.to_owned() }),
        }
    }

    /// The hash that is checked for a user that there is not, so that this takes as long as for one that there
    /// is: always the same for the same name, as hashes of users may differ in what they cost.
    fn hash_for_nobody(&self, name: &str) -> Option<&Arc<PasswordHash>> {
        let number = self.users.hasher().hash_one(name);
        let index = number.checked_rem(self.hashes.len() as u64)?;
        self.hashes.get(usize::try_from(index).ok()?)
    }
}

impl User {
    fn identity(&self, name: &str) -> Identity {
        Identity {
            principal: Principal::User { name: name.to_owned() },
            permissions: Arc::clone(&self.permissions),
            expires: None,
            proof: Proof::Password(Arc::clone(&self.hash)),
        }
    }
}

/// Adds an entry that must be there once.
fn once<K: Eq + std::hash::Hash, V>(
    map: &mut HashMap<K, V, RandomState>,
    key: K,
    value: V,
    whose: &dyn fmt::Display,
) -> BusResult<()> {
    match map.insert(key, value) {
        None => Ok(()),
        Some(_) => Err(invalid(format!("{whose} is there twice; keep one entry with all roles"))),
    }
}

fn check_counts(settings: &AuthSettings) -> BusResult<()> {
    let limit = limits::POLICY_ENTRIES;
    for (what, count) in [
        ("roles", settings.roles.len()),
        ("users", settings.users.len()),
        ("certificates", settings.certificates.len()),
        ("Unix users", settings.unix.len()),
        ("issuers of tokens", settings.issuers.len()),
        ("roles of issuers", settings.issuers.iter().map(|issuer| issuer.roles.len()).sum()),
    ] {
        if count > limit {
            return Err(invalid(format!("there are {count} {what}, more than the limit of {limit}")));
        }
    }
    Ok(())
}
