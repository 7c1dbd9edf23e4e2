//! Passwords at rest: argon2id, on the blocking pool, a few at a time.

use std::sync::Arc;

use argon2::{Algorithm, Argon2, Params, PasswordHash, PasswordHasher, PasswordVerifier, Version};
use rpc_core::{Status, spawn_blocking, sync::Semaphore};

/// What one hash costs whoever guesses, and us.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cost {
    /// Memory of one hash, in KiB: at least 8.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
}

impl Default for Cost {
    /// OWASP's minimum for argon2id (Password Storage Cheat Sheet): 19 MiB, 2 passes, 1 lane.
    fn default() -> Self {
        Self {
            memory_kib: 19 * 1024,
            passes: 2,
        }
    }
}

/// Hashes and verifies passwords.
#[derive(Clone)]
pub struct Passwords {
    hasher: Argon2<'static>,
    /// Each hash takes memory, and more at once than there are processors gain nothing.
    gate: Arc<Semaphore>,
}

impl Passwords {
    /// With a cost for new hashes; old ones are verified at the cost they were made with.
    ///
    /// # Errors
    /// If argon2 does not take such a cost.
    pub fn new(cost: Cost) -> Result<Self, String> {
        let params = Params::new(cost.memory_kib, cost.passes, 1, None)
            .map_err(|error| format!("argon2 with {cost:?}: {error}"))?;
        let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let at_once = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            hasher,
            gate: Arc::new(Semaphore::new(at_once)),
        })
    }

    /// The hash of a password with a fresh salt, as a PHC string.
    pub fn hash(&self, password: &str) -> Result<String, Status> {
        let (hasher, password) = (self.hasher.clone(), password.to_owned());
        self.run(move || {
            let mut salt = [0; 16];
            rpc_core::base::rng::fill_secret(&mut salt);
            let salt = argon2::password_hash::SaltString::encode_b64(&salt)?;
            Ok(hasher
                .hash_password(password.as_bytes(), &salt)?
                .to_string())
        })
    }

    /// Whether it is the password that was hashed.
    pub fn verify(&self, password: &str, hash: &str) -> Result<bool, Status> {
        let (hasher, password, hash) = (self.hasher.clone(), password.to_owned(), hash.to_owned());
        self.run(move || {
            match hasher.verify_password(password.as_bytes(), &PasswordHash::new(&hash)?) {
                Ok(()) => Ok(true),
                Err(argon2::password_hash::Error::Password) => Ok(false),
                Err(error) => Err(error),
            }
        })
    }

    fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T, argon2::password_hash::Error> + Send + 'static,
    ) -> Result<T, Status> {
        let permit = self.gate.acquire().map_err(|_| {
            Status::deadline_exceeded("too many passwords are being hashed; try again soon")
        })?;
        let joined = spawn_blocking(work).join();
        drop(permit);
        match joined {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(Status::internal(format!("password hash: {error}"))),
            Err(_) => Err(Status::internal("hashing a password panicked")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_known_again_and_another_is_not() {
        let passwords = Passwords::new(Cost {
            memory_kib: 8,
            passes: 1,
        })
        .unwrap();
        let hash = passwords.hash("correct horse").unwrap();
        assert!(hash.starts_with("$argon2id$v=19$m=8,t=1,p=1$"), "{hash}");
        assert!(passwords.verify("correct horse", &hash).unwrap());
        assert!(!passwords.verify("wrong horse", &hash).unwrap());
        assert_ne!(
            passwords.hash("correct horse").unwrap(),
            hash,
            "salts are fresh"
        );
        // Another cost in force does not lock old users out.
        let dearer = Passwords::new(Cost {
            memory_kib: 64,
            passes: 2,
        })
        .unwrap();
        assert!(dearer.verify("correct horse", &hash).unwrap());
    }

    #[test]
    fn an_impossible_cost_is_refused_at_once() {
        assert!(
            Passwords::new(Cost {
                memory_kib: 1,
                passes: 1
            })
            .is_err()
        );
    }
}
