//! The access layer: long links, sessions, notifies.
